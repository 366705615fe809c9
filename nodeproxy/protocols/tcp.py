"""Handler of opaque bytes: one decision for the connection, then bytes both ways until both sides are done."""

from __future__ import annotations

from collections.abc import Collection

import trio

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.h2.stream import Channel
from nodeproxy.interfaces import Pick, Route
from nodeproxy.protocols.relay import relay
from nodeproxy.routing.dial import dial, or_another
from nodeproxy.stream import Peeked, abort, close_now
from nodeproxy.upstream.shares import Full, Share
from policy.model import Endpoint

_TUNNELLED = 86400.0  # minimum idle timeout, in seconds, of a tunnel that ends here


async def serve_tcp(conn: Conn, route: Route, upstream: Peeked | None = None, pick: Pick | None = None) -> None:
    """Relay one connection. `upstream` and `pick` are both given if detection has already dialled. Raise Refused."""
    if upstream is None or pick is None:
        pick = route.pick(None)
    share = _share(conn, pick)
    try:
        if upstream is None:
            conn.moves(pick, None)
            upstream, pick = await open_upstream(conn, route, pick)
        await _relay(conn, upstream, pick)
    finally:
        if share is not None:
            share.leave_connection()


def _share(conn: Conn, pick: Pick) -> Share | None:
    """Count a connection of this caller to the chosen Service. Return what counts it, or None. Raise Refused."""
    bounds = pick.upstream
    if bounds is None or bounds.max_connections is None:
        return None
    key = (conn.workload.key, pick.service or pick.rule, pick.endpoint.port)
    share = conn.context.shares.share(key, bounds, trio.current_time())
    try:
        share.take_connection()
    except Full as full:
        raise Refused("overflow", f"{bounds.name}, {full.args[0]}") from None
    return share


async def _relay(conn: Conn, upstream: Peeked, pick: Pick) -> None:
    record = conn.report.record
    record.destination = pick.workload
    record.service = pick.service
    record.endpoint = str(pick.endpoint)
    record.rule = pick.rule
    record.trial = pick.trial
    context = conn.context
    live = context.live
    live.began(pick.endpoint)
    ended = False
    try:
        limits = context.limits_for(pick.endpoint)
        idle = limits.patience
        if isinstance(conn.stream.stream, Channel):
            # The node that opened a tunnel ends its stream: only that node sees the keepalives of the caller.
            idle = max(idle, _TUNNELLED)
        await relay(conn.stream, upstream, idle, record, limits.buffer_bytes, context.fast)
        ended = True
    finally:
        live.ended(pick.endpoint)
        if ended:
            close_now(upstream)
        else:
            abort(upstream)  # cut or broken: the server must not take a part for the whole


async def open_upstream(conn: Conn, route: Route, pick: Pick) -> tuple[Peeked, Pick]:
    """Dial the picked endpoint, and others if it does not answer.

    Raise Refused: the failure of the last endpoint tried.
    """

    async def connect(pick: Pick) -> Peeked:
        return Peeked(await dial(conn, pick))

    def again(tried: Collection[Endpoint]) -> Pick:
        pick = route.pick(None, tried)
        conn.moves(pick, None)
        return pick

    return await or_another(pick, again, connect)
