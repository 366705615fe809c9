"""The HTTP rooms: a connection of one caller, in either version, becomes exchanges one after the other or side by side."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from nodeproxy.errors import Refused
from nodeproxy.http.caller import Caller
from nodeproxy.http.exchange import serve_requests
from nodeproxy.http.h2 import Connection
from nodeproxy.http.h2_channel import Channel
from nodeproxy.http.streams import StreamCaller
from nodeproxy.native import AVAILABLE
from nodeproxy.stream import Peeked

if AVAILABLE:
    from nodeproxy.linked import plain_carrier

if TYPE_CHECKING:
    from nodeproxy.context import Conn, Route

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4: no HTTP/1.1 request begins so
_LOOK = 1.0  # seconds between looks at whether a connection is still wanted


async def serve_http(conn: Conn, route: Route) -> None:
    """Serve a caller that speaks HTTP/1.1, or HTTP/2 with prior knowledge. Raises Refused or BrokenResourceError."""
    if await _begins_with_preface(conn):
        await serve_h2(conn, route)
    else:
        await serve_requests(conn, route, Caller(conn.stream))


async def _begins_with_preface(conn: Conn) -> bool:
    """Looks at no more than it needs to tell: one byte that is not of the preface."""
    stream = conn.stream
    with trio.move_on_after(conn.context.limits.keepalive_timeout):
        while _PREFACE.startswith(stream.held[: len(_PREFACE)]):
            seen = len(stream.held)
            if seen >= len(_PREFACE) or len(await stream.peek()) == seen:
                break
    return stream.held.startswith(_PREFACE)


async def serve_h2(conn: Conn, route: Route) -> None:
    """Serve every request of one HTTP/2 connection, each in a task of its own. Raises Refused or BrokenResourceError."""
    bounds = conn.context.h2_bounds
    carrier = plain_carrier(conn.context.lane, conn.stream, bounds, conn) if AVAILABLE else None
    connection = Connection(conn.stream, client=False, bounds=bounds, name=conn.peer[0], carrier=carrier)
    failure: Exception | None = None
    async with trio.open_nursery() as streams:

        def accept(channel: Channel) -> None:
            streams.start_soon(_serve_stream, conn, route, channel)

        streams.start_soon(_drain_when_idle, conn, connection)
        try:
            await connection.run(accept)
        except (Refused, trio.BrokenResourceError) as error:
            failure = error  # raised below: the nursery would wrap it in a group
        streams.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _serve_stream(conn: Conn, route: Route, channel: Channel) -> None:
    """One request. What goes wrong with it ends its stream, and never the connection."""
    context = conn.context
    branch = conn.branch(Peeked(channel))
    branch.route = route
    context.conns[branch.id] = branch
    whole = False
    try:
        # What is suppressed is recorded with the request.
        with branch.scope, contextlib.suppress(Refused, trio.BrokenResourceError, trio.ClosedResourceError):
            await serve_requests(branch, route, StreamCaller(channel))
            whole = True
    finally:
        del context.conns[branch.id]
        if whole:
            channel.close()
        else:
            channel.abort()


async def serve_stream_of_node(conn: Conn, route: Route, channel: Channel, h2: bool) -> None:
    """Serve one request that another node sent on. Who calls was proved, and that it may come here at all. Raises Refused."""
    await serve_requests(conn, route, StreamCaller(channel, h2))


async def _drain_when_idle(conn: Conn, connection: Connection) -> None:
    """A connection without streams ends like an HTTP/1.1 connection between two requests; all end when the daemon stops."""
    context = conn.context
    while True:
        await trio.sleep(_LOOK)
        rested = trio.current_time() - connection.idle_since
        if context.draining or (not connection.streams and rested > context.limits.keepalive_timeout):
            connection.drain()
            return
