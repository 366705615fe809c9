"""The store: changes become snapshots, what was good stays, and a slow follower gets the newest."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import yaml
from trio.testing import wait_all_tasks_blocked

from agent.config.schema import NodeConfig
from agent.config.settings import Settings
from agent.sources import Change, Mark, manifest
from agent.sources.kubernetes.shapes import decoder
from agent.store import store as store_module
from agent.store.disk import State
from agent.store.store import Published, Store, look
from policy.build import Built
from policy.enrolment import Marks
from policy.model import Node, Problem, Where, Workload
from policy.registry import KINDS
from policy.resources import RawObject
from policy.snapshot import Snapshot


def file(name: str, text: str) -> Change:
    return manifest.read(text.encode(), name)


def workload(name: str, netns: str = "x") -> str:
    return f"apiVersion: edgemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: n}}\nspec: {{netns: {netns}}}\n---\n"


def fake_build(
    resources: Sequence[RawObject], good: Any, addresses: Any, config: NodeConfig, nodes: Sequence[Node]
) -> Built:
    """A workload for every object; one named "bug" is a fault of ours, one named "bad" is replaced by what was good."""
    names = [raw.data["metadata"]["name"] for raw in resources]
    if "bug" in names:
        raise ZeroDivisionError
    accepted = {f"Workload n/{name}": raw for name, raw in zip(names, resources, strict=True) if "bad" not in raw.data}
    problems = [Problem("error", raw.where, "it", "is bad") for raw in resources if "bad" in raw.data]
    accepted |= {
        key: raw for key, raw in good.items() if key not in accepted and key.removeprefix("Workload n/") in names
    }
    workloads = tuple(
        Workload("n", name, "s", (raw.data["spec"]["netns"],))
        for name, raw in sorted((k[11:], r) for k, r in accepted.items())
    )
    snapshot = Snapshot(config.node, workloads=workloads, addresses={**addresses, "n/s": ("1",)}, nodes=tuple(nodes))
    return Built(snapshot, tuple(problems), accepted)


class Follower:
    """Remembers what it was given; with a gate, takes its time."""

    def __init__(self) -> None:
        self.got: list[Published] = []
        self.gate = trio.Event()
        self.gate.set()

    async def __call__(self, published: Published) -> None:
        self.got.append(published)
        await self.gate.wait()

    @property
    def names(self) -> list[list[str]]:
        return [[w.name for w in published.snapshot.workloads] for published in self.got]

    async def wait(self, builds: int) -> Published:
        with trio.fail_after(20):
            while len(self.got) < builds:
                await trio.sleep(0.005)
        return self.got[-1]


def make(state: State | None = None, build: Any = fake_build) -> Store:
    return Store(Settings(host="box"), state, build)


async def test_the_first_batch_is_built_at_once_and_the_first_build_is_told() -> None:
    store, follower = make(), Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, follower)
        await wait_all_tasks_blocked()
        assert not store.first_build.is_set()
        store.apply([file("a", workload("a"))], whole=True)
        with trio.fail_after(20):
            await store.first_build.wait()
        assert follower.names == [["a"]]
        assert store.published is follower.got[0]
        store.apply([file("b", workload("b"))])
        assert [raw.where.file for raw in store.built] == ["a"], "not what is to be built next"
        assert (follower.got[0].number, follower.got[0].objects, follower.got[0].snapshot.node) == (1, 1, "box")
        assert repr(store) == "<Store 2 objects from 2 origins, build 1>"
        nursery.cancel_scope.cancel()


async def test_changes_that_follow_each_other_are_one_build() -> None:
    store, follower = make(), Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, follower)
        store.apply([], whole=True)
        await follower.wait(1)
        for number in range(5):
            store.apply([file("a", workload(f"w{number}"))])
            await trio.sleep(0.005)
        await follower.wait(2)
        assert follower.names == [[], ["w4"]]
        nursery.cancel_scope.cancel()


async def test_changes_that_never_stop_are_built_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_IMPATIENCE", 0.1)
    store, follower = make(), Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, follower)
        store.apply([], whole=True)
        await follower.wait(1)

        async def fidget() -> None:
            while True:
                store.apply([file("a", workload("a"))])
                await trio.sleep(0.01)

        nursery.start_soon(fidget)
        await follower.wait(2)
        nursery.cancel_scope.cancel()


async def test_between_two_builds_passes_the_time_that_one_took() -> None:
    def slow(*arguments: Any) -> Built:
        time.sleep(0.2)
        return fake_build(*arguments)

    store, follow = Store(Settings(), None, slow), Follower()
    times: list[float] = []

    async def follower(published: Published) -> None:
        times.append(trio.current_time())
        await follow(published)

    async with trio.open_nursery() as nursery:
        store.apply([file("/a.yaml", workload("a"))])
        nursery.start_soon(store.run, follower)
        with trio.fail_after(10):
            await store.first_build.wait()
            store.apply([file("/b.yaml", workload("b"))])
            while len(times) < 2:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert times[1] - times[0] >= 0.4
    assert follow.names == [["a"], ["a", "b"]]


async def test_a_slow_follower_gets_the_newest_not_every_one() -> None:
    store, follower = make(), Follower()
    follower.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, follower)
        store.apply([file("a", workload("w0"))], whole=True)
        await follower.wait(1)
        for number in range(1, 4):
            store.apply([file("a", workload(f"w{number}"))])
        follower.gate.set()
        await follower.wait(2)
        assert follower.names == [["w0"], ["w3"]]
        assert [published.number for published in follower.got] == [1, 2]
        nursery.cancel_scope.cancel()


def names(store: Store) -> list[str]:
    published = store.make()
    assert published is not None
    store.published = published
    return [w.name for w in published.snapshot.workloads]


def test_origins_come_go_and_are_replaced_whole() -> None:
    store = make()
    store.apply([file("a", workload("a")), file("b", workload("b") + workload("c"))], whole=True)
    assert names(store) == ["a", "b", "c"]
    store.apply([file("b", workload("c"))])
    assert names(store) == ["a", "c"]
    store.apply([Change("a", (), gone=True)])
    assert names(store) == ["c"]
    store.apply([file("d", workload("d"))], whole=True)
    assert names(store) == ["d"]


HTML = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Welcome to the hotel's network</body></html>\n"


@pytest.mark.parametrize(
    "left",
    [
        b"",
        b"\n\n",
        b"# only a comment\n",
        b"---\n---\n",
        HTML,
        b"just text\n",
        b'{"error": "log in first"}\n',
        b"- a\n- b\n",
        b"\0" * 512,
    ],
)
@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_a_file_that_says_nothing_any_more_keeps_what_it_said(left: bytes, name: str) -> None:
    store = make()
    store.apply([file(name, json(workload("a")) if name == "a.json" else workload("a"))], whole=True)
    for _ in range(2):
        store.apply([manifest.read(left, name)])
        assert names(store) == ["a"]
        (told,) = store.problems
        assert (told.severity, told.where.file) == ("error", name)
    store.apply([file(name, json(workload("b")) if name == "a.json" else workload("b"))])
    assert (names(store), store.problems) == (["b"], ())


def json(text: str) -> str:
    return msgspec.json.encode(yaml.safe_load(text.partition("---")[0])).decode()


def test_a_file_that_never_said_anything_is_nobodys_problem() -> None:
    store = make()
    store.apply([file("a.yaml", "# to be written\n")], whole=True)
    assert (names(store), store.problems) == ([], ())


async def test_it_is_kept_over_a_restart(tmp_path: Path) -> None:
    store, follower = make(State(tmp_path)), Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, follower)
        store.apply([file("a.yaml", workload("a"))], whole=True)
        await follower.wait(1)
        await wait_all_tasks_blocked()
        while not (tmp_path / "last-good.json").exists():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    again = make(State(tmp_path))
    again.apply([manifest.read(b"", "a.yaml")], whole=True)
    assert names(again) == ["a"]
    assert [problem.severity for problem in again.problems] == ["error"]


async def test_what_a_source_said_before_the_restart_holds_while_it_is_away(tmp_path: Path) -> None:
    raw = RawObject({"metadata": {"name": "a"}, "spec": {"netns": "x"}}, Where("kubernetes:Pod/n/a"), {})
    first = Store(Settings(), State(tmp_path), fake_build)
    first.apply([Change("kubernetes:Pod/n/a", (raw,))])
    follow = Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run, follow)
        await first.gone(())
        nursery.cancel_scope.cancel()
    second = Store(Settings(), State(tmp_path), fake_build)
    follow = Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.run, follow)
        second.resume(lambda origin: origin.startswith("elsewhere:"))
        await wait_all_tasks_blocked()
        assert follow.names == [], "nothing of that source: it is waited for"
        second.resume(lambda origin: origin.startswith("kubernetes:"))
        with trio.fail_after(10):
            await second.first_build.wait()
        assert follow.names == [["a"]]
        nursery.cancel_scope.cancel()


def test_what_lies_in_a_folder_that_cannot_be_read_is_not_gone() -> None:
    store = make()
    store.apply([file("m/deep/a.yaml", workload("a")), file("m/b.yaml", workload("b"))], whole=True)
    store.apply([manifest.unreadable("m/deep", "cannot be read")], whole=True)
    assert names(store) == ["a"]


def test_a_broken_file_keeps_what_it_said_and_a_mended_one_clears_the_problem() -> None:
    store = make()
    store.apply([file("a", workload("a"))], whole=True)
    store.apply([file("a", "kind: 'broken\n")])
    assert names(store) == ["a"]
    assert [problem.where.file for problem in store.problems] == ["a"]
    store.apply([file("a", workload("b"))])
    assert names(store) == ["b"]
    assert store.problems == ()


def test_a_broken_file_that_goes_away_is_gone() -> None:
    store = make()
    store.apply([file("a", "kind: 'broken\n")], whole=True)
    store.apply([Change("a", (), gone=True)])
    assert (names(store), store.problems) == ([], ())


def test_policy_is_given_what_was_good_before() -> None:
    store = make()
    store.apply([file("a", workload("a", "one"))], whole=True)
    names(store)
    store.apply([file("a", workload("a", "two").replace("kind:", "bad: 1\nkind:"))])
    assert names(store) == ["a"]
    assert store.published is not None
    assert store.published.snapshot.workloads[0].addresses == ("one",)
    assert [problem.message for problem in store.problems] == ["is bad"]


def test_a_fault_of_ours_keeps_the_snapshot_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    store = make()
    store.apply([file("a", workload("a"))], whole=True)
    names(store)
    store.apply([file("b", workload("bug"))])
    assert store.make() is None
    assert "building a snapshot of 2 objects" in caplog.text
    assert store.published is not None
    assert [w.name for w in store.published.snapshot.workloads] == ["a"]
    assert "a fault of edgemesh itself" in store.problems[0].message
    store.apply([Change("b", (), gone=True)])
    assert (names(store), store.problems) == (["a"], ())


async def test_after_a_fault_of_ours_the_store_goes_on() -> None:
    store, follower = make(), Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, follower)
        store.apply([file("a", workload("bug"))], whole=True)
        while not store.problems:
            await trio.sleep(0.005)
        store.apply([file("a", workload("a"))])
        await follower.wait(1)
        assert follower.names == [["a"]]
        nursery.cancel_scope.cancel()


async def restart(directory: Path, build: Any, *changes: Change, whole: bool = True) -> Published:
    """A store's whole life: it starts with what the directory holds, hears these changes, and leaves what it knows."""
    store, follower = make(State(directory), build), Follower()
    saved = trio.Event()
    async with trio.open_nursery() as nursery:

        async def follow(published: Published) -> None:
            await follower(published)
            if published.number == 2:
                saved.set()

        nursery.start_soon(store.run, follow)
        store.apply(changes, whole)
        await follower.wait(1)
        store.apply([])  # the second build begins when the first one's outcome is on the disk
        with trio.fail_after(20):
            await saved.wait()
        nursery.cancel_scope.cancel()
    return follower.got[0]


