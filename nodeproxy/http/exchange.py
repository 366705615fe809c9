"""One HTTP request end to end, and the next one on the same connection: head, decision, server, response, record.

Theory of operation. The caller's task does everything while a request has no body, or its body has already arrived: that is
nearly every request, and it costs no nursery. Only a body that is still coming gets a second task, which carries it to the server
while the first one waits for the response: so 100-continue works end to end, a server may answer early, and each direction
has its own back-pressure. Neither side's version of HTTP is known here (sides.py). One scope holds all deadlines of the connection; a phase (phase.py) moves its deadline and names
the flag that running into it means. This is the one place that catches for a request: a Refused becomes an answer
where the response has not begun, else the connection is broken off, so that a part never looks like the whole.
"""

from __future__ import annotations

import itertools
import logging
import time
from typing import TYPE_CHECKING

import trio

from nodeproxy.errors import FLAGS, Refused
from nodeproxy.http.fields import agreed
from nodeproxy.http.lending import lending
from nodeproxy.http.message import IDEMPOTENT, RequestHead, ResponseHead, split_target
from nodeproxy.http.phase import Phase
from nodeproxy.http.reach import decide, dialled, resting
from nodeproxy.http.sides import Caller, Server
from nodeproxy.relay import relay
from nodeproxy.telemetry.report import Record, Report, new_id, trace_id
from nodeproxy.upstream.connect import forwarded_for
from policy.model import Request

if TYPE_CHECKING:
    from nodeproxy.context import Conn, Route
    from nodeproxy.http.lending import Answered

log = logging.getLogger("edgemesh.http")

_LINGER = 2.0  # seconds that a refused caller's bytes are still read, so that a reset does not overtake the answer
_MOST_INTERIM = 100  # 1xx responses to one request
_PATH_SHOWN = 256  # characters of a path in a record

# After these the next request on the connection could begin anywhere, or the caller is not to be listened to any longer.
_CLOSING = frozenset(("bad-request", "bad-path", "path-too-long", "head-too-large", "head-timeout", "idle", "internal"))


async def serve_requests(conn: Conn, route: Route, caller: Caller) -> None:
    """Serve all requests of one caller, one after the other, until there are no more.

    Returns when that ended in order. Raises Refused or BrokenResourceError when it must be broken off.
    """
    exchange = Exchange(conn, route, caller)
    try:
        while True:
            exchange.phase = Phase(trio.CancelScope())
            try:
                with exchange.phase.scope:
                    if exchange.lends is not None and not await exchange.lends.early():
                        return
                    while await exchange.carry_one():
                        if exchange.lends is not None and not await exchange.lends.lend():
                            return
                    return
                refused = Refused(exchange.phase.flag) if exchange.phase.flag else None
            except Refused as error:
                refused = error
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                exchange.close_report("client-gone")
                raise
            except Exception:
                log.exception("request on %r", conn)
                refused = Refused("internal")
            if refused is None or not await exchange.refuse(refused):
                return
            if exchange.lends is not None:
                exchange.lends.refused(refused)
    finally:
        exchange.end()


