"""discovery.py: versions of kinds, and kinds that are not there."""

from __future__ import annotations

from typing import Any

import pytest

from agent.kubernetes.api import ApiError
from agent.kubernetes.discovery import ServerVersion, Wanted, served, version_of
from tests.agent.kubernetes.fake import Answer, Asked, api_of, serving, status

SPLIT = Wanted("TrafficSplit", "split.smi-spec.io", ("v1alpha2", "v1alpha4"))
TARGET = Wanted("TrafficTarget", "access.smi-spec.io", ("v1alpha3",))
SLICE = Wanted("EndpointSlice", "discovery.k8s.io", ("v1beta1", "v1"))
POD = Wanted("Pod", "", ("v1",))


def resources(*kinds: tuple[str, str], verbs: tuple[str, ...] = ("get", "list", "watch")) -> dict[str, Any]:
    return {"resources": [{"name": name, "kind": kind, "verbs": list(verbs)} for name, kind in kinds]}


class Server:
    """What a server serves, by path."""

    def __init__(self, **versions: list[str]) -> None:
        self.versions = {name.replace("_", ".").replace("..", "-"): all for name, all in versions.items()}
        self.resources: dict[str, Any] = {}
        self.broken: set[str] = set()

    async def __call__(self, asked: Asked, answer: Answer) -> None:
        if asked.path in self.broken:
            await answer.send(503, status(503, "ServiceUnavailable"))
        elif asked.path == "/apis":
            groups = [
                {"name": name, "versions": [{"version": one} for one in all]} for name, all in self.versions.items()
            ]
            await answer.send(200, {"groups": groups})
        elif asked.path in self.resources:
            await answer.send(200, self.resources[asked.path])
        else:
            await answer.send(404, status(404, "NotFound"))


async def test_the_best_version_that_both_know() -> None:
    server = Server(split_smi__spec_io=["v1alpha2", "v1alpha4", "v9"], discovery_k8s_io=["v1beta1"])
    server.resources["/apis/split.smi-spec.io/v1alpha4"] = resources(
        ("trafficsplits", "TrafficSplit"), ("trafficsplits/status", "TrafficSplit")
    )
    server.resources["/apis/discovery.k8s.io/v1beta1"] = resources(("endpointslices", "EndpointSlice"))
    async with serving(server) as fake:
        found = await served(api_of(fake), (SPLIT, TARGET, SLICE, POD), {})
        assert {kind: (one.version, one.path) for (_, kind), one in found.items()} == {
            "TrafficSplit": ("split.smi-spec.io/v1alpha4", "/apis/split.smi-spec.io/v1alpha4/trafficsplits"),
            "EndpointSlice": ("discovery.k8s.io/v1beta1", "/apis/discovery.k8s.io/v1beta1/endpointslices"),
            "Pod": ("v1", "/api/v1/pods"),
        }


async def test_an_older_version_where_the_newer_has_no_such_kind() -> None:
    server = Server(split_smi__spec_io=["v1alpha2", "v1alpha4"])
    server.resources["/apis/split.smi-spec.io/v1alpha2"] = resources(("trafficsplits", "TrafficSplit"))
    async with serving(server) as fake:
        assert (await served(api_of(fake), (SPLIT,), {}))[SPLIT.group, SPLIT.kind].version.endswith("v1alpha2")


async def test_what_cannot_be_watched_is_not_served() -> None:
    server = Server(access_smi__spec_io=["v1alpha3"])
    server.resources["/apis/access.smi-spec.io/v1alpha3"] = resources(
        ("traffictargets", "TrafficTarget"), verbs=("get",)
    )
    async with serving(server) as fake:
        assert await served(api_of(fake), (TARGET,), {}) == {}


async def test_a_group_that_cannot_be_asked_now_is_as_it_was() -> None:
    server = Server(access_smi__spec_io=["v1alpha3"])
    path = "/apis/access.smi-spec.io/v1alpha3"
    server.resources[path] = resources(("traffictargets", "TrafficTarget"))
    async with serving(server) as fake:
        before = await served(api_of(fake), (TARGET,), {})
        server.broken.add(path)
        assert await served(api_of(fake), (TARGET,), before) == before
        assert await served(api_of(fake), (TARGET,), {}) == {}
        server.broken.add("/apis")
        with pytest.raises(ApiError):
            await served(api_of(fake), (TARGET,), before)


@pytest.mark.parametrize(
    ("major", "minor", "number", "watch_list"),
    [("1", "37", (1, 37), True), ("1", "20+", (1, 20), False), ("1", "32", (1, 32), True), ("", "x", (0, 0), False)],
)
async def test_the_version_of_the_server(major: str, minor: str, number: tuple[int, int], watch_list: bool) -> None:
    async def answers(asked: Asked, answer: Answer) -> None:
        await answer.send(200, {"major": major, "minor": minor, "gitVersion": "v1.37.2"})

    async with serving(answers) as fake:
        version = await version_of(api_of(fake))
        assert (version.number, version.watch_list, version.text) == (number, watch_list, "v1.37.2")


@pytest.mark.parametrize(("number", "ordered"), [((1, 34), False), ((1, 35), True), ((2, 0), True), ((0, 0), False)])
def test_versions_of_objects_have_an_order_since(number: tuple[int, int], ordered: bool) -> None:
    assert ServerVersion(number, "").ordered is ordered
