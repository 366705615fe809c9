"""What a server says on policy objects, with its own rights, on a real API server with the add-on's definitions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.cluster import verdicts as module
from agent.cluster.verdicts import VerdictWriter
from agent.kubernetes.api import path_of
from agent.kubernetes.events import Events
from policy.model import Problem, Where
from policy.resources import RawObject
from tests.kube.control_plane import SYSTEM, Cluster, ControlPlane

OSM, SMI = "policy.openservicemesh.io/v1alpha1", "access.smi-spec.io/v1alpha3"
OBJECTS: dict[str, tuple[str, str, dict[str, Any]]] = {  # kind: version, plural, spec
    "IngressBackend": (OSM, "ingressbackends", {"backends": [], "sources": []}),
    "TrafficTarget": (SMI, "traffictargets", {"destination": {"kind": "ServiceAccount", "name": "till"}}),
}


@pytest.fixture
async def cluster(control_plane_state: Path) -> AsyncIterator[Cluster]:
    plane = ControlPlane(control_plane_state)
    made = Cluster(plane)
    await made.begin()
    await made.gone(SYSTEM, "server-a")
    for kind, (version, plural, spec) in OBJECTS.items():
        await made.make(version, plural, {"kind": kind, "metadata": {"name": "told"}, "spec": spec}, "shop")
    yield made
    for version, plural, _ in OBJECTS.values():
        await made.api.delete(path_of(version, plural, "shop", "told"))
    await plane.aclose()


async def until(what: Callable[[], Any]) -> Any:
    with trio.fail_after(20):
        while not (seen := await what()):
            await trio.sleep(0.1)
    return seen


async def test_conditions_and_events_are_written(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.1)
    pod = await cluster.pod(SYSTEM, "server-a", "edgemesh-server", "n-a")
    server = await cluster.acting("edgemesh-server", pod)
    objects = [
        RawObject(
            {"apiVersion": version, "kind": kind, "metadata": {"name": "told", "namespace": "shop"}, "spec": spec},
            Where(f"kubernetes:{kind}/shop/told"),
            {},
        )
        for kind, (version, _, spec) in OBJECTS.items()
    ]
    problems = [Problem("error", raw.where, "it", "nothing is meant by this", "say what") for raw in objects]
    known: tuple[int, list[RawObject], list[Problem]] = (1, objects, problems)
    uid = (await cluster.api.get(path_of(SMI, "traffictargets", "shop", "told")))["metadata"]["uid"]
    ingress = path_of(OSM, "ingressbackends", "shop", "told")

    async def accepted() -> Any:
        found = (await cluster.api.get(ingress)).get("status", {}).get("conditions", ())
        return next((one for one in found if one["type"] == "Accepted"), None)

    async def event() -> Any:
        query = {"fieldSelector": f"involvedObject.uid={uid}"}
        return (await cluster.api.get(path_of("v1", "events", "shop"), query=query))["items"]

    writer = VerdictWriter(server, Events(server, "n-a"), lambda: (*known, None), namespace=SYSTEM)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        said = await until(accepted)
        assert (said["status"], said["reason"]) == ("False", "Invalid")
        assert said["message"] == "nothing is meant by this (say what)"
        (one,) = await until(event)
        assert (one["reason"], one["type"], one["involvedObject"]["name"]) == ("Invalid", "Warning", "told")
        known = (2, objects, [])

        async def mended() -> bool:
            return bool((await accepted())["status"] == "True")

        await until(mended)
        version = (await cluster.api.get(ingress))["metadata"]["resourceVersion"]
        known = (3, objects, [])
        await trio.sleep(1)
        assert (await cluster.api.get(ingress))["metadata"]["resourceVersion"] == version, "only on change"
        assert writer.trouble == ""
        nursery.cancel_scope.cancel()
