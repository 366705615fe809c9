"""enrolled.py: what is known of a pod before its own object was read."""

import pytest
from msgspec import structs

from agent.daemon.enrolled import Current, enrols
from agent.kernel.sandbox import Sandbox
from policy.enrolment import Marks
from policy.model import Workload
from policy.snapshot import Snapshot

IN = {"openservicemesh.io/monitored-by": "osm"}
OUT = {"openservicemesh.io/sidecar-injection": "disabled"}


class Store:
    def __init__(self, *workloads, **namespaces):
        self.namespaces = namespaces
        self.published = (
            type("Published", (), {"snapshot": Snapshot("here", workloads=workloads)}) if workloads else None
        )

    def marks(self, namespace):
        labels = self.namespaces.get(namespace)
        return None if labels is None else Marks(labels)


def pod(namespace="shop", labels=None, annotations=None):
    return Sandbox("id", namespace, "till", labels=labels, annotations=annotations)


@pytest.mark.parametrize(
    ("sandbox", "expected"),
    [
        (pod(labels={}, annotations={}), True),
        (pod(labels={}, annotations=OUT), False),
        (pod("other", {}, {}), False),
        (pod("new", {}, {}), None),
        (pod("kube-system", {}, {}), False),
        (pod("other"), False),
        (pod(), None),
        (pod(annotations={}), None),
    ],
)
def test_by_its_namespace_and_what_the_runtime_told(sandbox, expected):
    assert enrols(Store(shop=IN, other={}), lambda: True, sandbox) is expected


def test_where_the_runtime_told_no_labels_the_pods_own_object_says_it():
    for enrolled in (True, False):
        store = Store(Workload("shop", "till", "till", enrolled=enrolled), shop=IN)
        assert enrols(store, lambda: True, pod()) is enrolled
    store = Store(Workload("shop", "till", "till", enrolled=False), shop=IN)
    assert enrols(store, lambda: True, pod(labels={}, annotations={})) is True, (
        "that object may be a former pod's of that name"
    )


def test_the_object_of_a_former_pod_of_that_name_says_nothing():
    store = Store(Workload("shop", "till", "till", enrolled=False, uid="former"), shop=IN)
    assert enrols(store, lambda: True, structs.replace(pod(), uid="new")) is None
    assert enrols(store, lambda: True, structs.replace(pod(), uid="former")) is False


def test_who_was_outside_at_the_last_run_may_be_in_the_mesh_by_now():
    store = Store(shop=IN, other={})
    for namespace, expected in (("other", None), ("shop", True), ("kube-system", False)):
        assert enrols(store, lambda: False, pod(namespace, {}, {})) is expected


class Remote:
    def __init__(self):
        self.synced = self.connected = False

    def report(self):
        return {"synced": self.synced, "connected": self.connected}


@pytest.mark.parametrize(("connected", "patience"), [(False, 3.0), (True, 30.0)])
def test_a_server_is_waited_for_and_not_without_end(connected, patience):
    now = [100.0]
    remote = Remote()
    remote.connected = connected
    current = Current([remote], lambda: now[0])
    now[0] += patience - 0.1
    assert not current()
    now[0] += 0.2
    assert current()


def test_what_was_current_once_stays_so():
    remote = Remote()
    current = Current([remote], lambda: 0.0)
    assert not current()
    remote.synced = True
    assert current()
    remote.synced = False
    assert current()
    assert Current([])(), "files are read before anything else"