async def test_a_restart_remembers_what_was_good_and_the_addresses(tmp_path: Path) -> None:
    async def once(change: Sequence[Change], whole: bool) -> Published:
        return await restart(tmp_path, fake_build, *change, whole=whole)

    await once([file("a", workload("a")), file("b", workload("b"))], whole=True)
    # The file is broken now, another is gone: what the one said is remembered, the other is not.
    published = await once([file("a", "kind: 'broken\n")], whole=True)
    assert [w.name for w in published.snapshot.workloads] == ["a"]
    # The directory cannot be listed: everything that was known still holds.
    gone = Change("/etc/m", None, (Problem("error", Where("/etc/m"), "", "gone"),))
    published = await once([gone], whole=False)
    assert [w.name for w in published.snapshot.workloads] == ["a"]
    assert published.snapshot.addresses == {"n/s": ("1",)}


def test_a_state_directory_that_fails_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "addresses.json").write_text("{")
    store = make(State(tmp_path))
    assert [problem.severity for problem in store.problems] == ["warning"]


def test_settings_are_read_here_and_not_shown_to_policy() -> None:
    config = "apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {name: default}\nspec: {accessLog: all, stateDir: x}\n"
    store = make()
    store.apply([file("a", workload("a")), file("c", config)], whole=True)
    assert names(store) == ["a"]
    assert store.published is not None
    assert store.published.config.access_log == "all"
    assert [problem.where for problem in store.problems] == [Where("c", 4)]


