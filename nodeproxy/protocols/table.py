"""HANDLERS: every protocol that is distinguished from opaque bytes, one row each: how it begins, its handler, its name
in records.

`policy/protocols.py` lists those that a Service port can declare; a declared name without a row here is opaque. To add
a protocol, add a function that recognises its first bytes (codec/detect.py), one that serves it, and a row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct

from nodeproxy.codec.detect import begins_http1, begins_http2, begins_tls
from nodeproxy.context import Conn
from nodeproxy.interfaces import Pick, Route
from nodeproxy.protocols.http.room import serve_http
from nodeproxy.protocols.tcp import serve_tcp
from nodeproxy.protocols.tls_passthrough import serve_tls
from nodeproxy.stream import Peeked


class Handler(Struct, frozen=True):
    """What becomes of a connection with this protocol.

    `serve` returns when the connection has ended. It raises Refused or BrokenResourceError.
    """

    name: str  # as a Service port declares it
    serve: Callable[[Conn, Route], Awaitable[None]]
    shown: str  # in the record of the connection
    begins: Callable[[bytes], bool | None] | None = None  # see codec/detect.py; None: its first bytes do not show it
    # Serves an opaque stream whose server was picked and dialled before its first bytes arrived. None: the protocol
    # carries requests, each of which is decided and recorded by itself, without a rule that admits TCP to the port.
    serve_dialled: Callable[[Conn, Route, Peeked, Pick], Awaitable[None]] | None = None
    multiplexed: bool = False  # a connection to a server carries many requests at once

    @property
    def requests(self) -> bool:
        """Return whether it carries requests."""
        return self.serve_dialled is None


OPAQUE = Handler("tcp", serve_tcp, "tcp", serve_dialled=serve_tcp)

# In the order in which they are matched against the first bytes. One function serves both versions of HTTP.
HANDLERS: dict[str, Handler] = {
    row.name: row
    for row in (
        Handler("tls", serve_tls, "tls", begins_tls, serve_tls),
        Handler("h2", serve_http, "http", begins_http2, multiplexed=True),
        Handler("http", serve_http, "http", begins_http1),
        Handler("grpc", serve_http, "http"),
    )
}

# The names in records of connections whose requests have their own records.
BY_REQUEST = frozenset(row.shown for row in HANDLERS.values() if row.requests)


def handler(protocol: str) -> Handler:
    """Return the handler of a declared protocol."""
    return HANDLERS.get(protocol, OPAQUE)


def detect(data: bytes) -> Handler | None:
    """Return the handler of the protocol that these first bytes begin; None while more than one is possible."""
    waits = False
    for row in HANDLERS.values():
        if row.begins is not None:
            begins = row.begins(data)
            if begins:
                return row
            waits = waits or begins is None
    return None if waits else OPAQUE
