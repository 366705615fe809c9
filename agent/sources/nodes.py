"""Parsed text before it becomes plain data: duplicates, merges, aliases, lists of objects and line numbers.

Theory of operation. A syntax (YAML, JSON) makes a tree of `Node`s with the line of everything; an alias is another
reference to the same node. `plain` walks that tree once and makes dictionaries, lists and scalars, anew for each
reference, under a budget: an alias bomb is a Fault long before it takes much memory. The lines of an object are kept as
one number for each value in walking order, 4 bytes each, since a node keeps thousands of objects and almost never asks
for a line.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

MAX_OPEN = 400  # levels of nested lists and mappings while reading: Lists of Lists may hold objects
# levels of an object; kubectl's JSON decoder stops at 10,000, and no kind that we read needs more than 20
MAX_DEPTH = 100
MAX_NODES = 600_000  # values of one file, aliases expanded: ten thousand objects have some 400,000
MAX_DOCUMENTS = 10_000  # documents of one file, including empty ones


class Fault(Exception):  # noqa: N818 - it is a finding about a text, not a fault of ours
    """What is wrong with a text, where (counted from 1; column 0 = unknown), and what to do about it."""

    def __init__(self, message: str, line: int, column: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column
        self.hint = hint


class Node:
    """A mapping (list of pairs), a sequence (list of nodes) or a scalar (anything else)."""

    __slots__ = ("is_map", "line", "value")

    def __init__(self, value: Any, line: int, is_map: bool = False) -> None:
        self.value = value
        self.line = line
        self.is_map = is_map

    def __repr__(self) -> str:
        kind = "map" if self.is_map else "list" if isinstance(self.value, list) else "scalar"
        return f"<Node {kind} line {self.line}>"


class Merge:
    """The key `<<` of YAML 1.1: the pairs of its value apply as if written here, unless a key is written here."""


MERGE = Merge()


_SLICE = 0.002  # seconds of work, after which other threads may run
_REST = 0.002


class Budget:
    """The values, documents and depth that a file may still have.

    A daemon's thread sets `rest`: in CPython a working thread keeps each other one waiting for 5 ms every time that it
    wants to continue, so this one sleeps between slices.
    """

    def __init__(self, nodes: int = MAX_NODES, rest: bool = False) -> None:
        self.left = nodes
        self._documents = MAX_DOCUMENTS
        self._parsed = 2 * nodes  # the end of a list or mapping counts too
        self._rest = rest
        self._until = time.monotonic() + _SLICE
        self._steps = 0

    def parsed(self, line: int) -> None:
        """Count one more node that was read."""
        self._parsed -= 1
        if self._parsed < 0:
            raise Fault(f"holds more than {MAX_NODES:,} values", line, hint="split the file")
        self._step()

    def document(self, line: int) -> None:
        """Count one more document that was read."""
        self.parsed(line)
        self._documents -= 1
        if self._documents < 0:
            raise Fault(f"holds more than {MAX_DOCUMENTS:,} documents", line, hint="split the file")

    def opened(self, depth: int, line: int) -> None:
        """Check the depth of a new list or mapping. libyaml's work for each value grows with the depth."""
        if depth > MAX_OPEN:
            raise Fault(f"is nested more than {MAX_OPEN} deep", line)

    def _step(self) -> None:
        self._steps += 1
        if self._rest and not self._steps % 64 and time.monotonic() >= self._until:
            time.sleep(_REST)
            self._until = time.monotonic() + _SLICE

    def spend(self, node: Node, nodes: int = 1) -> None:
        self.left -= nodes
        self._step()
        if self.left < 0:
            raise Fault(
                "expands to more values than a file may have",
                node.line,
                hint="write out what the aliases repeat, or split the file",
            )


class Lines(Mapping[str, int]):
    """Maps a path in msgspec's form ("$.spec.rules[0].kind") to a line.

    A path that does not exist gets its nearest parent's line.
    """

    __slots__ = ("_data", "_first", "_lines")

    def __init__(self, data: Any, first: int, lines: array[int]) -> None:
        self._data = data
        self._first = first
        self._lines = lines

    def __getitem__(self, path: str) -> int:
        best, length = self._first, 0
        for at, line in self._walk():
            if len(at) > length and path.startswith(at) and path[len(at) : len(at) + 1] in ("", ".", "["):
                best, length = line, len(at)
        return best

    def __iter__(self) -> Iterator[str]:
        yield "$"
        for path, _ in self._walk():
            yield path

    def __len__(self) -> int:
        return 1 + len(self._lines)

    def _walk(self) -> Iterator[tuple[str, int]]:
        """Yield every path and its line, in the order in which `plain` visited them."""
        waiting: list[tuple[str, Any]] = [("$", self._data)]
        lines = iter(self._lines)
        while waiting:
            path, value = waiting.pop()
            if path != "$":
                yield path, next(lines)
            if isinstance(value, dict):
                waiting += reversed([(f"{path}.{key}", child) for key, child in value.items()])
            elif isinstance(value, list):
                waiting += reversed([(f"{path}[{index}]", child) for index, child in enumerate(value)])


