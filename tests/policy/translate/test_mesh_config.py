"""translate/osm.py: which MeshConfig speaks for the mesh, and words that say nothing."""

import pytest

from policy.build import build
from policy.model import Where
from policy.resources import RawObject


def made(*objects):
    return build([RawObject(data, Where("x.yaml", number), {}) for number, data in enumerate(objects, 1)])


def config(name, namespace, permissive, **more):
    traffic = {"enablePermissiveTrafficPolicyMode": permissive, **more.pop("traffic", {})}
    metadata = {"name": name, "namespace": namespace, **more}
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": metadata,
        "spec": {"traffic": traffic},
    }


def test_a_mesh_config_in_a_namespace_that_sorts_first_does_not_open_the_mesh():
    built = made(config("osm-mesh-config", "osm-system", False), config("mine", "a-tenant", True))
    assert not built.snapshot.mesh.permissive
    assert [p.object for p in built.problems] == ["MeshConfig a-tenant/mine"]


def test_of_others_the_oldest_speaks():
    old, young = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"
    built = made(
        config("a", "n", True, creationTimestamp=young),
        config("b", "n", False, creationTimestamp=old),
        config("c", "n", True),
    )
    assert not built.snapshot.mesh.permissive


def test_lists_may_be_null():
    lists = dict.fromkeys(
        (
            "outboundPortExclusionList",
            "inboundPortExclusionList",
            "outboundIPRangeExclusionList",
            "outboundIPRangeInclusionList",
        )
    )
    built = made(config("osm-mesh-config", "osm-system", True, traffic=lists))
    assert built.snapshot.mesh.permissive
    assert not built.problems


@pytest.mark.parametrize(("value", "enrolled", "warned"), [("enabled", True, 0), ("no", False, 0), ("off", True, 1)])
def test_an_injection_annotation_that_says_neither_yes_nor_no(value, enrolled, warned):
    metadata = {"name": "w", "namespace": "n", "annotations": {"openservicemesh.io/sidecar-injection": value}}
    built = made(
        {
            "apiVersion": "edgemesh.io/v1alpha1",
            "kind": "Workload",
            "metadata": metadata,
            "spec": {"addresses": ["10.0.0.1"]},
        }
    )
    assert built.snapshot.workload("n/w").enrolled is enrolled
    assert sum(p.severity == "warning" and "neither yes nor no" in p.message for p in built.problems) == warned


@pytest.mark.parametrize("name", ["", "a b", "net*", '"', "eth0;drop", "-x", "sixteen-letters0", "a/b", "net1\n"])
def test_a_name_that_is_no_interface_is_an_error(name):
    built = made(config("osm-mesh-config", "osm-system", False, traffic={"networkInterfaceExclusionList": [name]}))
    (problem,) = [problem for problem in built.problems if problem.severity == "error"]
    assert f"{name!r} is no name of a network interface" in problem.message


def test_excluded_interfaces_are_those_of_every_workload():
    workload = {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "Workload",
        "metadata": {
            "name": "w",
            "namespace": "n",
            "annotations": {"openservicemesh.io/outbound-port-exclusion-list": "25"},
        },
        "spec": {"addresses": ["10.0.0.1"]},
    }
    traffic = {"networkInterfaceExclusionList": ["net1", "eth0.5", "net1"]}
    built = made(config("osm-mesh-config", "osm-system", False, traffic=traffic), workload)
    assert built.snapshot.workload("n/w").exclusions.interfaces == ("eth0.5", "net1")
    assert built.snapshot.workload("n/w").exclusions.outbound_ports == (25,)
