"""The table says what RE2 says, for every pattern that it takes; and it takes no other."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policy import automaton
from policy.match import _paths, bad_pattern

TAKEN = [
    "/books", "/books.*", "/", ".*", "/.*", "", "/books$", "^/books$", "/(a|b)", "/(?:a|bc)*d", "/[a-z]+/[0-9]{1,3}", "/[^/]+/x", r"/\d+", r"/\w*\.js", "/a?b+c*?",
    "/items(/.*)?$", r"/v1\.0/x", "/(?P<id>[0-9]+)/edit", "a|b", "^/a|^/b", "/a{2}", "/a{2,}", "/(a{0,2}){1,2}$", "/x(|y)z", "$", "(a|b)$|/c", "/[a-c_.-]x"[:-3] + "]", r"/[\w.]+", r"\/books", "/a|/b$",
]  # fmt: skip
NOT_TAKEN = [
    r"\bx", "(?i)/a", "(?=x)", "(?<!x)", r"\pL", "[[:alpha:]]", r"\x41", r"\Qa\E", "a{,3}", "a{1000}", r"\z", r"\A/", "(?s).", "ä", "[a-ä]", "x^", "[]a]", r"\101", "(?#x)", "[a&&b]",
    "a**", "a{2}{3}", r"(a)\1", "a++", "(?>a)", "[[a]", "(?U)a", r"\C", "[a--b]",
]  # fmt: skip
PATHS = st.text("/abcdx019._-~$^({[+é"[:-1], max_size=12) | st.sampled_from(
    ["/books", "/books/1", "/a", "/b", "/aa", "/items", "/items/", "/v1.0/x", "/12/edit"]
)


def by_re2(patterns, path):
    return tuple(sorted(n for n in _paths(tuple(patterns)).fitting(path) if n < len(patterns)))


def agree(patterns, path):
    made = automaton.compile(patterns)
    if made is not None:
        assert automaton.fitting(made, path.encode()) == by_re2(patterns, path), (patterns, path)
    return made


@pytest.mark.parametrize("pattern", TAKEN)
@given(path=PATHS)
def test_patterns_that_are_taken(pattern, path):
    assert agree([pattern], path) is not None


@pytest.mark.parametrize("pattern", NOT_TAKEN)
def test_patterns_that_are_not(pattern):
    assert automaton.compile([pattern]) is None


ATOMS = st.sampled_from(
    [
        "a",
        "b",
        "/",
        "x",
        ".",
        r"\d",
        r"\w",
        r"\W",
        "[ab]",
        "[^a]",
        "[0-9a-c]",
        r"\.",
        "$",
        "^",
        "-",
        "~",
        r"\s",
        r"\S",
        r"\$",
        "{",
        "]",
        "1",
    ]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4).map("".join)
        | inner.map(lambda one: f"({one})")
        | st.tuples(inner, inner).map("|".join)
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,}", "{1}?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        )
        | st.tuples(ATOMS, st.sampled_from(["*", "+", "?", "{2}", "{0,1}"])).map("".join)
    ),
    max_leaves=8,
)


@settings(max_examples=600, deadline=None)
@given(
    patterns=st.lists(PATTERNS | st.sampled_from(TAKEN), min_size=1, max_size=4),
    paths=st.lists(PATHS | st.text("ab/x1.", max_size=8), min_size=1, max_size=8),
)
@example(patterns=["(?:$)*a"], paths=["a", ""])
@example(patterns=["(?:^)+a"], paths=["a", "ba"])
@example(patterns=["(?:a|$)b"], paths=["ab", "b", "a"])
@example(patterns=["a*^b"], paths=["b", "ab"])
def test_random_patterns(patterns, paths):
    if any(map(bad_pattern, patterns)):
        assert [p for p in patterns if bad_pattern(p)]  # RE2 refuses it: it never gets here
        return
    for path in paths:
        agree(patterns, path)


@settings(max_examples=300, deadline=None)
@given(
    pattern=st.text(r"ab/\()[]{}*+?|^$.,-01dwsDWSPz:<>=!&~", max_size=10),
    paths=st.lists(st.text("ab/01.-$^{},", max_size=6), max_size=6),
)
def test_arbitrary_text(pattern, paths):
    if not bad_pattern(pattern):
        for path in paths:
            agree([pattern], path)


def test_many_patterns_share_a_table():
    patterns = [f"/service-{n}/[0-9]+/items" for n in range(40)]
    made = automaton.compile(patterns)
    assert made is not None
    assert automaton.fitting(made, b"/service-7/123/items/9") == (7,)
    assert automaton.fitting(made, b"/service-39/x") == ()


@pytest.mark.parametrize(
    "patterns",
    [
        ["(a|aa)*b{1,64}" * 40],
        [f"/[ab]*a[ab]{{{n}}}" for n in range(20)],
        [f"/{n}" * 40 for n in range(3000)],
        ["(" * 3000 + ")" * 3000],
    ],
)
def test_what_would_be_large_is_refused(patterns):
    assert automaton.compile(patterns) is None


def test_no_pattern_tells_no_path_apart():
    made = automaton.compile([])
    assert made is not None
    assert set(made.accepts) == {()}