async def test_settings_that_wait_for_a_restart_are_told() -> None:
    config = "apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {name: default}\nspec: {stateDir: /new}\n"
    store, follower = make(), Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, follower, store.settings.config)
        store.apply([file("c", config)], whole=True)
        await follower.wait(1)
        nursery.cancel_scope.cancel()
    assert [problem.message for problem in store.problems] == ["stateDir changed; it takes effect at the next start"]


def test_look_reads_a_directory_with_the_real_policy(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(workload("a"))
    (tmp_path / "b.yaml").write_text("kind: 'broken\n")
    published = look([tmp_path], "n1")
    assert published.snapshot.node == "n1"
    assert [w.key for w in published.snapshot.workloads] == ["n/a"]
    assert [problem.where.file for problem in published.problems if problem.severity == "error"] == [
        str(tmp_path / "b.yaml")
    ]
    assert any("no serviceAccount" in problem.message for problem in published.problems), "what looks wrong is told too"


def test_look_at_nothing(tmp_path: Path) -> None:
    published = look([tmp_path / "nowhere"])
    assert (published.objects, [problem.severity for problem in published.problems]) == (0, ["error"])


def node_config(name: str, spec: str) -> str:
    return f"apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def test_the_settings_of_every_node_reach_policy() -> None:
    store = make(build=store_module.build)
    text = node_config("default", "{ports: {tunnel: 16000}}") + node_config(
        "n2", "{addresses: [192.0.2.2], metered: true}"
    )
    store.apply([file("c", text)], whole=True)
    published = store.make()
    assert published is not None
    assert published.snapshot.nodes == (Node("n2", ("192.0.2.2",), 16000, True),)


async def test_settings_outlive_a_restart_with_a_broken_file(tmp_path: Path) -> None:
    good = node_config("box", "{accessLog: all, addresses: [192.0.2.1]}") + node_config(
        "n2", "{addresses: [192.0.2.2]}"
    )
    await restart(tmp_path, fake_build, file("c", good))
    # The file is no YAML any more; then it is, with a field that cannot be used.
    for text in ("kind: 'broken\n", good.replace("all", "loud").replace("192.0.2.2", "nowhere")):
        published = await restart(tmp_path, fake_build, file("c", text))
        assert published.config.access_log == "all"
        assert [node.addresses for node in published.snapshot.nodes] == [("192.0.2.1",), ("192.0.2.2",)]
        assert any(problem.severity == "error" for problem in published.problems)
    published = await restart(tmp_path, fake_build, file("d", workload("a")))
    assert published.config.access_log == "all", "what is gone stays, until a person says so"
    assert [node.name for node in published.snapshot.nodes] == ["box"], "of others, they do"
    assert published.kept == ("NodeConfig /box",)
    assert any("edgemesh release NodeConfig/box" in problem.hint for problem in published.problems)


def test_a_node_config_that_is_gone_stays_until_it_is_let_go_of() -> None:
    store = make()
    store.apply(
        [file("c", node_config("default", "{accessLog: all}") + node_config("box", "{metered: true}"))], whole=True
    )
    names(store)
    assert (store.settings.config.access_log, store.settings.config.metered) == ("all", True)
    store.apply([Change("c", (), gone=True)])
    store.published = store.make()
    assert (store.settings.config.access_log, store.settings.config.metered) == ("all", True)
    assert store.release("NodeConfig/default") == ("NodeConfig /default",)
    store.published = store.make()
    assert (store.settings.config.access_log, store.settings.config.metered) == ("failed", True)
    assert store.release("NodeConfig/default") == ()
    store.apply([file("c", node_config("box", "{}"))])
    store.published = store.make()
    assert (store.settings.config.metered, store.published.kept) == (False, ())


async def test_a_revocation_outlives_a_restart_with_a_broken_file(tmp_path: Path) -> None:
    stolen = "apiVersion: edgemesh.io/v1alpha1\nkind: Revocation\nmetadata: {name: stolen}\nspec: {nodes: [till-3]}\n"
    for text in (
        stolen,
        "kind: 'broken\n",
        stolen.replace("nodes", "nodez"),
        stolen.replace("name: stolen", "name: ["),
    ):
        published = await restart(tmp_path, store_module.build, file("r", text))
        assert published.snapshot.revoked.nodes == ("till-3",)
    published = await restart(tmp_path, store_module.build, file("r", stolen.replace("till-3", "till-4")))
    assert published.snapshot.revoked.nodes == ("till-4",)


def test_the_marks_of_a_namespace() -> None:
    store = Store(Settings({"node": "here"}), None)
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {a: b}, annotations: {c: d}}\n"
    store.apply([manifest.read(text.encode(), "x.yaml")])
    assert store.marks("shop") is None, "not built yet"
    store.make()
    assert store.marks("shop") == Marks({"a": "b"}, {"c": "d"})
    assert store.marks("other") is None
    assert store.all_marks() == {"shop": Marks({"a": "b"}, {"c": "d"})}


