"""Memory is given back, and everything is there afterwards."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

import pytest

from agent import thrift


@pytest.fixture(autouse=True)
def thaw() -> Any:
    yield
    gc.unfreeze()


def test_what_is_there_is_frozen_and_stays_readable() -> None:
    kept = {"a": [1, 2, 3]}
    thrift.give_back()
    assert gc.get_freeze_count() > 0
    assert kept == {"a": [1, 2, 3]}


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
