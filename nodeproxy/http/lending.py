"""An exchange lends its connection to the native lane between two requests, and goes on with what comes back (nodeproxy/lane.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from nodeproxy.errors import Refused
from nodeproxy.http.caller import Caller
from nodeproxy.http.message import RequestHead
from nodeproxy.http.sides import Server
from nodeproxy.http.streams import StreamCaller
from nodeproxy.native import AVAILABLE
from nodeproxy.stream import Peeked

if AVAILABLE:
    from nodeproxy.crossing import of_endpoint
    from nodeproxy.linked import LaneCarrier

if TYPE_CHECKING:
    from nodeproxy.context import Pick
    from nodeproxy.http.exchange import Exchange
    from nodeproxy.http.pool import Upstream
    from nodeproxy.lane import FastLane, Given, Plan

_PATH_SHOWN = 256  # characters of a path in a record


class Answered(NamedTuple):
    """The lane has asked a server for this exchange, and what it says is Python's to deliver."""

    server: Server
    pick: Pick | None  # as what the request was decided; None: nobody knows any more
    bytes_in: int  # of the request that the lane has sent on
    whole: bool  # that was all of it


def lending(exchange: Exchange) -> Lending | StreamLending | None:
    """None where the lane cannot help: it was not compiled, or this is neither HTTP/1.1 over a plain socket nor a stream that it carries."""
    lane = exchange.context.lane
    if lane is None:
        return None
    if isinstance(exchange.caller, StreamCaller):
        carried = isinstance(exchange.caller.channel.connection.carrier, LaneCarrier)
        return StreamLending(exchange, lane, exchange.caller) if carried else None
    if not isinstance(exchange.caller, Caller):
        return None
    stream = exchange.caller.stream
    if isinstance(stream, Peeked):
        below = stream.stream
        if isinstance(below, trio.SocketStream):
            return Lending(exchange, lane, exchange.caller, stream, below)
    return None


class Lending:
    """Of one exchange."""

    __slots__ = ("_caller", "_exchange", "_lane", "_peeked", "_socket")

    def __init__(self, exchange: Exchange, lane: FastLane, caller: Caller, peeked: Peeked, socket: trio.SocketStream) -> None:
        self._exchange = exchange
        self._lane = lane
        self._caller = caller
        self._peeked = peeked
        self._socket = socket

    async def early(self) -> bool:
        """Before the first request, or after a refusal. False: the connection has ended."""
        exchange = self._exchange
        if exchange.context.draining:
            return True
        plan = self._lane.ready(exchange.conn)
        return plan is None or await self._carry(plan)

    def refused(self, refused: Refused) -> None:
        """The request was refused, and the connection goes on."""
        exchange = self._exchange
        if refused.flag in ("denied", "no-identity") and exchange.head is not None and not exchange.head.length:
            self._lane.learn_refusal(exchange.conn, exchange.head, exchange.sent)

    async def lend(self) -> bool:
        """After a request. False: the connection has ended."""
        exchange = self._exchange
        conn, head = exchange.conn, exchange.head
        if head is None or conn.pick is None or exchange.context.draining:
            return True
        plan = self._lane.learn(conn, head, exchange.sent, conn.pick)
        if plan is None or not self._lane.lead(conn, plan, conn.pick, head, h2=False):
            return True
        return await self._carry(plan)

    def answered(self) -> Answered | None:
        return None

    async def _carry(self, plan: Plan) -> bool:
        exchange = self._exchange
        conn = exchange.conn
        exchange.phase.unbounded()
        try:
            given = await self._lane.carry(conn, plan, self._socket, self._peeked.take_held() + self._caller.incoming.rest())
        except trio.Cancelled:
            left = self._lane.left(conn)
            if left is not None:
                self._count(left)
                if left.began:
                    self._resume(left)
            raise
        self._count(given)
        return await self._go_on(given)

    def _count(self, given: Given) -> None:
        total = self._exchange.conn.report.record
        total.bytes_in += given.total_in
        total.bytes_out += given.total_out

    async def _go_on(self, given: Given) -> bool:
        exchange, caller = self._exchange, self._caller
        if given.what == self._lane.END:
            if given.flag:  # its request is not whole, and it has its answer
                with trio.move_on_after(2.0):
                    await caller.linger(exchange.limits)
            return False
        if given.what == self._lane.REQUEST:
            if given.data:
                caller.incoming.feed(given.data)
            return True
        if not given.began:
            exchange.head = None
            if given.flag == "client-gone":
                raise trio.BrokenResourceError(given.detail)
            raise Refused(given.flag, given.detail)
        head = self._resume(given)
        if given.what == self._lane.FAILED:
            head.close = head.close or bool(head.length)
            exchange.begun = given.begun
            raise Refused(given.flag, of_endpoint(exchange.record.endpoint, given.detail))
        upstream: Server | None
        pick = self._lane.pick_of(given)
        if given.back:
            upstream = self._lane.crossing.adopted(given, pick.endpoint) if pick is not None else None
            if upstream is None:
                raise Refused("upstream-broken", f"{exchange.record.endpoint} the connection to its node ended")
        else:
            upstream = taken_back(self._lane, given)
        exchange.upstream = upstream
        exchange.context.live.began(upstream.endpoint)
        return await exchange.deliver(upstream, await exchange.response_head(upstream))

    def _resume(self, given: Given) -> RequestHead:
        """Stand where the lane stood: a request was sent on, and its response is to come."""
        exchange = self._exchange
        incoming = self._caller.incoming
        incoming.feed(given.data)
        head = incoming.request_head(exchange.context.limits)
        assert head is not None, "the lane sends whole heads on"
        incoming.body_passed()
        exchange.head = head
        exchange.begun = exchange.sending = exchange.body_refused = False
        exchange.body_failure = None
        exchange.limits = exchange.context.limits
        record = exchange.open_report(head.method, given.began)
        record.path = head.target.partition(b"?")[0].decode("latin-1")[:_PATH_SHOWN]
        record.bytes_in, record.bytes_out = given.bytes_in, given.bytes_out
        record.status = given.status if given.begun else 0
        pick = self._lane.pick_of(given)
        if pick is not None:
            record.destination, record.service, record.rule, record.endpoint = pick.workload, pick.service, pick.rule, str(pick.endpoint)
        self._lane.crossing.note(record, exchange.conn, given.target)
        return head


