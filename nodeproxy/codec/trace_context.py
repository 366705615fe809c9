"""Trace ids: read from `traceparent` and written to it (W3C Trace Context section 3.2).

The id of a refusal has the same form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ID = re.compile("[0-9a-f]{32}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def refusal_id(text: str) -> str:
    """Return `text` if it has the form of an id that another node sends, otherwise ""."""
    return text if _ID.fullmatch(text) else ""


def trace_id(fields: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the trace id that a caller sent in `traceparent`; "" if it sent none or a malformed one."""
    for name, value in fields:
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)) and match[1].strip(b"0"):
            return match[1].decode()
    return ""


def traceparent(trace: str, span: bytes) -> bytes:
    """Return the field's value. `trace`: 32 hexadecimal digits; `span`: 8 random bytes. The flags say "not sampled"."""
    return f"00-{trace}-{span.hex()}-00".encode()
