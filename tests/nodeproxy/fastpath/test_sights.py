"""What the fast path sees of a request, and what it leaves to the slow path because it cannot see it."""

from __future__ import annotations

import pytest

from nodeproxy import native
from policy.match import Look, looks
from policy.model import Request
from policy.route import Exact, HttpMatch, Regex
from tests.compiled import needs_lane

pytestmark = needs_lane

if native.AVAILABLE:
    from nodeproxy.fastpath.sights import Sight, program, shown, sight


def test_what_matches_look_at_is_gathered():
    matches = [
        HttpMatch("", headers=(("a", Exact("1")), ("b", Exact("1"))), query=(("a", Regex(".")),)),
        HttpMatch("", headers=(("a", Exact("2")), ("b", Regex("x")))),
        HttpMatch("", headers=(("a", Exact("1")), ("b", Exact("2")))),
    ]
    assert looks(matches) == (Look("a", False, ("1", "2")), Look("b", False), Look("a", True))
    assert looks([HttpMatch("", methods=("GET",))]) == ()


def test_nothing_beside_the_path():
    found = sight(("/a",), ())
    assert found == Sight(program(("/a",)), None)
    assert found.program is not None


def test_patterns_that_make_no_table_leave_each_path_by_itself():
    found = sight(("(?i)/a",), (Look("x", False, ("1",)),))
    assert found.program is None
    assert found.looks is not None


@pytest.mark.parametrize(
    "names",
    [
        "content-length",
        "x-forwarded-for",
        "x-forwarded-proto",
        "expect",
        "te",
        "connection",
        "upgrade",
        "x-edgemesh-reason",
        "\u00e4",
        " ".join(f"x-{number}" for number in range(17)),
    ],
)
def test_what_the_fast_path_cannot_see(names):
    """The slow path shows some fields to policy in another form than they came in."""
    assert sight((), tuple(Look(name, False, ("1",)) for name in names.split())) is None


def test_more_values_than_are_told_apart():
    assert sight((), (Look("x", False, tuple(map(str, range(256)))),)) is not None
    assert sight((), (Look("x", False, tuple(map(str, range(257)))),)) is None


def test_a_parameter_may_have_the_name_of_any_field():
    assert sight((), (Look("host", True, ("1",)), Look("te", True), Look("host", False))) is not None


def test_a_value_that_no_field_can_have():
    assert sight((), (Look("x", False, ("\u20ac",)),)) is not None


def test_a_request_as_a_head():
    request = Request("GET", "/a", [(b"host", b"h"), (b"x", b"\xe4")], (), b"/a?b=c")
    assert shown(request) == b"GET /a?b=c HTTP/1.1\r\nhost: h\r\nx: \xe4\r\n\r\n"
