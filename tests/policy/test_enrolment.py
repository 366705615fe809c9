"""enrolment.py: who is in the mesh, and why not, from plain labels and annotations."""

import pytest

from policy.enrolment import Enrolment, Marks, of_pod, of_workload, strange

MONITORED = {"openservicemesh.io/monitored-by": "osm"}
IGNORE = "openservicemesh.io/ignore"
INJECTION = "openservicemesh.io/sidecar-injection"
MESH = "edgemesh.io/mesh"
IN = Marks(MONITORED)
ENABLED = Marks({MESH: "enabled"})


@pytest.mark.parametrize(
    ("around", "pod", "why"),
    [
        (IN, Marks(), ""),
        (Marks({"openservicemesh.io/monitored-by": ""}), Marks(), ""),
        (ENABLED, Marks(), ""),
        (None, Marks(), "Namespace shop is not known"),
        (Marks(), Marks(), "has neither label"),
        (Marks({"kubernetes.io/metadata.name": "shop"}), Marks({MESH: "enabled"}), "has neither label"),
        (Marks({MESH: "disabled"}), Marks(), "Namespace shop has label edgemesh.io/mesh: disabled"),
        (Marks(MONITORED | {MESH: "disabled"}), Marks(), "Namespace shop has label edgemesh.io/mesh: disabled"),
        (Marks(MONITORED | {IGNORE: "true"}), Marks(), "has label openservicemesh.io/ignore"),
        (Marks(MONITORED | {IGNORE: ""}), Marks(), "has label openservicemesh.io/ignore"),
        (Marks(MONITORED | {IGNORE: "false"}), Marks(), ""),
        (Marks({MESH: "enabled", IGNORE: "true"}), Marks({}, {INJECTION: "enabled"}), "openservicemesh.io/ignore"),
        (IN, Marks({}, {INJECTION: "disabled"}), "the pod says openservicemesh.io/sidecar-injection: disabled"),
        (IN, Marks({MESH: "disabled"}), "the pod says edgemesh.io/mesh: disabled"),
        (IN, Marks({}, {MESH: "Disabled"}), "the pod says edgemesh.io/mesh: Disabled"),
        (IN, Marks({MESH: "enabled"}, {INJECTION: "no"}), "the pod says openservicemesh.io/sidecar-injection: no"),
        (
            Marks(MONITORED, {INJECTION: "disabled"}),
            Marks(),
            "Namespace shop says openservicemesh.io/sidecar-injection",
        ),
        (Marks(MONITORED, {INJECTION: "disabled"}), Marks({}, {INJECTION: "enabled"}), ""),
        (Marks(MONITORED, {INJECTION: "disabled"}), Marks({MESH: "enabled"}), ""),
        (Marks(MONITORED, {INJECTION: "enabled"}), Marks(), ""),
        (Marks({}, {INJECTION: "enabled"}), Marks({}, {INJECTION: "enabled"}), "has neither label"),
    ],
)
def test_a_pod(around, pod, why):
    found = of_pod("shop", around, pod)
    assert found.enrolled is not bool(why)
    assert why in found.why
    assert bool(found.why) is not found.enrolled


@pytest.mark.parametrize("namespace", ["kube-system", "edgemesh-system"])
def test_what_the_mesh_itself_needs_is_never_in_it(namespace):
    assert of_pod(namespace, IN, Marks({MESH: "enabled"})).why == f"namespace {namespace} is never in the mesh"


@pytest.mark.parametrize("word", ["enabeld", "on", "1", "maybe"])
def test_a_typing_error_does_not_open_a_pod(word):
    assert of_pod("shop", Marks({MESH: word}), Marks()).enrolled
    assert of_pod("shop", IN, Marks({}, {INJECTION: word})).enrolled
    assert list(strange(Marks({MESH: word}, {INJECTION: word, MESH: word}), True)) == [
        ("annotations", INJECTION, word), ("labels", MESH, word),
    ]  # fmt: skip
    assert list(strange(Marks({}, {MESH: word}), False)) == [("annotations", MESH, word)]


@pytest.mark.parametrize(
    ("around", "workload", "enrolled"),
    [
        (None, Marks(), True),
        (Marks(), Marks(), True),
        (Marks({IGNORE: "true"}), Marks(), False),
        (Marks({MESH: "disabled"}), Marks(), False),
        (Marks(), Marks({}, {INJECTION: "disabled"}), False),
        (Marks(), Marks({}, {MESH: "disabled"}), False),
        (Marks({}, {INJECTION: "disabled"}), Marks(), False),
        (Marks({}, {INJECTION: "disabled"}), Marks({}, {INJECTION: "enabled"}), True),
    ],
)
def test_a_workload_is_in_the_mesh_unless_something_leaves_it_out(around, workload, enrolled):
    assert of_workload("shop", around, workload).enrolled is enrolled


def test_a_workload_may_be_in_any_namespace():
    assert of_workload("kube-system", None, Marks()) == Enrolment(True)
