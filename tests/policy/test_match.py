"""match.py: sets agree with patterns one by one whatever their size; time and memory are bounded."""

import resource
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import match
from policy.match import Matcher, bad_pattern
from policy.model import Request
from policy.route import Exact, HttpMatch, Prefix, Regex


@pytest.mark.parametrize("size", [1, 2, 50, 400, 3000])
def test_the_set_agrees_with_single_patterns_at_every_size(size):
    matcher = Matcher([HttpMatch(f"m{i}", Regex(f"/api/{i}/.*foo{i}$")) for i in range(size)])
    last = size - 1
    assert matcher.first(Request("GET", f"/api/{last}/xx/foo{last}")) == last
    assert matcher.first(Request("GET", f"/api/{last}/xx/foo{size}")) == -1
    assert matcher.first(Request("GET", f"/x/api/{last}/xx/foo{last}")) == -1


def test_a_set_too_big_for_its_memory_is_tried_one_by_one(monkeypatch):
    monkeypatch.setattr(match._OPTIONS, "max_mem", 20_000)
    match._paths.cache_clear()
    matcher = Matcher([HttpMatch(str(i), Regex(f"/{i}[a-z]*[0-9]*x")) for i in range(300)])
    assert matcher.first(Request("GET", "/7abc12x")) == 7
    match._paths.cache_clear()


def test_a_set_that_gave_up_in_the_middle_of_a_path_is_not_believed():
    """The pattern that always fits is missing from what it answers: its automaton outgrew its memory. Then each is tried by itself."""
    patterns = match._Patterns(("/a", "/b", "/c"), anchored=True)
    patterns._compile()

    class GaveUp:
        answers = (0,)

        def Match(self, text):
            return self.answers

    patterns._set = GaveUp()
    assert list(patterns.fitting("/b/1")) == [1], "neither what it said nor what it left out"
    GaveUp.answers = None
    assert list(patterns.fitting("/c")) == [2]
    GaveUp.answers = (0, 3)
    assert 0 in patterns.fitting("/b/1"), "one that read the whole path is"


def test_every_set_has_a_quarter_of_a_mebibyte():
    """What hostile patterns and paths may cost: a list that needs more memory than that gets no set, and is tried one by one."""
    assert match._options().max_mem == match.MAX_MEM == 256 << 10
    patterns = match._Patterns(tuple(f"/api/{i}/.*foo{i}$" for i in range(1000)), anchored=True)
    patterns._compile()
    assert patterns._set is None
    assert list(patterns.fitting("/api/7/xx/foo7")) == [7]


def test_the_first_match_that_fits_wins():
    matcher = Matcher(
        [
            HttpMatch("a", Regex("/x"), ("POST",)),
            HttpMatch("b", Regex("/x")),
            HttpMatch("c"),
            HttpMatch("d", Regex("/x")),
        ]
    )
    assert matcher.first(Request("POST", "/x")) == 0
    assert matcher.first(Request("GET", "/x")) == 1
    assert matcher.first(Request("GET", "/y")) == 2


def test_the_host_is_the_same_in_any_case():
    """RFC 9110 section 4.2.3. Other fields mean what they mean to their server."""
    asks = Matcher([HttpMatch("m", headers=(("host", Regex("^Store(:80)?$")),))])
    for host in (b"store", b"STORE:80", b"Store"):
        assert asks.first(Request("GET", "/", [(b"host", host)])) == 0
    assert asks.first(Request("GET", "/", [(b"host", b"stores")])) == -1
    assert asks.first(Request("GET", "/")) == -1
    assert (
        Matcher([HttpMatch("m", headers=(("x-tenant", Regex("^a$")),))]).first(
            Request("GET", "/", [(b"x-tenant", b"A")])
        )
        == -1
    )


@pytest.mark.parametrize("pattern", ["(", r"(?=x)", r"(a)\1", "a++", "[z-a]", "*", "x" * 5000, "/\ud800"])
def test_what_re2_does_not_take_is_said(pattern):
    assert bad_pattern(pattern)


@given(st.text(max_size=40))
def test_any_text_is_a_pattern_or_has_a_reason(pattern):
    if not bad_pattern(pattern):
        Matcher([HttpMatch("m", Regex(pattern))]).first(Request("GET", "/" + pattern))


def test_hostile_patterns_and_paths_cost_little_time_and_memory():
    matcher = Matcher(
        [HttpMatch(str(i), Regex(f"/(a|b)*a(a|b){{{8 + i % 8}}}c{i}$")) for i in range(40)]
        + [HttpMatch("x", Regex("(a+)+$"))]
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    for seed in range(150):
        path = "/" + "".join("ab"[(seed * i * i + i // 3) % 2] for i in range(4000))
        assert matcher.first(Request("GET", path)) == -1
    assert time.process_time() - began < 20, "linear, not exponential"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000, "KiB"


@pytest.mark.parametrize(
    ("path", "others", "fits"),
    [
        ("/a/new", (), True),
        ("/a/old", (), False),
        ("/b/new", (), False),
        ("/a%2Fnew", ("/a/new",), False),  # a server that reads the first spelling does not see what both patterns want
    ],
)
def test_a_path_may_have_to_fit_several_patterns(path, others, fits):
    both = HttpMatch("m", Regex("/a/"), also=(Regex(".*new$"),))
    assert (Matcher([both]).first(Request("GET", path, (), others)) == 0) == fits
    assert match.path_fits(both, Request("GET", path, (), others)) == fits


def test_possible_matches_are_those_that_fit_one_reading():
    matcher = Matcher(
        [
            HttpMatch("all"),
            HttpMatch("post", methods=("POST",)),
            HttpMatch("a", Regex("/a/")),
            HttpMatch("x", Regex("/a/"), headers=(("x", Exact("1")),)),
            HttpMatch("b", Prefix("/b")),
        ]
    )
    assert matcher.possible(Request("GET", "/a/b")) == [0, 2]
    assert matcher.possible(Request("POST", "/a/b", [(b"x", b"1")])) == [0, 1, 2, 3]
    odd = Request("GET", "/a%2Fb", (), ("/a/b",))
    assert matcher.possible(odd) == [0, 2]
    assert matcher.first(odd) == 0
    assert Matcher([HttpMatch("a", Regex("/a/"))]).first(odd) == -1, "what is admitted has to fit both"
    assert matcher.possible(Request("GET", "/b/c")) == [0, 4]
