"""One record for each connection and each request, closed exactly once, handed to one sink.

A connection that ends unrecorded records "drained": forgetting to close cannot lose a record, only name it so.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

from policy.model import Workload


class Record(Struct):
    """What there is to say about one finished connection or request. `flag` "" = all went well."""

    kind: Literal["connection", "request"]
    direction: Literal["outbound", "inbound"]
    started: float  # seconds since the epoch
    duration: float  # seconds
    source: Workload | None  # None: the caller proved no identity
    source_address: str
    destination: Workload | None  # the workload that was chosen; None: outside the mesh, or none was chosen
    service: str  # key of the service that was called, "" for none
    dialled: str  # "ADDRESS:PORT" that the caller dialled
    endpoint: str  # "ADDRESS:PORT" that we dialled, "" for none
    protocol: str  # "http", "grpc", "tcp", "tls", "websocket", "dns", "hbone"
    method: str = ""
    path: str = ""
    status: int = 0
    flag: str = ""
    detail: str = ""
    rule: str = ""  # the rule that allowed it
    bytes_in: int = 0  # from the caller
    bytes_out: int = 0  # to the caller
    id: str = ""  # of a refusal: 32 hexadecimal digits, the same on both nodes; the caller's trace id when it sent one
    host: str = ""  # the server name of TLS that we do not open
    tls_peer: str = ""  # the SPIFFE id that the other end proved, of a call that crosses nodes
    tls_version: str = ""
    tls_cipher: str = ""


def new_id() -> str:
    """A trace id as W3C Trace Context section 3.2.2.3 has it: 16 random bytes in hexadecimal."""
    return os.urandom(16).hex()


_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id(fields: Iterable[tuple[bytes, bytes]]) -> str:
    """The trace id that a caller sent in `traceparent`, "" when it sent none or a malformed one."""
    for name, value in fields:
        if name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)) and match[1].strip(b"0"):
            return match[1].decode()
    return ""


Sink = Callable[[Record], None]


class Report:
    """An open record. Fields are set as they become known; `close` may be called once."""

    __slots__ = ("_began", "_sink", "closed", "record")

    def __init__(self, sink: Sink, record: Record, began: float = 0.0) -> None:
        """`began`: by the monotonic clock; 0 is now."""
        self._sink = sink
        self._began = began or time.monotonic()
        self.record = record
        self.closed = False

    def close(self, flag: str = "", detail: str = "", status: int | None = None) -> None:
        assert not self.closed, "a report is closed once"
        self.closed = True
        record = self.record
        record.duration = time.monotonic() - self._began
        record.flag = flag
        record.detail = detail
        if status is not None:
            record.status = status
        self._sink(record)
