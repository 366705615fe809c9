"""lasting.py: what is gone stays in force where its absence would open something; and nothing else does."""

import pytest
import yaml

from policy.build import build
from policy.lasting import keys_of
from policy.model import Identity, Where
from policy.resources import RawObject

STOCK = {
    "apiVersion": "edgemesh.io/v1alpha1",
    "kind": "Workload",
    "metadata": {"name": "stock", "namespace": "shop"},
    "spec": {"netns": "stock", "serviceAccount": "stock", "addresses": ["10.0.0.3"]},
}
POD = """{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop}, spec: {nodeName: here}, status: {podIP: 10.0.0.9}}
"""


def objects(*said):
    found = []
    for one in said:
        found += [one] if isinstance(one, dict) else list(yaml.safe_load_all(one))
    return [RawObject(data, Where("x.yaml", line), {}) for line, data in enumerate(found, 1)]


def made(*said, previous=None, node="here"):
    return build(objects(*said), previous.accepted if previous else {}, node=node)


def stock(name="stock", kind="Workload", **spec):
    return {**STOCK, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": {**STOCK["spec"], **spec}}


def captured(built):
    return [workload.key for workload in built.snapshot.workloads if workload.enrolled]


def warned(built):
    return [
        problem
        for problem in built.problems
        if problem.severity == "warning" and "in no manifest any more" in problem.message
    ]


def test_a_workload_that_no_manifest_names_stays_what_it_was():
    before = made(STOCK)
    for _ in range(3):  # also the next time, and after a restart, which gives back what was accepted
        before, first = made(previous=before), before
        assert before.snapshot.workloads == first.snapshot.workloads
        (told,) = warned(before)
        assert (told.object, str(told.where)) == ("Workload shop/stock", "x.yaml:1")
        assert "edgemesh release shop/stock" in told.hint
        assert "enrolled: false" in told.hint


def test_who_let_go_of_it_gets_it_open():
    before = made(STOCK)
    before.accepted.pop("Workload shop/stock")
    assert made(previous=before).snapshot.workloads == ()


def test_an_object_that_says_so_lets_go():
    built = made(stock(enrolled=False), previous=made(STOCK))
    assert captured(built) == []
    assert [workload.key for workload in built.snapshot.workloads] == ["shop/stock"], "it is known, and left alone"
    assert warned(built) == []


def test_one_that_was_left_alone_is_not_kept():
    assert made(previous=made(stock(enrolled=False))).snapshot.workloads == ()


@pytest.mark.parametrize("other", [stock("store"), stock("store", enrolled=False)])
def test_another_that_names_its_place_takes_it_over(other):
    built = made(other, previous=made(STOCK))
    assert [workload.key for workload in built.snapshot.workloads] == ["shop/store"]
    assert warned(built) == []


def test_another_of_the_same_address_in_another_place_does_not():
    assert captured(made(stock("store", netns="other"), previous=made(STOCK))) == ["shop/stock", "shop/store"]


@pytest.mark.parametrize(("of", "kept"), [("here", ["shop/stock"]), ("there", [])])
def test_workloads_of_other_nodes_are_theirs_to_keep(of, kept):
    assert captured(made(previous=made(stock(node=of)))) == kept


def test_a_unit_is_kept_too():
    unit = {**STOCK, "spec": {"systemdUnit": "stock.service"}}
    assert captured(made(previous=made(unit))) == ["shop/stock"]
    renamed = {**unit, "metadata": {"name": "store", "namespace": "shop"}}
    assert captured(made(renamed, previous=made(unit))) == ["shop/store"]


def test_a_namespace_that_leaves_its_workloads_alone_lets_go_of_them():
    ignored = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/ignore: 'true'}}}"
    assert captured(made(ignored, previous=made(STOCK))) == []


def test_pods_stay_with_the_namespace_that_enrolled_them():
    before = made(POD)
    assert captured(made(previous=before)) == ["shop/p"]
    assert captured(made(POD.partition("---")[0], previous=before)) == ["shop/p"]
    assert captured(made(POD.partition("---")[2], previous=before)) == ["shop/p"]
    another = POD.replace("name: p,", "name: q,")
    assert captured(made(another, previous=before)) == ["shop/q"], "the address is another pod's now"
    assert captured(made(POD.replace("10.0.0.9}", "10.0.0.9, phase: Succeeded}"), previous=before)) == []


def mesh(**traffic):
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": {
            "name": "osm-mesh-config",
            "namespace": "osm-system",
            "annotations": {"edgemesh.io/mtls": "permissive"},
        },
        "spec": {"traffic": traffic},
    }


