"""Connections that have proved nothing yet: bounded, so that they cannot keep others from connecting.

Theory of operation. A connection counts as unauthenticated from its first byte until its certificate was seen. That
takes an honest caller two round trips; an attacker stays until the deadline. So when all places are taken, no
connection is refused. The one that has waited longest is closed: first of the same source, then of all. Sources that
the mesh knows (addresses of its nodes and workloads) have places of their own, which strangers cannot take. A source is
an IPv4 address, or the /64 of an IPv6 one, since one host has all addresses of a /64 (RFC 4291 section 2.5.4, RFC
7421).
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections import OrderedDict
from collections.abc import Iterator

import trio

MOST = 256  # strangers that wait at once, and as many known sources; a TLS handshake in progress holds some 50 KiB
OF_SOURCE = 32  # of these, from one source: a site of nodes behind one NAT that all reconnect at once

# Connections at once, and a second. Starting a handshake costs the loop a millisecond: this bounds that cost.
PACE_OF_SOURCE, PACE_OF_STRANGERS, PACE_OF_KNOWN = (64, 20.0), (512, 200.0), (256, 100.0)
_SOURCES = 4096  # remembered; the oldest are forgotten


def source(address: str) -> str:
    """Return the unit of counting: an IPv4 address, or the network of an IPv6 one that one host may have to itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


class Waiting:
    """One connection that has proved nothing yet."""

    __slots__ = ("scope", "sent_away", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.scope = trio.CancelScope()
        self.sent_away = False  # cancelled to make room for others

    def __repr__(self) -> str:
        return f"<Waiting from {self.source}>"


class Pace:
    """A token bucket."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, pace: tuple[int, float], now: float) -> None:
        self._burst, self._rate = pace
        self._left, self._at = float(self._burst), now

    def take(self, now: float) -> bool:
        self._left, self._at = min(self._burst, self._left + (now - self._at) * self._rate), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Anteroom:
    """All unauthenticated connections of one kind of listener."""

    def __init__(
        self,
        most: int = MOST,
        of_source: int = OF_SOURCE,
        pace: tuple[tuple[int, float], ...] = (PACE_OF_SOURCE, PACE_OF_STRANGERS, PACE_OF_KNOWN),
    ) -> None:
        """`pace`: of a source, of all strangers, of a source that is known."""
        self._pace = pace
        self._most, self._of_source = most, of_source
        # Strangers, known sources; in the order of arrival.
        self._rooms: tuple[dict[Waiting, None], dict[Waiting, None]] = ({}, {})
        self._by_source: dict[str, dict[Waiting, None]] = {}
        self._paces: OrderedDict[str, Pace] = OrderedDict()
        self._strangers: Pace | None = None
        self.sent_away = 0
        self.too_often = 0

    def __repr__(self) -> str:
        return f"<Anteroom {len(self)} waiting, {self.sent_away} sent away>"

    def __len__(self) -> int:
        return sum(map(len, self._rooms))

    def admits(self, address: str, known: bool, now: float) -> bool:
        """Return whether one more connection may begin.

        False: connections come too often from this source, or from strangers in total.
        """
        name = source(address)
        pace = self._paces.get(name)
        if pace is None:
            pace = self._paces[name] = Pace(self._pace[2 if known else 0], now)
            if len(self._paces) > _SOURCES:
                self._paces.popitem(last=False)
        if self._strangers is None:
            self._strangers = Pace(self._pace[1], now)
        if pace.take(now) and (known or self._strangers.take(now)):
            return True
        self.too_often += 1
        return False

    @contextlib.contextmanager
    def waits(self, address: str, known: bool) -> Iterator[Waiting]:
        """Hold a place while a caller proves its identity.

        When others need the place the block is cancelled, and `sent_away` is true.
        """
        waiting = Waiting(source(address))
        room = self._rooms[known]
        of_source = self._by_source.setdefault(waiting.source, {})
        if len(of_source) >= self._of_source:
            self._send_away(next(iter(of_source)))
        elif len(room) >= self._most:
            self._send_away(next(iter(room)))
        self._by_source.setdefault(waiting.source, of_source)[waiting] = None
        room[waiting] = None
        try:
            with waiting.scope:
                yield waiting
        finally:
            self._leave(waiting)

    def _send_away(self, waiting: Waiting) -> None:
        self.sent_away += 1
        waiting.sent_away = True
        waiting.scope.cancel()
        self._leave(waiting)  # free the place at once

    def _leave(self, waiting: Waiting) -> None:
        for room in self._rooms:
            room.pop(waiting, None)
        of_source = self._by_source.get(waiting.source)
        if of_source is not None:
            of_source.pop(waiting, None)
            if not of_source:
                del self._by_source[waiting.source]
