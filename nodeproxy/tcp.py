"""Room: opaque bytes. One decision for the connection, then bytes both ways until both sides are done."""

from __future__ import annotations

from nodeproxy.context import Conn, Pick, Route
from nodeproxy.errors import Refused
from nodeproxy.relay import relay
from nodeproxy.stream import Peeked, abort, close_now
from nodeproxy.upstream.connect import dial
from policy.model import Endpoint

ATTEMPTS = 3  # endpoints that are tried before a caller is told that nobody answers


async def serve_tcp(conn: Conn, route: Route, upstream: Peeked | None = None, pick: Pick | None = None) -> None:
    """Relay one connection. `upstream` and `pick` come together, when detection has dialled already. Raises Refused."""
    if upstream is None or pick is None:
        pick = route.pick(None)
        conn.moves(pick, None)
        upstream, pick = await open_upstream(conn, route, pick)
    record = conn.report.record
    record.destination = pick.workload
    record.service = pick.service
    record.endpoint = str(pick.endpoint)
    record.rule = pick.rule
    context = conn.context
    live = context.live
    live.began(pick.endpoint)
    ended = False
    try:
        await relay(conn.stream, upstream, context.limits.idle_timeout, record, context.limits.buffer_bytes, context.lane)
        ended = True
    finally:
        live.ended(pick.endpoint)
        if ended:
            close_now(upstream)
        else:
            abort(upstream)  # cut or broken: the server must not take a part for the whole


async def open_upstream(conn: Conn, route: Route, pick: Pick) -> tuple[Peeked, Pick]:
    """Dial the picked endpoint, and others when it does not answer. Raises Refused: the failure of the last endpoint tried."""
    tried: list[Endpoint] = []
    while True:
        try:
            return Peeked(await dial(conn, pick)), pick
        except Refused as refused:
            tried.append(pick.endpoint)
            if len(tried) >= ATTEMPTS:
                raise
            try:
                pick = route.pick(None, tried)
            except Refused as newer:
                # That nobody else is left is no news; that policy has changed meanwhile is.
                raise (refused if newer.flag in ("no-endpoint", "connect-failed") else newer) from None
            conn.moves(pick, None)
