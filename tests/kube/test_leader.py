"""The servers' leader against a real API server: one leads, and MeshNodes say what runs where."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from agent.cluster.leader import ClusterLeader
from agent.cluster.writer import VERSION, MeshNodeWriter
from agent.identity.kubernetes.objects import LEASE
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of
from policy.kinds.edgemesh import MeshNode
from tests.kube.control_plane import SYSTEM, Cluster, ControlPlane


@pytest.fixture
async def cluster(control_plane_state: Path) -> AsyncIterator[Cluster]:
    plane = ControlPlane(control_plane_state)
    made = Cluster(plane)
    await made.begin()
    for namespace, name, account in (
        (SYSTEM, "server-a", "edgemesh-server"),
        (SYSTEM, "server-b", "edgemesh-server"),
        ("shop", "till-1", "till"),
        ("shop", "till-2", "till"),
    ):
        await made.gone(namespace, name)
        if account == "edgemesh-server":
            await made.pod(namespace, name, account, "n-a")
    yield made
    await plane.aclose()


async def server(cluster: Cluster, name: str = "server-a") -> ApiServer:
    return await cluster.acting("edgemesh-server", await cluster.api.get(path_of("v1", "pods", SYSTEM, name)))


async def until(what: Callable[[], Any], patience: float = 20.0) -> Any:
    """Return what `what` returns once it is true; it may be async."""
    with trio.fail_after(patience):
        while True:
            seen = what()
            if hasattr(seen, "__await__"):
                seen = await seen
            if seen:
                return seen
            await trio.sleep(0.05)


async def read(cluster: Cluster, node: str) -> MeshNode | None:
    try:
        found = await cluster.api.get(path_of(VERSION, "meshnodes", "", node))
    except ApiError:
        return None
    return msgspec.convert(found["spec"], MeshNode)


@contextlib.asynccontextmanager
async def writing(cluster: Cluster) -> AsyncIterator[MeshNodeWriter]:
    writer = MeshNodeWriter(await server(cluster), 15008)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await until(lambda: writer.current)
        yield writer
        nursery.cancel_scope.cancel()


async def addressed(cluster: Cluster, name: str, address: str, node: str = "n-a") -> None:
    await cluster.pod("shop", name, "till", node)
    status = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
    await cluster.api.patch(path_of("v1", "pods", "shop", name, "status"), status)


async def runs(cluster: Cluster, node: str, name: str) -> Any:
    found = await read(cluster, node)
    return next((one for one in found.workloads if one.name == name), None) if found else None


async def test_pods_come_and_go_in_the_mesh_node_of_their_node(cluster: Cluster) -> None:
    async with writing(cluster) as writer:
        await addressed(cluster, "till-1", "10.42.0.5")
        began = trio.current_time()
        workload = await until(lambda: runs(cluster, "n-a", "till-1"))
        assert trio.current_time() - began < 3
        assert (workload.service_account, workload.addresses, workload.enrolled) == ("till", ("10.42.0.5",), True)
        assert await runs(cluster, "n-b", "till-1") is None
        await cluster.gone("shop", "till-1")
        await addressed(cluster, "till-1", "10.42.1.5", "n-b")
        await until(lambda: runs(cluster, "n-b", "till-1"))
        await until(lambda: _not(runs(cluster, "n-a", "till-1")))
        quiet = writer.writes
        await trio.sleep(2.5)
        assert writer.writes == quiet, "nothing is written without a change"
        assert writer.trouble == ""


async def _not(what: Any) -> bool:
    return not await what


async def test_changes_are_put_together(cluster: Cluster) -> None:
    async with writing(cluster) as writer:
        await addressed(cluster, "till-1", "10.42.0.5")
        await until(lambda: runs(cluster, "n-a", "till-1"))
        before, began = writer.writes, trio.current_time()
        for number in range(30):
            status = {"status": {"podIPs": [{"ip": f"10.42.0.{number + 10}"}], "podIP": f"10.42.0.{number + 10}"}}
            await cluster.api.patch(path_of("v1", "pods", "shop", "till-1", "status"), status)
            await trio.sleep(0.05)

        async def last() -> bool:
            workload = await runs(cluster, "n-a", "till-1")
            return workload.addresses == ("10.42.0.39",)

        await until(last)
        assert writer.writes - before <= (trio.current_time() - began) + 2, "one write a second, and the first at once"


async def test_a_mesh_node_is_what_is_so_whatever_was_written_into_it(cluster: Cluster) -> None:
    async with writing(cluster):
        good = await read(cluster, "n-a")
        path = path_of(VERSION, "meshnodes", "", "n-a")
        await cluster.api.patch(path, {"spec": {"addresses": ["10.6.6.6"], "workloads": []}})

        async def mended() -> bool:
            return await read(cluster, "n-a") == good

        await until(mended)
        await cluster.api.delete(path)
        await until(mended)


async def test_a_node_that_is_gone_has_none_and_what_was_left_is_removed(cluster: Cluster) -> None:
    await cluster.make(VERSION, "meshnodes", {"kind": "MeshNode", "metadata": {"name": "never-was"}, "spec": {}})
    node = {"kind": "Node", "metadata": {"name": "n-z"}}
    await cluster.make("v1", "nodes", node)
    async with writing(cluster):
        await until(lambda: read(cluster, "n-z"))
        await until(lambda: _not(read(cluster, "never-was")))
        await cluster.api.delete(path_of("v1", "nodes", "", "n-z"))
        await until(lambda: _not(read(cluster, "n-z")))


async def test_an_agent_reads_mesh_nodes_and_writes_none(cluster: Cluster) -> None:
    await cluster.gone(SYSTEM, "agent-x")
    agent = await cluster.acting("edgemesh-agent", await cluster.pod(SYSTEM, "agent-x", "edgemesh-agent", "n-a"))
    async with writing(cluster):
        await agent.get(path_of(VERSION, "meshnodes", "", "n-b"))
        for method, path, body in (
            ("PATCH", path_of(VERSION, "meshnodes", "", "n-a"), {"spec": {"addresses": ["10.6.6.6"]}}),
            ("DELETE", path_of(VERSION, "meshnodes", "", "n-b"), b""),
            ("POST", path_of(VERSION, "meshnodes"), {"kind": "MeshNode", "metadata": {"name": "n-c"}}),
        ):
            with pytest.raises(ApiError) as refused:
                await agent.request(method, path, body=body, content_type="application/merge-patch+json")
            assert refused.value.status == 403


async def test_a_leader_outlives_a_restart_of_the_api_server(cluster: Cluster, control_plane_state: Path) -> None:
    api = await server(cluster)
    leader = ClusterLeader(api, "server-a", time.time, 86400.0, lambda *_: "", 15008, make=lambda *_, **__: api)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leader.run)
        await until(lambda: leader.lease.leads, 40)
        await until(lambda: leader.writer and leader.writer.current)
        restart = [str(control_plane_state / "restart"), "n1", "apiserver", "6"]
        await trio.run_process(restart)

        async def back() -> bool:
            try:
                await addressed(cluster, "till-2", "10.42.0.77")
            except (ApiError, ApiUnreachable):
                return False
            return True

        async def written() -> bool:
            try:
                return leader.lease.leads and bool(await runs(cluster, "n-a", "till-2"))
            except ApiUnreachable:
                return False

        await until(back, 60)
        await until(written, 60)
        nursery.cancel_scope.cancel()
    await cluster.gone("shop", "till-2")


async def test_one_server_leads_and_the_other_takes_over(cluster: Cluster) -> None:
    with contextlib.suppress(ApiError):
        await cluster.api.delete(path_of("coordination.k8s.io/v1", "leases", SYSTEM, LEASE))

    async def leader(name: str) -> ClusterLeader:
        api = await server(cluster, name)

        def make(*_: Any, **__: Any) -> ApiServer:
            return api

        return ClusterLeader(api, name, time.time, 86400.0, lambda *_: "", 15008, make=make)

    one, two = await leader("server-a"), await leader("server-b")
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def run() -> None:
            with first:
                await one.run()

        nursery.start_soon(run)
        await until(lambda: one.lease.leads)
        nursery.start_soon(two.run)
        await until(lambda: two.lease.holder)
        await trio.sleep(5)
        assert (one.lease.leads, two.lease.leads) == (True, False)
        assert two.authority is None
        assert list(one.problems()) == []
        first.cancel()
        await until(lambda: two.lease.leads, 8)
        await until(lambda: two.authority and two.authority._opened)
        nursery.cancel_scope.cancel()
    held = await cluster.api.get(path_of("coordination.k8s.io/v1", "leases", SYSTEM, LEASE))
    assert not held["spec"].get("holderIdentity"), "it was given back"
    assert held["spec"]["leaseTransitions"] >= 1
