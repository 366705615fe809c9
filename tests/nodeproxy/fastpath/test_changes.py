"""Filters as one change of the fast path: the same as they do one after the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy import native
from nodeproxy.codec.message import ResponseHead
from nodeproxy.protocols.http.filters import made, on_response
from policy.route import Fields, PathChange, Redirect, RequestFields, ResponseFields, Rewrite
from tests.compiled import needs_lane

pytestmark = needs_lane

if native.AVAILABLE:
    from nodeproxy.fastpath import changes as module
    from nodeproxy.fastpath.changes import changes


class Told:
    """A native Change that can be looked into."""

    def __init__(self, names, fields):
        self.names, self.fields = names, fields


names = st.sampled_from(("a", "b", "c"))
pairs = st.lists(st.tuples(names, st.sampled_from(("1", "2", ""))), max_size=3).map(tuple)
filters = st.lists(
    st.builds(Fields, set=pairs, add=pairs, remove=st.lists(names, max_size=2).map(tuple)).map(ResponseFields),
    max_size=3,
).map(tuple)


@given(filters, st.lists(st.tuples(names, st.sampled_from(("x", "y"))), max_size=4))
def test_one_change_does_what_the_filters_do(filters, came):
    changes.cache_clear()
    kept, module.Change = module.Change, Told
    try:
        asks, change = changes(filters)
    finally:
        module.Change = kept
        changes.cache_clear()
    assert asks is None
    response = ResponseHead(200, b"OK", 1)
    response.lines = [f"{name}: {value}".encode() for name, value in came]
    on_response(made(filters), None, response)
    gone, added = ((), ()) if change is None else (change.names, change.fields)
    left = [f"{name}: {value}".encode() for name, value in came if name.encode() not in gone]
    assert left + [name + b": " + value for name, value in added] == response.lines


@pytest.mark.parametrize(
    "one",
    [
        Redirect(),
        Rewrite(path=PathChange("/x")),
        Rewrite(host="x"),
        *(
            RequestFields(Fields(set=((name, "x"),)))
            for name in ("x-forwarded-proto", "traceparent", "content-type", "cookie", "host", "connection", "X-A")
        ),
        RequestFields(Fields(remove=("cookie",))),
        RequestFields(Fields(add=(("x", "\u20ac"),))),
        RequestFields(Fields(add=(("x", "a\r\nb: c"),))),
        RequestFields(Fields(add=tuple(("x", str(number)) for number in range(33)))),
        ResponseFields(Fields(remove=tuple(f"x-{number}" for number in range(33)))),
        ResponseFields(Fields(set=(("content-length", "0"),))),
    ],
    ids=repr,
)
def test_anything_else_is_left_to_the_slow_path(one):
    assert changes((one,)) is None
    assert changes((RequestFields(Fields(set=(("x-a", "1"),))), one)) is None


def test_each_direction_has_its_own_change():
    asks, answers = changes((RequestFields(Fields(set=(("x-a", "1"),))),))
    assert asks is not None
    assert answers is None
    assert changes(()) == (None, None)
