"""Does a request fit a match: patterns against paths, headers and queries that an attacker chooses.

The only file that imports RE2.

RE2 matches in linear time. MAX_MEM bounds its memory for each pattern or set. Past that bound a match fails, so nothing
is admitted. The path patterns of one list of matches form one set: one pass over the path, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import re2
from msgspec import Struct

from policy.model import Request
from policy.route import Exact, HttpMatch, Prefix, Regex

# A set's automaton grows as paths arrive: 40 patterns and 1,200 hostile paths grew it by 84 MB without a bound.
MAX_MEM = 256 << 10
_SPECIAL = frozenset("\\.+*?()|[]{}^$")
_LONGEST = 4096  # characters of a pattern; Envoy limits program size, this limits what a person could mean


def _options() -> Any:
    options = re2.Options()
    options.max_mem = MAX_MEM
    options.log_errors = False
    options.never_capture = True
    return options


_OPTIONS = _options()


@lru_cache(maxsize=8192)
def bad_pattern(pattern: str) -> str:
    """Return why a pattern cannot be used; "" if it can.

    The reason is cached, not the program: few programs ever run outside a set.
    """
    if len(pattern) > _LONGEST:
        return f"is longer than {_LONGEST} characters"
    try:
        re2.compile(pattern, _OPTIONS)
    except UnicodeEncodeError:
        return "is not text"
    except re2.error as error:
        fault = error.args[0] if error.args else ""
        return (
            fault.decode("utf-8", "replace") if isinstance(fault, bytes) else str(fault) or "not a regular expression"
        )
    return ""


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    return re2.compile(pattern, _OPTIONS)


class _Patterns:
    """Which of these patterns fit a text.

    A single pattern is a set too: matching a set costs a fifth of matching a pattern object.
    """

    __slots__ = ("_anchored", "_compiled", "_patterns", "_set")

    def __init__(self, patterns: tuple[str, ...], anchored: bool) -> None:
        self._patterns = patterns
        self._anchored = anchored
        self._compiled = False
        self._set: Any = None

    def fitting(self, text: str) -> Sequence[int]:
        """Return the numbers of the patterns that fit, in no order, and perhaps one number beyond the last."""
        if not self._compiled:
            self._compile()
        if self._set is not None:
            found: Sequence[int] = self._set.Match(text) or ()  # the wrapper returns None for no match
            # The empty pattern behind the others always fits. If it is absent, the automaton exceeded its memory bound.
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
            return  # the library would crash if such a set were matched
        self._set = made


@lru_cache(maxsize=2048)
def _paths(patterns: tuple[str, ...]) -> _Patterns:
    """Compile path patterns. A1: anchored to the beginning of the path, and not to its end."""
    return _Patterns(patterns, anchored=True)


@lru_cache(maxsize=2048)
def _value(name: str, pattern: str) -> _Patterns:
    """Compile the pattern of a field's value. A3: it is searched in a header's value; its own anchors are honoured.

    Hosts are case-insensitive (RFC 9110 section 4.2.3).
    """
    return _Patterns((f"(?i){pattern}" if name == "host" else pattern,), anchored=False)


def _fits(pattern: str, text: str, anchored: bool) -> bool:
    compiled = _compiled(pattern)
    return bool(compiled.match(text) if anchored else compiled.search(text))


def path_pattern(path: Exact | Prefix | Regex) -> str:
    """Return the pattern that fits the same paths. It is anchored at the beginning and not at the end."""
    match path:
        case Regex(value):
            return value
        case Exact(value):
            return f"{_escaped(value)}$"
        case Prefix(value):
            return f"{_escaped(value.rstrip('/'))}(?:/|$)"


def _value_pattern(wanted: Exact | Regex) -> str:
    return wanted.value if isinstance(wanted, Regex) else f"^{_escaped(wanted.value)}$"


def _escaped(text: str) -> str:
    """Escape every character that RE2, or the parser of automaton.py, would not read as itself."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in text)


class Look(Struct, frozen=True):
    """A field, or a parameter of the query, that matches look at: all that they want to know of its value."""

    name: str
    query: bool
    values: tuple[str, ...] = ()  # whether it is one of these; (): patterns may ask anything


