"""Handler of TLS that is not terminated here. The server name is read and recorded, then the bytes pass unchanged.

The stream is authorised as any other: the caller chooses the server name, so the name proves nothing. Within the mesh
it can only show a mistake: a caller that dialled one Service and means another. What leaves the mesh may be let out by
name, where DNS said that the name has the dialled address (routing/outside.py).
"""

from __future__ import annotations

import contextlib

import trio

from nodeproxy.codec.client_hello import ACCESS_DENIED, MOST, UNRECOGNIZED_NAME, Hello, alert, read_hello
from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Pick, Route, Unsettled
from nodeproxy.protocols.tcp import serve_tcp
from nodeproxy.stream import Peeked, abort


async def serve_tls(conn: Conn, route: Route, upstream: Peeked | None = None, pick: Pick | None = None) -> None:
    """Relay one connection. `upstream` and `pick` are both given if detection has already dialled. Raise Refused."""
    try:
        hello = await _hello(conn)
        record = conn.report.record
        record.protocol = "tls" if hello else "tcp"
        conn.hello = hello
        if hello and hello.sni:
            record.host = hello.sni
            if route.misdirected(hello.sni):
                await _alert(conn, UNRECOGNIZED_NAME)  # RFC 6066 section 3
                raise Refused("misdirected", f"{hello.sni} (the server name of TLS)")
    except BaseException:
        if upstream is not None:
            abort(upstream)
        raise
    try:
        try:
            await serve_tcp(conn, route, upstream, pick)
        except Unsettled as unsettled:
            if not await unsettled.settle():
                raise
            await serve_tcp(conn, route)
    except Refused as refused:
        if refused.flag == "egress-denied" and hello is not None:
            await _alert(conn, ACCESS_DENIED)
        raise


async def _alert(conn: Conn, code: int) -> None:
    with trio.move_on_after(conn.context.limits.detect_timeout), contextlib.suppress(trio.BrokenResourceError):
        await conn.stream.send_all(alert(code))


async def _hello(conn: Conn) -> Hello | None:
    """Return the ClientHello; None if it is incomplete in time, or cannot be read: then this is an ordinary stream."""
    stream = conn.stream
    with trio.move_on_after(conn.context.limits.detect_timeout):
        while True:
            try:
                hello = read_hello(stream.held)
            except ValueError:
                return None
            seen = len(stream.held)
            if hello is not None or len(await stream.peek(MOST // 4)) == seen:
                return hello
    return None
