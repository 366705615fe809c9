"""cluster.py: what the source says of an API server: nothing before it knows all, then all, then each change."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
import trio

from agent.config.schema import NodeConfig
from agent.config.settings import is_node_config
from agent.kubernetes import discovery
from agent.kubernetes.access import Access
from agent.kubernetes.api import ApiServer, plural
from agent.kubernetes.discovery import DEFINITIONS
from agent.kubernetes.reflector import Timing
from agent.sources import Change, Mark
from agent.sources.kubernetes import cluster
from agent.sources.kubernetes.cluster import Cluster
from nodeproxy.backoff import Backoff
from policy.model import Where
from policy.registry import KINDS
from policy.resources import RawObject
from tests.agent.kubernetes.fake import Answer, Asked, FakeServer, api_of, serving, status

Answering = Callable[[Asked, Answer], Awaitable[None]]
FAST = Timing(Backoff(0.01, 0.05, 1.0, 2.0), short=0.0)
PLURALS = {plural(kind): (kind, group) for kind, row in KINDS.items() for group in (row.group, *row.also) if group} | {
    "nodeconfigs": ("NodeConfig", "edgemesh.io"),
    "endpointslices": ("EndpointSlice", "discovery.k8s.io"),
}
NONE = Mark()
ONLY_METADATA = {f"/api/v1/{plural}" for plural in ("namespaces", "serviceaccounts", "nodes")}
CORE = {plural for kind, plural in discovery._CORE.items() if kind in KINDS}


class FakeCluster:
    """An API server with objects, and their kinds' definitions. `defined`: plurals of custom kinds that are served."""

    def __init__(self, *defined: str, minor: str = "37") -> None:
        self.minor = minor
        self.objects: dict[str, dict[str, Any]] = {}  # by path of the collection and name: "/api/v1/pods shop/a"
        self.versions = itertools.count(1)
        self.watchers: list[tuple[str, Answer]] = []
        self.refused: set[str] = set()  # paths
        self.undiscovered: set[str] = set()  # plurals that are defined and not served yet
        self.defined: set[str] = set()
        self.slices = "v1"
        self.uid = "this-cluster"
        self.broken: dict[str, Answering] = {}  # by path: what is answered instead
        for name in defined:
            self.define(name)

    def define(self, plural: str) -> None:
        _, group = PLURALS[plural]
        self.defined.add(plural)
        self.objects[f"{DEFINITIONS} {plural}.{group}"] = self.made(f"{plural}.{group}", "")

    def made(self, name: str, namespace: str, **fields: Any) -> dict[str, Any]:
        version = str(next(self.versions))
        return {"metadata": {"name": name, "namespace": namespace, "resourceVersion": version}, **fields}

    def path(self, plural: str) -> str:
        if plural in CORE:
            return f"/api/v1/{plural}"
        if plural == "endpointslices":
            return f"/apis/discovery.k8s.io/{self.slices}/{plural}"
        kind, group = PLURALS[plural]
        return f"/apis/{group}/{KINDS[kind].versions[-1] if kind in KINDS else 'v1alpha1'}/{plural}"

    async def put(self, plural: str, key: str, **fields: Any) -> None:
        namespace, _, name = key.rpartition("/")
        path = DEFINITIONS if plural == "" else self.path(plural)
        known = f"{path} {key}" in self.objects
        one = self.objects[f"{path} {key}"] = self.made(name, namespace, **fields)
        await self._event(path, "MODIFIED" if known else "ADDED", one)

    async def remove(self, plural: str, key: str) -> None:
        path = DEFINITIONS if plural == "" else self.path(plural)
        one = self.objects.pop(f"{path} {key}")
        one["metadata"]["resourceVersion"] = str(next(self.versions))
        await self._event(path, "DELETED", one)

    async def _event(self, path: str, kind: str, one: dict[str, Any]) -> None:
        for at, answer in self.watchers:
            if at == path:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await answer.event(kind, one)

    async def __call__(self, asked: Asked, answer: Answer) -> None:
        served = self.defined - self.undiscovered | {"endpointslices"}
        if asked.path in self.broken:
            await self.broken[asked.path](asked, answer)
        elif asked.path == "/api/v1/namespaces/kube-system":
            await answer.send(200, {"metadata": {"name": "kube-system", "uid": self.uid}})
        elif asked.path == "/version":
            await answer.send(200, {"major": "1", "minor": self.minor, "gitVersion": f"v1.{self.minor}.0"})
        elif asked.path == "/apis":
            paths = [self.path(plural).split("/") for plural in served]
            groups = {parts[2]: {"name": parts[2], "versions": [{"version": parts[3]}]} for parts in paths}
            await answer.send(200, {"groups": list(groups.values())})
        elif asked.path in self.refused:
            await answer.send(403, status(403, "Forbidden", "not allowed"))
        elif here := [one for one in served if self.path(one).startswith(f"{asked.path}/")]:
            kinds = [{"name": one, "kind": PLURALS[one][0], "verbs": ["list", "watch"]} for one in here]
            await answer.send(200, {"resources": kinds})
        elif asked.path not in {
            DEFINITIONS,
            *map(self.path, [*served, *CORE]),
        }:
            await answer.send(404, status(404, "NotFound"))
        elif "sendInitialEvents" in asked.query:
            await answer.begin()
            for one in self.listed(asked.path):
                await answer.event("ADDED", one)
            end = {"resourceVersion": str(next(self.versions)), "annotations": {"k8s.io/initial-events-end": "true"}}
            await answer.event("BOOKMARK", {"metadata": end})
            await self.live(asked.path, answer)
        elif "watch" in asked.query:
            await answer.begin()
            await self.live(asked.path, answer)
        else:
            version = str(next(self.versions))
            listed = self.listed(asked.path)
            if "as=Table" in asked.fields["accept"]:
                assert asked.query["includeObject"] == "None"
                rows = [{"cells": [one["metadata"]["name"], "x"], "object": None} for one in listed]
                await answer.send(200, {"metadata": {"resourceVersion": version}, "rows": rows})
            else:
                await answer.send(200, {"metadata": {"resourceVersion": version}, "items": listed})

    @property
    def all_watched(self) -> bool:
        return len(self.watchers) >= len(CORE) + 2 + len(self.defined - self.undiscovered)

    def listed(self, path: str) -> list[dict[str, Any]]:
        return [one for at, one in self.objects.items() if at.split(" ")[0] == path]

    async def live(self, path: str, answer: Answer) -> None:
        self.watchers.append((path, answer))
        await trio.sleep_forever()


