"""The native object, its running task, and the numbers that name lent things on both sides.

After some of its turns the fast path has something for Python. `collect` takes it and hands each item to the part that
it belongs to (path.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from nodeproxy.fastpath.loop import Drive
from nodeproxy.native import Lane
from nodeproxy.telemetry.counts import BUCKETS


class Engine:
    """The native object and the task that drives it."""

    def __init__(self, collect: Callable[[], None]) -> None:
        """`collect`: takes everything that the fast path has for Python."""
        self.lane = Lane(BUCKETS)
        self.collect = collect
        self._drive = Drive(self.lane, collect)
        self.run = self._drive.run  # runs until cancelled
        self.stir = self._drive.stir  # call it when there is something to send
        self.next_id = itertools.count(1).__next__

    def __repr__(self) -> str:
        return f"<Engine {self.lane.stats}>"