async def test_what_another_cluster_said_is_forgotten_and_nothing_of_it_stays(tmp_path: Path) -> None:
    """A Revocation stays in force when it is gone; but not one of another cluster, also after a restart."""

    def said(key: str, kind: str, name: str, spec: dict[str, Any], version: str = "edgemesh.io/v1alpha1") -> Change:
        data = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
        return Change(f"kubernetes:{key}", (RawObject(data, Where(f"kubernetes:{key}"), {}),))

    here = file("/m/a.yaml", workload("till"))
    store = Store(Settings({"node": "here"}), State(tmp_path))
    mark = Mark("one", {"/api/v1/namespaces": "7"})
    store.mark = lambda: mark
    there = [
        said("Revocation/stolen", "Revocation", "stolen", {"nodes": ["shop-2"]}),
        said("Namespace/shop", "Namespace", "shop", {}, "v1"),
        said("NodeConfig/default", "NodeConfig", "default", {"accessLog": "all"}),
    ]
    store.apply([here, *there])
    follower = Follower()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run, follower)
        first = await follower.wait(1)
        assert first.snapshot.revoked.nodes
        assert store.marks("shop") is not None
        assert first.config.access_log == "all"
        mark = Mark("two")
        store.apply([Change("kubernetes:", (), gone=True, under=True)])
        second = await follower.wait(2)
        assert not second.snapshot.revoked.nodes
        assert second.kept == ()
        assert store.marks("shop") is None, "so that its pods that begin are mute"
        assert second.config.access_log != "all"
        assert [one.key for one in second.snapshot.workloads] == ["n/till"], "what the directory says stays"
        with trio.fail_after(20):
            while store._saved < second.number:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    state = State(tmp_path)
    assert [raw.data["metadata"]["name"] for raw in state.load()[0]] == ["till"]
    assert state.mark == Mark("two")


