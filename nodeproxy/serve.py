"""The hall: which protocol is this, if the destination did not say; then the room that moves it.

Theory of detection. A client-first protocol shows itself in its first bytes. A server-first one (MySQL, SMTP) never does: the
client waits. So while we wait for the client's bytes, and if policy admits an opaque stream to that port at all, the server is
dialled at once: if it speaks first, the connection is opaque, and nobody waited for anybody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import trio

from nodeproxy.context import Conn, Pick, Route
from nodeproxy.detect import Detected, detect
from nodeproxy.errors import Refused
from nodeproxy.http.rooms import serve_http
from nodeproxy.sni import serve_tls
from nodeproxy.stream import Peeked, abort
from nodeproxy.tcp import open_upstream, serve_tcp
from nodeproxy.upstream.connect import caller_key
from policy.model import Protocol

Room = Callable[[Conn, Route], Awaitable[None]]

# A protocol that is not here is opaque: it needs a rule that admits TCP to the port. One room speaks both versions of HTTP.
ROOMS: dict[str, Room] = {"http": serve_http, "grpc": serve_http, "h2": serve_http, "tls": serve_tls}

_SHOWN = {"http": "http", "h2": "http", "grpc": "http", "tls": "tls"}  # in records

_HEAR_OUT = 0.5  # seconds that a caller whose server is dead has for its first bytes


async def serve(conn: Conn, route: Route, protocol: Protocol) -> None:
    """Find the room and stay in it until the connection ends. Raises Refused."""
    if protocol:
        await _enter(conn, route, protocol)
        return
    first: Pick | None = None
    # An opaque stream may not be admitted: then only the client's bytes can tell what this is.
    with contextlib.suppress(Refused):
        first = route.pick(None)
    if first is None:
        detected: Detected = await _client_speaks(conn)
    else:
        conn.moves(first, None)
        try:
            upstream, first = await open_upstream(conn, route, first)
        except Refused:
            # Nobody answers. A caller that speaks HTTP can be told so in its own words; others see a reset.
            detected = "tcp"
            with trio.move_on_after(_HEAR_OUT):
                detected = await _client_speaks(conn)
            if detected not in ROOMS or detected == "tls":
                raise
            conn.rests()
            await _enter(conn, route, detected)
            return
        detected = await _who_speaks_first(conn, upstream)
        if detected == "tls":
            await serve_tls(conn, route, upstream, first)
            return
        if detected not in ROOMS:
            conn.report.record.protocol = "tcp"
            await serve_tcp(conn, route, upstream, first)
            return
        conn.rests()
        # Most HTTP servers wait for a request: the connection is used for the first one.
        keeper = conn.context.shared if detected == "h2" else conn.context.pool
        assert keeper is not None, "the proxy runs"
        keeper.give(caller_key(conn, first.endpoint), conn.workload.key, first.endpoint, upstream.stream)
    await _enter(conn, route, detected)


async def _enter(conn: Conn, route: Route, protocol: str) -> None:
    conn.report.record.protocol = _SHOWN.get(protocol, "tcp")
    await ROOMS.get(protocol, serve_tcp)(conn, route)


async def _client_speaks(conn: Conn) -> Detected:
    """Wait for bytes that say what this is; whoever says nothing within the deadline is opaque."""
    found: Detected | None = None
    with trio.move_on_after(conn.context.limits.detect_timeout):
        seen = -1
        while found is None:
            data = await conn.stream.peek()
            if len(data) == seen:
                return "tcp"  # the client ended before it could be told
            seen = len(data)
            found = detect(data)
    return found or "tcp"


async def _who_speaks_first(conn: Conn, upstream: Peeked) -> Detected:
    found: list[Detected] = []
    try:
        async with trio.open_nursery() as nursery:

            async def server() -> None:
                # Also when the server ends or breaks at once: the relay finds out what it was.
                with contextlib.suppress(trio.BrokenResourceError):
                    await upstream.peek()
                found.append("tcp")
                nursery.cancel_scope.cancel()

            async def client() -> None:
                try:
                    found.append(await _client_speaks(conn))
                except trio.BrokenResourceError:
                    found.append("tcp")
                nursery.cancel_scope.cancel()

            nursery.start_soon(server)
            nursery.start_soon(client)
    except BaseException:
        abort(upstream)
        raise
    return "tcp" if upstream.held else found[0]
