"""The HTTP handlers: a caller's connection, in either version, becomes exchanges in sequence or side by side."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Connection
from nodeproxy.h2.stream import Channel
from nodeproxy.limits import FEW
from nodeproxy.protocols.http.exchange import serve_requests
from nodeproxy.protocols.http.http1 import Caller
from nodeproxy.protocols.http.http2 import StreamCaller
from nodeproxy.protocols.lifetime import Life
from nodeproxy.routing.source import settle
from nodeproxy.stream import Peeked

if TYPE_CHECKING:
    from nodeproxy.context import Conn
    from nodeproxy.interfaces import Route

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4: no HTTP/1.1 request begins with it
_MOST_HEARD_OUT = 1 << 20  # bytes that are still read from a peer that broke the protocol
_LOOK = 1.0  # seconds between two checks of whether a connection is still wanted


async def serve_http(conn: Conn, route: Route) -> None:
    """Serve a caller that speaks HTTP/1.1, or HTTP/2 with prior knowledge. Raise Refused or BrokenResourceError."""
    if await _begins_with_preface(conn):
        await serve_h2(conn, route)
    else:
        await serve_requests(conn, route, Caller(conn.stream))


async def _begins_with_preface(conn: Conn) -> bool:
    """Return whether the connection begins with the HTTP/2 preface.

    Read only as far as needed: to the first byte that differs.
    """
    stream = conn.stream
    with trio.move_on_after(conn.context.limits.keepalive_timeout):
        while _PREFACE.startswith(stream.held[: len(_PREFACE)]):
            seen = len(stream.held)
            if seen >= len(_PREFACE) or len(await stream.peek()) == seen:
                break
    return stream.held.startswith(_PREFACE)


async def serve_h2(conn: Conn, route: Route) -> None:
    """Serve every request of one HTTP/2 connection, each in its own task. Raise Refused or BrokenResourceError."""
    bounds = conn.context.h2_bounds
    transport = conn.context.fast.transport(conn.stream, bounds, conn)
    connection = Connection(
        conn.stream, client=False, bounds=bounds, name=conn.peer[0], transport=transport, owner=conn.gate.owner
    )
    if conn.gate.open > FEW:
        connection.stay_small()
    settle(conn)
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
        if isinstance(failure, Refused) and failure.flag == "http2-abuse":
            await _hear_out(conn, bounds.farewell)
        raise failure


async def _hear_out(conn: Conn, seconds: float) -> None:
    """End the sending side, and read what still arrives.

    Closing with bytes unread causes a reset, which may overtake the GOAWAY with the reason (RFC 9113 section 5.4.1; RFC
    9112 section 9.6 describes the same).
    """
    seen = 0
    with trio.move_on_after(seconds), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await conn.stream.send_eof()
        while seen < _MOST_HEARD_OUT and (data := await conn.stream.receive_some(65536)):
            seen += len(data)


async def _serve_stream(conn: Conn, route: Route, channel: Channel) -> None:
    """Serve one request. An error in it ends its stream, and never the connection."""
    branch = conn.branch(Peeked(channel))
    branch.route = route

    def gone() -> None:
        """Cancel the request, because the caller no longer wants it, even if its task is not about to read or send."""
        branch.verdict = branch.verdict or "client-gone"
        branch.scope.cancel()

    def ended(flag: str) -> None:
        if flag:
            channel.abort()
        else:
            channel.close()

    channel.on_gone = gone
    with Life(branch, ended, records=False), branch.scope:
        await serve_requests(branch, route, StreamCaller(channel))


async def serve_stream_of_node(conn: Conn, route: Route, channel: Channel, h2: bool) -> None:
    """Serve one request that another node forwarded.

    The caller's identity and access are already verified. Raise Refused.
    """
    await serve_requests(conn, route, StreamCaller(channel, h2, from_node=True))


async def _drain_when_idle(conn: Conn, connection: Connection) -> None:
    """End a connection without streams as an HTTP/1.1 connection between two requests; end all if the daemon stops."""
    context = conn.context
    while True:
        await trio.sleep(_LOOK)
        rested = trio.current_time() - connection.idle_since
        if context.draining or (not connection.streams and rested > context.limits.keepalive_timeout):
            connection.drain()
            return
