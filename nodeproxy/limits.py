"""Bounds on the resources of one caller: named numbers with defaults, and the connection count of each workload."""

from __future__ import annotations

from typing import Annotated, Protocol

from msgspec import Meta, Struct

# Connections at once of the node's prober to one workload. They have their own gate, so that callers which fill the
# workload's listener do not make the node kill its server.
PROBES = 64
FEW = 8  # connections of one owner whose streams may have larger windows than the first one: see h2/connection.py

NEVER = 10 * 365 * 86400.0  # seconds: practically no limit, and fits every clock

Seconds = Annotated[float, Meta(gt=0)]


class Limits(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Seconds and bytes. Every wait for a peer's bytes has one of these deadlines."""

    connections: int = 1024  # connections open at once from one workload, and as many to it
    # HTTP/2 requests and tunnels open at once, on all connections of one workload, or of one peer by its certificate
    streams: int = 1024
    head_bytes: int = 65536  # bytes of a request line and its fields together; nginx has 4 x 8 KiB, Envoy 60 KiB
    header_count: int = 100  # fields of a request; Envoy and Apache have the same
    path_bytes: int = 8192  # bytes of a path, before it is matched against any pattern
    head_timeout: float = 10.0  # from the first byte of a request head to its last
    keepalive_timeout: float = 75.0  # an HTTP connection between two requests; nginx has the same
    idle_timeout: float = (
        3600.0  # an opaque or upgraded connection, or a body, on which nothing moves, not even TCP keepalives; 0: never
    )
    detect_timeout: float = 5.0  # waiting for the first bytes of a connection without a declared protocol
    connect_timeout: float = 5.0  # one attempt to connect to an endpoint
    response_timeout: float = 300.0  # from the end of a request to the head of its response
    pool_idle_timeout: float = 30.0  # an unused HTTP connection to a server
    pool_idle_per_endpoint: int = 64  # idle connections to servers that are kept for one caller address and endpoint
    pool_idle_per_workload: int = 512  # the same, for all calls of one workload together
    drain_timeout: float = 10.0  # time for running requests and connections at a stop
    buffer_bytes: int = 65536  # bytes that are read at once, and that one direction of one connection may hold

    @property
    def patience(self) -> float:
        """`idle_timeout` as seconds to wait."""
        return self.idle_timeout or NEVER


class PeerLimits(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Connections to other nodes. Seconds."""

    connections: Annotated[int, Meta(ge=1, le=64)] = 2  # to one node or workload, for each identity that calls there
    # after the last stream, as in ztunnel; the accepting node waits twice as long, so that the dialler closes
    idle_timeout: Seconds = 300.0
    keepalive: Seconds = 10.0  # a quiet connection with streams is probed; ztunnel has the same
    keepalive_metered: Seconds = 300.0  # the same if either node's link is billed by the byte
    answer: Seconds = 20.0  # waiting for the answer to the probe; ztunnel has the same


class Owner(Protocol):
    """What all HTTP/2 connections of one workload or peer share.

    h2/owner.py has two implementations with the same behaviour: in Python and compiled.
    """

    most: int  # streams at once

    @property
    def streams(self) -> int:
        """The number of streams that are being served."""
        ...

    def begin(self) -> bool:
        """Start to serve a stream. Return False if there are too many; each True needs one `end`."""
        ...

    def end(self) -> None:
        """End the work for a stream."""
        ...

    def spend(self, now: float, /) -> bool:
        """Charge work that was for nothing. Return False if that happened too often."""
        ...

    def earn(self) -> None:
        """Credit a stream that was served to its end."""
        ...

    def debt(self, now: float, /) -> float:
        """Return the seconds until work for nothing is allowed again; 0: now."""
        ...


class Gate:
    """Counts the open connections of one workload. `enter` returns False if it is full; each True needs one `leave`.

    `owner`: what all of its HTTP/2 connections share; None: not counted. `reserve`: the gate for the node's own prober;
    None: this one.
    """

    __slots__ = ("full", "open", "owner", "refused", "reserve")

    def __init__(self, full: int, owner: Owner | None = None, reserve: Gate | None = None) -> None:
        self.full = full
        self.owner = owner
        self.reserve = reserve
        self.open = 0
        self.refused = 0

    def __repr__(self) -> str:
        return f"<Gate {self.open}/{self.full} open, {self.refused} refused>"

    def enter(self) -> bool:
        if self.open >= self.full:
            self.refused += 1
            return False
        self.open += 1
        return True

    def leave(self) -> None:
        self.open -= 1
