"""MeshNodes are written when something changes, at most once a second each, and never over what somebody else wrote."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from agent.cluster.writer import ABSENT, AGAIN, EACH, MeshNodeWriter
from agent.kubernetes.api import ApiError, ApiUnreachable
from tests.agent.kubernetes.memory import MemoryApi

OWN = "/apis/edgemesh.io/v1alpha1/meshnodes"
LABELS = {"openservicemesh.io/monitored-by": "osm"}


def pod(api: MemoryApi, name: str, address: str, node: str = "n-a") -> None:
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    spec = {"nodeName": node, "serviceAccountName": "till"}
    api.add(f"/api/v1/namespaces/shop/pods/{name}", spec=spec, status=status)


@pytest.fixture
def api() -> MemoryApi:
    made = MemoryApi()
    for number, name in enumerate(("n-a", "n-b"), start=1):
        addresses = [{"type": "InternalIP", "address": f"172.31.77.{number}"}]
        made.add(f"/api/v1/nodes/{name}", status={"addresses": addresses})
    made.add("/api/v1/namespaces/shop", metadata={"labels": LABELS})
    pod(made, "till-1", "10.42.0.5")
    return made


@contextlib.asynccontextmanager
async def writing(api: MemoryApi, settled: bool = True) -> AsyncIterator[MeshNodeWriter]:
    writer = MeshNodeWriter(api, 15008)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        if settled:
            await trio.sleep(3 * EACH)
            assert writer.current
        yield writer
        nursery.cancel_scope.cancel()


def said(api: MemoryApi, node: str = "n-a") -> Any:
    return api.objects[f"{OWN}/{node}"]["spec"]


def workloads(api: MemoryApi, node: str = "n-a") -> list[str]:
    return [one["name"] for one in said(api, node)["workloads"]]


async def test_each_node_has_one_from_the_first_list_on(api: MemoryApi, autojump_clock: object) -> None:
    async with writing(api) as writer:
        assert said(api)["addresses"] == ["172.31.77.1"]
        assert (workloads(api), workloads(api, "n-b")) == (["till-1"], [])
        assert writer.writes == 2
        await trio.sleep(60)
        assert writer.writes == 2, "nothing is written without a change"


async def test_what_any_of_the_four_kinds_tells_is_written(api: MemoryApi, autojump_clock: object) -> None:
    async with writing(api):
        pod(api, "till-2", "10.42.0.6")
        await trio.sleep(2)
        assert workloads(api) == ["till-1", "till-2"]
        api.drop("/api/v1/namespaces/shop/pods/till-1")
        await trio.sleep(2)
        assert workloads(api) == ["till-2"]
        assert said(api)["workloads"][0]["enrolled"]
        api.add("/api/v1/namespaces/shop", metadata={"labels": {}})
        await trio.sleep(2)
        assert not said(api)["workloads"][0]["enrolled"]
        api.add("/api/v1/nodes/n-c", status={"addresses": [{"type": "InternalIP", "address": "172.31.77.3"}]})
        await trio.sleep(2)
        assert said(api, "n-c")["addresses"] == ["172.31.77.3"]
        api.drop("/api/v1/nodes/n-c")
        await trio.sleep(2)
        assert f"{OWN}/n-c" not in api.objects
        api.add(f"{OWN}/n-b", spec={"addresses": ["10.6.6.6"], "workloads": []})
        await trio.sleep(2)
        assert said(api, "n-b")["addresses"] == ["172.31.77.2"], "what somebody else wrote is replaced"
        api.drop(f"{OWN}/n-b")
        await trio.sleep(2)
        assert said(api, "n-b")["addresses"] == ["172.31.77.2"]


async def test_many_changes_are_one_write_a_second(api: MemoryApi, autojump_clock: object) -> None:
    async with writing(api) as writer:
        before = writer.writes
        for number in range(30):
            pod(api, "till-1", f"10.42.0.{number + 10}")
            await trio.sleep(0.1)
        await trio.sleep(2)
        assert said(api)["workloads"][0]["addresses"] == ["10.42.0.39"]
        assert writer.writes - before <= 5, "3 seconds, the first at once, the last after it"


async def test_what_is_left_of_a_node_that_never_was_is_removed(api: MemoryApi, autojump_clock: object) -> None:
    api.add(f"{OWN}/never-was", spec={"unknown": ["what"]})
    async with writing(api):
        assert f"{OWN}/never-was" not in api.objects


@pytest.mark.parametrize("error", [ApiError(500, "InternalError", "oh"), ApiUnreachable("gone")])
async def test_a_write_that_fails_is_said_and_tried_again(
    api: MemoryApi, error: Exception, autojump_clock: object
) -> None:
    broken = True

    def fails(verb: str, path: str) -> None:
        if broken and verb in ("create", "update") and path.startswith(OWN):
            raise error

    api.fails = fails
    async with writing(api, settled=False) as writer:
        await trio.sleep(0.1)
        assert "MeshNode n-" in writer.trouble
        assert not writer.current
        broken = False
        await trio.sleep(AGAIN + 3 * EACH)
        assert (workloads(api), writer.trouble, writer.current) == (["till-1"], "", True)


async def test_a_write_that_somebody_was_faster_with_is_no_trouble(api: MemoryApi, autojump_clock: object) -> None:
    async with writing(api) as writer:
        refused = 0

        def fails(verb: str, path: str) -> None:
            nonlocal refused
            if verb == "update" and not refused:
                refused += 1
                raise ApiError(409, "Conflict", "the object has been modified")

        api.fails = fails
        pod(api, "till-2", "10.42.0.6")
        await trio.sleep(0.1)
        assert (refused, writer.trouble) == (1, "")
        await trio.sleep(AGAIN)
        assert workloads(api) == ["till-1", "till-2"]


async def test_a_cluster_without_the_kind_is_said_until_it_has_it(api: MemoryApi, autojump_clock: object) -> None:
    served = False

    def fails(verb: str, path: str) -> None:
        if not served and path.startswith(OWN):
            raise ApiError(404, "NotFound", "the server could not find the requested resource")

    api.fails = fails
    async with writing(api, settled=False) as writer:
        await trio.sleep(1)
        assert writer.trouble.startswith("MeshNodes cannot be written: 404")
        assert not api.writes
        served = True
        await trio.sleep(ABSENT + 1)
        assert (writer.trouble, workloads(api)) == ("", ["till-1"])