class Heard:
    """What the source has sent, added up as the store does."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], bool]] = []
        self.said: dict[str, Any] = {}

    def __call__(self, changes: Sequence[Change], whole: bool) -> None:
        assert not whole or not any(whole for _, whole in self.batches)
        for change in changes:
            if change.under:
                assert change.gone
                self.said = {name: one for name, one in self.said.items() if not name.startswith(change.origin)}
            elif change.gone:
                del self.said[change.origin]
            else:
                assert change.objects
                (raw,) = change.objects
                assert raw.where.file == change.origin
                self.said[change.origin] = raw.data
        names = [f"{'-' if change.gone else ''}{change.origin.removeprefix('kubernetes:')}" for change in changes]
        self.batches.append((sorted(names), whole))

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not condition():
                await trio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(
    fake: FakeCluster, last: Sequence[RawObject] = (), mark: Mark = NONE, **more: Any
) -> AsyncIterator[tuple[Cluster, Heard, FakeServer]]:
    """`last`, `mark`: what was saved at the last run."""
    async with serving(fake) as server:
        source = Cluster(api_of(server), timing=FAST, **more)
        heard = Heard()
        source.remember(last, mark)
        heard.said = {raw.where.file: raw.data for raw in last}
        assert source.read() == ()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run, heard, lambda: NodeConfig(node="n1"))
            yield source, heard, server
            nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_SETTLING", (0.05, 0.1))
    monkeypatch.setattr(cluster, "_LOOK", 0.1)
    monkeypatch.setattr(cluster, "_UNSERVED", 0.2)
    monkeypatch.setattr(cluster, "_TOLD", 0.0)
    monkeypatch.setattr(cluster, "_SPREAD_UNKNOWN", 0.0)
    monkeypatch.setattr(cluster, "_TOGETHER", 0.05)


def spoken(heard: Heard) -> set[str]:
    return {origin.removeprefix("kubernetes:") for origin in heard.said}


@pytest.mark.parametrize("minor", ["37", "20+"])
async def test_all_there_is_in_one_batch_and_then_each_change(minor: str) -> None:
    fake = FakeCluster("traffictargets", "meshnodes", minor=minor)
    await fake.put("pods", "shop/store", spec={"nodeName": "n1"}, status={"phase": "Running"})
    await fake.put("traffictargets", "shop/buying", spec={"rules": []})
    await fake.put("meshnodes", "n2", spec={"addresses": ["10.0.0.2"]})
    async with running(fake) as (source, heard, server):
        await heard.until(lambda: bool(heard.batches))
        assert heard.batches == [(["MeshNode/n2", "Pod/shop/store", "TrafficTarget/shop/buying"], True)]
        assert heard.said["kubernetes:TrafficTarget/shop/buying"] == {
            "apiVersion": "access.smi-spec.io/v1alpha3",
            "kind": "TrafficTarget",
            "metadata": {"name": "buying", "namespace": "shop"},
            "spec": {"rules": []},
        }
        assert source.synced
        await heard.until(lambda: fake.all_watched)
        await fake.put("services", "shop/store", spec={"ports": [{"port": 80}]})
        await fake.remove("pods", "shop/store")
        await heard.until(lambda: len(heard.batches) == 3)
        assert {name for batch, _ in heard.batches[1:] for name in batch} == {"Service/shop/store", "-Pod/shop/store"}
        chosen = {(one.path, field) for one in server.asked if (field := one.query.get("fieldSelector"))}
        assert chosen == {("/api/v1/pods", "spec.nodeName=n1"), ("/api/v1/nodes", "metadata.name=n1")}
        partial = {one.path for one in server.asked if "PartialObjectMetadata" in one.fields["accept"]}
        assert partial == {*ONLY_METADATA, DEFINITIONS, "/api/v1/namespaces/kube-system"}


async def test_a_change_that_nobody_reads_is_not_sent() -> None:
    fake = FakeCluster()
    await fake.put("pods", "shop/store", spec={"nodeName": "n1"}, status={"phase": "Running", "message": "a"})
    async with running(fake) as (_, heard, _):
        await heard.until(lambda: bool(heard.batches) and fake.all_watched)
        await fake.put("pods", "shop/store", spec={"nodeName": "n1"}, status={"phase": "Running", "message": "b"})
        await fake.put("pods", "shop/store", spec={"nodeName": "n1"}, status={"phase": "Failed", "message": "b"})
        await heard.until(lambda: len(heard.batches) > 1)
        assert heard.batches[1:] == [(["Pod/shop/store"], False)]
        assert heard.said["kubernetes:Pod/shop/store"]["status"] == {"phase": "Failed"}


async def test_nothing_is_said_before_every_kind_was_listed() -> None:
    fake = FakeCluster("revocations")
    fake.refused.add(fake.path("revocations"))
    await fake.put("pods", "shop/store", spec={"nodeName": "n1"})
    async with running(fake) as (source, heard, _):
        await heard.until(lambda: bool(source.problems))
        (problem,) = source.problems
        assert problem.severity == "error"
        assert "Revocation.edgemesh.io cannot be read: 403 Forbidden: not allowed" in problem.message
        assert heard.batches == []
        fake.refused.clear()
        await heard.until(lambda: bool(heard.batches))
        assert heard.batches == [(["Pod/shop/store"], True)]
        assert source.problems == []


def saved(origin: str, **data: Any) -> RawObject:
    return RawObject(data, Where(f"kubernetes:{origin}"), {})


async def refuses(asked: Asked, answer: Answer) -> None:
    await answer.send(403, status(403, "Forbidden", "not allowed"))


async def breaks(asked: Asked, answer: Answer) -> None:
    await answer.send(500, status(500, "InternalError", "conversion webhook failed"))


async def nonsense(asked: Asked, answer: Answer) -> None:
    await answer.send(200, {"metadata": {"resourceVersion": "1"}, "items": [7]})


@pytest.mark.parametrize("fault", [refuses, breaks, nonsense])
async def test_a_kind_that_cannot_be_read_and_would_only_allow_holds_up_no_other(
    fault: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 0.3)
    fake = FakeCluster("traffictargets", minor="30")
    path = fake.path("traffictargets")
    fake.broken[path] = fault
    await fake.put("traffictargets", "shop/buying", spec={})
    await fake.put("pods", "shop/store", spec={"nodeName": "n1"})
    async with running(fake) as (source, heard, _):
        await heard.until(lambda: bool(heard.batches))
        assert heard.batches == [(["Pod/shop/store"], True)]
        (problem,) = source.problems
        assert problem.severity == "error"
        assert problem.message.startswith("TrafficTarget.access.smi-spec.io cannot be read: ")
        assert problem.message.endswith("the rest is in force, and nothing of this kind is")
        assert "TrafficTarget" in problem.hint or "traffictarget" in problem.hint
        del fake.broken[path]
        await heard.until(lambda: spoken(heard) == {"Pod/shop/store", "TrafficTarget/shop/buying"})
        assert source.problems == []


async def test_without_a_last_run_nothing_is_sent_while_that_would_open_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 0.1)
    fake = FakeCluster("meshconfigs", minor="30")
    fake.broken[fake.path("meshconfigs")] = breaks
    async with running(fake) as (source, heard, _):
        await heard.until(lambda: bool(source.problems))
        await trio.sleep(0.4)
        assert heard.batches == []
        (problem,) = source.problems
        assert "MeshConfig" in problem.message
        assert "this node stays closed" in problem.message
        assert not source.synced


async def test_what_the_last_run_knew_of_a_kind_that_cannot_be_read_stays_in_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 0.1)
    fake = FakeCluster("meshconfigs", "traffictargets", minor="30")
    path = fake.path("meshconfigs")
    fake.broken[path] = breaks
    await fake.put("meshconfigs", "mesh/two", spec={})
    last = [saved("MeshConfig/mesh/one", a=1), saved("TrafficTarget/shop/old", a=2)]
    async with running(fake, last, Mark(fake.uid, {path: "1"})) as (source, heard, _):
        await heard.until(lambda: bool(heard.batches))
        assert heard.batches == [(["MeshConfig/mesh/one"], True)], "and what was listed counts alone"
        assert "what is known of it stays in force" in source.problems[0].message
        assert source.mark().versions[path] == "1"
        del fake.broken[path]
        await heard.until(lambda: "MeshConfig/mesh/two" in spoken(heard))
        assert "MeshConfig/mesh/one" not in spoken(heard)
        assert source.mark().versions[path] != "1"


async def test_a_kind_that_is_being_listed_is_waited_for_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 0.1)
    fake = FakeCluster("traffictargets", minor="30")
    listing = trio.Event()

    async def slow(asked: Asked, answer: Answer) -> None:
        await listing.wait()
        await answer.send(200, {"metadata": {"resourceVersion": "1"}, "items": []})

    fake.broken[fake.path("traffictargets")] = slow
    async with running(fake) as (source, heard, _):
        await trio.sleep(0.5)
        assert (heard.batches, source.problems) == ([], [])
        listing.set()
        await heard.until(lambda: bool(heard.batches))


async def test_a_definition_that_is_never_served_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 0.1)
    fake = FakeCluster("traffictargets")
    fake.undiscovered.add("traffictargets")
    async with running(fake) as (source, heard, _):
        await heard.until(lambda: bool(heard.batches))
        assert "TrafficTarget.access.smi-spec.io cannot be read: it is defined, and not served" in (
            source.problems[0].message
        )


# which cluster it is


async def test_what_another_cluster_said_is_withdrawn_before_anything_is_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeCluster("traffictargets")
    fake.refused.add(fake.path("pods"))
    last = [saved("TrafficTarget/shop/old", a=2), saved("Namespace/shop", a=1)]
    async with running(fake, last, Mark("that-cluster", {"/api/v1/pods": "9"})) as (source, heard, server):
        await heard.until(lambda: bool(heard.batches))
        assert heard.batches == [(["-"], False)]
        assert heard.said == {}
        assert source.mark() == Mark(fake.uid)
        assert not source.synced
        told = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
        assert len(told) == 1
        assert "is of another cluster than at the last run" in told[0]
        assert "this node is closed until this one is known" in told[0]
        fake.refused.clear()
        await heard.until(lambda: source.synced)
        assert "9" not in {one.query.get("resourceVersion") for one in server.asked}


@pytest.mark.parametrize("known", ["this-cluster", ""])
async def test_what_the_same_cluster_said_stays_until_it_is_listed(
    known: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeCluster(minor="30")
    await fake.put("pods", "shop/a", spec={"nodeName": "n1"})
    async with running(fake, [saved("Pod/shop/b")], Mark(known, {"/api/v1/pods": "9"})) as (source, heard, server):
        await heard.until(lambda: source.synced)
        assert heard.batches == [(["Pod/shop/a"], True)]
        assert source.mark().cluster == fake.uid
        asked = {
            one.path: one.query.get("resourceVersion") for one in reversed(server.asked) if "watch" not in one.query
        }
        assert asked["/api/v1/pods"] == "9", "nothing older than that is taken"
        assert asked["/api/v1/services"] == "0"
        assert [one for one in caplog.records if one.levelname == "WARNING"] == []


async def test_a_server_that_does_not_say_which_cluster_it_is_of() -> None:
    fake = FakeCluster()
    fake.broken["/api/v1/namespaces/kube-system"] = refuses
    async with running(fake, [saved("Pod/shop/b")], Mark("that-cluster")) as (source, heard, _):
        await heard.until(lambda: source.synced)
        assert heard.batches == [([], True)]
        assert source.mark().cluster == "that-cluster"


# many nodes


async def test_nodes_that_start_together_do_not_list_together() -> None:
    """A thousand nodes after a power cut: nobody lists in the first second but a tenth of them."""
    last = [saved(f"MeshNode/n{number}") for number in range(1000)]
    source = Cluster(ApiServer(Access("x", 1, "a test")))
    source.remember(last, NONE)
    assert source._spread() == 10.0
    source._begin()
    assert source._features.spread == 10.0, "nor do they come back together when the server does"

    fake = FakeCluster()
    async with running(fake, last[:50], Mark(fake.uid), chance=lambda: 0.9) as (source, heard, server):
        began = trio.current_time()
        await heard.until(lambda: source.synced)
        assert trio.current_time() - began >= 0.45
        assert [one.path for one in server.asked][:2] == ["/api/v1/namespaces/kube-system", "/version"]


async def test_one_node_waits_for_nobody() -> None:
    source = Cluster(ApiServer(Access("x", 1, "a test")))
    source.remember([saved("MeshNode/n1")], NONE)
    assert source._spread() == 0.01


async def test_a_kind_that_only_findings_need_holds_up_nothing() -> None:
    fake = FakeCluster()
    fake.refused |= {fake.path("serviceaccounts"), DEFINITIONS}
    async with running(fake) as (source, heard, _):
        await heard.until(lambda: bool(heard.batches))
        assert heard.batches == [([], True)]
        await heard.until(lambda: bool(source.problems))
        assert [problem.severity for problem in source.problems] == ["warning"]


async def test_a_kind_whose_definition_comes_later_and_goes() -> None:
    fake = FakeCluster("traffictargets")
    await fake.put("traffictargets", "shop/a", spec={})
    async with running(fake) as (_, heard, _):
        await heard.until(lambda: bool(heard.batches) and fake.all_watched)
        fake.define("trafficsplits")
        fake.undiscovered.add("trafficsplits")  # the server takes a moment
        await fake.put("trafficsplits", "shop/b", spec={})
        await fake.put("", "trafficsplits.split.smi-spec.io")
        await trio.sleep(0.03)
        fake.undiscovered.clear()
        await heard.until(lambda: spoken(heard) == {"TrafficTarget/shop/a", "TrafficSplit/shop/b"})
        fake.defined.discard("traffictargets")
        await fake.remove("", "traffictargets.access.smi-spec.io")
        await heard.until(lambda: spoken(heard) == {"TrafficSplit/shop/b"})


async def test_a_kind_of_the_gateway_api_goes_with_its_definition() -> None:
    """Its group ends as those of Kubernetes' own kinds do, which have no definition."""
    fake = FakeCluster("httproutes")
    await fake.put("httproutes", "shop/a", spec={"parentRefs": []})
    async with running(fake) as (_, heard, _server):
        await heard.until(lambda: spoken(heard) == {"HTTPRoute/shop/a"} and fake.all_watched)
        fake.defined.discard("httproutes")
        await fake.remove("", "httproutes.gateway.networking.k8s.io")
        await heard.until(lambda: spoken(heard) == set())


