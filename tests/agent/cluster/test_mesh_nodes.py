"""What a MeshNode says, and which nodes a change concerns."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.cluster.mesh_nodes import MeshNodes, Namespace, Node, Pod
from policy.kinds.edgemesh import MeshNode

SHOP = {"metadata": {"name": "shop", "labels": {"openservicemesh.io/monitored-by": "osm"}}}


def pod(name: str = "till-1", node: str = "n-a", address: str = "10.42.0.5", **changes: Any) -> Pod:
    body: dict[str, Any] = {
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "till"}, **changes.get("metadata", {})},
        "spec": {"nodeName": node, "serviceAccountName": "till", **changes.get("spec", {})},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], **changes.get("status", {})},
    }
    return msgspec.convert(body, Pod)


def node(*addresses: str) -> Node:
    listed = [{"type": "InternalIP", "address": one} for one in addresses]
    body = {"metadata": {"name": "n"}, "status": {"addresses": [{"type": "Hostname", "address": "n"}, *listed]}}
    return msgspec.convert(body, Node)


@pytest.fixture
def cluster() -> MeshNodes:
    made = MeshNodes()
    made.node("n-a", node("172.31.77.11"))
    made.node("n-b", node("172.31.77.12", "fd00:0::1"))
    made.namespace("shop", msgspec.convert(SHOP, Namespace))
    made.pod("shop/till-1", pod())
    made.changed.clear()
    return made


def spec(cluster: MeshNodes, name: str = "n-a") -> MeshNode:
    return msgspec.convert(cluster.spec(name), MeshNode)


def test_a_node_its_addresses_and_its_pods(cluster: MeshNodes) -> None:
    assert cluster.spec("n-a") == {
        "addresses": ["172.31.77.11"],
        "workloads": [
            {
                "namespace": "shop",
                "name": "till-1",
                "serviceAccount": "till",
                "addresses": ["10.42.0.5"],
                "enrolled": True,
            }
        ],
    }
    assert cluster.spec("n-b") == {"addresses": ["172.31.77.12", "fd00::1"], "workloads": []}
    assert cluster.spec("n-c") is None
    assert MeshNodes(16008).spec("n-a") is None
    other = MeshNodes(16008)
    other.node("n-a", node())
    assert other.spec("n-a") == {"addresses": [], "tunnelPort": 16008, "workloads": []}


def test_a_change_concerns_one_node(cluster: MeshNodes) -> None:
    cluster.pod("shop/till-1", pod(metadata={"labels": {"app": "other"}, "resourceVersion": "9"}))
    cluster.node("n-a", node("172.31.77.11"))
    cluster.namespace("shop", msgspec.convert(SHOP, Namespace))
    assert cluster.changed == set(), "nothing that is written has changed"
    cluster.pod("shop/till-1", pod(address="10.42.0.6"))
    assert cluster.changed == {"n-a"}
    cluster.changed.clear()
    cluster.pod("shop/till-1", pod(node="n-b"))
    assert cluster.changed == {"n-a", "n-b"}, "a pod of the same name elsewhere"
    assert spec(cluster).workloads == ()
    cluster.changed.clear()
    cluster.pod("shop/till-1", None)
    assert cluster.changed == {"n-b"}
    cluster.pod("shop/never-seen", None)
    assert cluster.changed == {"n-b"}


def test_a_pod_without_an_address_and_one_that_has_ended_are_not_there(cluster: MeshNodes) -> None:
    cluster.pod("shop/till-2", pod("till-2", address="", status={"podIPs": None}))
    assert cluster.changed == set()
    for phase in ("Succeeded", "Failed"):
        cluster.pod("shop/till-1", pod(status={"phase": phase}))
        assert spec(cluster).workloads == ()
        cluster.pod("shop/till-1", pod())
    cluster.pod("shop/till-1", pod(node=""))
    assert spec(cluster).workloads == ()


def test_who_is_in_the_mesh_is_policys_word(cluster: MeshNodes) -> None:
    def enrolled() -> bool:
        return spec(cluster).workloads[0].enrolled

    assert enrolled()
    cluster.pod("shop/till-1", pod(metadata={"annotations": {"openservicemesh.io/sidecar-injection": "disabled"}}))
    assert not enrolled()
    cluster.pod("shop/till-1", pod(metadata={"labels": {"edgemesh.io/mesh": "disabled"}}))
    assert not enrolled()
    cluster.pod("shop/till-1", pod())
    cluster.changed.clear()
    cluster.namespace("shop", msgspec.convert({"metadata": {"name": "shop"}}, Namespace))
    assert cluster.changed == {"n-a"}
    assert not enrolled()
    cluster.namespace("shop", None)
    assert not enrolled()


def test_a_pod_of_its_nodes_network_says_so_with_its_ports(cluster: MeshNodes) -> None:
    ports = [{"containerPort": 9100}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}]
    cluster.pod("shop/till-1", pod(spec={"hostNetwork": True, "containers": [{"ports": ports}, {}]}))
    (workload,) = spec(cluster).workloads
    assert (workload.host_network, workload.ports, workload.enrolled) == (True, (80, 9100), True)
    cluster.pod("shop/till-1", pod(spec={"containers": [{"ports": ports}]}))
    assert spec(cluster).workloads[0].ports == (), "its own address tells it apart"


def test_both_families_and_one_spelling(cluster: MeshNodes) -> None:
    ips = [{"ip": "10.42.0.5"}, {"ip": "FD00::0:5"}]
    cluster.pod("shop/till-1", pod(status={"podIPs": ips}))
    assert spec(cluster).workloads[0].addresses == ("10.42.0.5", "fd00::5")


def test_a_node_that_is_gone_has_no_mesh_node(cluster: MeshNodes) -> None:
    cluster.node("n-a", None)
    assert cluster.changed == {"n-a"}
    assert cluster.spec("n-a") is None
    cluster.node("n-a", node("172.31.77.11"))
    assert len(spec(cluster).workloads) == 1, "its pods were never gone"