class Exchange:
    """One accepted connection, and the request that it carries now."""

    __slots__ = (
        "begun",
        "body_failure",
        "body_refused",
        "caller",
        "conn",
        "context",
        "head",
        "incoming",
        "lends",
        "limits",
        "phase",
        "record",
        "report",
        "route",
        "sending",
        "sent",
        "shown",
        "upstream",
    )

    def __init__(self, conn: Conn, route: Route, caller: Caller) -> None:
        self.conn = conn
        self.route = route
        self.context = conn.context
        self.limits = conn.context.limits
        self.caller = caller
        self.incoming = caller.incoming
        self.shown = forwarded_for(conn).encode()
        self.phase = Phase(trio.CancelScope())
        self.head: RequestHead | None = None
        self.report: Report | None = None
        self.upstream: Server | None = None
        self.begun = False  # bytes of the final response were sent
        self.sent = b""  # the target that was sent on
        self.lends = lending(self)
        # A request body that a second task sends.
        self.sending = False  # it is not all sent
        self.body_refused = False  # the server takes no more of it
        self.body_failure: Exception | None = None  # the caller broke it off, or broke its syntax

    def __repr__(self) -> str:
        return f"<Exchange {self.head!r} with {self.upstream!r}>"

    # the journey of one request

    async def carry_one(self) -> bool:
        """Serve the next request. False: the connection has ended, or ends now."""
        self.head = None
        self.begun = self.sending = self.body_refused = False
        self.body_failure = None
        head = await self.caller.next_head(self.context.limits, self.phase)
        if head is None:
            return False
        self.limits = self.context.limits  # the same ones for all of this request
        self.head = head
        conn = self.conn
        record = self.open_report(head.method)
        record.bytes_in = head.size
        target = split_target(head.target, head.method, self.limits.path_bytes)
        record.path = target.path[:_PATH_SHOWN]
        host = head.host
        if target.authority:
            # RFC 9112 section 3.2.2: the Host that was received is ignored.
            host = target.authority
            head.fields = [field for field in head.fields if field[0] != b"host"]
            head.fields.append((b"host", host))
        if host is None:  # HTTP/1.0; what we send needs one
            host = conn.report.record.dialled.encode()
        elif self.route.misdirected(host.decode("latin-1")):
            raise Refused("misdirected", host.decode("latin-1"))
        through = self.shown
        if head.forwarded_for:  # another node of the mesh has said who calls already
            last = head.forwarded_for.rpartition(b",")[2].strip(b" \t")
            through = head.forwarded_for if last == through else head.forwarded_for + b", " + through
        head.fields.append((b"x-forwarded-for", through))
        self.sent = target.sent
        request = Request(record.method, target.path, head.fields)

        piece = self.incoming.body() if head.length else None
        if piece:
            record.bytes_in += len(piece)

        def begin(upstream: Server) -> None:
            upstream.begin(head, target.sent, host, through)
            if piece is not None:
                upstream.add(piece, self.incoming)

        answered = self.lends.answered() if self.lends is not None else None
        if answered is not None:  # the lane has asked the server, and what it says is ours to deliver
            return await self._go_on(answered, request, piece)
        upstream = await self._reach(request)
        begin(upstream)
        if not self.incoming.complete:
            return await self._carry_with_body(upstream)
        try:
            await upstream.flush()
            response = await self.response_head(upstream)
        except Refused as refused:
            # RFC 9110 section 9.2.2: the server may have closed an idle connection just as we used it.
            stale = upstream.used and not upstream.heard and head.method in IDEMPOTENT and not head.length
            if refused.flag != "upstream-broken" or not (stale or upstream.unprocessed):
                raise
            self._break()
            upstream = await self._reach(request, fresh=True)
            begin(upstream)
            await upstream.flush()
            response = await self.response_head(upstream)
        return await self.deliver(upstream, response)

    async def _go_on(self, answered: Answered, request: Request, piece: bytes | None) -> bool:
        """`piece`: of the body, which came since then."""
        upstream, pick, record = answered.server, answered.pick, self.record
        self.upstream = upstream
        self.context.live.began(upstream.endpoint)
        if pick is None:
            decide(self.conn, self.route, request, record)
        else:
            self.conn.moves(pick, request)
            record.destination, record.service, record.rule = pick.workload, pick.service, pick.rule
            if not self.route.still_allows(pick, request):  # policy has changed since the lane asked
                raise Refused("cut")
        record.endpoint = upstream.name
        record.bytes_in = answered.bytes_in + len(piece or b"")
        if not answered.whole:
            upstream.add(piece or b"", self.incoming)
            if not self.incoming.complete:
                return await self._carry_with_body(upstream)
            await upstream.flush()
        return await self.deliver(upstream, await self.response_head(upstream))

    async def _reach(self, request: Request, fresh: bool = False) -> Server:
        """Decide, and get a connection to the endpoint: one that rests, unless `fresh`, else a new one."""
        conn, record = self.conn, self.record
        assert self.head is not None
        pick = decide(conn, self.route, request, record)
        upstream = None if fresh else resting(conn, pick, record, self.head, self.caller.h2)
        if upstream is None:
            self.phase.unbounded()
            upstream = await dialled(conn, self.route, request, record, pick, self.head, self.caller.h2)
        self.upstream = upstream
        self.context.live.began(upstream.endpoint)
        record.endpoint = upstream.name
        self.phase.begin("response-timeout", self.limits.response_timeout)  # a server that does not read is one that does not answer
        return upstream

    async def response_head(self, upstream: Server) -> ResponseHead:
        """Wait for the final response head (101 is final too), sending 1xx on meanwhile."""
        head = self.head
        assert head is not None
        if self.incoming.complete:
            self.phase.begin("response-timeout", self.limits.response_timeout)
        for count in itertools.count(1):
            response = await upstream.next_response(head.method, self.limits)
            if response.status >= 200 or response.status == 101:
                return response
            if count > _MOST_INTERIM:
                break
            if head.minor:  # RFC 9110 section 15.2: no 1xx to an HTTP/1.0 client
                await self.caller.interim(response)
            await trio.lowlevel.checkpoint()  # who sends a thousand of them at once does not stop the others
        raise Refused("upstream-broken", f"{upstream.name} sent more than {_MOST_INTERIM} interim responses")

    async def deliver(self, upstream: Server, response: ResponseHead) -> bool:
        """Send the response to the caller. True when the caller's connection can carry another request."""
        head, record, incoming, caller = self.head, self.record, upstream.incoming, self.caller
        assert head is not None
        if response.status == 101 or (head.method == b"CONNECT" and response.status < 300):
            return await self._switch(upstream, response)
        close = head.close
        if self.sending and (head.expect or response.close or self.body_refused):
            # An early answer: the caller may or may not send the rest of the body, and nobody waits for it.
            close = True
        # A first send holds the head and what has come of the body: for a small response that is all.
        caller.begin(response, head, close)
        if not incoming.complete:
            piece = incoming.body()
            if piece is not None:
                caller.add(piece, incoming)
        if incoming.complete:
            self.phase.flag = "idle"
        else:
            self.phase.begin("idle", self.limits.idle_timeout)
        self.begun = True
        record.status = response.status
        record.bytes_out += await caller.flush()
        while not incoming.complete:
            self.phase.moved(self.limits.idle_timeout)
            while (piece := incoming.body()) is None:
                await upstream.more(self.limits)
            caller.add(piece, incoming)
            record.bytes_out += await caller.flush()
        if not self.sending:  # else the body goes on, and the request ends with it
            self._finish(response, reusable=not response.close and not head.bare)
        return not close

    # a request with a body

    async def _carry_with_body(self, upstream: Server) -> bool:
        """Carry a request body that is still coming and its response, at the same time."""
        head = self.head
        assert head is not None
        response: ResponseHead | None = None
        more = False
        failure: Exception | None = None
        self.sending = True
        self.phase.moved(self.limits.idle_timeout)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._copy_body, upstream, nursery.cancel_scope)
            try:
                response = await self.response_head(upstream)
                more = await self.deliver(upstream, response)
                if not more or self.body_refused:
                    nursery.cancel_scope.cancel()
            except (Refused, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                failure = error  # raised below: the nursery would wrap it in a group
                nursery.cancel_scope.cancel()
        if self.body_failure is not None:
            raise self.body_failure
        if failure is not None:
            raise failure
        assert response is not None
        if self.report is not None:  # _deliver left it open: the response was over before the body
            self._finish(response, reusable=not (self.sending or response.close or head.bare))
        if self.sending:
            self.sending = False
            with trio.move_on_after(_LINGER):
                await self.caller.linger(self.limits)
            return False
        return more

    async def _copy_body(self, upstream: Server, both: trio.CancelScope) -> None:
        """The second task: the rest of the request body goes to the server. Raises nothing; what went wrong is left in attributes."""
        incoming, record = self.incoming, self.record
        try:
            while True:
                await upstream.flush()
                if incoming.complete:
                    break
                self.phase.moved(self.limits.idle_timeout)
                while (piece := incoming.body()) is None:
                    await self.caller.more(self.limits)
                record.bytes_in += len(piece)
                upstream.add(piece, incoming)
            self.sending = False
            if not self.begun:
                self.phase.begin("response-timeout", self.limits.response_timeout)
        except Refused as refused:
            if refused.flag == "upstream-broken":
                # The server takes no more, which is its right when it has answered: the first task finds out.
                self.body_refused = True
                if not self.begun:
                    self.phase.begin("response-timeout", self.limits.response_timeout)
            else:
                self.body_failure = refused
                both.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.body_failure = error
            both.cancel()

    # a connection that becomes another protocol

    async def _switch(self, upstream: Server, response: ResponseHead) -> bool:
        """101, or 2xx to CONNECT: from here on the connection is opaque in both directions."""
        head, record = self.head, self.record
        assert head is not None
        if response.status == 101:
            if not self.incoming.complete or not agreed(head, response):
                raise Refused("upstream-broken", f"{upstream.name} switched to a protocol that was not asked for")
            record.protocol = response.upgrade.decode("latin-1").lower()
        self.caller.switch(response)
        self.begun = True
        record.status = response.status
        self.phase.unbounded()
        record.bytes_out += await self.caller.flush()
        lane = self.context.lane
        await relay(self.caller.pipe(), upstream.pipe(), self.limits.idle_timeout, record, self.limits.buffer_bytes, lane)
        self._finish(response, reusable=False)
        return False

    # the ways out

    def _finish(self, response: ResponseHead, reusable: bool) -> None:
        """The request went well: its server connection rests or is closed, its record is written."""
        upstream = self.upstream
        assert upstream is not None
        self.upstream = None
        self.context.live.ended(upstream.endpoint)
        upstream.finish(reusable)
        if response.told:  # the other node's own answer, not the server's
            self.record.id = response.told_id
            self.close_report("peer-refused", response.told, response.status)
        else:
            self.close_report(status=response.status)
        self.conn.rests()

    def _break(self) -> None:
        upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            self.context.live.ended(upstream.endpoint)
            upstream.abort()

    async def refuse(self, refused: Refused) -> bool:
        """Answer a refusal. True when the connection can go on; raises it again when an answer is no longer possible."""
        head = self.head
        self._break()
        if refused.flag == "client-gone" or self.begun:
            self.close_report(refused.flag, refused.detail)
            raise refused
        if self.report is None:
            self.open_report(b"")  # a head that could not be read is a request all the same
        keep = head is not None and refused.flag not in _CLOSING and not head.close and head.method != b"CONNECT"
        if head is not None and not self.incoming.complete:
            keep = keep and not head.expect and 0 <= head.length <= self.limits.buffer_bytes
        if refused.protected is not None:
            self.record.destination = refused.protected
        record = self.record
        record.id = refused.request_id or (trace_id(head.fields) if head is not None else "") or new_id()
        record.bytes_out = self.caller.refuse(refused, record.id, not keep, head)
        self.close_report(refused.flag, refused.detail, FLAGS[refused.flag].status)
        self.conn.rests()
        with trio.move_on_after(self.limits.head_timeout):
            await self.caller.flush()
            if keep:
                return await self.caller.discard_body(self.limits)
        if refused.flag not in ("head-timeout", "idle"):
            with trio.move_on_after(_LINGER):
                await self.caller.linger(self.limits)
        return False

    def end(self) -> None:
        """Whatever happened: nothing is left open. A request that is still unrecorded was cut from outside."""
        self._break()
        self.close_report(self.conn.verdict or "drained")

    def close_report(self, flag: str = "", detail: str = "", status: int | None = None) -> None:
        report = self.report
        if report is not None:
            self.report = None
            total = self.conn.report.record
            total.bytes_in += report.record.bytes_in
            total.bytes_out += report.record.bytes_out
            report.close(flag, detail, status)

    # small steps

    def open_report(self, method: bytes, began: float = 0.0) -> Record:
        conn = self.conn
        record = Record(
            kind="request",
            direction=conn.direction,
            started=time.time() - (time.monotonic() - began if began else 0.0),
            duration=0.0,
            source=conn.source,
            source_address=conn.peer[0],
            # What was dialled, until an endpoint is picked: a refusal must say whom it protected.
            destination=conn.report.record.destination,
            service=conn.report.record.service,
            dialled=conn.report.record.dialled,
            endpoint="",
            protocol="http",
            method=method.decode("ascii"),
        )
        if conn.direction == "inbound":  # else the request finds out who answers it
            was = conn.report.record
            record.tls_peer, record.tls_version, record.tls_cipher = was.tls_peer, was.tls_version, was.tls_cipher
        self.record = record
        self.report = Report(self.context.sink, record, began)
        return record
