"""A watched directory: what one look finds, and when it looks."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from agent.sources import Change, directory
from agent.sources.directory import Directory, watch

OLD = 1_000_000_000_000_000_000  # nanoseconds: long ago, so that signatures are trusted


def write(path: Path, text: str = "kind: A\n", age_ns: int = OLD) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(age_ns, age_ns))


def later() -> int:
    """A clock for Directory in whose eyes every file is old."""
    return time.time_ns() + 10_000_000_000


def said(changes: Sequence[Change], root: Path) -> dict[str, list[str] | None]:
    """By file, the kinds that it holds; None = unreadable."""
    return {
        change.origin.removeprefix(f"{root}/"): None if change.objects is None else [raw.data["kind"] for raw in change.objects]
        for change in changes
    }


def look(found: Directory) -> dict[str, list[str] | None]:
    return said(found.scan()[0], found.path)


def test_reads_manifests_in_all_folders_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.yaml", "deep/er/b.yml", "c.json"):
        write(tmp_path / name, '{"kind": "A"}')
    for name in (".hidden.yaml", "deep/.git/x.yaml", "a.yaml~", ".a.yaml.swp", "#a.yaml", "#a.yaml#", "notes.txt", "..data/x.yaml"):
        write(tmp_path / name, "kind: no\n")
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    changes, whole = Directory(tmp_path).scan()
    assert whole
    assert said(changes, tmp_path) == {"a.yaml": ["A"], "deep/er/b.yml": ["A"], "c.json": ["A"]}


def test_later_looks_tell_only_what_differs(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    write(tmp_path / "b.yaml")
    found = Directory(tmp_path, clock=later)
    assert look(found) == {"a.yaml": ["A"], "b.yaml": ["A"]}
    assert found.scan() == ([], False)
    write(tmp_path / "a.yaml", "kind: B\n", OLD + 1)
    (tmp_path / "b.yaml").unlink()
    write(tmp_path / "c.yaml")
    assert look(found) == {"a.yaml": ["B"], "b.yaml": [], "c.yaml": ["A"]}
    os.utime(tmp_path / "a.yaml")  # touched, but it says the same
    assert look(found) == {}


def test_a_file_that_changed_a_moment_ago_is_read_again_though_its_signature_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    write(path, "kind: A\n")
    changed = max(path.stat().st_mtime_ns, path.stat().st_ctime_ns)
    found = Directory(tmp_path, clock=lambda: changed + 1)
    look(found)
    before = path.stat()
    path.write_text("kind: B\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(found) == {"a.yaml": ["B"]}


def test_a_broken_file_says_nothing_and_a_mended_one_clears_the_problem(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    found = Directory(tmp_path)
    look(found)
    write(tmp_path / "a.yaml", "kind: 'A\n", OLD + 1)
    ((change,), _) = found.scan()
    assert (change.objects, len(change.problems)) == (None, 1)
    write(tmp_path / "a.yaml", "kind: A\n", OLD + 2)
    ((change,), _) = found.scan()
    assert change.objects is not None
    assert change.problems == ()


def test_an_unreadable_file_is_one_problem_until_it_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.yaml")
    found = Directory(tmp_path, clock=later)
    look(found)
    real = directory._read

    def refuse(name: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(directory, "_read", refuse)
    os.utime(tmp_path / "a.yaml")
    ((change,), _) = found.scan()
    assert change.objects is None
    assert [problem.message for problem in change.problems] == ["cannot be read: Permission denied"]
    assert found.scan()[0] == []
    monkeypatch.setattr(directory, "_read", real)
    assert look(found) == {"a.yaml": ["A"]}


def test_a_file_that_vanishes_while_it_is_looked_at_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.yaml")
    found = Directory(tmp_path)
    look(found)

    def vanish(name: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(directory, "_read", vanish)
    os.utime(tmp_path / "a.yaml")
    write(tmp_path / "b.yaml")
    assert look(found) == {"a.yaml": []}


def test_a_config_map_mount_changes_all_at_once(tmp_path: Path) -> None:
    write(tmp_path / "..1" / "a.yaml", "kind: A\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    found = Directory(tmp_path)
    assert look(found) == {"a.yaml": ["A"]}
    write(tmp_path / "..2" / "a.yaml", "kind: B\n")
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert look(found) == {"a.yaml": ["B"]}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.yaml")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert look(Directory(tmp_path)) == {"in/a.yaml": ["A"]}


def test_a_missing_directory_is_one_problem_and_takes_nothing_back(tmp_path: Path) -> None:
    root = tmp_path / "manifests"
    found = Directory(root)
    ((change,), whole) = found.scan()
    assert not whole
    assert change.objects is None
    assert str(change.problems[0]).startswith(f"{root}: error: the directory cannot be read: No such file or directory (create it")
    assert found.scan() == ([], False)
    write(root / "a.yaml")
    changes, whole = found.scan()
    assert whole
    assert changes[0] == Change(str(root), ())  # the problem is over
    assert said(changes[1:], root) == {"a.yaml": ["A"]}
    root.rename(tmp_path / "away")
    ((change,), whole) = found.scan()
    assert (change.origin, change.objects, whole) == (str(root), None, False)


def test_names_that_are_no_text_are_shown_as_text(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.yaml")).write_text("kind: A\n")
    assert look(Directory(tmp_path)) == {"caf\\xe9.yaml": ["A"]}


def test_more_files_than_we_look_at_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_FILES", 2)
    for name in "abc":
        write(tmp_path / f"{name}.yaml")
    assert look(Directory(tmp_path)) == {str(tmp_path): None, "a.yaml": ["A"], "b.yaml": ["A"]}


class Listener:
    """Collects batches; `next` waits for one."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[Sequence[Change], bool]](100)

    def send(self, changes: Sequence[Change], whole: bool) -> None:
        self._send.send_nowait((changes, whole))

    async def next(self, root: Path) -> tuple[dict[str, list[str] | None], bool]:
        with trio.fail_after(20):
            changes, whole = await self._receive.receive()
        return said(changes, root), whole


