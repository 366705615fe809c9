"""Returns unneeded memory to the system: what only the start needed, and what a burst of load left behind."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

_MADV_PAGEOUT = 21  # linux/mman.h, since 5.4; on older kernels the call fails without harm
_M_ARENA_MAX = -8  # malloc.h of glibc
_ARENAS = 2  # one for the loop and one for threads beside it: each arena keeps what it has freed

LOOK = 5.0  # seconds between two measurements
LONGEST = 40.0  # seconds between two attempts, where the last one returned nothing
_WORTH = 16 << 20  # bytes above the least measured
_GAIN = 4 << 20  # bytes returned by an attempt that make another one soon worthwhile


def few_arenas() -> None:
    """Keep the C library from making a heap for each thread.

    Call it before threads are made; musl has one heap anyway.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(ctypes.c_int(_M_ARENA_MAX), ctypes.c_int(_ARENAS))


def give_back() -> None:
    """Return free memory, and let the kernel drop the file pages (our code and data) that the start read.

    Pages in use are read again. The objects that exist now live long, so the collector need not examine them again
    (gc.freeze).
    """
    gc.collect()
    gc.freeze()
    trim()
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, rights, _, _, inode, *_ = line.split()
        if inode != "0" and rights in ("r--p", "r-xp"):
            start, end = (int(number, 16) for number in where.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)


def trim() -> None:
    """Make the C library return empty pages. musl does that by itself, and has no such call."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def resident() -> int:
    """Return the resident memory of this process in bytes (proc(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def _trim_aside() -> None:
    await trio.to_thread.run_sync(trim)


async def after_floods(
    resident: Callable[[], int] = resident, trim: Callable[[], Awaitable[None]] = _trim_aside
) -> None:
    """Return free memory whenever much more is in use than before, within a minute after a burst. Runs until cancelled.

    The C library keeps freed memory between blocks in use. Only trying shows whether any is free, so after an attempt
    that gained nothing the next one comes later.
    """
    least = before = resident()
    pause, waited = LOOK, 0.0
    while True:
        await trio.sleep(LOOK)
        waited += LOOK
        now = resident()
        if abs(now - before) > _WORTH:
            pause = LOOK  # the load changes
        before = now
        if now - least < _WORTH or waited < pause:
            continue
        waited = 0.0
        await trim()
        before = resident()
        pause = LOOK if now - before > _GAIN else min(pause * 2, LONGEST)
        least = min(least, before)
