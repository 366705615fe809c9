"""JSON text (RFC 8259) -> trees of nodes with their lines, which the standard library's parser does not report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from agent.sources.nodes import Budget, Fault, Node, number

_LEXEME = re.compile(r'([{}\[\],:])|"(?:[^"\\\x00-\x1f]|\\.)*+"|-?[0-9][-+0-9.eE]*+|true|false|null')
_SPACE = re.compile(r"[ \t\r\n]*+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_NUMBER = 64  # characters


def documents(text: str, budget: Budget | None = None) -> Iterator[Node]:
    """Yield the values of a text, several in a row as `kubectl` accepts them. Raise Fault."""
    budget = budget or Budget()
    lexemes = _lexemes(text, budget)
    for lexeme, line, column in lexemes:
        budget.document(line)
        yield _value(lexemes, lexeme, line, column, budget)


def _lexemes(text: str, budget: Budget) -> Iterator[tuple[str, int, int]]:
    """Yield each lexeme with its line and column, counted from 1."""
    at, line, line_start = 0, 1, 0
    while True:
        space = _SPACE.match(text, at)
        assert space is not None  # it matches the empty text too
        if newlines := text.count("\n", at, space.end()):
            line += newlines
            line_start = text.rindex("\n", at, space.end()) + 1
        at = space.end()
        if at == len(text):
            return
        lexeme = _LEXEME.match(text, at)
        if lexeme is None:
            raise Fault(f"is not valid JSON: unexpected {text[at]!r}", line, at - line_start + 1, _hint(text[at]))
        if lexeme[0] not in ",:":
            budget.parsed(line)
        yield lexeme[0], line, at - line_start + 1
        at = lexeme.end()


def _value(lexemes: Iterator[tuple[str, int, int]], lexeme: str, line: int, column: int, budget: Budget) -> Node:
    """Return the value that begins with `lexeme`. Open brackets are kept in a list; there is no recursion."""
    open_: list[Node] = []
    keys: list[Node | None] = []
    last_line, last_column = line, column
    expect = "value"  # or "first" (a value or an end), "key", "first key", ":", ", or end"
    while True:
        top = open_[-1] if open_ else None
        node: Node | None = None
        if expect in ("value", "first"):
            if lexeme in ("{", "["):
                open_.append(Node([], line, lexeme == "{"))
                budget.opened(len(open_), line)
                keys.append(None)
                expect = "first key" if lexeme == "{" else "first"
            elif lexeme == "]" and expect == "first":
                node = open_.pop()
                keys.pop()
            elif lexeme in ("}", "]", ",", ":"):
                raise _unexpected(lexeme, "a value", line, column)
            else:
                node = Node(_scalar(lexeme, line, column), line)
        elif expect in ("key", "first key"):
            if lexeme == "}" and expect == "first key":
                node = open_.pop()
                keys.pop()
            elif lexeme.startswith('"'):
                keys[-1] = Node(_scalar(lexeme, line, column), line)
                expect = ":"
            else:
                raise _unexpected(lexeme, "a key in double quotes", line, column)
        elif expect == ":":
            if lexeme != ":":
                raise _unexpected(lexeme, "a colon", line, column)
            expect = "value"
        elif lexeme == ",":
            assert top is not None
            expect = "key" if top.is_map else "value"
        elif top is not None and lexeme == ("}" if top.is_map else "]"):
            node = open_.pop()
            keys.pop()
        else:
            raise _unexpected(lexeme, "a comma", line, column)
        if node is not None:
            if not open_:
                return node
            open_[-1].value.append((keys[-1], node) if open_[-1].is_map else node)
            expect = ", or end"
        last_line, last_column = line, column
        try:
            lexeme, line, column = next(lexemes)
        except StopIteration:
            hint = "a bracket that was opened is never closed"
            raise Fault("is not valid JSON: it ends too early", last_line, last_column, hint) from None


def _scalar(lexeme: str, line: int, column: int) -> Any:
    if lexeme.startswith('"') and "\\" not in lexeme:
        return lexeme[1:-1]
    if lexeme.startswith('"') or lexeme in ("true", "false", "null"):
        try:
            value = json.loads(lexeme)
        except ValueError as error:
            raise Fault(f"is not valid JSON: {error}", line, column) from error
        if isinstance(value, str) and _SURROGATE.search(value):
            raise Fault("is not valid JSON: half of a surrogate pair is no character", line, column)
        return value
    if not _NUMBER.fullmatch(lexeme) or len(lexeme) > _LONGEST_NUMBER:
        raise Fault(f"is not valid JSON: {lexeme[:40]} is no number", line, column)
    found = json.loads(lexeme)
    if isinstance(found, float) and not math.isfinite(found):
        raise Fault(f"is not valid JSON: {lexeme[:40]} is too large a number", line, column)
    return number(found)


def _unexpected(lexeme: str, wanted: str, line: int, column: int) -> Fault:
    return Fault(f"is not valid JSON: {lexeme[:40]} where {wanted} was expected", line, column, _hint(lexeme))


def _hint(character: str) -> str:
    if character.startswith("'"):
        return "JSON has double quotes only"
    if character in ("}", "]"):
        return "remove the comma before it"
    if character in ("/", "#"):
        return "JSON has no comments"
    return ""
