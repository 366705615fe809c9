"""inotify(7): awaits, with trio, which names changed in which directories. The only file that calls libc for it."""

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
Q_OVERFLOW = 0x4000
IGNORED = 0x8000
ONLYDIR = 0x0100_0000
EXCL_UNLINK = 0x0400_0000

_HEADER = struct.Struct("=iIII")  # watch, mask, cookie, length of the name that follows
_ROOM = 65536  # one event is at most 16 + NAME_MAX + 1 bytes


class Event(Struct, frozen=True):
    """An event of `name` in the directory of `watch`; `name` is "" for an event of the watched object itself.

    A `watch` of -1 with Q_OVERFLOW in `mask` says that events were lost: read everything anew.
    """

    watch: int
    mask: int
    name: str = ""

    @property
    def overflow(self) -> bool:
        return bool(self.mask & Q_OVERFLOW)

    @property
    def ended(self) -> bool:
        """The watch has ended: the watched object is gone."""
        return bool(self.mask & IGNORED)


def parse(data: bytes) -> Iterator[Event]:
    """Yield the events in the result of one read; the kernel never splits an event."""
    at = 0
    while at < len(data):
        watch, mask, _cookie, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        # The name is padded with NULs to a multiple of the header's size.
        yield Event(watch, mask, os.fsdecode(data[at : at + length].rstrip(b"\0")))
        at += length


class Inotify:
    """One inotify queue, opened and closed inside trio.

    The constructor and `watch` raise OSError: no inotify, no such path, no instances or watches left (fs.inotify.*
    sysctls).
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
        """Watch `path` for the events in `mask`.

        Return the number that events carry; it stays the same for a path watched already.
        """
        return self._call("inotify_add_watch", self._fd, os.fsencode(path), mask, path=str(path))

    async def events(self) -> list[Event]:
        """Wait until something happens. Return all events up to then."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            if heard := self.heard():
                return heard

    def heard(self) -> list[Event]:
        """Return the events of one read without waiting; [] for none.

        Other threads may call it too, while no task waits in `events`.
        """
        try:
            return list(parse(os.read(self._fd, _ROOM)))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Close the queue. A task that waits in `events` gets trio.ClosedResourceError."""
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