def test_egress_that_was_forbidden_stays_so_and_nothing_that_opened_does():
    before = made(mesh(enableEgress=False, enablePermissiveTrafficPolicyMode=True))
    assert before.snapshot.mesh.permissive
    built = made(previous=before)
    assert (built.snapshot.mesh.egress, built.snapshot.mesh.permissive, built.snapshot.mesh.mtls) == (
        False,
        False,
        "strict",
    )
    assert len(warned(built)) == 1
    assert not made(previous=built).snapshot.mesh.egress
    assert made(mesh(enableEgress=True), previous=built).snapshot.mesh.egress
    assert made(previous=made(mesh(enableEgress=True))).snapshot.mesh.egress


def namespace(mode):
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, annotations: {{edgemesh.io/mtls: {mode}}}}}}}"


@pytest.mark.parametrize(
    ("was", "mesh_wide", "then"),
    [
        ("strict", "permissive", "strict"),
        ("permissive", "permissive", "permissive"),
        ("permissive", "strict", "strict"),
    ],
)
def test_a_namespace_that_was_stricter_than_the_mesh_stays_so(was, mesh_wide, then):
    config = mesh()
    config["metadata"]["annotations"]["edgemesh.io/mtls"] = mesh_wide
    assert made(config, previous=made(config, namespace(was))).snapshot.mtls("shop") == then


def test_a_deployment_that_says_who_a_workload_is_stays():
    """Without it the workload would be shop/default, which may have grants of its own."""
    deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: shop}, spec: {template: {spec: {serviceAccountName: clerk}}}}"
    workload = {**STOCK, "spec": {"netns": "stock", "template": "d"}}
    built = made(workload, previous=made(workload, deployment))
    assert built.snapshot.workload("shop/stock").identity == Identity("shop", "clerk")
    assert [told.object for told in warned(built)] == ["Deployment shop/d"]
    assert "Deployment shop/d" not in made(STOCK, previous=built).accepted


def test_what_granted_or_split_or_led_somewhere_goes_when_it_is_gone():
    said = """{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: TCPRoute, metadata: {name: r, namespace: shop}}
---
{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: t, namespace: shop}, spec: {destination: {kind: ServiceAccount, name: a}, rules: [{kind: TCPRoute, name: r}], sources: [{kind: ServiceAccount, name: b}]}}
"""
    before = made(said)
    assert len(before.snapshot.grants) == 1
    built = made(previous=before)
    assert (built.snapshot.grants, built.snapshot.services, built.accepted, built.problems) == ((), (), {}, ())


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("shop/stock", ("Workload shop/stock", "Pod shop/stock")),
        ("Revocation/stolen", ("Revocation /stolen",)),
        ("Namespace/shop", ("Namespace /shop",)),
        ("MeshConfig/osm-system/osm-mesh-config", ("MeshConfig osm-system/osm-mesh-config",)),
        ("Workload/shop/stock", ("Workload shop/stock",)),
    ],
)
def test_names_as_people_write_them(name, keys):
    assert keys_of(name) == keys


def test_a_line_of_a_mesh_config_that_is_gone_allows_no_egress():
    before = made(mesh(enableEgress=False))
    for _ in range(2):
        before = made(mesh(), previous=before)
        assert not before.snapshot.mesh.egress
        (told,) = [problem for problem in before.problems if "enableEgress any more" in problem.message]
        assert (told.severity, before.kept) == ("warning", ("MeshConfig osm-system/osm-mesh-config",))
    assert made(mesh(enableEgress=True), previous=before).snapshot.mesh.egress
    before.accepted.pop("MeshConfig osm-system/osm-mesh-config")
    assert made(mesh(), previous=before).snapshot.mesh.egress, "a person let go of it"
    assert made(mesh(), previous=made(mesh(enableEgress=True))).kept == ()


def off(said=False, **traffic):
    one = mesh(**traffic)
    one["spec"]["featureFlags"] = {"enableEgressPolicy": said}
    return one


EGRESS = {
    "apiVersion": "policy.openservicemesh.io/v1alpha1",
    "kind": "Egress",
    "metadata": {"name": "out", "namespace": "shop"},
    "spec": {"sources": [{"kind": "ServiceAccount", "name": "till"}], "ports": [{"number": 443, "protocol": "tcp"}]},
}


