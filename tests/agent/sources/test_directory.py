"""A watched directory: what one look finds, and when it looks."""

from __future__ import annotations

import errno
import gc
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.sources import Change, directory
from agent.sources.directory import Directory, watch
from agent.system import inotify
from agent.system.inotify import Event

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
        change.origin.removeprefix(f"{root}/"): None
        if change.objects is None
        else [raw.data["kind"] for raw in change.objects]
        for change in changes
    }


def look(found: Directory) -> dict[str, list[str] | None]:
    return said(found.scan()[0], found.path)


def test_reads_manifests_in_all_folders_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.yaml", "deep/er/b.yml", "c.json"):
        write(tmp_path / name, '{"kind": "A"}')
    for name in (
        ".hidden.yaml",
        "deep/.git/x.yaml",
        "a.yaml~",
        ".a.yaml.swp",
        "#a.yaml",
        "#a.yaml#",
        "notes.txt",
        "..data/x.yaml",
    ):
        write(tmp_path / name, "kind: no\n")
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / ".dangling.yaml").symlink_to("nowhere")
    changes, whole = Directory(tmp_path).scan()
    assert whole
    assert said(changes, tmp_path) == {"a.yaml": ["A"], "deep/er/b.yml": ["A"], "c.json": ["A"]}


def test_a_file_of_the_kernel_that_has_nothing_to_say_is_a_problem_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/kmsg is, which looks like any file; and what was a file when it was listed may be a named pipe when it is opened."""
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        write(tmp_path / name, '{"kind": "A"}')
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ends = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    opened = os.open

    def instead(path: str | Path, flags: int, *more: int) -> int:
        return opened(pipe if str(path).endswith("a.yaml") else path, flags, *more)

    monkeypatch.setattr(os, "open", instead)
    try:
        for looks_like_a_file in (False, True):
            if looks_like_a_file:
                monkeypatch.setattr("agent.system.state_files.stat.S_ISREG", lambda _: True)
            changes, _ = Directory(tmp_path).scan()
            assert [change.objects is None for change in changes] == [True, False, False]
            assert "cannot be read" in problems_of(changes)[0]
    finally:
        os.close(ends)


def problems_of(changes: Sequence[Change]) -> list[str]:
    return [str(problem) for change in changes for problem in change.problems]


def test_a_link_to_nowhere_withdraws_nothing(tmp_path: Path) -> None:
    """The medium that the file lies on is not there: that is no change of policy."""
    root, medium = tmp_path / "m", tmp_path / "medium"
    write(medium / "a.yaml")
    root.mkdir()
    (root / "a.yaml").symlink_to(medium / "a.yaml")
    found = Directory(root, clock=later)
    assert look(found) == {"a.yaml": ["A"]}
    medium.rename(tmp_path / "away")
    changes, _ = found.scan()
    assert said(changes, root) == {"a.yaml": None}
    assert "it is a link to something that is not there" in problems_of(changes)[0]
    assert "permissions" not in problems_of(changes)[0]
    assert found.scan() == ([], False)
    (tmp_path / "away").rename(medium)
    assert look(found) == {"a.yaml": ["A"]}, "the problem is over, and it says what it said"
    (root / "a.yaml").unlink()
    assert [change.gone for change in found.scan()[0]] == [True]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.EIO])
def test_a_folder_that_cannot_be_listed_withdraws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write(tmp_path / "deep/a.yaml")
    write(tmp_path / "b.yaml")
    found = Directory(tmp_path, clock=later)
    found.scan()
    scandir = os.scandir

    def refused(folder: str) -> Any:
        if folder.endswith("deep"):
            raise OSError(number, os.strerror(number), folder)
        return scandir(folder)

    monkeypatch.setattr(directory.os, "scandir", refused)
    changes, _ = found.scan()
    assert said(changes, tmp_path) == {"deep": None}
    assert os.strerror(number) in problems_of(changes)[0]
    assert found.scan() == ([], False)
    monkeypatch.setattr(directory.os, "scandir", scandir)
    assert [(change.origin, change.gone) for change in found.scan()[0]] == [(f"{tmp_path}/deep", True)], (
        "the problem is over"
    )
    (tmp_path / "deep/a.yaml").unlink()
    assert [(change.origin, change.gone) for change in found.scan()[0]] == [(f"{tmp_path}/deep/a.yaml", True)]


def test_files_beyond_the_most_that_are_read_withdraw_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "b.yaml")
    found = Directory(tmp_path, clock=later)
    found.scan()
    monkeypatch.setattr(directory, "MAX_FILES", 1)
    write(tmp_path / "a.yaml")
    changes, _ = found.scan()
    assert not any(change.gone for change in changes)
    assert any("more than 1 manifest files" in problem for problem in problems_of(changes))


def test_files_that_are_too_much_together_withdraw_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        write(tmp_path / name)
    found = Directory(tmp_path, clock=later)
    found.scan()
    monkeypatch.setattr(directory, "MAX_TOTAL", 30)
    write(tmp_path / "a.yaml", "kind: B  # longer\n", OLD + 1)
    write(tmp_path / "c.yaml", "kind: C\n", OLD + 1)
    changes, _ = found.scan()
    assert said(changes, tmp_path) == {"a.yaml": ["B"], str(tmp_path): None}
    assert any("larger than" in problem for problem in problems_of(changes))
    assert found.scan() == ([], False), "told once"
    monkeypatch.setattr(directory, "MAX_TOTAL", 1000)
    changes, _ = found.scan()
    assert said(changes, tmp_path) == {"c.yaml": ["C"], str(tmp_path): []}
    assert changes[-1].gone, "the problem is over"


def test_one_file_that_is_too_large_keeps_no_other_from_being_read(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(100 << 20)
    write(tmp_path / "b.yaml", '{"kind": "B"}')
    changes, _ = Directory(tmp_path).scan()
    assert said(changes, tmp_path) == {"a.yaml": None, "b.yaml": ["B"]}


async def test_a_daemon_looks_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> None:
    asked = []

    def read(data: bytes, origin: str, rest: bool) -> Change:
        asked.append((rest, gc.isenabled()))
        return Change(origin, ())

    monkeypatch.setattr(directory.manifest, "read", read)
    write(tmp_path / "a.yaml")
    heard = trio.Event()
    nursery.start_soon(watch, tmp_path, lambda *_: heard.set())
    with trio.fail_after(5):
        await heard.wait()
    nursery.cancel_scope.cancel()
    assert asked == [(True, False)]


GROUP = "kind: HTTPRouteGroup\nspec:\n  matches:\n  - name: read\n    methods: [GET]\n    pathRegex: /items\n"


@pytest.mark.parametrize("cut", ["kind: HTTPRouteGroup\nspec:\n  matches:\n  - name: re", GROUP[:-5], GROUP[:-2], "ki"])
def test_a_file_that_ends_in_the_middle_of_a_line_of_what_it_was_says_nothing_new(tmp_path: Path, cut: str) -> None:
    """Half a rule may grant more than the whole."""
    write(tmp_path / "a.yaml", GROUP)
    found = Directory(tmp_path, clock=later)
    found.scan()
    write(tmp_path / "a.yaml", cut, OLD + 1)
    changes, _ = found.scan()
    assert said(changes, tmp_path) == {"a.yaml": None}
    assert "ends in the middle of a line" in problems_of(changes)[0]
    os.utime(tmp_path / "a.yaml", ns=(OLD + 2, OLD + 2))
    assert found.scan() == ([], False), "it is told once"
    write(tmp_path / "a.yaml", cut[:-1], OLD + 3)
    assert said(found.scan()[0], tmp_path) == {"a.yaml": None}, "it is compared with what it was when it was whole"
    write(tmp_path / "a.yaml", GROUP, OLD + 4)
    assert said(found.scan()[0], tmp_path) == {"a.yaml": ["HTTPRouteGroup"]}


LARGE = "".join(GROUP.replace("read", f"read-{number}") + "---\n" for number in range(600))  # some 50 KB


@pytest.mark.parametrize("cut", [LARGE[:20_002], LARGE[:40_960], LARGE[:-7]])
def test_nor_does_a_large_one(tmp_path: Path, cut: str) -> None:
    write(tmp_path / "a.yaml", LARGE)
    found = Directory(tmp_path, clock=later)
    found.scan()
    write(tmp_path / "a.yaml", cut, OLD + 1)
    assert said(found.scan()[0], tmp_path) == {"a.yaml": None}
    for meant in (LARGE[:-8] + "\n", LARGE.replace("read-0", "see-0")[:-8]):
        write(tmp_path / "a.yaml", meant, OLD + len(meant))
        assert said(found.scan()[0], tmp_path) == {"a.yaml": ["HTTPRouteGroup"] * 600}


@pytest.mark.parametrize(
    "meant",
    [
        GROUP[: -len("    pathRegex: /items\n")],
        GROUP[:-1],
        GROUP[:-2] + "\n",
        GROUP + "# more\n",
        GROUP.replace("GET", "PUT"),
    ],
)
def test_edits_that_people_make_are_no_such_thing(tmp_path: Path, meant: str) -> None:
    write(tmp_path / "a.yaml", GROUP)
    found = Directory(tmp_path, clock=later)
    found.scan()
    write(tmp_path / "a.yaml", meant, OLD + 1)
    assert said(found.scan()[0], tmp_path) == {"a.yaml": ["HTTPRouteGroup"]}


HALF = GROUP.replace("    methods: [GET]\n    pathRegex: /items\n", "")  # ends with a line, and says every method


class Heard:
    """A directory that is heard of as a daemon hears of it, and a clock that stands still until it is set."""

    def __init__(self, root: Path) -> None:
        self.now = 0.0
        self.ears = directory._Ears(lambda: self.now)
        self.found = Directory(root, self.ears.hear, self.ears.is_open, later)

    def look(self) -> dict[str, list[str] | None]:
        return look(self.found)


@pytest.fixture
async def heard(tmp_path: Path) -> AsyncIterator[Heard]:
    write(tmp_path / "a.yaml", GROUP)
    heard = Heard(tmp_path)
    assert heard.look() == {"a.yaml": ["HTTPRouteGroup"]}
    yield heard
    heard.ears.close()


async def test_a_file_that_is_half_written_says_nothing_new_until_it_is_closed(tmp_path: Path, heard: Heard) -> None:
    """Half a rule may grant more than the whole; others' changes are not held up by it."""
    with (tmp_path / "a.yaml").open("w") as file:
        write(tmp_path / "b.yaml")
        assert heard.look() == {"b.yaml": ["A"]}, "cut to nothing"
        file.write(HALF)
        file.flush()
        write(tmp_path / "b.yaml", "kind: B\n")
        assert heard.look() == {"b.yaml": ["B"]}
        file.write("    methods: [PUT]\n    pathRegex: /items\n")
    ((change,), _) = heard.found.scan()
    assert change.objects is not None
    assert change.objects[0].data["spec"]["matches"][0]["methods"] == ["PUT"]


