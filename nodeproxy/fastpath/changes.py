"""Filters that the fast path applies itself: those that set, add and remove fields (policy/route.py)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from nodeproxy.codec.message import HOP_BY_HOP, check_field
from nodeproxy.native import Change
from policy.route import Fields, Filter, RequestFields, ResponseFields

_MOST = 32  # as nodeproxy/native/head.h, MOST_CHANGES
# Fields of a request that the data plane reads behind the filters, or writes itself: a rule that changes one of them is
# left to the slow path.
_READ_LATER = HOP_BY_HOP | frozenset((b"x-forwarded-proto", b"traceparent", b"content-type", b"cookie"))


@lru_cache(maxsize=256)
def changes(filters: tuple[Filter, ...]) -> tuple[Change | None, Change | None] | None:
    """Return what these filters do to the fields of a request and of its response; None if they do anything else."""
    request: list[Fields] = []
    response: list[Fields] = []
    for one in filters:
        if isinstance(one, RequestFields):
            request.append(one.change)
        elif isinstance(one, ResponseFields):
            response.insert(0, one.change)  # the last filter of the rule acts first
        elif not one.replayable:
            return None
    try:
        return _change(request, _READ_LATER), _change(response, frozenset())
    except ValueError:
        return None


def _change(all_fields: Iterable[Fields], not_these: frozenset[bytes]) -> Change | None:
    """Return one change that does the same as these, one after the other. Raise ValueError if there is none."""
    gone: dict[bytes, None] = {}
    added: list[tuple[bytes, bytes]] = []
    for fields in all_fields:
        for name, value in _encoded(fields.set):
            gone[name] = None
            added = [field for field in added if field[0] != name]
            added.append((name, value))
        added += _encoded(fields.add)
        for name in (name.encode("latin-1") for name in fields.remove):
            gone[name] = None
            added = [field for field in added if field[0] != name]
    for name, value in (*added, *((name, b"") for name in gone)):
        check_field(name, value)
        if name in not_these:
            raise ValueError(f"the field {name!r} is the slow path's to change")
    if len(gone) > _MOST or len(added) > _MOST:
        raise ValueError("more fields than the fast path changes")
    return Change(tuple(gone), tuple(added)) if gone or added else None


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
