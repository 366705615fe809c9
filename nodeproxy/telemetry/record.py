"""One record for each connection and each request, closed exactly once, passed to one sink.

A connection that ends without a record is recorded as "drained": a forgotten close cannot lose a record, only mislabel
it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from policy.model import Workload


class Record(Struct):
    """The facts about one finished connection or request. `flag` "" = no error."""

    kind: Literal[
        "connection", "request"
    ]  # "connection" or "request"; a connection that carried HTTP has a line for each request too
    direction: Literal["outbound", "inbound"]  # "outbound": seen at the caller's side; "inbound": at the server's
    started: float  # seconds since the epoch
    duration: float  # seconds
    source: Workload | None  # None: the caller proved no identity
    source_address: str  # the caller's address, before NAT of the server's node
    destination: Workload | None  # the workload that was chosen; None: outside the mesh, or none was chosen
    service: str  # key of the service that was called, "" for none
    dialled: str  # "ADDRESS:PORT" that the caller dialled
    endpoint: str  # "ADDRESS:PORT" that edgemesh dialled, "" for none
    protocol: str  # "http", "grpc", "tcp", "tls", "websocket", "dns", "hbone"
    method: str = ""  # of an HTTP request
    path: str = ""  # of an HTTP request
    status: int = 0  # status sent to the caller; 0: none
    flag: str = ""  # why it was refused or failed (errors.FLAGS); "": no error
    detail: str = ""  # what the flag refers to
    rule: str = ""  # the rule that allowed it
    # the TrafficTarget with annotation edgemesh.io/dry-run that would change the verdict: of a refused call the one that would
    # allow it, of an allowed one the one that alone allows it; "": none
    trial: str = ""
    bytes_in: int = 0  # from the caller
    bytes_out: int = 0  # to the caller
    id: str = ""  # for a refusal: 32 hexadecimal digits made by edgemesh, the same on both nodes
    trace: str = ""  # for a refusal: the trace id that the caller sent, unverified
    host: str = ""  # host that an HTTP request names, or server name of TLS that is not terminated here
    tls_peer: str = ""  # SPIFFE id that the other end proved, for a call between nodes
    tls_version: str = ""  # version of the connection between the nodes
    tls_cipher: str = ""  # cipher suite of the connection between the nodes
    retries: int = 0  # times that the request was sent again, as an HTTPRoute or a Retry says
    # "success": a retry brought a final response; "limit": the last one that is allowed failed too; "overflow": no
    # other was made, because too many were under way
    retried: Literal["", "success", "limit", "overflow"] = ""
    nat_address: str = ""  # address of the server's node that NAT lent to the caller; "": none

    @classmethod
    def of_connection(
        cls,
        direction: Literal["outbound", "inbound"],
        started: float,
        source: Workload | None,
        source_address: str,
        destination: Workload | None,
        dialled: str,
    ) -> Record:
        """Return the record of a connection that was just accepted."""
        return cls("connection", direction, started, 0.0, source, source_address, destination, "", dialled, "", "")

    def of_request(self, started: float, protocol: str, method: str) -> Record:
        """Return the record of a request on this connection.

        Its destination is the dialled one until an endpoint is picked: a refusal must name the workload that it
        protected.
        """
        request = Record(
            "request",
            self.direction,
            started,
            0.0,
            self.source,
            self.source_address,
            self.destination,
            self.service,
            self.dialled,
            "",
            protocol,
            method,
        )
        if self.direction == "inbound":  # otherwise the request finds out which node serves it
            request.tls_peer, request.tls_version, request.tls_cipher = self.tls_peer, self.tls_version, self.tls_cipher
            request.nat_address = self.nat_address
        return request


HOST_SHOWN = 255  # characters of a Host; no name has more (RFC 1035 section 2.3.4)


def new_id() -> str:
    """Return a new id in the form of a trace id (W3C Trace Context section 3.2.2.3): 16 random bytes in hexadecimal."""
    return os.urandom(16).hex()


Sink = Callable[[Record], None]


class Report:
    """An open record. Fields are set as they become known; `close` may be called once."""

    __slots__ = ("_began", "_sink", "closed", "record")

    def __init__(self, sink: Sink, record: Record, began: float = 0.0) -> None:
        """Open the record. `began`: by the monotonic clock; 0 means now."""
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
