"""inotify: what the kernel says about a directory arrives as events."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.system import inotify
from agent.system.inotify import Event, Inotify, parse


def raw(watch: int, mask: int, name: bytes) -> bytes:
    return struct.pack("=iIII", watch, mask, 0, len(name)) + name


def test_several_events_in_one_read_with_padded_names() -> None:
    data = raw(1, inotify.CREATE, b"a.yaml\0\0") + raw(2, inotify.DELETE_SELF, b"") + raw(-1, inotify.Q_OVERFLOW, b"")
    assert list(parse(data)) == [
        Event(1, inotify.CREATE, "a.yaml"),
        Event(2, inotify.DELETE_SELF),
        Event(-1, inotify.Q_OVERFLOW),
    ]
    assert [event.overflow for event in parse(data)] == [False, False, True]
    assert not list(parse(b""))


def test_a_name_that_is_no_utf8_survives() -> None:
    (event,) = parse(raw(1, inotify.CREATE, b"caf\xe9\0\0\0"))
    assert os.fsencode(event.name) == b"caf\xe9"


async def test_hears_of_a_written_file(tmp_path: Path) -> None:
    with Inotify() as queue:
        watch = queue.watch(tmp_path, inotify.CLOSE_WRITE)
        (tmp_path / "a.yaml").write_text("x")
        with trio.fail_after(30):
            assert await queue.events() == [Event(watch, inotify.CLOSE_WRITE, "a.yaml")]
        assert queue.watch(tmp_path, inotify.CLOSE_WRITE) == watch


async def test_waits_while_nothing_happens(tmp_path: Path) -> None:
    with Inotify() as queue:
        queue.watch(tmp_path, inotify.CLOSE_WRITE)
        with trio.move_on_after(0.01) as scope:
            await queue.events()
        assert scope.cancelled_caught


async def test_a_watch_ends_with_its_directory(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    with Inotify() as queue:
        queue.watch(folder, inotify.DELETE_SELF)
        folder.rmdir()
        with trio.fail_after(30):
            events = await queue.events()
        assert [event.ended for event in events] == [False, True]


async def test_errors_name_the_path(tmp_path: Path) -> None:
    with Inotify() as queue, pytest.raises(FileNotFoundError, match="nowhere"):
        queue.watch(tmp_path / "nowhere", inotify.CREATE)


async def test_closing_wakes_who_waits() -> None:
    queue = Inotify()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await queue.events()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        queue.close()
    assert repr(queue) == "<Inotify closed>"