def number(value: int | float) -> int | float:
    """Return a number as JSON implementations keep it (RFC 8259 section 6): as floating point beyond 64 bits."""
    return value if isinstance(value, float) or -(2**63) <= value < 2**64 else float(value)


def plain(node: Node, budget: Budget) -> tuple[Any, Lines]:
    """Return the dictionaries, lists and scalars of a node, and their lines. Raise Fault."""
    lines: array[int] = array("I")
    data = _plain(node, budget, lines, 0)
    return data, Lines(data, node.line, lines)


def objects(node: Node, budget: Budget, nesting: int = 0) -> Iterator[tuple[dict[str, Any], Lines, int]]:
    """Yield the objects of one document, each with its line.

    It is the document itself, or the items of a List as `kubectl get -o yaml` writes it.
    """
    if not node.is_map:
        raise Fault("is not an object", node.line, hint="a mapping with apiVersion, kind and metadata is expected")
    if nesting == MAX_DEPTH:
        raise Fault(f"is a List inside a List, {MAX_DEPTH} deep", node.line)
    top = {key.value: value for key, value in node.value if isinstance(key.value, str)}
    kind = top["kind"].value if "kind" in top else ""
    items = top.get("items")
    if (
        isinstance(kind, str)
        and kind.endswith("List")
        and items is not None
        and not items.is_map
        and isinstance(items.value, list)
    ):
        for item in items.value:
            yield from (_typed(found, kind, top) for found in objects(item, budget, nesting + 1))
        return
    data, lines = plain(node, budget)
    yield data, lines, node.line


def _typed(
    found: tuple[dict[str, Any], Lines, int], list_kind: str, top: dict[str, Node]
) -> tuple[dict[str, Any], Lines, int]:
    """Give an item of a typed List its kind: items of a ServiceList need not state it.

    What is added has no line of its own.
    """
    data, lines, line = found
    if "kind" in data or list_kind == "List":
        return found
    version = top["apiVersion"].value if "apiVersion" in top else ""
    return {**data, "apiVersion": version, "kind": list_kind.removesuffix("List")}, lines, line


def _plain(node: Node, budget: Budget, lines: array[int], depth: int) -> Any:
    budget.spend(node)
    value = node.value
    if not isinstance(value, list):
        return value
    if depth == MAX_DEPTH:
        raise Fault(f"is nested more than {MAX_DEPTH} deep", node.line)
    depth += 1
    if not node.is_map:
        made: list[Any] = []
        for item in value:
            lines.append(item.line)
            made.append(_plain(item, budget, lines, depth))
        return made
    mapping: dict[str, Any] = {}
    for name, key, child in _pairs(node, budget, depth):
        if name in mapping:
            raise Fault(f"the key {name!r} stands here twice", key.line, hint="keep one of the two")
        lines.append(key.line)
        mapping[name] = _plain(child, budget, lines, depth)
    return mapping


def _pairs(node: Node, budget: Budget, depth: int) -> Iterator[tuple[str, Node, Node]]:
    """Yield the pairs of a mapping. Merged ones come last, and only if no other pair has the key."""
    merges: list[Node] = []
    own: set[str] = set()
    for key, child in node.value:
        if key.value is MERGE:
            merges += child.value if isinstance(child.value, list) and not child.is_map else [child]
        else:
            name = _name(key)
            own.add(name)
            yield name, key, child
    for merged in merges:
        if not merged.is_map or depth == MAX_DEPTH:
            raise Fault("the value of << is not a mapping", merged.line)
        budget.spend(merged, 1 + len(merged.value))
        for name, key, child in _pairs(merged, budget, depth + 1):
            if name not in own:
                own.add(name)
                yield name, key, child


def _name(key: Node) -> str:
    """Return a key as text. A number or a boolean becomes the text that JSON would have, as in kubectl."""
    match key.value:
        case str():
            return key.value
        case bool():
            return "true" if key.value else "false"
        case int() | float():
            return str(key.value)
        case _:
            raise Fault("a key that is no text", key.line, hint="quote it, or give it a name")
