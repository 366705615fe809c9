"""From a request to its server: the decision, and a connection that is idle in a pool, is shared, or is dialled.

There are three ways to a server. An HTTP/1.1 connection carries one request at a time and returns to the pool in
between. A connection to a server that speaks HTTP/2 carries many requests at once. A server on another node is reached
through that node: if both nodes are edgemesh, as a request of its own in the connection between them; otherwise through
a tunnel that carries either of the first two.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

import trio
from msgspec import structs

from nodeproxy.codec.entering import told
from nodeproxy.codec.message import RequestHead
from nodeproxy.h2.stream import Channel
from nodeproxy.mesh.connection import Link, note_peer
from nodeproxy.protocols.http.http2 import StreamServer
from nodeproxy.protocols.http.interfaces import Server
from nodeproxy.routing.dial import dial, or_another
from nodeproxy.routing.source import caller_key
from nodeproxy.telemetry.record import Record
from nodeproxy.upstream.http1_pool import Key, Upstream
from policy.model import Endpoint, Request

if TYPE_CHECKING:
    from nodeproxy.context import Conn
    from nodeproxy.interfaces import Pick, Route


def decide(
    conn: Conn,
    route: Route,
    request: Request,
    record: Record,
    tried: Collection[Endpoint] = (),
    backend: str = "",
) -> Pick:
    """Decide with the newest snapshot, and note the decision in the record and (for publish()) in `conn`.

    `backend`: the only one that may be chosen, if there is one. Raise Refused.
    """
    pick = route.pick(request, tried, backend)
    conn.moves(pick, request)
    record.destination, record.service, record.rule = pick.workload, pick.service, pick.rule
    record.trial = pick.trial
    return pick


def note_pick(record: Record, pick: Pick) -> None:
    """Note the workload that a request was decided for, and the rule."""
    record.destination, record.service, record.rule = pick.workload, pick.service, pick.rule
    record.trial = pick.trial


def resting(conn: Conn, pick: Pick, record: Record, head: RequestHead, h2: bool) -> Server | None:
    """Return an idle connection to the picked endpoint that was opened for this same caller, or None."""
    if server_speaks_h2(pick, head, h2):
        return None
    key = _key(conn, pick)
    upstream = conn.context.pool.take(key, trio.current_time())
    if upstream is None:
        upstream = conn.context.fast.resting(key)
    if upstream is not None and isinstance(upstream.stream, Channel) and isinstance(upstream.stream.connection, Link):
        note_peer(record, upstream.stream.connection)
    return upstream


async def dialled(
    conn: Conn, record: Record, pick: Pick, head: RequestHead, h2: bool, again: Callable[[Collection[Endpoint]], Pick]
) -> Server:
    """Return a new connection to the picked endpoint, or to another if it does not answer. Raise Refused.

    `again`: decide once more, without the endpoints that were tried.
    """

    def connect(pick: Pick) -> Awaitable[Server]:
        record.endpoint = str(pick.endpoint)
        return _connect(conn, pick, record, head, h2)

    server, _ = await or_another(pick, again, connect)
    return server


def _key(conn: Conn, pick: Pick) -> Key:
    """Return whose connections to the picked endpoint a request may go on.

    The other node of a tunnel was told once of a caller from outside, for all that goes through the tunnel.
    """
    caller = caller_key(conn, pick.endpoint)
    if pick.came is not None:
        caller += f" {told(structs.replace(pick.came, port=0)).decode()}"
    return caller, conn.workload.key, pick.endpoint


async def _connect(conn: Conn, pick: Pick, record: Record, head: RequestHead, h2: bool) -> Server:
    context = conn.context
    if pick.hop is not None and not _turns_opaque(head):
        peer = await context.peers.get(conn.workload, pick.hop, pick.came)
        note_peer(record, peer)
        if peer.native:
            return StreamServer(peer, pick.endpoint, through_node=True, h2=h2, came=pick.came)
    key = _key(conn, pick)
    if server_speaks_h2(pick, head, h2):
        return StreamServer(
            await context.http2_pool.get(key, dial, conn, pick, most=per_connection(pick)), pick.endpoint
        )
    return Upstream(key, await dial(conn, pick), context.pool)


def per_connection(pick: Pick) -> int | None:
    """Return how many requests a connection to the picked server may carry, at the node that makes it; None: any number."""
    if pick.hop is not None:
        return None
    bounds = pick.bounds if pick.upstream is None else (pick.upstream, *pick.bounds)
    return min((one.max_per_connection for one in bounds if one.max_per_connection is not None), default=None)


def server_speaks_h2(pick: Pick, head: RequestHead, h2: bool) -> bool:
    """Return whether the server speaks HTTP/2: as its Service port declares, or otherwise as its caller does."""
    return (pick.protocol == "grpc" or (h2 and not pick.protocol)) and not _turns_opaque(head)


def _turns_opaque(head: RequestHead) -> bool:
    """Return whether the request turns its connection opaque.

    Upgrades and CONNECT take over an HTTP/1.1 connection. HTTP/2 has no upgrade (RFC 9113 section 8.6).
    """
    return bool(head.upgrade) or head.method == b"CONNECT"