@pytest.mark.parametrize("lost", ["the flag", "both lines", "the MeshConfig"])
def test_that_no_egress_lets_anything_out_outlives_its_line(lost):
    before = made(off(enableEgress=False), EGRESS)
    assert before.snapshot.egress == ()
    after = {"the flag": [mesh(enableEgress=False)], "both lines": [mesh()], "the MeshConfig": []}[lost]
    for _ in range(2):
        before = made(*after, EGRESS, previous=before)
        assert (before.snapshot.mesh.egress, before.snapshot.egress) == (False, ())
        assert any(
            "egress stays forbidden" in one.message or "forbids egress" in one.message for one in before.problems
        )
    opened = made(off(True, enableEgress=False), EGRESS, previous=before)
    assert (len(opened.snapshot.egress), opened.snapshot.mesh.egress) == (1, False)
    assert made(mesh(enableEgress=False), EGRESS, previous=made(mesh(enableEgress=False), EGRESS)).kept == ()


def test_a_namespace_that_lost_its_word_is_as_strict_as_it_was():
    config = mesh()
    plain = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}"
    built = made(config, plain, previous=made(config, namespace("strict")))
    assert built.snapshot.mtls("shop") == "strict"
    assert built.kept == ("Namespace /shop",)
    assert made(config, plain, previous=built).snapshot.mtls("shop") == "strict"
    assert made(config, namespace("permissive"), previous=built).snapshot.mtls("shop") == "permissive"
    config["metadata"]["annotations"]["edgemesh.io/mtls"] = "strict"
    assert made(config, plain, previous=made(config, namespace("permissive"))).snapshot.mtls("shop") == "strict"


def test_a_namespace_that_lost_the_mark_of_the_mesh_keeps_its_pods_of_this_node():
    unmarked = POD.replace("labels: {openservicemesh.io/monitored-by: osm}", "labels: {a: b}")
    built = made(unmarked, previous=made(POD))
    assert captured(built) == ["shop/p"]
    assert captured(made(unmarked, previous=built)) == ["shop/p"]
    assert captured(made(POD.replace("monitored-by: osm", "ignore: 'true'"), previous=built)) == []
    assert captured(made(unmarked, previous=made(POD, node="there"), node="there")) == []


def other_mesh(**traffic):
    return {**mesh(**traffic), "metadata": {"name": "ours", "namespace": "shop"}}


@pytest.mark.parametrize("before", [[mesh(enableEgress=False)], [mesh(enableEgress=False), other_mesh()]])
def test_a_mesh_config_of_another_name_allows_no_egress_by_saying_nothing_of_it(before):
    built = made(*before)
    for _ in range(2):
        built = made(other_mesh(), previous=built)
        assert not built.snapshot.mesh.egress
        assert built.kept == ("MeshConfig shop/ours",)
    assert made(other_mesh(enableEgress=True), previous=built).snapshot.mesh.egress
    built.accepted.pop("MeshConfig shop/ours")
    assert made(other_mesh(), previous=built).snapshot.mesh.egress, "a person let go of it"


def test_one_that_was_not_in_force_forbids_nothing_when_it_is_gone():
    both = made(mesh(), other_mesh(enableEgress=False))
    assert both.snapshot.mesh.egress
    assert made(mesh(), previous=both).snapshot.mesh.egress


LEFT_ALONE = """{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm},
  annotations: {openservicemesh.io/sidecar-injection: disabled}}}"""
INJECTED = {"openservicemesh.io/sidecar-injection": "enabled"}


@pytest.mark.parametrize("one", [STOCK, yaml.safe_load(POD.split("---")[1])])
def test_one_that_lost_the_word_by_which_it_was_in_the_mesh_stays_in_it(one):
    key = f"{one['kind']} shop/{one['metadata']['name']}"
    said = {**one, "metadata": {**one["metadata"], "annotations": INJECTED}}
    built = made(LEFT_ALONE, said)
    assert len(captured(built)) == 1
    for _ in range(2):
        built = made(LEFT_ALONE, one, previous=built)
        assert (len(captured(built)), built.kept) == (1, (key,))
    refused = {
        **one,
        "metadata": {**one["metadata"], "annotations": {"openservicemesh.io/sidecar-injection": "disabled"}},
    }
    assert captured(made(LEFT_ALONE, refused, previous=built)) == []
    assert captured(made(LEFT_ALONE, one, previous=made(LEFT_ALONE, one))) == [], "it never was"
    built.accepted.pop(key)
    assert captured(made(LEFT_ALONE, one, previous=built)) == [], "a person let go of it"
    assert made(one, previous=made(said)).kept == (), "nothing hangs on it without such a Namespace"


