"""Reachability of other nodes: whether the last attempt worked, since when, and why not (sans-IO).

Nothing is sent to find out: calls show it. A change is a line in the log, which dates a link that broke at night.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from functools import partial

from msgspec import Struct

from nodeproxy.errors import Refused
from policy.model import Hop

log = logging.getLogger("edgemesh.peers")

_BOOTTIME = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
MOST = 1000  # places remembered; a mesh of pods without node addresses has one for each called pod


class Neighbour(Struct):
    """Reachability of one node. Times are seconds of a clock that is never set and runs on during sleep."""

    reachable: bool
    since: float  # time of the last change
    seen: float = float("-inf")  # time of the last connection that was made or ended in order
    flag: str = ""  # of the last failure
    error: str = ""


class Neighbours:
    """Reachability by node name, or by the address of a workload's own listener where its node says no address."""

    def __init__(self, clock: Callable[[], float] = _BOOTTIME) -> None:
        self.clock = clock
        self._known: dict[str, Neighbour] = {}

    def __repr__(self) -> str:
        return f"<Neighbours {sum(one.reachable for one in self._known.values())}/{len(self._known)} reachable>"

    def items(self) -> list[tuple[str, Neighbour]]:
        return sorted(self._known.items())

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def met(self, hop: Hop) -> None:
        """Note that a connection to that place proved good."""
        now, name = self.clock(), name_of(hop)
        known = self._known.get(name)
        if known is None:
            known = self._keep(name, Neighbour(True, now))
        elif not known.reachable:
            log.warning("%s is reached again, after %.0f s", words(hop), now - known.since)
            known.reachable, known.since = True, now
        known.seen = now

    def left(self, hop: Hop) -> None:
        """Note that a connection to that place ended in order."""
        if (known := self._known.get(name_of(hop))) is not None:
            known.seen = self.clock()

    def failed(self, hop: Hop, failure: Refused) -> None:
        """Note that a connection to that place could not be made, or broke."""
        now, name = self.clock(), name_of(hop)
        known = self._known.get(name) or self._keep(name, Neighbour(True, now))
        if known.reachable:
            log.warning("%s cannot be reached: %s: %s", words(hop), failure.flag, failure.detail)
            known.reachable, known.since = False, now
        known.flag, known.error = failure.flag, failure.detail

    def retain(self, names: Collection[str]) -> None:
        """Forget places that are no part of the mesh any more."""
        for name in self._known.keys() - set(names):
            del self._known[name]

    def _keep(self, name: str, known: Neighbour) -> Neighbour:
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[name] = known
        return known


def name_of(hop: Hop) -> str:
    return hop.node or hop.address


def words(hop: Hop) -> str:
    """Return the place in words for people."""
    return f"node {hop.node} ({hop.address})" if hop.node else f"the workload's door at {hop.address}"
