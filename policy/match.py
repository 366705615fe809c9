"""Does this request fit: patterns of HTTPRouteGroups against paths and headers that an attacker chooses. The one door to RE2.

RE2 matches in linear time; its memory is bounded by MAX_MEM for each pattern or set, past which a match fails, which means that
nothing is admitted. The path patterns of one list of matches are one set: one pass over the path, whatever their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import re2

from policy.model import HttpMatch, Request

# A set's automaton is built as paths come in; 40 patterns and 1,200 hostile paths grew it by 84 MB without a bound.
MAX_MEM = 256 << 10
_LONGEST = 4096  # characters of a pattern; Envoy's limit is on program size, ours is what a person could mean


def _options() -> Any:
    options = re2.Options()
    options.max_mem = MAX_MEM
    options.log_errors = False
    options.never_capture = True
    return options


_OPTIONS = _options()


@lru_cache(maxsize=8192)
def bad_pattern(pattern: str) -> str:
    """Why a pattern cannot be used; "" when it can. The answer is kept, not the program: few of those are ever run alone."""
    if len(pattern) > _LONGEST:
        return f"is longer than {_LONGEST} characters"
    try:
        re2.compile(pattern, _OPTIONS)
    except UnicodeEncodeError:
        return "is not text"
    except re2.error as error:
        fault = error.args[0] if error.args else ""
        return fault.decode("utf-8", "replace") if isinstance(fault, bytes) else str(fault) or "not a regular expression"
    return ""


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    return re2.compile(pattern, _OPTIONS)


class _Patterns:
    """Which of these patterns fit a text. One pattern is a set too: asking a set costs a fifth of asking a pattern object."""

    __slots__ = ("_anchored", "_compiled", "_patterns", "_set")

    def __init__(self, patterns: tuple[str, ...], anchored: bool) -> None:
        self._patterns = patterns
        self._anchored = anchored
        self._compiled = False
        self._set: Any = None

    def fitting(self, text: str) -> Sequence[int]:
        """Their numbers, in no order, and perhaps one beyond the last."""
        if not self._compiled:
            self._compile()
        if self._set is not None:
            found: Sequence[int] = self._set.Match(text) or ()  # the wrapper says None for none
            # The empty pattern behind the others always fits: its absence tells that the automaton outgrew its memory.
            if len(self._patterns) in found:
                return found
        return [number for number, pattern in enumerate(self._patterns) if _fits(pattern, text, self._anchored)]

    def _compile(self) -> None:
        self._compiled = True
        made = re2.Set.MatchSet(_OPTIONS) if self._anchored else re2.Set.SearchSet(_OPTIONS)
        try:
            for pattern in (*self._patterns, ""):
                made.Add(pattern)
            made.Compile()
        except re2.error:
            return  # such a set must not be asked: the library would crash
        self._set = made


@lru_cache(maxsize=2048)
def _paths(patterns: tuple[str, ...]) -> _Patterns:
    """A1: anchored to the beginning of the path, and not to its end."""
    return _Patterns(patterns, anchored=True)


@lru_cache(maxsize=2048)
def _value(pattern: str) -> _Patterns:
    """A3: a header's pattern is searched; anchors of its own are honoured."""
    return _Patterns((pattern,), anchored=False)


def _fits(pattern: str, text: str, anchored: bool) -> bool:
    compiled = _compiled(pattern)
    return bool(compiled.match(text) if anchored else compiled.search(text))


class Matcher:
    """A list of matches, made ready on first use. Immutable to its users; two lists with the same patterns share one set."""

    __slots__ = ("_always", "_by_pattern", "_matches", "_patterns")

    def __init__(self, matches: Sequence[HttpMatch]) -> None:
        self._matches = tuple(matches)
        patterns: dict[str, list[int]] = {}
        always: list[int] = []
        for number, match in enumerate(self._matches):
            if match.path_regex is None:
                always.append(number)
            else:
                patterns.setdefault(match.path_regex, []).append(number)
        self._always = always
        self._patterns = tuple(patterns)
        self._by_pattern = list(patterns.values())

    def __repr__(self) -> str:
        return f"<Matcher of {len(self._matches)} matches, {len(self._patterns)} patterns>"

    def first(self, request: Request) -> int:
        """The number of the first match that fits, -1 when none does."""
        candidates = self._always
        if self._patterns:
            candidates = sorted({*candidates, *self._on_path(request.path)})
        for number in candidates:
            match = self._matches[number]
            if (not match.methods or request.method in match.methods) and (not match.headers or _headers_fit(match, request)):
                return number
        return -1

    def _on_path(self, path: str) -> list[int]:
        found = _paths(self._patterns).fitting(path)
        return [match for number in found if number < len(self._by_pattern) for match in self._by_pattern[number]]


def path_fits(match: HttpMatch, path: str) -> bool:
    return match.path_regex is None or 0 in _paths((match.path_regex,)).fitting(path)


def header_fits(pattern: str, value: str | None) -> bool:
    """A5: an absent header never fits."""
    return value is not None and 0 in _value(pattern).fitting(value)


def _headers_fit(match: HttpMatch, request: Request) -> bool:
    return all(header_fits(pattern, request.header(name)) for name, pattern in match.headers)  # N4: ANDed
