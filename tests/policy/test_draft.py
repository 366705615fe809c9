"""draft.py: what translators write becomes one sorted, frozen snapshot, whatever the order that they wrote in."""

import itertools

from policy.decode import decode
from policy.draft import Draft, Input
from policy.model import Grant, Identity, Mesh, Node, PlainGrant, Revoked, Service, Where, Workload
from policy.resources import RawObject, Resource
from policy.route import Backend, Route, Rule

GRANTS = [Grant(rule, Identity("n", who), Identity("n", whom)) for rule in "rs" for who in "ab" for whom in "xy"]
WORKLOADS = [Workload("n", name, name) for name in "cab"]
SERVICES = [Service("n", name) for name in "zyx"]
SPLIT = Route("TrafficSplit n/s", (Rule((Backend("n/x", 1),)),))


def frozen(order):
    draft = Draft("node", {}, ())
    for workload in WORKLOADS[::order]:
        draft.workloads[workload.key] = workload
    for service in SERVICES[::order]:
        draft.services[service.key] = service
    draft.grants += GRANTS[::order]
    draft.routes = {"n/y": (SPLIT,), "n/nobody": (SPLIT,)}
    draft.addresses = {"n/x": ("240.240.0.1",)}
    return draft.freeze()


def test_freeze_sorts_and_joins():
    snapshot = frozen(1)
    assert snapshot == frozen(-1)
    assert [w.name for w in snapshot.workloads] == ["a", "b", "c"]
    assert [(s.name, s.routes) for s in snapshot.services] == [("x", ()), ("y", (SPLIT,)), ("z", ())]
    assert [(g.destination, g.source, g.rule) for g in snapshot.grants] == sorted(
        (g.destination, g.source, g.rule) for g in GRANTS
    )
    assert (snapshot.node, snapshot.addresses) == ("node", {"n/x": ("240.240.0.1",)})


def test_what_several_nodes_need_is_sorted_and_frozen():
    draft = Draft("node", {}, (), [Node("b"), Node("a", ("192.0.2.1",))])
    draft.mesh = Mesh(mtls="permissive")
    draft.modes = {"z": "strict", "a": "disabled"}
    draft.plain = [PlainGrant(rule, "n/w", (1,), ("10.0.0.0/8",)) for rule in "ba"]
    draft.revoked = Revoked(("c",))
    snapshot = draft.freeze()
    assert snapshot.nodes == (Node("a", ("192.0.2.1",)), Node("b"))
    assert list(snapshot.modes) == ["a", "z"]
    assert [g.rule for g in snapshot.plain] == ["a", "b"]
    assert snapshot.revoked == Revoked(("c",))
    assert [draft.mtls(namespace) for namespace in "az"] == ["disabled", "strict"]
    assert draft.mtls("other") == "permissive"


def resource(kind, name, namespace, line):
    data = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}}
    found = decode(RawObject(data, Where("f.yaml", line), {}))
    assert isinstance(found, Resource)
    return found


def test_input_is_in_order_of_names_by_kind():
    given = [
        resource("Service", "b", "n", 1),
        resource("Service", "a", "z", 2),
        resource("Namespace", "n", "", 3),
        resource("Service", "a", "n", 4),
    ]
    for order in itertools.permutations(given):
        known = Input(order)
        assert [r.key for r in known.all("Service")] == ["n/a", "n/b", "z/a"]
        assert known.get("Service", "n/b") is given[0]
        assert known.get("Namespace", "n") is given[2]
        assert known.get("Service", "n/zz") is None
        assert list(known.all("Pod")) == []


def test_what_is_made_of_the_input_is_made_once():
    known = Input([resource("Service", "b", "n", 1)])
    asked = []

    def make(given):
        asked.append(given)
        return len(list(given.all("Service")))

    assert (known.once(make), known.once(make), asked) == (1, 1, [known])


def test_a_report_names_the_object_and_its_line():
    draft = Draft("node", {}, ())
    draft.report(resource("Service", "b", "n", 7), "warning", "$.spec", "is odd", "make it even")
    assert str(draft.problems[0]) == "f.yaml:7: warning: Service n/b: is odd (make it even)"
