"""inotify(7): which names changed in which directories, awaited with trio; the only file that calls libc for it."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

import trio
from msgspec import Struct

# linux/inotify.h
MODIFY = 0x2
ATTRIB = 0x4
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
Q_OVERFLOW = 0x4000
IGNORED = 0x8000
ONLYDIR = 0x0100_0000
IS_DIR = 0x4000_0000

_HEADER = struct.Struct("=iIII")  # watch, mask, cookie, length of the name that follows
_ROOM = 65536  # one event is at most 16 + NAME_MAX + 1 bytes


class Event(Struct, frozen=True):
    """Something happened to `name` in the directory behind `watch`; `name` is "" when it happened to the watched thing itself.

    A `watch` of -1 with Q_OVERFLOW in `mask` says that events were lost: look at everything anew.
    """

    watch: int
    mask: int
    name: str = ""

    @property
    def overflow(self) -> bool:
        return bool(self.mask & Q_OVERFLOW)

    @property
    def ended(self) -> bool:
        """The watch is over: what was watched is gone, or it was unwatched."""
        return bool(self.mask & IGNORED)


def parse(data: bytes) -> Iterator[Event]:
    """The events in what one read returned; the kernel never splits an event."""
    at = 0
    while at < len(data):
        watch, mask, _cookie, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        # The name is padded with NULs to a multiple of the header's size.
        yield Event(watch, mask, os.fsdecode(data[at : at + length].rstrip(b"\0")))
        at += length


class Inotify:
    """One inotify queue, opened and closed inside trio.

    Making it and `watch` raise OSError: no inotify, no such path, out of instances or watches (fs.inotify.* sysctls).
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def __repr__(self) -> str:
        return f"<Inotify fd {self._fd}>" if self._fd >= 0 else "<Inotify closed>"

    def __enter__(self) -> Inotify:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def watch(self, path: str | os.PathLike[str], mask: int) -> int:
        """Hear of `mask` at `path`. Answers the number that events carry; the same number again for a path watched already."""
        return self._call("inotify_add_watch", self._fd, os.fsencode(path), mask, path=str(path))

    def unwatch(self, watch: int) -> None:
        """Hear no more; a watch that ended by itself is no error."""
        self._libc.inotify_rm_watch(self._fd, watch)

    async def events(self) -> list[Event]:
        """Wait until something happened; everything that has been heard by then."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return list(parse(os.read(self._fd, _ROOM)))
            except BlockingIOError:
                continue

    def close(self) -> None:
        """Give the queue back. Who waits in `events` gets trio.ClosedResourceError."""
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _call(self, function: str, *arguments: int | bytes, path: str | None = None) -> int:
        result = getattr(self._libc, function)(*arguments)
        if result < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno), path or function)
        return int(result)
