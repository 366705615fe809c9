"""When captures are looked at: at each wish, when a namespace or a pod appears, and four times a second.

One task makes the rounds; between two steps of one calls proceed, since a table takes the kernel milliseconds. A table
that other programs may change has a task of its own, which puts it back at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import trio

from agent.kernel import netns
from agent.kernel.table import Table
from agent.system import inotify

log = logging.getLogger("edgemesh.kernel")

POLL = 0.25  # seconds between scans for namespaces
_GUARD = 0.02  # seconds between repairs of a table that another program changes


class Rounds:
    """`steps`: one round. `tables`: those in force. `runtimes`, `units`: folders where a new name may be a pod, a unit."""

    def __init__(
        self,
        steps: Callable[[], Iterator[None]],
        tables: Callable[[], Iterable[Table]],
        runtimes: Callable[[], Iterable[Path]],
        units: Callable[[], Iterable[str]],
    ) -> None:
        self._steps, self._tables, self._runtimes, self._units = steps, tables, runtimes, units
        self._due = trio.Event()
        self._over = trio.Event()  # set at the end of the round that runs, or of the next
        self._guarded: set[Table] = set()

    def call(self) -> None:
        """Begin a round as soon as the present one is over."""
        self._due.set()

    async def over(self) -> None:
        """Wait for the end of the round that runs, or of the next."""
        await self._over.wait()

    async def run(self, beside: Callable[[], Awaitable[None]]) -> None:
        """Make rounds until cancelled. `beside`: a task that runs meanwhile."""
        watch = _watch()
        try:
            async with trio.open_nursery() as nursery:
                if watch is not None:
                    nursery.start_soon(self._listen, watch)
                nursery.start_soon(beside)
                while True:
                    await self._round(nursery, watch)
        finally:
            if watch is not None:
                watch.close()  # the next run, after an update that failed, opens its own

    async def _round(self, nursery: trio.Nursery, watch: inotify.Inotify | None) -> None:
        self._due = trio.Event()
        for _ in self._steps():
            await trio.lowlevel.checkpoint()
        self._over.set()
        self._over = trio.Event()
        for table in self._tables():
            if not table.owned and table not in self._guarded:
                self._guarded.add(table)
                nursery.start_soon(self._guard, table)
        if watch is not None:
            for runtime in self._runtimes():
                with contextlib.suppress(OSError):  # no such runtime
                    watch.watch(runtime, inotify.CREATE | inotify.DELETE)
            for folder in self._units():
                with contextlib.suppress(OSError):  # removed meanwhile; the poll notices
                    watch.watch(folder, inotify.CREATE | inotify.ONLYDIR)
        with trio.move_on_after(POLL):
            await self._due.wait()

    async def _listen(self, watch: inotify.Inotify) -> None:
        while True:
            await watch.events()
            # `ip netns add` makes the file first and mounts the namespace over it afterwards.
            for _ in range(10):
                self._due.set()
                await trio.sleep(0.01)

    async def _guard(self, table: Table) -> None:
        """Restore a table that another program may change, at once when it was changed."""
        try:
            while True:
                await table.changed()
                try:
                    table.repair()
                except OSError as error:
                    log.warning("%r: %s; trying again", table, error)
                await trio.sleep(_GUARD)  # a program that changes it without end cannot keep us from all other work
        except trio.ClosedResourceError:
            pass  # we released it
        finally:
            self._guarded.discard(table)


def _watch() -> inotify.Inotify | None:
    """Watch for changes under /run/netns. Return None where that is not possible; polling must then suffice."""
    watch = None
    try:
        os.makedirs(netns.FOLDER, exist_ok=True)
        watch = inotify.Inotify()
        watch.watch(netns.FOLDER, inotify.CREATE | inotify.DELETE | inotify.MOVED_TO | inotify.MOVED_FROM)
        return watch
    except OSError as error:
        if watch is not None:
            watch.close()
        log.warning("cannot watch %s: %s; looking four times a second", netns.FOLDER, error.strerror)
        return None
