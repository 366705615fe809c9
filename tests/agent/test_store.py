"""The store: changes become snapshots, what was good stays, and a slow follower gets the newest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from agent import store as store_module
from agent.config import NodeConfig, Settings
from agent.sources import Change, manifest
from agent.state import State
from agent.store import Published, Store, look
from policy.build import Built
from policy.model import Node, Problem, Where, Workload
from policy.resources import RawObject
from policy.snapshot import Snapshot


def file(name: str, text: str) -> Change:
    return manifest.read(text.encode(), name)


def workload(name: str, netns: str = "x") -> str:
    return f"apiVersion: edgemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: n}}\nspec: {{netns: {netns}}}\n---\n"


def fake_build(resources: Sequence[RawObject], good: Any, addresses: Any, config: NodeConfig, nodes: Sequence[Node]) -> Built:
    """A workload for every object; one named "bug" is a fault of ours, one named "bad" is replaced by what was good."""
    names = [raw.data["metadata"]["name"] for raw in resources]
    if "bug" in names:
        raise ZeroDivisionError
    accepted = {f"Workload n/{name}": raw for name, raw in zip(names, resources, strict=True) if "bad" not in raw.data}
    problems = [Problem("error", raw.where, "it", "is bad") for raw in resources if "bad" in raw.data]
    accepted |= {key: raw for key, raw in good.items() if key not in accepted and key.removeprefix("Workload n/") in names}
    workloads = tuple(
        Workload("n", name, "s", (raw.data["spec"]["netns"],)) for name, raw in sorted((k[11:], r) for k, r in accepted.items())
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
        assert (follower.got[0].number, follower.got[0].objects, follower.got[0].snapshot.node) == (1, 1, "box")
        assert repr(store) == "<Store 1 objects from 1 origins, build 1>"
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
    store.apply([Change("a", ())])
    assert names(store) == ["c"]
    store.apply([file("d", workload("d"))], whole=True)
    assert names(store) == ["d"]


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
    store.apply([Change("a", ())])
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
    store.apply([Change("b", ())])
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
    published = look(tmp_path, "n1")
    assert published.snapshot.node == "n1"
    assert [w.key for w in published.snapshot.workloads] == ["n/a"]
    assert [problem.where.file for problem in published.problems] == [str(tmp_path / "b.yaml")]


def test_look_at_nothing(tmp_path: Path) -> None:
    published = look(tmp_path / "nowhere")
    assert (published.objects, [problem.severity for problem in published.problems]) == (0, ["error"])


def node_config(name: str, spec: str) -> str:
    return f"apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def test_the_settings_of_every_node_reach_policy() -> None:
    store = make(build=store_module.build)
    text = node_config("default", "{ports: {tunnel: 16000}}") + node_config("n2", "{addresses: [192.0.2.2], metered: true}")
    store.apply([file("c", text)], whole=True)
    published = store.make()
    assert published is not None
    assert published.snapshot.nodes == (Node("n2", ("192.0.2.2",), 16000, True),)


async def test_settings_outlive_a_restart_with_a_broken_file(tmp_path: Path) -> None:
    good = node_config("box", "{accessLog: all, addresses: [192.0.2.1]}") + node_config("n2", "{addresses: [192.0.2.2]}")
    await restart(tmp_path, fake_build, file("c", good))
    # The file is no YAML any more; then it is, with a field that cannot be used.
    for text in ("kind: 'broken\n", good.replace("all", "loud").replace("192.0.2.2", "nowhere")):
        published = await restart(tmp_path, fake_build, file("c", text))
        assert published.config.access_log == "all"
        assert [node.addresses for node in published.snapshot.nodes] == [("192.0.2.1",), ("192.0.2.2",)]
        assert any(problem.severity == "error" for problem in published.problems)
    published = await restart(tmp_path, fake_build, file("d", workload("a")))
    assert (published.config.access_log, published.snapshot.nodes) == ("denied", ()), "what is gone is not remembered"


async def test_a_revocation_outlives_a_restart_with_a_broken_file(tmp_path: Path) -> None:
    stolen = "apiVersion: edgemesh.io/v1alpha1\nkind: Revocation\nmetadata: {name: stolen}\nspec: {nodes: [till-3]}\n"
    for text in (stolen, "kind: 'broken\n", stolen.replace("nodes", "nodez"), stolen.replace("name: stolen", "name: [")):
        published = await restart(tmp_path, store_module.build, file("r", text))
        assert published.snapshot.revoked.nodes == ("till-3",)
    published = await restart(tmp_path, store_module.build, file("r", stolen.replace("till-3", "till-4")))
    assert published.snapshot.revoked.nodes == ("till-4",)