class StreamLending:
    """Of one exchange on a stream that the lane carries: the next such stream may be the lane's."""

    __slots__ = ("_caller", "_exchange", "_lane")

    def __init__(self, exchange: Exchange, lane: FastLane, caller: StreamCaller) -> None:
        self._exchange = exchange
        self._lane = lane
        self._caller = caller

    async def early(self) -> bool:
        return True

    def refused(self, refused: Refused) -> None:
        return

    async def lend(self) -> bool:
        exchange = self._exchange
        conn, head = exchange.conn, exchange.head
        if head is None or conn.pick is None or exchange.context.draining:
            return True
        carrier, h2 = self._caller.channel.connection.carrier, self._caller.h2
        if not (isinstance(carrier, LaneCarrier) and carrier.local):
            self._lane.crossing.learn(conn, self._caller.channel, head, exchange.sent, conn.pick, h2)
            return True
        plan = self._lane.learn(conn, head, exchange.sent, conn.pick, h2)
        if plan is not None and self._lane.lead(conn, plan, conn.pick, head, h2):
            self._lane.crossing.serve(self._caller.channel, plan)
        return True

    def answered(self) -> Answered | None:
        """The server that the lane has asked already, with what it said. Raises Refused."""
        exchange, crossing = self._exchange, self._lane.crossing
        given = crossing.answered(self._caller.channel)
        if given is None:
            return None
        pick = self._lane.pick_of(given)
        crossing.note(exchange.record, exchange.conn, given.target)
        if not given.back:
            return Answered(taken_back(self._lane, given), pick, given.bytes_in, given.asked_all)
        server = crossing.adopted(given, pick.endpoint) if pick is not None else None
        if server is None:
            crossing.drop_adopted(given.caller)
            raise Refused("upstream-broken", "the connection to the server ended")
        return Answered(server, pick, given.bytes_in, given.asked_all)


def taken_back(lane: FastLane, given: Given) -> Upstream:
    """A server's connection that has answered in a way that goes on in Python."""
    upstream = lane.take_back(given.server)
    upstream.incoming.feed(given.rest)
    upstream.used = upstream.heard = True
    return upstream