async def test_a_server_that_starts_and_has_not_read_its_definitions_withdraws_nothing() -> None:
    fake = FakeCluster("traffictargets", "trafficsplits")
    fake.undiscovered.add("traffictargets")
    await fake.put("traffictargets", "shop/a", spec={})
    async with running(fake) as (source, heard, _):
        await trio.sleep(0.3)
        assert not source.synced
        fake.undiscovered.clear()
        await fake.put("", "traffictargets.access.smi-spec.io")
        await fake.put("", "revocations.edgemesh.io")
        fake.define("revocations")
        await heard.until(lambda: bool(heard.batches))
        assert heard.batches[0] == (["TrafficTarget/shop/a"], True)
        fake.undiscovered |= {"traffictargets", "endpointslices"}
        source._changed.set()
        await trio.sleep(0.1)
        assert spoken(heard) == {"TrafficTarget/shop/a"}


async def test_the_endpoint_slices_of_an_old_server() -> None:
    fake = FakeCluster(minor="20")
    fake.slices = "v1beta1"
    await fake.put("endpointslices", "shop/store-1", endpoints=[{"addresses": ["10.1.0.1"]}], addressType="IPv4")
    async with running(fake) as (_, heard, server):
        await heard.until(lambda: bool(heard.batches))
        assert heard.said["kubernetes:EndpointSlice/shop/store-1"]["apiVersion"] == "discovery.k8s.io/v1beta1"
        assert any(one.path == "/apis/discovery.k8s.io/v1beta1/endpointslices" for one in server.asked)


