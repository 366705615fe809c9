"""match.py: sets agree with patterns one by one whatever their size; time and memory are bounded."""

import resource
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import match
from policy.match import Matcher, bad_pattern
from policy.model import HttpMatch, Request


@pytest.mark.parametrize("size", [1, 2, 50, 400, 3000])
def test_the_set_agrees_with_single_patterns_at_every_size(size):
    matcher = Matcher([HttpMatch(f"m{i}", f"/api/{i}/.*foo{i}$") for i in range(size)])
    last = size - 1
    assert matcher.first(Request("GET", f"/api/{last}/xx/foo{last}")) == last
    assert matcher.first(Request("GET", f"/api/{last}/xx/foo{size}")) == -1
    assert matcher.first(Request("GET", f"/x/api/{last}/xx/foo{last}")) == -1


def test_a_set_too_big_for_its_memory_is_tried_one_by_one(monkeypatch):
    monkeypatch.setattr(match._OPTIONS, "max_mem", 20_000)
    match._paths.cache_clear()
    matcher = Matcher([HttpMatch(str(i), f"/{i}[a-z]*[0-9]*x") for i in range(300)])
    assert matcher.first(Request("GET", "/7abc12x")) == 7
    match._paths.cache_clear()


def test_the_first_match_that_fits_wins():
    matcher = Matcher([HttpMatch("a", "/x", ("POST",)), HttpMatch("b", "/x"), HttpMatch("c"), HttpMatch("d", "/x")])
    assert matcher.first(Request("POST", "/x")) == 0
    assert matcher.first(Request("GET", "/x")) == 1
    assert matcher.first(Request("GET", "/y")) == 2


@pytest.mark.parametrize("pattern", ["(", r"(?=x)", r"(a)\1", "a++", "[z-a]", "*", "x" * 5000, "/\ud800"])
def test_what_re2_does_not_take_is_said(pattern):
    assert bad_pattern(pattern)


@given(st.text(max_size=40))
def test_any_text_is_a_pattern_or_has_a_reason(pattern):
    if not bad_pattern(pattern):
        Matcher([HttpMatch("m", pattern)]).first(Request("GET", "/" + pattern))


def test_hostile_patterns_and_paths_cost_little_time_and_memory():
    matcher = Matcher([HttpMatch(str(i), f"/(a|b)*a(a|b){{{8 + i % 8}}}c{i}$") for i in range(40)] + [HttpMatch("x", "(a+)+$")])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    for seed in range(150):
        path = "/" + "".join("ab"[(seed * i * i + i // 3) % 2] for i in range(4000))
        assert matcher.first(Request("GET", path)) == -1
    assert time.process_time() - began < 20, "linear, not exponential"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000, "KiB"
