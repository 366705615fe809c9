"""How often a source may fail: a bound for each source, and one for all of them together."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

_MINUTE = 60.0
_SOURCES = 1024  # sources remembered at once


class FailureLimit:
    """Counts failures of the last minute.

    By a monotonic clock: setting the wall clock resets no count and locks out no source.
    """

    def __init__(self, of_source: int, of_all: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._of_source = of_source
        self._of_all = of_all
        self._clock = clock
        self._begin = clock()
        self._all = 0
        self._sources: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<FailureLimit {self._all} failed in this minute>"

    def too_many_of(self, source: str) -> bool:
        self._turn()
        return self._sources.get(_key(source), 0) >= self._of_source

    def too_many(self) -> bool:
        self._turn()
        return self._all >= self._of_all

    def failed(self, source: str) -> None:
        self._turn()
        self._all += 1
        key = _key(source)
        if key in self._sources or len(self._sources) < _SOURCES:
            self._sources[key] = self._sources.get(key, 0) + 1

    def _turn(self) -> None:
        now = self._clock()
        if now - self._begin >= _MINUTE:
            self._begin, self._all, self._sources = now, 0, {}


def _key(source: str) -> str:
    """Return the network a source is counted by: a host with one IPv6 address has a /64 (RFC 4291 section 2.5.4)."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