async def test_hears_of_changes_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    listener = Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, tmp_path, listener.send, lambda: 1000.0)
        assert await listener.next(tmp_path) == ({"a.yaml": ["A"]}, True)
        (tmp_path / "a.yaml").write_text("kind: B\n")
        assert await listener.next(tmp_path) == ({"a.yaml": ["B"]}, False)
        (tmp_path / ".x.new").write_text("kind: C\n")
        (tmp_path / ".x.new").rename(tmp_path / "a.yaml")
        assert await listener.next(tmp_path) == ({"a.yaml": ["C"]}, False)
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "b.yaml").write_text("kind: D\n")
        assert await listener.next(tmp_path) == ({"new/b.yaml": ["D"]}, False)
        (tmp_path / "new" / "b.yaml").write_text("kind: E\n")
        assert await listener.next(tmp_path) == ({"new/b.yaml": ["E"]}, False)
        (tmp_path / "a.yaml").unlink()
        assert await listener.next(tmp_path) == ({"a.yaml": []}, False)
        nursery.cancel_scope.cancel()


async def test_files_written_together_are_one_batch(tmp_path: Path) -> None:
    listener = Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, tmp_path, listener.send, lambda: 1000.0)
        assert await listener.next(tmp_path) == ({}, True)
        for name in "abc":
            (tmp_path / f"{name}.yaml").write_text("kind: A\n")
        assert await listener.next(tmp_path) == ({"a.yaml": ["A"], "b.yaml": ["A"], "c.yaml": ["A"]}, False)
        nursery.cancel_scope.cancel()


async def test_without_inotify_it_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(directory, "Inotify", none)
    listener = Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, tmp_path, listener.send, lambda: 0.01)
        assert await listener.next(tmp_path) == ({}, True)
        (tmp_path / ".a").write_text("kind: A\n")
        (tmp_path / ".a").rename(tmp_path / "a.yaml")
        assert await listener.next(tmp_path) == ({"a.yaml": ["A"]}, False)
        nursery.cancel_scope.cancel()


async def test_a_directory_that_cannot_be_watched_is_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(directory.Inotify):
        def watch(self, path: str | os.PathLike[str], mask: int) -> int:
            raise OSError(28, "No space left on device")  # fs.inotify.max_user_watches

    monkeypatch.setattr(directory, "Inotify", Full)
    listener = Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, tmp_path, listener.send, lambda: 0.01)
        assert await listener.next(tmp_path) == ({}, True)
        (tmp_path / "new").mkdir()
        (tmp_path / ".a").write_text("kind: A\n")
        (tmp_path / ".a").rename(tmp_path / "new" / "a.yaml")
        assert await listener.next(tmp_path) == ({"new/a.yaml": ["A"]}, False)
        nursery.cancel_scope.cancel()


async def test_waits_for_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    root = tmp_path / "manifests"
    listener = Listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, root, listener.send, lambda: 0.01)
        assert await listener.next(root) == ({str(root): None}, False)
        write(tmp_path / "made" / "a.yaml")
        (tmp_path / "made").rename(root)
        assert await listener.next(root) == ({str(root): [], "a.yaml": ["A"]}, True)
        nursery.cancel_scope.cancel()
