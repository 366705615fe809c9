"""Fields of HTTP messages that a rule may change: their syntax, and those that only edgemesh sets."""

from __future__ import annotations

import re

OURS = "x-edgemesh-"  # what begins the names that only edgemesh may write
# edgemesh itself sets the fields for framing, destination and caller of a message, on either side. The first line is
# RFC 9110 section 7.6.1: fields of one connection.
_NOT_TO_SET = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"),
        *("content-length", "host", "x-forwarded-for", "expect", "trailer"),
    )
)
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")


def bad_field(name: str, value: str = "") -> str:
    """Return why no rule may set such a field; "" if it may. `name`: in lower case."""
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        return "is malformed, or its name is not in lower case"
    if name in _NOT_TO_SET or name.startswith(OURS):
        return "is not a filter's to set"
    return ""
