"""route.py: what a Route may say, kept by its encoding, and which paths its three kinds of path fit."""

import msgspec
import pytest

from policy.automaton import compile as compiled
from policy.automaton import fitting
from policy.match import Matcher, bad_pattern, path_pattern
from policy.model import Request
from policy.route import Backend, Exact, HttpMatch, Prefix, Regex, Retry, Route, Rule, Timeouts

ROUTE = Route(
    "HTTPRoute shop/all",
    (
        Rule(
            (Backend("shop/v1", 3), Backend("shop/v2", 1)),
            (
                HttpMatch("a", Exact("/a"), ("GET",), (("x", Regex("^1")), ("y", Exact("2"))), (("q", Exact("")),)),
                HttpMatch("b", Prefix("/b")),
                HttpMatch("c", Regex("/c")),
            ),
            (),
            Timeouts(10.0, 2.0),
            Retry(2, (502, 503), 0.1),
        ),
        Rule((Backend("shop/v1", 1),)),
    ),
)


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_it_is_encoded_whole(codec):
    assert codec.decode(codec.encode(ROUTE), type=Route) == ROUTE


PATHS = ("/", "/a", "/a/", "/a/b", "/ab", "/a.b", "/axb", "/a$", "/a$/b", "/(a)|b", "/a+", "/aa", "/b")


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        (Exact("/a"), {"/a"}),
        (Exact("/a.b"), {"/a.b"}),
        (Exact("/a$"), {"/a$"}),
        (Exact("/(a)|b"), {"/(a)|b"}),
        (Exact("/a+"), {"/a+"}),
        (Prefix("/a"), {"/a", "/a/", "/a/b"}),
        (Prefix("/a/"), {"/a", "/a/", "/a/b"}),
        (Prefix("/a$"), {"/a$", "/a$/b"}),
        (Prefix("/"), set(PATHS)),
        (Regex("/a$"), {"/a"}),
        (Regex("/a"), set(PATHS) - {"/", "/b", "/(a)|b"}),
        (None, set(PATHS)),
    ],
)
def test_which_paths_fit(path, fits):
    matcher = Matcher([HttpMatch("m", path)])
    assert {one for one in PATHS if matcher.first(Request("GET", one)) == 0} == fits
    if path is not None:  # the native lane walks the same pattern
        assert not bad_pattern(path_pattern(path))
        automaton = compiled([path_pattern(path)])
        assert {one for one in PATHS if fitting(automaton, one.encode())} == fits
