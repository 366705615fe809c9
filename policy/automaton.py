"""Compile RE2 path patterns to one DFA for the fast path. The DFA takes one step per byte of a path (pure).

A pattern is anchored at the beginning of a path but not at its end: a pattern that fits a beginning fits the whole
path, unless it says `$`. `compile` accepts only patterns that Python's parser and RE2 certainly read alike, and only
while the table stays small. For other patterns it returns None, and the caller matches each path by itself. A path is
printable ASCII (nodeproxy/native/head.c lets no other bytes through).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from msgspec import Struct

_PRINTABLE = range(0x21, 0x7F)
_ALL = sum(1 << byte for byte in _PRINTABLE)
_MOST_REPEATS = 64
_MOST_NODES = 20_000
_MOST_WORK = 60_000  # steps of the construction: about 30 ms
_MOST_TEXT = 8192  # characters of all patterns together

# The syntax that both read alike: no flags, no look-around, no named classes, no escapes except of punctuation and the
# six below, no unbalanced braces.
_PLAIN = re.compile(
    r"""(?: [^\\()\[\]{}*+?|] | \\[dDwWsS] | \\[^\w\s] | \| | \)
        | \((?:\?:|\?P<[A-Za-z_]\w*>)? (?!\?)
        | \[\^?(?:[^\\\[\]&~|-] | \\[dDwWsS] | \\[^\w\s] | (?<=[\w.])-(?=\w))+\]
        | [*+?]\?? (?![*+?{]) | \{[0-9]{1,3}(?:,[0-9]{0,3})?\}\?? (?![*+?{])
    )*""",
    re.VERBOSE | re.ASCII,
)
_DIGIT = sum(1 << byte for byte in b"0123456789")
_WORD = _DIGIT | sum(1 << byte for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_CATEGORIES = {
    op.CATEGORY_DIGIT: _DIGIT,
    op.CATEGORY_NOT_DIGIT: _ALL & ~_DIGIT,
    op.CATEGORY_WORD: _WORD,
    op.CATEGORY_NOT_WORD: _ALL & ~_WORD,
    op.CATEGORY_SPACE: 0,
    op.CATEGORY_NOT_SPACE: _ALL,
}


class Automaton(Struct, frozen=True):
    """`table[state * width + classes[byte]]` is the next state, from state 0. 16-bit numbers, little-endian."""

    classes: bytes  # 256 of them
    width: int
    table: bytes
    accepts: tuple[tuple[int, ...], ...]  # by state: the patterns that fit a path which ends there


class _Refused(Exception):  # noqa: N818
    """Python and RE2 may read the pattern differently, or the table would be too large."""


class _Net:
    """An NFA. Some of its empty transitions hold only at the end of the path."""

    def __init__(self) -> None:
        self.moves: list[list[tuple[int, int]]] = []  # (set of bytes as bits, node)
        self.empty: list[list[int]] = []
        self.at_end: list[list[int]] = []

    def node(self) -> int:
        if len(self.moves) >= _MOST_NODES:
            raise _Refused
        self.moves.append([])
        self.empty.append([])
        self.at_end.append([])
        return len(self.moves) - 1

    def add(self, items: Iterable[Any], begin: int, at_start: bool) -> int:
        """Add parsed items after node `begin` and return the node where they end.

        `at_start`: nothing can precede them.
        """
        for kind, value in items:
            begin = self._one(kind, value, begin, at_start)
            at_start = at_start and kind is op.AT
        return begin

    def _one(self, kind: Any, value: Any, begin: int, at_start: bool) -> int:
        if kind is op.AT:
            end = self.node()
            if value is op.AT_BEGINNING and at_start:
                self.empty[begin].append(end)
            elif value is op.AT_END:
                self.at_end[begin].append(end)
            else:
                raise _Refused
            return end
        if kind is op.SUBPATTERN:
            _, add_flags, del_flags, inner = value
            if add_flags or del_flags:
                raise _Refused
            return self.add(inner, begin, at_start)
        if kind is op.BRANCH:
            end = self.node()
            for inner in value[1]:
                first = self.node()
                self.empty[begin].append(first)
                self.empty[self.add(inner, first, at_start)].append(end)
            return end
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            return self._repeat(value[0], value[1], value[2], begin)
        end = self.node()
        self.moves[begin].append((_bytes(kind, value), end))
        return end

    def _repeat(self, least: int, most: Any, inner: Any, begin: int) -> int:
        if least > _MOST_REPEATS or (most is not op.MAXREPEAT and most > _MOST_REPEATS):
            raise _Refused
        for _ in range(least):
            begin = self.add(inner, begin, False)
        end = self.node()
        if most is op.MAXREPEAT:
            loop = self.node()
            self.empty[begin].append(loop)
            self.empty[self.add(inner, loop, False)].append(loop)
            self.empty[loop].append(end)
            return end
        self.empty[begin].append(end)
        for _ in range(most - least):
            begin = self.add(inner, begin, False)
            self.empty[begin].append(end)
        return end

    def closure(self, nodes: Iterable[int], ended: bool = False) -> frozenset[int]:
        found = set(nodes)
        todo = list(found)
        while todo:
            node = todo.pop()
            for other in (*self.empty[node], *(self.at_end[node] if ended else ())):
                if other not in found:
                    found.add(other)
                    todo.append(other)
        return frozenset(found)


def _bytes(kind: Any, value: Any) -> int:
    if kind is op.LITERAL:
        return _bit(value)
    if kind is op.NOT_LITERAL:
        return _ALL & ~_bit(value)
    if kind is op.ANY:
        return _ALL
    if kind is op.CATEGORY:
        return _CATEGORIES[value]
    if kind is op.RANGE:
        low, high = value
        if high > 0x7E:
            raise _Refused
        return sum(1 << byte for byte in range(low, high + 1)) & _ALL
    if kind is op.IN:
        inverted = value[0][0] is op.NEGATE
        found = 0
        for item, inner in value[1:] if inverted else value:
            found |= _bytes(item, inner)
        return _ALL & ~found if inverted else found
    raise _Refused


def _bit(code: int) -> int:
    if code > 0x7E:
        raise _Refused
    return (1 << code) & _ALL


def compile(patterns: Sequence[str], most_states: int = 2048) -> Automaton | None:
    """Return one DFA for all patterns.

    Return None if Python and RE2 may read one of them differently, or if the table would be too large.
    """
    try:
        return _compiled(patterns, most_states)
    except (_Refused, re.error, RecursionError, OverflowError):
        return None


def _compiled(patterns: Sequence[str], most_states: int) -> Automaton:
    if sum(map(len, patterns)) > _MOST_TEXT:
        raise _Refused
    net = _Net()
    root = net.node()
    ends: dict[int, int] = {}
    for number, pattern in enumerate(patterns):
        if not _PLAIN.fullmatch(pattern):
            raise _Refused
        parsed = _parser.parse(pattern)
        if parsed.state.flags & ~re.UNICODE:
            raise _Refused
        first = net.node()
        net.empty[root].append(first)
        end = net.add(parsed, first, True)
        net.moves[end].append((_ALL, end))  # a pattern that fits a beginning fits the whole path
        ends[end] = number
    classes, width, samples = _classes(net)
    start = net.closure([root])
    numbers = {start: 0}
    order = [start]
    rows: list[int] = []
    accepts: list[tuple[int, ...]] = []
    work = 0
    for state in order:  # `order` grows in the loop
        accepts.append(tuple(sorted(ends[node] for node in net.closure(state, ended=True) if node in ends)))
        arrows = [arrow for node in state for arrow in net.moves[node]]
        work += len(state) + len(arrows) * width
        if work > _MOST_WORK or len(order) > most_states:
            raise _Refused
        for sample in samples:
            after = net.closure(node for held, node in arrows if held >> sample & 1) if sample >= 0 else frozenset()
            if after not in numbers:
                numbers[after] = len(order)
                order.append(after)
            rows.append(numbers[after])
    if len(order) > most_states:
        raise _Refused
    return Automaton(classes, width, b"".join(row.to_bytes(2, "little") for row in rows), tuple(accepts))


def _classes(net: _Net) -> tuple[bytes, int, list[int]]:
    """Return (class of each byte, number of classes, one byte of each class).

    Bytes that no pattern tells apart share a class. Class 0 holds the bytes that never occur in a path; it leads
    nowhere.
    """
    sets = sorted({held for moves in net.moves for held, _ in moves})
    kinds: dict[tuple[bool, ...], int] = {}
    classes = bytearray(256)
    samples = [-1]
    for byte in _PRINTABLE:
        kind = tuple(bool(held >> byte & 1) for held in sets)
        if kind not in kinds:
            kinds[kind] = len(samples)
            samples.append(byte)
        classes[byte] = kinds[kind]
    return bytes(classes), len(samples), samples


def fitting(automaton: Automaton, path: bytes) -> tuple[int, ...]:
    """Return the numbers of the patterns that fit: the same walk as in nodeproxy/native/flow.c."""
    state = 0
    for byte in path:
        at = 2 * (state * automaton.width + automaton.classes[byte])
        state = int.from_bytes(automaton.table[at : at + 2], "little")
    return automaton.accepts[state]