async def test_nor_does_a_new_one(tmp_path: Path, heard: Heard) -> None:
    with (tmp_path / "new.yaml").open("w") as file:
        file.write(HALF)
        file.flush()
        assert heard.look() == {}
    assert heard.look() == {"new.yaml": ["HTTPRouteGroup"]}


async def test_a_writer_that_never_closes_is_believed_in_the_end(tmp_path: Path, heard: Heard) -> None:
    with (tmp_path / "a.yaml").open("w") as file:
        for kind in ("B", "C"):
            file.write(f"kind: {kind}\n---\n")
            file.flush()
            assert heard.look() == {}
            heard.now += 9.9
            assert heard.look() == {}, "ten seconds after the last change"
        heard.now += 0.2
        assert heard.look() == {"a.yaml": ["B", "C"]}


async def test_a_file_that_is_replaced_while_somebody_still_writes_the_old_one_is_read_at_once(
    tmp_path: Path, heard: Heard
) -> None:
    with (tmp_path / "a.yaml").open("w") as file:
        file.write(HALF)
        file.flush()
        assert heard.look() == {}
        write(tmp_path / ".new", "kind: B\n")
        (tmp_path / ".new").rename(tmp_path / "a.yaml")
        assert heard.look() == {"a.yaml": ["B"]}
        write(tmp_path / ".new", "kind: D\n")
        (tmp_path / ".new").rename(tmp_path / "a.yaml")
        file.write("and more")
        file.flush()
        assert heard.look() == {"a.yaml": ["D"]}, "what has no name any more is nobody's"
        (tmp_path / "a.yaml").unlink()
        assert heard.look() == {"a.yaml": []}