async def test_two_groups_with_one_kind_are_two_origins() -> None:
    fake = FakeCluster()
    row = KINDS["AccessControl"]
    source = Cluster(None)  # type: ignore[arg-type]
    assert source._origin("AccessControl", row.group, "shop/a") == "kubernetes:AccessControl/shop/a"
    assert source._origin("AccessControl", row.also[0], "shop/a") == "kubernetes:AccessControl.policy.flomesh.io/shop/a"
    assert fake.defined == set()


async def test_a_server_that_goes_and_comes_back_with_other_objects() -> None:
    fake = FakeCluster()
    await fake.put("pods", "shop/a", spec={"nodeName": "n1"})
    await fake.put("pods", "shop/b", spec={"nodeName": "n1"})
    async with running(fake) as (source, heard, server):
        await heard.until(lambda: bool(heard.batches) and fake.all_watched)
        server.stop()
        await heard.until(lambda: source.report()["connected"] is False)
        assert spoken(heard) == {"Pod/shop/a", "Pod/shop/b"}
        await heard.until(lambda: bool(source.problems))
        (problem,) = source.problems
        assert problem.severity == "warning"
        assert "cannot be reached since" in problem.message
        fake.watchers.clear()
        async with server.again():
            await heard.until(lambda: source.report()["connected"] is True and fake.all_watched)
            await fake.remove("pods", "shop/a")
            await heard.until(lambda: spoken(heard) == {"Pod/shop/b"})
            assert [whole for _, whole in heard.batches] == [True, False]
            assert source.problems == []


