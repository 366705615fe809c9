"""A request finds its server: the decision, and a connection that rests in the pool or is dialled."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import trio

from nodeproxy.errors import Refused
from nodeproxy.http.pool import Upstream
from nodeproxy.telemetry.report import Record
from nodeproxy.upstream.connect import dial, shown_to
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


def resting(conn: Conn, pick: Pick) -> Upstream | None:
    """A connection to the picked endpoint that was opened for this same caller and rests, if there is one."""
    return conn.context.pool.take((shown_to(conn, pick.endpoint), conn.workload.key, pick.endpoint), trio.current_time())


async def dialled(conn: Conn, route: Route, request: Request, record: Record, pick: Pick) -> Upstream:
    """A new connection to the picked endpoint, or to another when that does not answer: nothing of the request was sent yet,
    so any method may try again. Raises Refused: the failure of the last endpoint tried."""
    tried: list[Endpoint] = []
    while True:
        record.endpoint = str(pick.endpoint)
        try:
            return Upstream((shown_to(conn, pick.endpoint), conn.workload.key, pick.endpoint), await dial(conn, pick))
        except Refused as refused:
            tried.append(pick.endpoint)
            if len(tried) >= ATTEMPTS:
                raise
            try:
                pick = decide(conn, route, request, record, tried)
            except Refused as newer:
                # That nobody else is left is no news; that policy has changed meanwhile is.
                raise (refused if newer.flag in ("no-endpoint", "connect-failed") else newer) from None