def path_patterns(matches: Iterable[HttpMatch]) -> tuple[str, ...]:
    """Return every pattern that these matches try on a path."""
    every = (path for match in matches for path in (match.path, *match.also) if path is not None)
    return tuple(dict.fromkeys(path_pattern(path) for path in every))


def looks(matches: Iterable[HttpMatch]) -> tuple[Look, ...]:
    """Return what these matches look at beside method and path. Requests that look alike fit the same matches."""
    found: dict[tuple[str, bool], dict[str, None] | None] = {}
    for match in matches:
        for query, wanted in ((False, match.headers), (True, match.query)):
            for name, value in wanted:
                values = found.setdefault((name, query), {})
                if isinstance(value, Regex):
                    found[name, query] = None
                elif values is not None:
                    values[value.value] = None
    return tuple(Look(name, query, tuple(values or ())) for (name, query), values in found.items())


class Matcher:
    """A list of matches, compiled on first use. Immutable to its users. Lists with the same patterns share one set."""

    __slots__ = ("_always", "_by_pattern", "_matches", "_more", "_patterns")

    def __init__(self, matches: Sequence[HttpMatch]) -> None:
        self._matches = tuple(matches)
        # Whether a match looks at more than method and one pattern of the path
        self._more = [bool(match.headers or match.query or match.also) for match in self._matches]
        patterns: dict[str, list[int]] = {}
        always: list[int] = []
        for number, match in enumerate(self._matches):
            if match.path is None:
                always.append(number)
            else:
                patterns.setdefault(path_pattern(match.path), []).append(number)
        self._always = always
        self._patterns = tuple(patterns)
        self._by_pattern = list(patterns.values())

    def __repr__(self) -> str:
        return f"<Matcher of {len(self._matches)} matches, {len(self._patterns)} patterns>"

    def first(self, request: Request) -> int:
        """Return the number of the first match that fits, -1 if none does."""
        candidates = self._always
        if self._patterns:
            fitting = set(self._on_path(request.path))
            for other in request.others:
                fitting.intersection_update(self._on_path(other))
            candidates = sorted(fitting.union(candidates))
        for number in candidates:
            match = self._matches[number]
            if (not match.methods or request.method in match.methods) and (
                not self._more[number] or _fields_fit(match, request)
            ):
                return number
        return -1

    def possible(self, request: Request) -> list[int]:
        """Return the numbers of all matches that fit one of the readings of the path: what is limited, not admitted."""
        found = set(self._always)
        if self._patterns:
            for path in (request.path, *request.others):
                found.update(self._on_path(path))
        return [
            number
            for number in sorted(found)
            if (not self._matches[number].methods or request.method in self._matches[number].methods)
            and (not self._more[number] or _fields_fit(self._matches[number], request))
        ]

    def _on_path(self, path: str) -> list[int]:
        found = _paths(self._patterns).fitting(path)
        return [match for number in found if number < len(self._by_pattern) for match in self._by_pattern[number]]


def path_fits(match: HttpMatch, request: Request) -> bool:
    """Return whether the path fits under every possible reading."""
    return match.path is None or all(_path_fits(one, request) for one in (match.path, *match.also))


def _path_fits(wanted: Exact | Prefix | Regex, request: Request) -> bool:
    patterns = _paths((path_pattern(wanted),))
    return all(0 in patterns.fitting(path) for path in (request.path, *request.others))


def value_fits(name: str, wanted: Exact | Regex, value: str | None) -> bool:
    """Return whether the value of this (lower-case) header field or query parameter fits.

    A5: an absent one never does.
    """
    return value is not None and 0 in _value(name, _value_pattern(wanted)).fitting(value)


def parameter(request: Request, name: str) -> str | None:
    """Return the first value of a query parameter, with escapes decoded; None if it is absent."""
    pairs = parse_qsl(request.target.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)
    return next((value for one, value in pairs if one == name), None)


def _fields_fit(match: HttpMatch, request: Request) -> bool:
    """Return whether the header fields, the query and the other patterns of the path fit.

    N4: they are ANDed. A parameter called "host" is no host: its case counts.
    """
    if match.also and not all(_path_fits(one, request) for one in match.also):
        return False
    return all(value_fits(name, wanted, request.header(name)) for name, wanted in match.headers) and all(
        value_fits("", wanted, parameter(request, name)) for name, wanted in match.query
    )