async def test_no_server_says_nothing_and_holds_up_nobody() -> None:
    async with serving(FakeCluster()) as server:
        pass
    source = Cluster(api_of(server), timing=FAST)
    heard = Heard()
    with trio.move_on_after(0.2):
        await source.run(heard, lambda: NodeConfig(node="n1"))
    assert heard.batches == []
    assert not source.report()["connected"]


async def test_the_first_settings_of_a_node() -> None:
    fake = FakeCluster("nodeconfigs")
    await fake.put("nodeconfigs", "default", spec={"metered": True})
    async with serving(fake) as server:
        source = Cluster(api_of(server), timing=FAST)
        (raw,) = await trio.to_thread.run_sync(source.first_settings)
        assert is_node_config(raw)
        assert raw.where.file == "kubernetes:NodeConfig/default"
        assert raw.data["spec"] == {"metered": True}
        fake.refused.add(fake.path("nodeconfigs"))
        assert await trio.to_thread.run_sync(source.first_settings) == []


async def test_the_first_settings_are_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_FIRST", 0.1)

    async def silent(asked: Asked, answer: Answer) -> None:
        await trio.sleep_forever()

    async with serving(silent) as server:
        with trio.fail_after(60):
            assert await trio.to_thread.run_sync(Cluster(api_of(server)).first_settings) == []


