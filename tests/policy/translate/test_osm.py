"""translate/osm.py: who is in the mesh by label and annotation, exclusion lists, MeshConfig."""

import pytest
import yaml

from policy.build import build
from policy.model import Exclusions, Mesh, Where
from policy.resources import RawObject

MONITORED = {"openservicemesh.io/monitored-by": "edgemesh"}
IGNORED = {"openservicemesh.io/ignore": "true"}
YES, NO = ({"openservicemesh.io/sidecar-injection": word} for word in ("enabled", "disabled"))
POD = {"spec": {"containers": []}, "status": {"podIP": "10.0.0.1"}}


def made(*objects):
    return build([RawObject(data, Where("o.yaml", n), {}) for n, data in enumerate(objects, 1)])


def object_(version, kind, name, body, **metadata):
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "" if kind == "Namespace" else "n", **metadata},
        **body,
    }


def namespace(labels, annotations=None):
    return object_("v1", "Namespace", "n", {}, labels=labels, annotations=annotations or {})


def pod(annotations=None):
    return object_("v1", "Pod", "p", POD, annotations=annotations or {})


def workload(annotations=None):
    return object_("edgemesh.io/v1alpha1", "Workload", "w", {"spec": {}}, annotations=annotations or {})


def config(text, name="osm-mesh-config"):
    return object_("config.openservicemesh.io/v1alpha2", "MeshConfig", name, {"spec": yaml.safe_load(text)})


@pytest.mark.parametrize(
    ("given", "enrolled"),
    [
        ([pod()], False),
        ([namespace({}), pod()], False),
        ([namespace(MONITORED), pod()], True),
        ([namespace(MONITORED | IGNORED), pod()], False),
        ([namespace(MONITORED | {"openservicemesh.io/ignore": "false"}), pod()], True),
        ([namespace(MONITORED), pod(NO)], False),
        ([namespace(MONITORED, NO), pod()], False),
        ([namespace(MONITORED, NO), pod(YES)], True),
        ([namespace({}), pod(YES)], False),
        ([workload()], True),
        ([workload(NO)], False),
        ([namespace({}), workload()], True),
        ([namespace(IGNORED), workload()], False),
        ([namespace({}, NO), workload()], False),
        ([namespace({}, NO), workload(YES)], True),
    ],
)
def test_who_is_in_the_mesh(given, enrolled):
    assert [w.enrolled for w in made(*given).snapshot.workloads] == [enrolled]


LISTS = """
traffic:
  outboundIPRangeExclusionList: [10.1.2.3/8, " fd00::/8"]
  outboundIPRangeInclusionList: [10.0.0.0/8]
  outboundPortExclusionList: [25, 22, 25]
  inboundPortExclusionList: [9100]
"""


def test_the_meshs_lists_and_the_workloads_are_one():
    annotations = {
        f"openservicemesh.io/{name}": value
        for name, value in [("outbound-port-exclusion-list", "6379, 25"), ("inbound-port-exclusion-list", "1")]
    }
    annotations["openservicemesh.io/outbound-ip-range-exclusion-list"] = "192.168.1.1/16"
    built = made(config(LISTS), workload(annotations))
    assert built.problems == ()
    assert built.snapshot.workloads[0].exclusions == Exclusions(
        (1, 9100), (22, 25, 6379), ("10.0.0.0/8", "192.168.0.0/16", "fd00::/8"), ("10.0.0.0/8",)
    )
    assert made(config(LISTS), workload()).snapshot.workloads[0].exclusions.outbound_ports == (22, 25)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("outbound-port-exclusion-list", "0"),
        ("inbound-port-exclusion-list", "x"),
        ("outbound-ip-range-exclusion-list", "10.0.0.0/33"),
    ],
)
def test_a_word_that_is_none_is_left_out_and_pointed_out(name, value):
    built = made(workload({f"openservicemesh.io/{name}": value}))
    assert built.snapshot.workloads[0].exclusions == Exclusions()
    (problem,) = built.problems
    assert (problem.severity, problem.object) == ("warning", "Workload n/w"), "the workload is in force, captured whole"
    assert repr(value) in problem.message


@pytest.mark.parametrize(
    ("text", "mesh"),
    [
        ("{}", Mesh()),
        ("traffic: {enablePermissiveTrafficPolicyMode: true}", Mesh(permissive=True)),
        ("traffic: {enableEgress: false}", Mesh(egress=False)),
    ],
)
def test_the_modes(text, mesh):
    assert made(config(text)).snapshot.mesh == mesh


def test_without_a_mesh_config_everything_is_denied_and_egress_is_open():
    assert made().snapshot.mesh == Mesh(permissive=False, egress=True)


@pytest.mark.parametrize(
    "text",
    [
        "traffic: {enableEgres: true}",
        "traffic: {enableEgress: maybe}",
        "traffic: {outboundIPRangeExclusionList: [x]}",
        "trafic: {}",
    ],
)
def test_a_bad_mesh_config_keeps_the_last_good_one(text):
    good = made(config("traffic: {enablePermissiveTrafficPolicyMode: true}"))
    bad = build([RawObject(config(text), Where("o.yaml", 1), {})], good.accepted)
    assert [p.severity for p in bad.problems] == ["error"]
    assert bad.snapshot.mesh.permissive
    assert not made(config(text)).snapshot.mesh.permissive, "with none before it, deny by default"


def test_a_second_mesh_config_is_pointed_out():
    built = made(config("traffic: {enableEgress: false}", "a"), config("{}", "b"))
    assert not built.snapshot.mesh.egress
    assert [(p.severity, p.object) for p in built.problems] == [("warning", "MeshConfig n/b")]
