"""What may become of a file of state."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) * 2 // 3] ^= 0x01
        path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "in the way").touch()


def unreadable(path: Path) -> None:
    """To root as well."""
    path.unlink()
    path.symlink_to(path.name)


def pipe(path: Path) -> None:
    """To open it is to wait for ever."""
    path.unlink()
    os.mkfifo(path)


def nested(path: Path) -> None:
    path.write_bytes(b"[" * 30_000)


def nested_field(path: Path) -> None:
    """Of which nothing is known, so a decoder skips it."""
    path.write_bytes(b'{"x":' * 30_000)


def other_text(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>", "utf-16")


def gone(path: Path) -> None:
    path.unlink()


DAMAGES: tuple[Callable[[Path], None], ...] = (
    flip,
    truncate,
    empty,
    directory,
    unreadable,
    pipe,
    nested,
    nested_field,
    other_text,
    gone,
)