async def test_what_is_shown() -> None:
    fake = FakeCluster()
    await fake.put("services", "shop/a", spec={})
    async with running(fake) as (source, heard, server):
        await heard.until(lambda: bool(heard.batches) and fake.all_watched)
        shown = source.report()
        assert (shown["connected"], shown["synced"], shown["version"]) == (True, True, "v1.37.0")
        kinds: Mapping[str, Any] = shown["kinds"]
        assert kinds["Service"]["objects"] == 1
        assert kinds["Service"]["received_bytes"] > 100
        assert "CustomResourceDefinition" in kinds
        assert shown["requests"] == len(server.asked)


async def test_what_was_deleted_while_a_kind_was_not_served_is_gone() -> None:
    fake = FakeCluster("traffictargets", minor="30")
    await fake.put("traffictargets", "shop/a", spec={})
    await fake.put("traffictargets", "shop/b", spec={})
    async with running(fake) as (_, heard, server):
        await heard.until(lambda: bool(heard.batches) and fake.all_watched)
        fake.watchers.clear()
        fake.defined.discard("traffictargets")  # its definition stands: the server starts
        before = len(server.asked)
        server.cut()
        await heard.until(lambda: any(one.path == fake.path("traffictargets") for one in server.asked[before:]))
        assert spoken(heard) == {"TrafficTarget/shop/a", "TrafficTarget/shop/b"}
        del fake.objects[f"{fake.path('traffictargets')} shop/a"]
        fake.defined.add("traffictargets")
        await heard.until(lambda: spoken(heard) == {"TrafficTarget/shop/b"})


