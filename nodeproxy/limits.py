"""Bounds on what one caller can take: named numbers with defaults, and the connection count of each workload."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0)]


class Limits(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Seconds and bytes. Every wait on somebody else's bytes has one of these deadlines."""

    connections: int = 1024  # open at once through the outbound doors of one workload, and as many through its inbound ones
    head_bytes: int = 65536  # request line and fields together; nginx 4 x 8 KiB, Envoy 60 KiB
    header_count: int = 100  # Envoy and Apache have the same
    path_bytes: int = 8192  # before any pattern looks at it
    head_timeout: float = 10.0  # from the first byte of a request head to its last
    keepalive_timeout: float = 75.0  # an HTTP connection between two requests; nginx has the same
    idle_timeout: float = 300.0  # an opaque or upgraded connection, or a body, on which nothing moves
    detect_timeout: float = 5.0  # first bytes of a connection whose protocol nobody declared
    connect_timeout: float = 5.0  # one attempt to connect to an endpoint
    response_timeout: float = 300.0  # from the end of a request to the head of its response
    pool_idle_timeout: float = 30.0  # an upstream HTTP connection that nobody uses
    pool_idle_per_endpoint: int = 64  # idle upstream connections kept for one caller address and endpoint
    pool_idle_per_workload: int = 512  # and for all callers and endpoints behind the doors of one workload
    drain_timeout: float = 10.0  # what running connections get on SIGTERM
    buffer_bytes: int = 65536  # read at once; what one direction of one connection may hold


class PeerLimits(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Connections to other nodes. Seconds."""

    connections: Annotated[int, Meta(ge=1, le=64)] = 2  # for one identity and place
    idle_timeout: Seconds = 300.0  # after the last stream (as ztunnel); who was dialled waits twice as long, so that the dialler closes
    keepalive: Seconds = 10.0  # a quiet connection with streams is asked whether it lives; ztunnel has the same
    keepalive_metered: Seconds = 300.0  # the same where either node's link costs by the byte
    answer: Seconds = 20.0  # for the answer to that; ztunnel has the same


class Gate:
    """Counts the open connections of one workload. `enter` answers False when it is full; each True needs one `leave`."""

    __slots__ = ("full", "open", "refused")

    def __init__(self, full: int) -> None:
        self.full = full
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