def from_cluster(*said, previous=None):
    found = [
        RawObject(raw.data, Where(f"kubernetes:{raw.data['kind']}/{raw.data['metadata']['name']}", 0), {})
        for raw in objects(*said)
    ]
    return build(found, previous.accepted if previous else {}, node="here")


def test_a_cluster_tells_of_every_deletion():
    everything = from_cluster(POD, STOCK, mesh(enableEgress=False))
    assert captured(everything) == ["shop/p", "shop/stock"]
    after = from_cluster(previous=everything)
    assert (captured(after), after.kept, after.problems) == ([], (), ())
    assert after.snapshot.mesh.egress


def test_a_label_that_is_taken_off_in_a_cluster_takes_its_pods_out_of_the_mesh():
    unmarked = POD.replace("labels: {openservicemesh.io/monitored-by: osm}", "labels: {a: b}")
    built = from_cluster(unmarked, previous=from_cluster(POD))
    assert (captured(built), built.problems) == ([], ())
    allowed = from_cluster(other_mesh(), previous=from_cluster(mesh(enableEgress=False)))
    assert allowed.snapshot.mesh.egress


def test_a_revocation_stays_in_a_cluster_too():
    stolen = {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "Revocation",
        "metadata": {"name": "s"},
        "spec": {"nodes": ["n9"]},
    }
    built = from_cluster(previous=from_cluster(stolen))
    assert built.snapshot.revoked.nodes == ("n9",)
    assert built.kept == ("Revocation /s",)


def mixed(directory, cluster, previous=None):
    """A node that reads both, of which the directory's have precedence."""
    said = [
        RawObject(raw.data, Where(f"kubernetes:{raw.data['kind']}/{raw.data['metadata']['name']}", 0), {})
        for raw in objects(*cluster)
    ]
    files = [RawObject(raw.data, Where("/etc/edgemesh/x.yaml", raw.where.line), {}) for raw in objects(*directory)]
    return build([*files, *said], previous.accepted if previous else {}, node="here")


LABELLED, IN_IT = POD.split("---")
UNLABELLED = LABELLED.replace("labels: {openservicemesh.io/monitored-by: osm}", "labels: {a: b}")


@pytest.mark.parametrize("there", [[], [UNLABELLED]], ids=["no Namespace", "the cluster's Namespace"])
def test_a_namespace_of_the_directory_keeps_a_cluster_s_pods_until_a_person_says_so(there):
    built = mixed([LABELLED], [*there, IN_IT])
    assert captured(built) == ["shop/p"]
    for _ in range(3):
        built = mixed([], [*there, IN_IT], built)
        assert (captured(built), built.kept) == (["shop/p"], ("Namespace /shop",))
        (told,) = [problem for problem in built.problems if problem.object == "Namespace shop"]
        assert str(told.where) == "/etc/edgemesh/x.yaml:1", "who said it"
        assert "is in no manifest any more" in told.message
        assert "edgemesh release Namespace/shop" in told.hint
    built = mixed([], there, built)  # also while it has no pod here
    assert captured(mixed([], [*there, IN_IT], built)) == ["shop/p"]
    ignored = UNLABELLED.replace("{a: b}", '{openservicemesh.io/ignore: "true"}')
    assert captured(mixed([], [ignored, IN_IT], built)) == [], "the cluster says the opposite"
    built.accepted.pop("Namespace /shop")
    assert captured(mixed([], [*there, IN_IT], built)) == [], "a person let go of it"


@pytest.mark.parametrize("heir", [mesh(), other_mesh()], ids=["the same name", "another name"])
def test_egress_that_the_directory_forbade_stays_forbidden_beside_a_cluster(heir):
    built = mixed([mesh(enableEgress=False)], [])
    for _ in range(3):
        built = mixed([], [heir], built)
        assert not built.snapshot.mesh.egress
    allowed = mesh(enableEgress=True) if heir == mesh() else other_mesh(enableEgress=True)
    assert mixed([], [allowed], built).snapshot.mesh.egress


def test_a_pod_of_the_directory_that_only_the_cluster_knows_now_stays_in_the_mesh():
    pod = yaml.safe_load(IN_IT)
    injected = {**pod, "metadata": {**pod["metadata"], "annotations": INJECTED}}
    built = mixed([injected], [LEFT_ALONE])
    for _ in range(3):
        assert captured(built) == ["shop/p"]
        built = mixed([], [LEFT_ALONE, pod], built)
