"""A node's part in a mesh of several nodes: what it lacks is said."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agent.config.schema import AuthorityConfig, NodeConfig
from agent.identity.membership import Membership
from agent.kubernetes.access import Access
from agent.kubernetes.api import ApiServer
from policy.model import Mesh, Workload
from policy.snapshot import Snapshot

HERE = Workload("shop", "till", "till", ("10.0.0.1",), node="edge-1")
ELSEWHERE = Workload("shop", "store", "store", ("10.0.0.2",), node="edge-2")


def problems(tmp_path: Path, *workloads: Workload, mesh: Mesh = Mesh()) -> list[tuple[str, str]]:  # noqa: B008 - frozen
    snapshot = Snapshot("edge-1", mesh, workloads=workloads)
    node = Membership(NodeConfig(node="edge-1", state_dir=str(tmp_path)), False, lambda: snapshot)
    return [(problem.severity, problem.message) for problem in node.problems]


def test_a_node_that_should_have_an_identity_and_has_none_is_an_error(tmp_path: Path) -> None:
    ((severity, message),) = problems(tmp_path, HERE, ELSEWHERE)
    assert severity == "error"
    assert "this node has no identity: it has joined no mesh, and the manifests place workloads on edge-2" in message


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(mtls="disabled")])
def test_a_node_that_is_alone_lacks_none(tmp_path: Path, mesh: Mesh) -> None:
    assert problems(tmp_path, HERE, Workload("shop", "any", "any"), mesh=mesh) == []
    if mesh.mtls == "disabled":
        assert problems(tmp_path, HERE, ELSEWHERE, mesh=mesh) == []


def placed(*workloads: Workload) -> Membership:
    snapshot = Snapshot("edge-1", Mesh(), workloads=workloads)
    return Membership(NodeConfig(node="edge-1", state_dir="/nowhere"), False, lambda: snapshot)


def test_an_identity_is_signed_for_the_node_where_the_manifests_place_it() -> None:
    here = Workload("shop", "pump", "pump", netns="pump")
    out = Workload("shop", "out", "out", node="edge-1", enrolled=False)
    node = placed(HERE, ELSEWHERE, here, out)
    assert node._placed("edge-1", "spiffe://cluster.local/ns/shop/sa/till") == ""
    assert node._placed("edge-2", "spiffe://cluster.local/ns/shop/sa/store") == ""
    assert node._placed("edge-1", "spiffe://cluster.local/ns/shop/sa/pump") == "", (
        "one without a node is where it is captured"
    )
    for where, whom in (
        ("edge-2", "till"),
        ("edge-1", "store"),
        ("edge-2", "pump"),
        ("edge-1", "out"),
        ("edge-1", "nobody"),
    ):
        assert "place no workload" in node._placed(where, f"spiffe://cluster.local/ns/shop/sa/{whom}"), (where, whom)
    assert "place no workload" in node._placed("edge-1", "spiffe://other/ns/shop/sa/till")
    early = Membership(NodeConfig(node="edge-1", state_dir="/nowhere"), False, lambda: None)
    assert early._placed("edge-1", "spiffe://cluster.local/ns/shop/sa/till") == "no manifests have been read yet"
    assert early._revoked("edge-1", None, "") == ""


async def test_a_signing_door_whose_port_is_taken_is_an_error_told_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = NodeConfig(node="edge-1", state_dir=str(tmp_path), authority=AuthorityConfig(address))
        node = Membership(config, False, lambda: None)
        assert node._listen() == node._listen() == []
    told = [problem.message for problem in node.problems if problem.object == "NodeConfig authority.listen"]
    assert told == [f"no signing door on {address}: Address already in use; no other node gets a certificate"]


def test_in_a_cluster_a_node_need_not_join_and_holds_no_authority_of_its_own(tmp_path: Path) -> None:
    config = NodeConfig(node="edge-1", state_dir=str(tmp_path))
    snapshot: Snapshot | None = None
    node = Membership(config, True, lambda: snapshot, cluster=ApiServer(Access("10.43.0.1", 443, "a test")))
    assert not node.alone
    assert node.authority is None
    assert not (tmp_path / "authority").exists()
    assert node.refused("edge-2", None, "") == "no policy has been read yet", "so it may be revoked"
    snapshot = Snapshot("edge-1", Mesh())
    assert node.refused("edge-2", None, "") == ""
