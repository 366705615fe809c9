"""A request finds its server: the decision, and a connection that rests, is shared, or is dialled.

Three ways lead to a server. HTTP/1.1 connections carry one request at a time and rest in the pool. A server that speaks HTTP/2 is
asked over one connection for many requests. And a server on another node is asked through that node: as a request of its own in the
connection between the two nodes when both are edgemesh, else through a tunnel that carries either of the first two.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import trio

from nodeproxy.errors import Refused
from nodeproxy.http.h2_channel import Channel
from nodeproxy.http.message import RequestHead
from nodeproxy.http.pool import Upstream
from nodeproxy.http.sides import Server
from nodeproxy.http.streams import StreamServer
from nodeproxy.peer import Link, note_peer
from nodeproxy.telemetry.report import Record
from nodeproxy.upstream.connect import caller_key, dial
from policy.model import Endpoint, Request

if TYPE_CHECKING:
    from nodeproxy.context import Conn, Pick, Route

ATTEMPTS = 3  # endpoints that are tried before a caller is told that nobody answers


def decide(conn: Conn, route: Route, request: Request, record: Record, tried: Collection[Endpoint] = ()) -> Pick:
    """Decide with the newest snapshot, and note the decision: in `conn`, for publish(), and in the record. Raises Refused."""
    pick = route.pick(request, tried)
    conn.moves(pick, request)
    record.destination = pick.workload
    record.service = pick.service
    record.rule = pick.rule
    return pick


def resting(conn: Conn, pick: Pick, record: Record, head: RequestHead, h2: bool) -> Server | None:
    """A connection to the picked endpoint that was opened for this same caller and rests, if there is one."""
    if server_speaks_h2(pick, head, h2):
        return None
    key = (caller_key(conn, pick.endpoint), conn.workload.key, pick.endpoint)
    upstream = conn.context.pool.take(key, trio.current_time())
    if upstream is None and conn.context.lane is not None:
        upstream = conn.context.lane.resting(key)
    if upstream is not None and isinstance(upstream.stream, Channel) and isinstance(upstream.stream.connection, Link):
        note_peer(record, upstream.stream.connection)
    return upstream


async def dialled(conn: Conn, route: Route, request: Request, record: Record, pick: Pick, head: RequestHead, h2: bool) -> Server:
    """A connection to the picked endpoint, or to another when that does not answer: nothing of the request was sent yet,
    so any method may try again. Raises Refused: the failure of the last endpoint tried."""
    tried: list[Endpoint] = []
    while True:
        record.endpoint = str(pick.endpoint)
        try:
            return await _connect(conn, pick, record, head, h2)
        except Refused as refused:
            tried.append(pick.endpoint)
            if len(tried) >= ATTEMPTS:
                raise
            try:
                pick = decide(conn, route, request, record, tried)
            except Refused as newer:
                # That nobody else is left is no news; that policy has changed meanwhile is.
                raise (refused if newer.flag in ("no-endpoint", "connect-failed") else newer) from None


async def _connect(conn: Conn, pick: Pick, record: Record, head: RequestHead, h2: bool) -> Server:
    context = conn.context
    if pick.hop is not None and not _turns_opaque(head):
        assert context.peers is not None
        peer = await context.peers.get(conn, pick.hop)
        note_peer(record, peer)
        if peer.native:
            return StreamServer(peer, pick.endpoint, through_node=True, h2=h2)
    if server_speaks_h2(pick, head, h2):
        assert context.shared is not None
        return StreamServer(await context.shared.get(conn, pick), pick.endpoint)
    key = (caller_key(conn, pick.endpoint), conn.workload.key, pick.endpoint)
    return Upstream(key, await dial(conn, pick), context.pool)


def server_speaks_h2(pick: Pick, head: RequestHead, h2: bool) -> bool:
    """As its Service port declares, or else as its caller does."""
    return (pick.protocol == "grpc" or (h2 and not pick.protocol)) and not _turns_opaque(head)


def _turns_opaque(head: RequestHead) -> bool:
    """Upgrades and CONNECT take over an HTTP/1.1 connection; HTTP/2 has no such thing (RFC 9113 section 8.6)."""
    return bool(head.upgrade) or head.method == b"CONNECT"
