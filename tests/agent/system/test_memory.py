"""Memory is given back, and everything is there afterwards."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.system import memory as thrift


@pytest.fixture(autouse=True)
def thaw() -> Any:
    yield
    gc.unfreeze()


def test_what_is_there_is_frozen_and_stays_readable() -> None:
    kept = {"a": [1, 2, 3]}
    thrift.give_back()
    assert gc.get_freeze_count() > 0
    assert kept == {"a": [1, 2, 3]}


def test_the_static_form_has_all_that_is_called_in_the_c_library() -> None:
    """There ctypes finds only what its table names; what it lacks fails in silence here, since musl lacks it too."""
    table = Path("build/launcher/static.c").read_text()
    named = set(re.findall(r"FUNCTION\((\w+)\)", table))
    called: set[str] = set()
    for file in (*Path("agent").rglob("*.py"), *Path("nodeproxy").rglob("*.py")):
        called |= set(re.findall(r"(?:CDLL\(None\)|\b_?libc)\.(\w+)", file.read_text()))
    assert {"mallopt", "malloc_trim", "madvise", "prctl"} <= called
    assert called <= named


def test_only_pages_of_files_that_are_not_written_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Libc:
        def madvise(self, start: Any, size: Any, advice: int) -> int:
            asked.append((start.value, size.value, advice))
            return -1  # a kernel that does not know it; nothing is lost

    maps = "1000-3000 r-xp 00000000 fe:00 7 /usr/bin/python\n3000-4000 rw-p 00000000 fe:00 7 /usr/bin/python\n4000-5000 r--p 00000000 00:00 0\n"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())  # no malloc_trim either: musl
    monkeypatch.setattr(Path, "read_text", lambda self: maps)
    thrift.give_back()
    assert asked == [(0x1000, 0x2000, thrift._MADV_PAGEOUT)]


class Memory:
    """What the daemon has; `free` of it comes back when it is trimmed."""

    def __init__(self) -> None:
        self.has, self.free = 100 << 20, 0
        self.trims: list[float] = []

    def resident(self) -> int:
        return self.has

    async def trim(self) -> None:
        self.trims.append(trio.current_time())
        self.has, self.free = self.has - self.free, 0


@pytest.fixture
async def memory(nursery: trio.Nursery) -> Any:
    memory = Memory()
    nursery.start_soon(thrift.after_floods, memory.resident, memory.trim)
    await trio.testing.wait_all_tasks_blocked()  # it has seen how much there is before anything comes
    yield memory
    nursery.cancel_scope.cancel()


async def test_after_a_flood_memory_comes_back_within_a_minute(
    memory: Memory, autojump_clock: trio.testing.MockClock
) -> None:
    await trio.sleep(1)  # not at the moments of its looks
    for _ in range(12):
        memory.has += 50 << 20  # a minute of it
        await trio.sleep(5)
    memory.free = 590 << 20  # its connections have ended
    ended = trio.current_time()
    await trio.sleep(60)
    assert memory.has == 110 << 20
    assert min(at for at in memory.trims if at > ended) - ended < 60


async def test_where_nothing_is_much_nothing_is_done(memory: Memory, autojump_clock: trio.testing.MockClock) -> None:
    await trio.sleep(600)
    memory.has += 10 << 20
    await trio.sleep(600)
    assert not memory.trims


async def test_what_is_in_use_is_asked_for_seldom(memory: Memory, autojump_clock: trio.testing.MockClock) -> None:
    memory.has += 500 << 20
    await trio.sleep(3600)
    assert 80 < len(memory.trims) < 100
    memory.free = 300 << 20
    await trio.sleep(60)
    assert memory.has == 300 << 20


def test_the_c_library_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Libc:
        def malloc_trim(self, pad: Any) -> int:
            asked.append(("malloc_trim", pad.value))
            return 1

        def mallopt(self, what: Any, value: Any) -> int:
            asked.append(("mallopt", what.value, value.value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    thrift.trim()
    thrift.few_arenas()
    assert asked == [("malloc_trim", 0), ("mallopt", -8, 2)]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # musl
    thrift.trim()
    thrift.few_arenas()


def test_how_much_we_have() -> None:
    assert 1 << 20 < thrift.resident() < 1 << 40
