"""Room: TLS that we do not open. The server name is read and recorded, then the bytes pass as they are.

Who may open a stream to whom is decided as for any other stream: the name is the caller's own word, and proves nothing. It can only
show a mistake: a caller that dialled one service of the mesh and means another.
"""

from __future__ import annotations

import contextlib

import trio

from nodeproxy.context import Conn, Pick, Route
from nodeproxy.errors import Refused
from nodeproxy.hello import MOST, UNRECOGNIZED_NAME, Hello, alert, read_hello
from nodeproxy.stream import Peeked, abort
from nodeproxy.tcp import serve_tcp


async def serve_tls(conn: Conn, route: Route, upstream: Peeked | None = None, pick: Pick | None = None) -> None:
    """Relay one connection. `upstream` and `pick` come together, when detection has dialled already. Raises Refused."""
    try:
        hello = await _hello(conn)
        record = conn.report.record
        record.protocol = "tls" if hello else "tcp"
        if hello and hello.sni:
            record.host = hello.sni
            if route.misdirected(hello.sni):
                with trio.move_on_after(conn.context.limits.detect_timeout), contextlib.suppress(trio.BrokenResourceError):
                    await conn.stream.send_all(alert(UNRECOGNIZED_NAME))  # RFC 6066 section 3
                raise Refused("misdirected", f"{hello.sni} (the server name of TLS)")
    except BaseException:
        if upstream is not None:
            abort(upstream)
        raise
    await serve_tcp(conn, route, upstream, pick)


async def _hello(conn: Conn) -> Hello | None:
    """None when it does not come whole in time, or cannot be read: then this is a stream like any other."""
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
