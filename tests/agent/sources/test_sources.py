"""Sources: two of them beside each other, each with what is its own; and which ones the command line asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.config.schema import NodeConfig
from agent.config.settings import Settings
from agent.sources import Change, Send, directory, sources
from agent.sources.directory import ManifestDirectory
from agent.sources.source import Options, Source, owner
from agent.sources.sources import opened
from agent.store.store import Store
from policy.model import Where
from policy.resources import RawObject


class Cluster:
    """A source of another kind, as one of Kubernetes would be. `batches`: what it says, one after the other."""

    place = "a cluster"
    prefix = "cluster:"

    def __init__(self, *batches: Sequence[Change]) -> None:
        self.batches = list(batches)

    def read(self) -> Sequence[Change]:
        return self.batches[0]

    async def run(self, send: Send, config: Callable[[], NodeConfig]) -> None:
        for number, batch in enumerate(self.batches):
            send(batch, number == 0)
        await trio.sleep_forever()


def says(origin: str, *names: str) -> Change:
    data: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "n"}} for name in names
    ]
    return Change(origin, tuple(RawObject(one, Where(origin, 1), {}) for one in data))


def test_the_command_line_says_which_sources_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(Options()) == ()
    (only,) = opened(Options(tmp_path))
    assert only.place == str(tmp_path)
    monkeypatch.setattr(sources, "SOURCES", {"directory": directory.source, "cluster": lambda options: Cluster()})
    assert [source.place for source in opened(Options(tmp_path))] == [str(tmp_path), "a cluster"]


def test_an_origin_belongs_to_the_source_whose_prefix_it_has() -> None:
    both: list[Source] = [ManifestDirectory(Path("/etc/edgemesh")), Cluster()]
    assert owner(both, "cluster:pods") is both[1]
    assert owner(both, "/etc/edgemesh/a.yaml") is both[0]
    assert owner(both, "/elsewhere/a.yaml") is both[0], "what was kept of a directory that is not read any more"


async def test_what_one_source_has_no_more_takes_nothing_from_another(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: n}\n")
    cluster = Cluster([says("cluster:accounts", "b", "c")], [says("cluster:accounts", "c")])
    both: list[Source] = [ManifestDirectory(tmp_path), cluster]
    store = Store(Settings({"node": "here"}), None)
    store.apply([says("/before/x.yaml", "x"), says("cluster:before", "y")])  # of an earlier start
    heard: list[tuple[Source, bool]] = []

    def send(source: Source, changes: Sequence[Change], whole: bool) -> None:
        store.apply(changes, whole, lambda origin: owner(both, origin) is source)
        heard.append((source, whole))

    for source in both:
        source.read()
    async with trio.open_nursery() as nursery:
        for source in both:
            nursery.start_soon(source.run, partial(send, source), NodeConfig)
        with trio.fail_after(20):
            while len(heard) < 3:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert {source for source, whole in heard if whole} == set(both)
    assert {origin: [raw.data["metadata"]["name"] for raw in said] for origin, said in store._objects.items()} == {
        str(tmp_path / "a.yaml"): ["a"],
        "cluster:accounts": ["c"],
    }


async def test_what_was_read_is_sent_and_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("kind: A\n")
    source = ManifestDirectory(tmp_path)
    assert repr(source) == f"<ManifestDirectory {tmp_path}>"
    read = source.read()
    (tmp_path / "b.yaml").write_text("kind: B\n")  # between the two
    heard: list[tuple[Sequence[Change], bool]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, lambda changes, whole: heard.append((changes, whole)), NodeConfig)
        with trio.fail_after(20):
            while len(heard) < 2:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    (first, whole), (second, rest) = heard
    assert (first[0], len(first), whole) == (read[0], 1, True)
    assert ([change.origin for change in second], rest) == ([str(tmp_path / "b.yaml")], False)


async def test_a_run_after_one_that_failed_says_all_of_it_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: A\n")
    source = ManifestDirectory(tmp_path)
    source.read()

    def fails(changes: Sequence[Change], whole: bool) -> None:
        raise OSError(24, "Too many open files")

    with pytest.raises(OSError, match="Too many"):
        await source.run(fails, NodeConfig)
    heard = trio.Event()

    def hears(changes: Sequence[Change], whole: bool) -> None:
        assert whole
        assert [change.origin for change in changes] == [str(tmp_path / "a.yaml")]
        heard.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, hears, NodeConfig)
        with trio.fail_after(20):
            await heard.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("folder", ["/etc/edgemesh", "shop"])
def test_where_the_directory_and_a_cluster_have_one_object_the_directory_counts_and_a_problem_says_so(
    folder: str,
) -> None:
    def one(origin: str, kind: str, name: str, spec: dict[str, Any], namespace: str = "") -> Change:
        meta = {"name": name, **({"namespace": namespace} if namespace else {})}
        version = "v1" if kind == "Service" else "edgemesh.io/v1alpha1"
        data = {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}
        return Change(origin, (RawObject(data, Where(origin, 1), {}),))

    store = Store(Settings({"node": "here"}), None)
    here, there = f"{folder}/a.yaml", "kubernetes:"
    store.apply(
        [
            one(f"{there}Service/shop/store", "Service", "store", {"ports": [{"port": 81}]}, "shop"),
            one(f"{there}NodeConfig/default", "NodeConfig", "default", {"accessLog": "all"}),
        ]
    )
    store.apply(
        [
            one(here, "Service", "store", {"ports": [{"port": 80}]}, "shop"),
            one(f"{folder}/n.yaml", "NodeConfig", "default", {"accessLog": "off"}),
        ]
    )
    published = store.make()
    assert published is not None
    (service,) = published.snapshot.services
    assert [port.port for port in service.ports] == [80]
    assert published.config.access_log == "off"
    told = {problem.where.file: problem.message for problem in published.problems if problem.severity == "error"}
    assert told == {
        f"{there}Service/shop/store": f"stands in the directory too; that one, at {here}:1, is in force",
        f"{there}NodeConfig/default": f"a second NodeConfig of this name; the one at {folder}/n.yaml:1 is used",
    }