async def test_a_folder_that_is_renamed_takes_its_half_written_files_along(tmp_path: Path, heard: Heard) -> None:
    write(tmp_path / "in" / "b.yaml", GROUP)
    heard.look()
    with (tmp_path / "in" / "b.yaml").open("w") as file:
        file.write(HALF)
        file.flush()
        (tmp_path / "in").rename(tmp_path / "on")
        write(tmp_path / "in" / "b.yaml")
        assert heard.look() == {"in/b.yaml": ["A"]}, "another file of the old name"
    assert heard.look() == {"on/b.yaml": ["HTTPRouteGroup"]}


async def test_when_events_were_lost_no_file_is_waited_for(tmp_path: Path, heard: Heard) -> None:
    with (tmp_path / "a.yaml").open("w") as file:
        file.write("kind: B\n")
        file.flush()
        assert heard.look() == {}
        heard.ears._note([Event(-1, inotify.Q_OVERFLOW)])
        assert heard.look() == {"a.yaml": ["B"]}


async def test_files_that_are_waited_for_are_bounded_in_number(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "MAX_FILES", 3)
    heard.ears._note(
        [Event(1, inotify.MODIFY, f"{number}.yaml") for number in range(10)] + [Event(1, inotify.MODIFY, "x.log")]
    )
    assert [name for _, name in heard.ears._open] == ["0.yaml", "1.yaml", "2.yaml"]
    heard.ears._note([Event(1, inotify.IGNORED)])
    assert heard.ears._open == {}