def mesh_nodes(pods: int) -> list[Change]:
    """MeshNodes of thirty pods each, as the source keeps what the API server says."""
    decode = decoder("MeshNode", "edgemesh.io/v1alpha1", KINDS["MeshNode"])
    found = []
    for number in range(pods // 30):
        workloads = [
            {
                "namespace": "shop",
                "name": f"store-{number}-{n}",
                "serviceAccount": "store",
                "addresses": [f"10.{number >> 8}.{number & 255}.{n + 2}"],
            }
            for n in range(30)
        ]
        spec = {"addresses": [f"172.16.{number >> 8}.{number & 255}"], "workloads": workloads}
        data = decode(msgspec.json.encode({"metadata": {"name": f"node-{number}"}, "spec": spec})).data
        where = Where(f"kubernetes:MeshNode/node-{number}")
        found.append(Change(where.file, (RawObject(data, where, {}),)))
    return found


@pytest.mark.slow
def test_a_pod_of_another_node_takes_a_kilobyte(tmp_path: Path) -> None:
    """Of objects and snapshot together."""

    def taken(pods: int) -> int:
        store = Store(Settings({"node": "here"}), State(tmp_path))
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        store.apply(mesh_nodes(pods), True)
        store.published = store.make()
        assert store.published is not None
        assert len(store.published.snapshot.workloads) == pods
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        taken(30)  # what is made once
        assert taken(630) - taken(30) < 600 * 1280
    finally:
        tracemalloc.stop()
