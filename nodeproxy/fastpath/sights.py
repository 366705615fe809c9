"""What decisions look at in a request, as the fast path compares it: requests that look alike are decided alike.

A path counts as the patterns that it fits, where these become a table (policy/automaton.py); a field or a parameter of
the query as the value that it has among those which rules ask for.
"""

from __future__ import annotations

import sys
from array import array
from functools import lru_cache
from typing import NamedTuple

from nodeproxy.codec.message import HOP_BY_HOP, OURS
from nodeproxy.native import Looks, Program
from policy import automaton
from policy.match import Look
from policy.model import Request

_MOST_STATES = 1024
_MOST_LOOKS = 16  # as nodeproxy/native/flow.h
_MOST_VALUES = 256
# Fields that the slow path shows to policy in another form than they came in, or not at all.
_OTHERWISE = HOP_BY_HOP | frozenset((b"content-length", b"expect", b"x-forwarded-for", b"x-forwarded-proto"))


class Sight(NamedTuple):
    """`program` None: no two paths are alike. `looks` None: nothing beside method, Host and path counts."""

    program: Program | None
    looks: Looks | None


@lru_cache(maxsize=256)
def sight(patterns: tuple[str, ...], looks: tuple[Look, ...]) -> Sight | None:
    """Return how requests are compared; None if the fast path cannot see all that is looked at."""
    made = _looks(looks)
    return None if made is None and looks else Sight(program(patterns), made)


@lru_cache(maxsize=256)
def program(patterns: tuple[str, ...]) -> Program | None:
    """Return which paths these patterns treat alike; None where no table of them can be made."""
    made = automaton.compile(patterns, _MOST_STATES)
    if made is None:
        return None
    sets = {accepts: number for number, accepts in enumerate(dict.fromkeys(made.accepts))}
    alike = b"".join(sets[accepts].to_bytes(2, sys.byteorder) for accepts in made.accepts)
    table = array("H", made.table)
    if sys.byteorder == "big":
        table.byteswap()
    return Program(made.width, made.classes, table.tobytes(), alike)


def _looks(looks: tuple[Look, ...]) -> Looks | None:
    if not looks or len(looks) > _MOST_LOOKS or sum(len(one.values) for one in looks) > _MOST_VALUES:
        return None
    told: list[tuple[bytes, bool, tuple[bytes, ...]]] = []
    for one in looks:
        try:
            name = one.name.encode("ascii")
        except UnicodeEncodeError:
            return None
        if not one.query and (name in _OTHERWISE or name.startswith(OURS)):
            return None
        # A value outside Latin-1 is that of no field. Without any, values are compared whole, which tells more apart.
        told.append((name, one.query, tuple(value.encode("latin-1") for value in one.values if _latin(value))))
    return Looks(tuple(told))


def _latin(value: str) -> bool:
    return all(ord(character) < 256 for character in value)


def shown(request: Request) -> bytes:
    """Return a request as the head that the fast path reads what is looked at from."""
    fields = b"".join(b"%b: %b\r\n" % field for field in request.fields)
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode("latin-1"), request.target, fields)