async def test_what_was_deleted_when_another_version_is_served_is_gone() -> None:
    fake = FakeCluster()
    fake.slices = "v1beta1"
    await fake.put("endpointslices", "shop/a", endpoints=[], addressType="IPv4")
    async with running(fake) as (source, heard, _):
        await heard.until(lambda: bool(heard.batches) and fake.all_watched)
        fake.objects.clear()
        fake.slices = "v1"
        await fake.put("endpointslices", "shop/b", endpoints=[], addressType="IPv4")
        source._changed.set()
        source._changed = trio.Event()
        await heard.until(lambda: spoken(heard) == {"EndpointSlice/shop/b"})


async def test_a_kind_that_is_announced_and_not_there_is_no_storm() -> None:
    fake = FakeCluster("traffictargets")
    real = fake.path("traffictargets")

    async def partly(asked: Asked, answer: Answer) -> None:
        if asked.path == real:
            await answer.send(404, status(404, "NotFound"))
        else:
            await fake(asked, answer)

    async with serving(partly) as server:
        source = Cluster(api_of(server), timing=FAST)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run, Heard(), lambda: NodeConfig(node="n1"))
            await trio.sleep(0.6)
            assert 1 <= sum(one.path == real for one in server.asked) <= 6
            nursery.cancel_scope.cancel()
