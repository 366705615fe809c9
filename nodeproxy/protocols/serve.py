"""Which protocol a connection has, if the destination does not declare one; then the function that serves it
(table.py).

Theory of detection. The first bytes show a client-first protocol. They never show a server-first protocol (MySQL,
SMTP), because the client waits. So while the client's bytes are awaited, the server is dialled at once, if policy
admits an opaque stream to that port at all. If the server speaks first, the connection is opaque, and neither side has
waited. If only HTTP is admitted, silence can only mean a connection that was opened early: it may be idle as long as
one between two requests.
"""

from __future__ import annotations

import contextlib

import trio

from nodeproxy.codec.local_reply import reason_word
from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Pick, Route
from nodeproxy.protocols.table import OPAQUE, Handler, detect, handler
from nodeproxy.protocols.tcp import open_upstream
from nodeproxy.routing.source import caller_key
from nodeproxy.stream import Peeked, abort
from policy.model import Protocol

_HEAR_OUT = 0.5  # seconds that a caller whose server is dead has for its first bytes


async def serve(conn: Conn, route: Route, protocol: Protocol) -> None:
    """Find the handler of this connection, and return when it has ended.

    `protocol`: as declared, "" for none. Raise Refused.
    """
    if protocol:
        await _enter(conn, route, handler(protocol))
        return
    first: Pick | None = None
    only_http = False
    # An opaque stream may not be admitted: then only the client's bytes can show the protocol.
    try:
        first = route.pick(None)
    except Refused as refused:
        only_http = reason_word(refused) == "http-only"
    if first is None:
        if only_http and not await _first_byte(conn):
            return
        await _enter(conn, route, await _client_speaks(conn))
        return
    conn.moves(first, None)
    try:
        upstream, first = await open_upstream(conn, route, first)
    except Refused:
        # No server answers. A caller that speaks HTTP can get an HTTP response; others see a reset.
        detected = OPAQUE
        with trio.move_on_after(_HEAR_OUT):
            detected = await _client_speaks(conn)
        if not detected.requests:
            raise
        conn.rests()
        await _enter(conn, route, detected)
        return
    detected = await _who_speaks_first(conn, upstream)
    if detected.serve_dialled is not None:
        if detected is OPAQUE:  # any other may turn out to be something else, and its handler records it
            conn.report.record.protocol = OPAQUE.shown
        await detected.serve_dialled(conn, route, upstream, first)
        return
    conn.rests()
    # Most servers wait for a request: the connection is used for the first one.
    keeper = conn.context.http2_pool if detected.multiplexed else conn.context.pool
    keeper.give(caller_key(conn, first.endpoint), conn.workload.key, first.endpoint, upstream.stream)
    await _enter(conn, route, detected)


async def _enter(conn: Conn, route: Route, found: Handler) -> None:
    conn.report.record.protocol = found.shown
    await found.serve(conn, route)


async def _first_byte(conn: Conn) -> bool:
    """Wait for the first byte as for the next request of a connection.

    Return False if it does not come: then nothing was requested.
    """
    with trio.move_on_after(conn.context.limits.keepalive_timeout):
        await conn.stream.peek()
    return bool(conn.stream.held)


async def _client_speaks(conn: Conn) -> Handler:
    """Wait for bytes that show the protocol. A client that sends none before the deadline is opaque."""
    found: Handler | None = None
    with trio.move_on_after(conn.context.limits.detect_timeout):
        seen = -1
        data = conn.stream.held
        while (found := detect(data)) is None:
            data = await conn.stream.peek()
            if len(data) == seen:
                return OPAQUE  # the client ended before the protocol was known
            seen = len(data)
    return found or OPAQUE


async def _who_speaks_first(conn: Conn, upstream: Peeked) -> Handler:
    found: list[Handler] = []
    try:
        async with trio.open_nursery() as nursery:

            async def server() -> None:
                # Also if the server ends or breaks at once: the relay finds out why.
                with contextlib.suppress(trio.BrokenResourceError):
                    await upstream.peek()
                found.append(OPAQUE)
                nursery.cancel_scope.cancel()

            async def client() -> None:
                try:
                    found.append(await _client_speaks(conn))
                except trio.BrokenResourceError:
                    found.append(OPAQUE)
                nursery.cancel_scope.cancel()

            nursery.start_soon(server)
            nursery.start_soon(client)
    except BaseException:
        abort(upstream)
        raise
    return OPAQUE if upstream.held else found[0]