async def test_the_first_look_takes_back_nothing_of_a_file_that_is_half_written(tmp_path: Path) -> None:
    """It is the whole: an origin that it does not name says nothing any more."""
    write(tmp_path / "a.yaml", GROUP)
    heard = Heard(tmp_path)
    heard.ears.hear(str(tmp_path))
    try:
        with (tmp_path / "a.yaml").open("w") as file:
            file.write(HALF)
            file.flush()
            changes, whole = heard.found.scan()
            assert (said(changes, tmp_path), whole) == ({"a.yaml": None}, True)
            assert "is being written" in problems_of(changes)[0]
            assert heard.look() == {}
            file.truncate(0)
        assert heard.look() == {"a.yaml": []}, "closed, and empty"
    finally:
        heard.ears.close()


async def test_what_was_heard_during_a_look_is_looked_at_too(tmp_path: Path, heard: Heard) -> None:
    write(tmp_path / "b.yaml")
    watched = heard.ears.hear(str(tmp_path))
    assert not heard.ears.is_open(watched, "b.yaml")  # which takes the events from the queue
    with trio.fail_after(5):
        await heard.ears.wait(1000.0, there=True)


async def test_modifications_ask_for_no_look_and_the_end_of_patience_does(tmp_path: Path, heard: Heard) -> None:
    with (tmp_path / "a.yaml").open("w") as file:
        for _ in range(2):
            file.write("kind: B\n")
            file.flush()
            with trio.move_on_after(0.1) as waiting:
                await heard.ears.wait(1000.0, there=True)
            assert waiting.cancelled_caught
        heard.now = 10.0
        with trio.fail_after(5):
            await heard.ears.wait(1000.0, there=True)
        assert heard.look() != {}


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


def test_an_unreadable_file_is_one_problem_until_it_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml")
    ((change,), _) = Directory(tmp_path / "a.yaml").scan()
    assert change.problems[0].hint.startswith("it is a file: give the directory that it is in with --config")


def test_a_missing_directory_is_one_problem_and_takes_nothing_back(tmp_path: Path) -> None:
    root = tmp_path / "manifests"
    found = Directory(root)
    ((change,), whole) = found.scan()
    assert not whole
    assert change.objects is None
    assert str(change.problems[0]).startswith(
        f"{root}: error: the directory cannot be read: No such file or directory (create it"
    )
    assert found.scan() == ([], False)
    write(root / "a.yaml")
    changes, whole = found.scan()
    assert whole
    assert changes[0] == Change(str(root), (), gone=True)  # the problem is over
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
