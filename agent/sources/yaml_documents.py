"""YAML text -> trees of nodes, with scalars resolved as kubectl does; the only file that reads manifests with PyYAML.

It uses events, not PyYAML's own documents: PyYAML's composer recurses in C, has no bounds, and loses the lines of keys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from agent.sources.nodes import MERGE, Budget, Fault, Node, number

# libyaml; a wheel without it yields the same events more slowly
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# kubectl reads YAML 1.1 with Go's types (sigs.k8s.io/yaml over go-yaml v2, resolve.go): yes, no, on and off stay text
# unless a boolean field requires them, timestamps stay text, numbers are 0x1F, 0o17, 017, 0b11, 1_000, 1e3.
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBERS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"[-+]?0[bB][01]+"), 2),
    (re.compile(r"[-+]?0[oO]?[0-7]+"), 8),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F]+"), 16),
    (re.compile(r"[-+]?(0|[1-9][0-9]*)"), 10),
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_MAY_BE_NUMBER = frozenset("0123456789+-.")
_LONGEST_NUMBER = 64  # characters; Go's types end at 20 digits

_TAG = "tag:yaml.org,2002:"

# libyaml's messages, and advice for each.
_HINTS = (
    ("mapping values are not allowed", 'quote a value that holds ": ", and check the indentation of this line'),
    ("could not find expected ':'", "a key needs a colon and a space after it; check the indentation too"),
    ("did not find expected key", "check the indentation of this line and the ones before it"),
    ("did not find expected '-' indicator", "the items of a list must all be indented alike"),
    ("unexpected end of stream", "a quote that was opened is never closed"),
    ("cannot start any token", "quote a value that begins with this character"),
)
_ALIAS_HINT = "an anchor (&name) must stand before its alias (*name), in the same document"


def documents(text: str, budget: Budget | None = None) -> Iterator[Node]:
    """Yield the documents of a stream except empty ones. Raise Fault."""
    try:
        yield from _documents(text, budget or Budget())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        hint = "remove it, or write it as an escape in double quotes"
        raise Fault(f"is not valid YAML: {error.reason}", line, hint=hint) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(filter(None, (error.context, error.problem)))
        hint = next((hint for said, hint in _HINTS if said in words), "")
        if mark and _indented_with_tab(text, mark.line):
            hint = "indent with spaces, not with tabs"
        raise Fault(
            f"is not valid YAML: {words}", mark.line + 1 if mark else 1, mark.column + 1 if mark else 0, hint
        ) from error


def _indented_with_tab(text: str, line: int) -> bool:
    words = text.splitlines()[line : line + 1]
    return bool(words) and "\t" in words[0][: len(words[0]) - len(words[0].lstrip())]


def _documents(text: str, budget: Budget) -> Iterator[Node]:
    """Build the nodes from events, with a stack of open nodes instead of recursion."""
    open_: list[tuple[Node, str]] = []  # each with its anchor
    keys: list[Node | None] = []  # for each open mapping, the key whose value is still to come
    anchors: dict[str, Node] = {}
    root: Node | None = None
    for event in yaml.parse(text, Loader=_Loader):
        mark = event.start_mark
        line = mark.line + 1 if mark else 0
        budget.parsed(line)
        match event:
            case yaml.ScalarEvent():
                node = Node(_scalar(event, line, in_key=bool(open_ and open_[-1][0].is_map and keys[-1] is None)), line)
            case yaml.AliasEvent():
                if event.anchor not in anchors:
                    raise Fault(f"is not valid YAML: undefined alias *{event.anchor}", line, hint=_ALIAS_HINT)
                node = anchors[event.anchor]
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                is_map = isinstance(event, yaml.MappingStartEvent)
                _check_tag(event.tag, "map" if is_map else "seq", line)
                open_.append((Node([], line, is_map), event.anchor or ""))
                budget.opened(len(open_), line)
                keys.append(None)
                continue
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                # An anchor is known once its node is complete, so an alias to an enclosing node is undefined, not
                # endless.
                node, anchor = open_.pop()
                keys.pop()
                if anchor:
                    anchors[anchor] = node
            case yaml.DocumentEndEvent():
                if root is not None and root.value is not None:
                    yield root
                budget.document(line)
                root, anchors = None, {}
                continue
            case _:
                continue
        if isinstance(event, yaml.ScalarEvent) and event.anchor:
            anchors[event.anchor] = node
        if not open_:
            root = node
        elif not open_[-1][0].is_map:
            open_[-1][0].value.append(node)
        elif keys[-1] is None:
            keys[-1] = node
        else:
            open_[-1][0].value.append((keys[-1], node))
            keys[-1] = None


def _scalar(event: yaml.ScalarEvent, line: int, in_key: bool) -> Any:
    text: str = event.value
    if event.tag is None or event.tag == "!":
        if event.implicit[0] and event.tag is None:
            return MERGE if in_key and text == "<<" else resolve(text)
        return text
    _check_tag(event.tag, "str int float bool null", line)
    if event.tag == f"{_TAG}str":
        return text
    value = resolve(text)
    if isinstance(value, str):
        raise Fault(f"{text!r} is not a {event.tag.removeprefix(_TAG)}, as its tag says", line)
    return value


def resolve(text: str) -> Any:
    """Return the value of a plain scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _MAY_BE_NUMBER or len(text) > _LONGEST_NUMBER:
        return text
    digits = text.replace("_", "")
    for pattern, base in _NUMBERS:
        if pattern.fullmatch(digits):
            return number(int(digits, 0 if base in (2, 16) else base))
    if _FLOAT.fullmatch(text):
        value = float(text)
        return value if math.isfinite(value) else text
    return text


def _check_tag(tag: str | None, known: str, line: int) -> None:
    """Refuse tags of types other than text, numbers, lists and mappings: they are not for configuration."""
    if tag not in (None, "!") and tag.removeprefix(_TAG) not in known.split():
        shown = tag.replace(_TAG, "!!")
        raise Fault(f"has the tag {shown}, which is not supported here", line, hint="write a plain value")
