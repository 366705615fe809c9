"""lint/marks.py: labels and annotations where nothing reads them; what is where it belongs is not reported."""

import pytest

from policy.build import build
from policy.lint.marks import marks
from policy.model import Where
from policy.resources import RawObject

MONITORED, IGNORE = "openservicemesh.io/monitored-by", "openservicemesh.io/ignore"
INJECTION, MESH = "openservicemesh.io/sidecar-injection", "edgemesh.io/mesh"
PORTS = "openservicemesh.io/outbound-port-exclusion-list"
API = {"Namespace": "v1", "Pod": "v1", "Service": "v1", "Deployment": "apps/v1", "Workload": "edgemesh.io/v1alpha1"}


def told(kind, place, name, called="x"):
    data = {"apiVersion": API[kind], "kind": kind, "metadata": {"name": called, place: {name: "enabled"}}, "spec": {}}
    if kind == "Deployment":
        data["spec"] = {"template": {}}
    if kind != "Namespace":
        data["metadata"]["namespace"] = "n"
    return [(p.severity, p.message, p.hint) for p in marks(build([RawObject(data, Where("m.yaml", 1), {})]))]


@pytest.mark.parametrize(
    ("kind", "place", "name"),
    [
        ("Namespace", "labels", MONITORED),
        ("Namespace", "labels", IGNORE),
        ("Namespace", "labels", MESH),
        ("Namespace", "annotations", INJECTION),
        ("Pod", "labels", MESH),
        ("Pod", "annotations", MESH),
        ("Pod", "annotations", INJECTION),
        ("Pod", "annotations", PORTS),
        ("Workload", "annotations", PORTS),
        ("Pod", "labels", "app"),
    ],
)
def test_what_is_read_there(kind, place, name):
    assert told(kind, place, name) == []


@pytest.mark.parametrize(
    ("kind", "place", "name", "hint"),
    [
        ("Namespace", "annotations", MONITORED, "write it under metadata.labels"),
        ("Namespace", "annotations", MESH, "write it under metadata.labels"),
        ("Namespace", "labels", INJECTION, "write it under metadata.annotations"),
        ("Namespace", "annotations", PORTS, "write it on the Pod or Workload, under metadata.annotations"),
        ("Pod", "labels", MONITORED, "write it on the Namespace, under metadata.labels"),
        ("Pod", "labels", INJECTION, "write it under metadata.annotations"),
        ("Deployment", "annotations", INJECTION, "write it on its pods, under spec.template.metadata.annotations"),
        ("Service", "labels", MONITORED, "write it on the Namespace, under metadata.labels"),
    ],
)
def test_what_says_nothing_there(kind, place, name, hint):
    ((severity, message, found),) = told(kind, place, name)
    assert (severity, found) == ("warning", hint)
    assert message.startswith(f"{name} says nothing ")


def test_a_namespace_that_is_never_in_the_mesh():
    ((severity, message, _),) = told("Namespace", "labels", MESH, "kube-system")
    assert (severity, message) == (
        "warning",
        "pods of kube-system are never in the mesh, whatever edgemesh.io/mesh says",
    )
