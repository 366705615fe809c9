"""What bounds a request beside policy (policy/upstream.py): rates at its server's node, the rest at its caller's."""

from __future__ import annotations

import trio

from nodeproxy.codec.local_reply import Answered
from nodeproxy.codec.message import RequestHead
from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Pick
from nodeproxy.protocols.http.attempt import server_speaks_h2
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.upstream.shares import Full, Open, Place
from policy.model import Request

# Ends of a request that say something about its server, and count as errors of it
_FAILURES = frozenset(
    (
        *("upstream-broken", "response-timeout", "route-timeout", "connect-failed", "connect-timeout"),
        *("peer-lost", "node-unreachable", "tls-failed", "peer-refused"),
    )
)


def take(conn: Conn, pick: Pick, request: Request) -> None:
    """Count a request that is about to be sent to a workload of this node. Raise Refused if it comes too soon.

    `request`: as its server gets it.
    """
    if not pick.bounds:
        return
    found = conn.context.rates.request(pick.endpoint, pick.bounds, request, trio.current_time())
    if found is None:
        return
    of, said = found
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in said.fields]
    raise Answered(said.status, fields, None, f"{of.name}, {said.name}", "rate-limited")


async def enter(conn: Conn, pick: Pick, head: RequestHead, h2: bool, phase: Phase, seconds: float) -> Place | None:
    """Take a place among this caller's requests to the chosen Service. None: it needs none. Raise Refused.

    `seconds`: how long it may wait for a connection. One over HTTP/2 shares connections, and waits for none.
    """
    bounds = pick.upstream
    if bounds is None or not (bounds.counts_calls or (bounds.max_retries is not None and pick.retry is not None)):
        return None
    key = (conn.workload.key, pick.service or pick.rule, pick.endpoint.port)
    try:
        place = conn.context.shares.enter(key, bounds, trio.current_time())
        if bounds.max_connections is None or server_speaks_h2(pick, head, h2):
            return place
        phase.begin("overflow", seconds)
        try:
            await place.connect()
        except BaseException:
            place.leave()
            raise
        return place
    except Full as full:
        raise Refused("overflow", f"{bounds.name}, {full.args[0]}") from None
    except Open:
        circuit = bounds.circuit
        assert circuit is not None
        fields = [(b"content-type", b"text/plain; charset=utf-8")]
        body = b"" if circuit.status in (204, 205, 304) else circuit.content.encode("utf-8", "backslashreplace")
        raise Answered(circuit.status, fields, body, bounds.name, "circuit-open") from None


def is_failure(refused: Refused) -> bool:
    """Return whether a request failed by its server's fault."""
    return refused.flag in _FAILURES
