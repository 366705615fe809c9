"""translate/workloads.py: which pods and Workloads run, and what is known of them."""

import pytest

from policy.model import Identity, Probe
from tests.policy.translate.test_services import UNIT, WORLD, made


def test_who_is_enrolled():
    found = {workload.key: workload.enrolled for workload in made(WORLD).snapshot.workloads}
    assert found == {
        "out/alien": False,
        "shop/host": False,
        "shop/left": False,
        "shop/w": True,
        "shop/web-1": True,
        "shop/web-2": True,
    }


def test_pods_are_read():
    built = made(WORLD)
    pod = built.snapshot.workload("shop/web-1")
    assert pod.identity == Identity("shop", "default")
    assert pod.addresses == ("10.1.0.1", "fd01::1")
    assert pod.probes == (Probe("http", 8080, "/live"), Probe("tcp", 8080), Probe("https", 8443))
    assert pod.exclusions.outbound_ports == (22, 25)
    assert pod.exclusions.outbound_cidrs == ("10.9.0.0/16",)
    warnings = [p.message for p in built.problems if p.object == "Pod shop/web-1"]
    assert any("'x' is no port" in message for message in warnings)


@pytest.mark.parametrize(("said", "literal", "warnings"), [("name", True, 0), ("slash", False, 1), ("", False, 1)])
def test_a_server_may_say_how_it_reads_an_encoded_slash(said, literal, warnings):
    annotation = f"annotations: {{edgemesh.io/encoded-slash: '{said}'}}"
    for kind, key in (("Workload, metadata: {name: w", "shop/w"), ("Pod, metadata: {name: web-2", "shop/web-2")):
        built = made(WORLD.replace(kind, f"{kind}, {annotation}"))
        assert [w.key for w in built.snapshot.workloads if w.literal_slash] == ([key] if literal else [])
        assert sum("encoded-slash" in p.message for p in built.problems) == warnings


def test_a_template_that_is_not_there_is_reported():
    text = (
        "{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: n}, spec: {template: gone}}"
    )
    built = made(text)
    (workload,) = built.snapshot.workloads
    assert workload.service_account == "default"
    assert workload.enrolled, "left out of the mesh it would be left open"
    assert "no Deployment n/gone" in built.problems[0].message


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{netns: a, systemdUnit: a.service}", "both netns and systemdUnit"),
        ("{addresses: [10.0.0.0/8]}", "is no IP address"),
        ("{addresses: [fe80::1%eth0]}", "is no IP address"),
        ("{netns: a/b}", "neither a name nor an absolute path"),
        ("{netns: ..}", "neither a name nor an absolute path"),
        ('{netns: "a\\0b"}', "neither a name nor an absolute path"),
        ("{systemdUnit: till}", "is no unit's name"),
        ("{systemdUnit: ../x.service}", "is no unit's name"),
        ("{ports: [{port: 0}]}", "spec.ports[0].port"),
        ("{adresses: []}", "unknown field spec.adresses"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(spec, says):
    built = made(UNIT.format("w", spec))
    assert [p.severity for p in built.problems] == ["error"]
    assert says in built.problems[0].message
    assert built.snapshot.workloads == ()


@pytest.mark.parametrize(
    "spec",
    ["{netns: a}", "{netns: /proc/1/ns/net}", "{systemdUnit: till@1.service}", "{}", '{addresses: ["FD00::0001"]}'],
)
def test_a_workload_that_can_be_is_taken(spec):
    built = made(UNIT.format("w", spec))
    assert built.problems == ()
    assert len(built.snapshot.workloads) == 1
    assert built.snapshot.workloads[0].addresses in ((), ("fd00::1",))


def test_why_one_is_not_in_the_mesh_is_said():
    found = {w.key: w.left_out for w in made(WORLD).snapshot.workloads if not w.enrolled}
    assert found == {
        "out/alien": "Namespace out has neither label openservicemesh.io/monitored-by nor edgemesh.io/mesh: enabled",
        "shop/host": "hostNetwork: it has no metadata.uid, by which its cgroup is found",
        "shop/left": "the pod says openservicemesh.io/sidecar-injection: disabled",
    }


def test_a_pod_on_its_nodes_network_is_marked_as_such():
    built = made(WORLD)
    assert [w.key for w in built.snapshot.workloads if w.host_network] == ["shop/host"]
    (told,) = [p for p in built.problems if p.object == "Pod shop/host"]
    assert "outside the mesh" in told.message


@pytest.mark.parametrize(
    ("uid", "unit"),
    [
        ("uid: 94b76233-155d-4879-b690-475120d849bb", "pod/94b76233-155d-4879-b690-475120d849bb"),
        ("uid: a-b, annotations: {kubernetes.io/config.mirror: 0123abcd}", "pod/0123abcd"),
        ("uid: ../a-b", ""),
        ("uid: ''", ""),
    ],
)
def test_a_pod_on_its_nodes_network_is_found_by_its_uid(uid, unit):
    workload = made(WORLD.replace("name: host,", f"name: host, {uid},")).snapshot.workload("shop/host")
    assert (workload.unit, workload.enrolled, workload.host_network) == (unit, bool(unit), True)
    alone = made(
        WORLD.replace("name: alien,", f"name: alien, {uid},").replace(
            "{containers: []}, status: {podIP: 10.1.0.5}",
            "{hostNetwork: true, containers: []}, status: {podIP: 10.1.0.5}",
        )
    )
    assert (alone.snapshot.workload("out/alien").unit, alone.snapshot.workload("out/alien").enrolled) == ("", False)


def test_its_kubelet_may_ask_over_loopback():
    probe = "containers: [{livenessProbe: {httpGet: {host: 127.0.0.1, port: 80}}, readinessProbe: {httpGet: {host: 10.0.0.1, port: 81}}}]"
    text = WORLD.replace("{hostNetwork: true, containers: []}", f"{{hostNetwork: true, {probe}}}")
    assert made(text).snapshot.workload("shop/host").probes == (Probe("http", 80),)


POD = """
{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: n, {0}}}, spec: {{{1}}}, status: {{podIP: 10.1.0.1, {2}}}}}
"""


@pytest.mark.parametrize("status", ["phase: Succeeded", "phase: Failed"])
def test_a_pod_of_a_job_that_ended_has_left(status):
    assert made(POD.format("", "", status)).snapshot.workloads == ()


def test_a_pod_that_is_ending_is_still_there_and_gets_no_new_calls():
    """Its connections go on until it has ended, so it stays captured."""
    service = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: n}, spec: {selector: {a: b}, ports: [{port: 80}]}}"
    for more, endpoints in (("", 1), ('deletionTimestamp: "2026-01-01T00:00:00Z", ', 0)):
        snapshot = made(POD.format(more + "labels: {a: b}", "", "") + "---\n" + service).snapshot
        assert len(snapshot.service("n/s").ports[0].endpoints) == endpoints
        assert [w.key for w in snapshot.workloads] == ["n/p"]


@pytest.mark.parametrize(
    ("metadata", "uid"),
    [("uid: a", "a"), ("labels: {}", ""), ("uid: a, annotations: {kubernetes.io/config.mirror: b}", "b")],
)
def test_the_uid_of_a_pod_is_that_by_which_it_runs(metadata, uid):
    text = f"{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: n, {metadata}}}, spec: {{}}}}"
    assert made(text).snapshot.workload("n/p").uid == uid
