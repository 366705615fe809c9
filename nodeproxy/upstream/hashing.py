"""Consistent hashing: which endpoint a key leads to. Nodes agree, and few keys move when an endpoint comes or goes.

Ring: endpoints have points on a circle, and a key belongs to the next one (Karger et al., 1997; ketama). Maglev: each
endpoint fills a table in an order of its own (Eisenbud et al., NSDI 2016, section 3.4), whose shares are more even.
Neither is secret: a caller who chooses its key may choose its endpoint.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol as Interface

from policy.balancing import Balancing
from policy.candidates import Taker
from policy.model import Endpoint

_POINTS = 128  # of an endpoint on a ring: shares differ by about a tenth; ketama has 160
_MOST_POINTS = 8192  # of a ring: a larger one holds up the loop while it is made
_LEAST_POINTS = 8  # of an endpoint
# Sizes of Maglev's table, all of them prime: the first with a hundred slots for each endpoint, or else the last
_SIZES = (251, 1021, 4093, 16381)
_SLOTS = 100
_MOST_TABLES = 256  # ports of Services


class Table(Interface):
    """The order in which the endpoints are to be tried for a key, each once."""

    def order(self, key: bytes) -> Iterator[Endpoint]: ...


def _numbers(text: bytes, count: int) -> array[int]:
    """Return so many numbers of 64 bits that depend on the text alone."""
    found: array[int] = array("Q")
    for block in range(-(-count // 8)):
        digest = hashlib.blake2b(text, digest_size=64, salt=block.to_bytes(4, "big")).digest()
        found.extend(int.from_bytes(digest[at : at + 8], "big") for at in range(0, 64, 8))
    return found[:count]


def _sorted(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the endpoints in an order that all nodes have, whatever they know of the workloads there."""
    return sorted(endpoints, key=lambda one: (one.address, one.port))


class Ring:
    """A circle of points, of which each endpoint has equally many."""

    __slots__ = ("_endpoints", "_owners", "_points")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = _sorted(endpoints)
        each = max(_LEAST_POINTS, min(_POINTS, _MOST_POINTS // max(len(endpoints), 1)))
        points = [
            (point, number) for number, one in enumerate(self._endpoints) for point in _numbers(str(one).encode(), each)
        ]
        points.sort()
        self._points = array("Q", [point for point, _ in points])
        self._owners = array("I", [number for _, number in points])

    def order(self, key: bytes) -> Iterator[Endpoint]:
        at = bisect(self._points, _numbers(key, 1)[0])
        yield from _each_once(self._owners, at, self._endpoints)


class Maglev:
    """A table of prime size, whose slots the endpoints fill in turn."""

    __slots__ = ("_endpoints", "_slots")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = _sorted(endpoints)
        size = next((one for one in _SIZES if one >= _SLOTS * len(endpoints)), _SIZES[-1])
        free = len(endpoints)
        self._slots = array("I", [free]) * size
        order = []
        for one in self._endpoints:
            offset, skip = _numbers(str(one).encode(), 2)
            order.append([offset % size, skip % (size - 1) + 1])
        slots, left = self._slots, size
        while left:
            for number, place in enumerate(order):
                at, skip = place
                while slots[at] != free:
                    at = (at + skip) % size
                slots[at] = number
                place[0] = (at + skip) % size
                left -= 1
                if not left:
                    break

    def order(self, key: bytes) -> Iterator[Endpoint]:
        # Slots beside each other belong to endpoints in no order: the keys of one that is down are spread over all others.
        yield from _each_once(self._slots, _numbers(key, 1)[0] % len(self._slots), self._endpoints)


def _each_once(owners: array[int], at: int, endpoints: Sequence[Endpoint]) -> Iterator[Endpoint]:
    """Yield the owners from a place on, round the table, and then those that own nothing in it."""
    seen: set[int] = set()
    for step in range(len(owners)):
        owner = owners[(at + step) % len(owners)]
        if owner not in seen:
            seen.add(owner)
            yield endpoints[owner]
            if len(seen) == len(endpoints):
                return
    yield from (one for number, one in enumerate(endpoints) if number not in seen)


class Tables:
    """The tables of the Services' ports, made when they are first needed. The one unused for longest gives way."""

    def __init__(self) -> None:
        self._tables: OrderedDict[tuple[str, int], tuple[str, tuple[Endpoint, ...], Table]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tables)

    def of(self, taker: Taker, how: Balancing) -> Table:
        key = (taker.service.key, taker.port.port)
        kept = self._tables.get(key)
        # A snapshot has the endpoints of a port as one object, so they are seldom compared one by one.
        if kept is not None and kept[0] == how.algorithm and (kept[1] is taker.endpoints or kept[1] == taker.endpoints):
            if kept[1] is not taker.endpoints:
                self._tables[key] = (kept[0], taker.endpoints, kept[2])
            self._tables.move_to_end(key)
            return kept[2]
        made: Table = Ring(taker.endpoints) if how.algorithm == "ring-hash" else Maglev(taker.endpoints)
        self._tables[key] = (how.algorithm, taker.endpoints, made)
        self._tables.move_to_end(key)
        if len(self._tables) > _MOST_TABLES:
            self._tables.popitem(last=False)
        return made
