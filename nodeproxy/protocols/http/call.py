"""One HTTP request end to end: deadline, decision, filters, retry, attempt, response, record.

A Call holds all state of one request.

Theory of operation. While a request has no body, or its body has already arrived, the caller's task does everything:
that is nearly every request, and it needs no nursery. Only a body that is still arriving gets a second task. It sends
the body to the server while the first task waits for the response. So 100-continue works end to end, a server may
respond early, and each direction has its own back-pressure. A request that the fast path has sent is resumed from a
Handback.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Awaitable, Collection
from typing import TypeVar

import trio
from msgspec import structs

from nodeproxy.codec.fields import agreed
from nodeproxy.codec.forwarded import at_edge
from nodeproxy.codec.message import IDEMPOTENT, RequestHead, ResponseHead, split_target, without
from nodeproxy.codec.trace_context import trace_id
from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Pick, Route, Unserved, Unsettled
from nodeproxy.limits import NEVER
from nodeproxy.mesh.connection import note_peer
from nodeproxy.protocols.http import bounded
from nodeproxy.protocols.http.attempt import decide, dialled, note_pick, per_connection, resting
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.protocols.http.filters import AnyActing, made, on_request, on_response
from nodeproxy.protocols.http.interfaces import Caller, Copying, Handback, Lease, Server
from nodeproxy.protocols.http.retries import Again, Retries
from nodeproxy.protocols.http.upload import PATIENCE, Upload
from nodeproxy.protocols.lifetime import note_refusal
from nodeproxy.protocols.relay import relay
from nodeproxy.telemetry.record import HOST_SHOWN, Record, Report, new_id
from nodeproxy.upstream.shares import Place
from policy.model import Endpoint, Request
from policy.route import Filter as AnyFilter
from policy.route import Retry

_DROPPING = 0.1  # seconds for which the rest of a response is awaited that is not delivered
LINGER = 2.0  # seconds that a refused caller's bytes are still read, so that a reset does not overtake the response
_MOST_INTERIM = 100  # 1xx responses to one request
_PATH_SHOWN = 256  # characters of a path in a record

# After these the next request on the connection could begin anywhere, or the caller is not read any longer.
_CLOSING = frozenset(("bad-request", "bad-path", "path-too-long", "head-too-large", "head-timeout", "idle", "internal"))


_Waited = TypeVar("_Waited", ResponseHead, ResponseHead | None)


class Call:
    """One request. `head` None: it could not be read, and can only be refused."""

    __slots__ = (
        "_begun",
        "_caller",
        "_conn",
        "_copies",
        "_filters",
        "_host",
        "_last",
        "_limits",
        "_most",
        "_phase",
        "_pick",
        "_piece",
        "_place",
        "_report",
        "_retries",
        "_route",
        "_through",
        "_upload",
        "_upstream",
        "asked",
        "head",
        "record",
        "sent",
    )

    def __init__(
        self, conn: Conn, route: Route, caller: Caller, through: bytes, phase: Phase, head: RequestHead | None
    ) -> None:
        """Prepare a request. `through`: the caller, as X-Forwarded-For names it."""
        self._conn = conn
        self._route = route
        self._caller = caller
        self._through = through
        self._phase = phase
        self._limits = conn.context.limits  # the same ones for all of this request
        self.head = head
        self.sent = b""  # the target that is sent to the server
        self._host = b""
        self._filters: tuple[AnyActing, ...] = ()  # of the rule that applies
        self._copies: list[Copying] = []  # that are made of the request as it passes
        self.asked: Request | None = None  # as the caller sent it
        self._pick: Pick  # the first decision on it
        self._report: Report | None = None
        self._upstream: Server | None = None
        self._begun = False  # bytes of the final response were sent
        self._last = False  # the caller was told that its connection ends with this response
        self._piece: bytes | None = None  # the part of the request's body that arrived with the head
        self._retries: Retries | None = None  # if it may be attempted again
        self._upload: Upload | None = None  # sends a body that is still arriving
        self._most: int | None = None  # requests that a connection to the server may carry
        self._place: Place | None = None  # among the caller's requests to the Service

    def __repr__(self) -> str:
        return f"<Call {self.head!r} with {self._upstream!r}>"

    # the path of one request

    async def serve(self, lease: Lease | None) -> bool:
        """Serve the request. Return whether the caller's connection can carry another request. Raise Refused.

        These steps lie between a caller and a server, in this order:

        deadline  one scope of the connection, entered in exchange.py; each step below moves its deadline (deadline.py)
        decision  which endpoint, and by which rule (attempt.py, `decide`)
        filters   `_filtered`: those of the rule, once for all attempts (filters.py)
        bounds    a place among the caller's requests to the Service (bounded.py)
        retry     `_persist`: as the policy says (retries.py); `_retried`: once more, if a connection was stale
        attempt   `_attempt`: a connection to the endpoint, or to another that answers (attempt.py)
        """
        head = self.head
        assert head is not None
        self.asked = request = self._read(head)
        returned = lease.answered() if lease is not None else None
        if returned is not None:  # the fast path has sent the request, and the response is delivered here
            return await self._answered(returned, request)
        try:
            self._pick = pick = decide(self._conn, self._route, request, self.record)
        except Unserved as unserved:
            await self._unserved(unserved.filters, head)
            raise
        except Unsettled as unsettled:
            self._phase.begin("response-timeout", self._limits.response_timeout)
            if not await unsettled.settle():
                raise
            self._pick = pick = decide(self._conn, self._route, request, self.record)
        if pick.timeouts is not None:
            self._phase.bound(pick.timeouts.request or math.inf, math.inf)
        if pick.filters:
            request = await self._filtered(pick, head, request)
        limits, self._most = self._limits, per_connection(pick)
        self._place = await bounded.enter(self._conn, pick, head, self._caller.h2, self._phase, limits.response_timeout)
        if pick.retry is not None and pick.retry.attempts:
            return await self._persist(pick, pick.retry, request)
        return await self._once(pick, request)

    async def _once(self, pick: Pick, request: Request) -> bool:
        """Attempt the request, and deliver its response. Raise Refused, or Again."""
        response = await self._watched(self._retried(pick, request))
        if response is None:
            return await self._carry_with_body()
        return await self._deliver(response)

    def _read(self, head: RequestHead) -> Request:
        """Read the request, and open its record. Raise Refused."""
        conn = self._conn
        record = self._open(head.method)
        record.bytes_in = head.size
        target = split_target(head.target, head.method, self._limits.path_bytes)
        record.path = target.path[:_PATH_SHOWN]
        host = head.host
        if target.authority:
            # RFC 9112 section 3.2.2: the Host that was received is ignored.
            host = target.authority
            head.fields = [field for field in head.fields if field[0] != b"host"]
            head.fields.append((b"host", host))
        named = host is not None
        if host is None:  # HTTP/1.0; the forwarded request needs one, and policy looks at it
            host = conn.report.record.dialled.encode()
            head.fields.append((b"host", host))
        record.host = host.decode("latin-1")[:HOST_SHOWN]
        if not host:
            raise Refused("bad-request", "Host is empty, and an http URI names a host (RFC 9110 section 4.2.1)")
        if named and self._route.misdirected(host.decode("latin-1")):
            raise Refused("misdirected", host.decode("latin-1"))
        if self._conn.edge is not None:
            at_edge(head, host, self._conn.edge.scheme, self._conn.edge.trusted)
        through = self._through
        if head.forwarded_for:  # another node of the mesh has already named the caller
            last = head.forwarded_for.rpartition(b",")[2].strip(b" \t")
            through = head.forwarded_for if last == through else head.forwarded_for + b", " + through
        head.fields.append((b"x-forwarded-for", through))
        self.sent, self._host, self._through = target.sent, host, through
        if head.length:
            self._piece = piece = self._caller.incoming.body()
            record.bytes_in += len(piece or b"")
        return Request(record.method, target.path, head.fields, target.others, target.sent)

    async def _filtered(self, pick: Pick, head: RequestHead, request: Request) -> Request:
        """Apply the rule's filters to the request, and return it as it is sent to the server. Raise Refused.

        Policy has admitted the request as the caller sent it. It has to admit the changed request too.
        """
        conn = self._conn
        head.fields = list(head.fields)  # `request` keeps the original ones
        self._filters = made(pick.filters)
        received = head.target
        await self._ask(self._filters, head)
        path, others = request.path, request.others
        if head.target is not self.sent:  # by a filter
            target = split_target(head.target, head.method, self._limits.path_bytes)
            path, others, self.sent = target.path, target.others, target.sent
        head.target = received  # the fast path learns no request whose target was changed
        if head.host is not None and head.host is not self._host:
            self._host = head.host
            head.fields = [field for field in head.fields if field[0] != b"host"]
            head.fields.append((b"host", self._host))
        changed = Request(head.method.decode("ascii"), path, head.fields, others, self.sent)
        conn.moves(pick, changed)
        self._admit(pick, changed)
        if self._copies and (self._piece is not None or self._caller.incoming.complete):
            self._passes(self._piece or b"")
        return changed

    @property
    def conn(self) -> Conn:
        return self._conn

    async def body(self, most: int) -> bytes | None:
        head, piece = self.head, self._piece or b""
        assert head is not None
        if head.length > most or len(piece) > most:
            return None
        if not self._caller.incoming.complete and not await self._gather(most):
            return None
        return self._piece or b""

    async def _gather(self, most: int) -> bool:
        """Wait for the rest of the body. Return whether it has at most `most` bytes. Raise Refused."""
        head, caller = self.head, self._caller
        assert head is not None
        incoming, data = caller.incoming, bytearray(self._piece or b"")
        self._phase.begin("idle", min(self._limits.patience, self._limits.response_timeout))
        try:
            if head.expect:  # the caller waits for this before it sends the body, and no server is to say it again
                await caller.interim(ResponseHead(100, b"Continue", 1))
                head.expect = False
                head.fields = [field for field in head.fields if field[0] != b"expect"]
                head.lines = without(head.lines, b"expect")
            while not incoming.complete:
                if (piece := incoming.body()) is None:
                    await caller.more(self._limits)
                    continue
                self.record.bytes_in += len(piece)
                if len(data) + len(piece) > most:
                    return False
                data += piece
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Refused("client-gone", "the connection broke in the middle of the request body") from error
        self._piece = bytes(data)
        self._phase.begin("filter-failed", self._limits.response_timeout)
        return True

    def copy_to(self, copy: Copying) -> None:
        self._copies.append(copy)

    def _passes_on(self, piece: bytes) -> None:
        """Note a piece of the request's body that arrived, and is about to be sent."""
        if self._retries is not None:
            self._retries.keep(piece)
        if self._copies:
            self._passes(piece)

    def _passes(self, piece: bytes) -> None:
        """Tell the copies of a piece of the request's body that is sent to the server."""
        head, incoming = self.head, self._caller.incoming
        assert head is not None
        for copy in self._copies:
            copy.passed(piece, incoming, self._conn, head, self.sent, self._caller.h2)

    async def _unserved(self, filters: tuple[AnyFilter, ...], head: RequestHead) -> None:
        """Apply filters of a rule that has no backend. Raise Refused if one responds, refuses or fails."""
        await self._ask(made(filters), head)

    async def _ask(self, filters: tuple[AnyActing, ...], head: RequestHead) -> None:
        """Have the filters act on the request, with its target and Host as they are sent to the server."""
        self._phase.begin("filter-failed", self._limits.response_timeout)
        head.target, head.host = self.sent, self._host
        await on_request(filters, head, self)

    def _admit(self, pick: Pick, changed: Request) -> None:
        """Raise Refused if the newest snapshot does not admit the request as the filters changed it."""
        refused = self._route.refuses(pick.endpoint, changed, pick.via)
        if refused is not None:
            raise refused

    def _again(self, request: Request, tried: Collection[Endpoint] = ()) -> Pick:
        """Decide once more, on the request as the caller sent it. Raise Refused.

        `request`: as it is sent to the server. Filters act once, so the rule has to have the same filters, and a
        backend with filters of its own stays the chosen one.
        """
        assert self.asked is not None
        pick = decide(self._conn, self._route, self.asked, self.record, tried, self._pick.backend)
        if pick.filters != self._pick.filters:
            raise Refused("cut", "the filters of the Route's rule changed while this ran")
        if pick.filters:
            self._conn.moves(pick, request)
            self._admit(pick, request)
        return pick

    def _another(self, request: Request, tried: Collection[Endpoint]) -> Pick:
        """Decide once more, for another endpoint, which counts the request too. Raise Refused."""
        pick = self._again(request, tried)
        bounded.take(self._conn, pick, request)
        return pick

    async def _persist(self, pick: Pick, retry: Retry, request: Request) -> bool:
        """Attempt the request until a response goes to the caller, or the policy allows no other attempt."""
        conn, head = self._conn, self.head
        assert head is not None
        seconds = retry.timeout or (pick.timeouts.attempt if pick.timeouts is not None else None)
        budget = conn.context.live.retries
        with Retries(retry, head, self.record, pick, conn.workload.key, budget) as retries:
            self._retries = retries
            retries.keep(self._piece or b"")
            while True:
                retries.begins(seconds)
                try:
                    return await self._once(pick, request)
                except Again:
                    if pick.endpoint not in retries.tried:
                        retries.tried.append(pick.endpoint)
                if self._place is not None:
                    self._place.retry()
                if head.length and retries.body is not None:
                    self._piece = bytes(retries.body)
                self._upload = None
                self._phase.unbounded()
                await trio.sleep(retries.wait)
                pick = self._elsewhere(request, retries)

    def _elsewhere(self, request: Request, retries: Retries) -> Pick:
        """Decide for another attempt: an endpoint that was not tried, or else another one than the last. Raise Refused."""
        for tried in (retries.tried, retries.tried[-1:]):
            try:
                return self._again(request, tried)
            except Refused as refused:
                if refused.flag not in ("no-endpoint", "connect-failed"):
                    raise
        retries.tried.clear()
        return self._again(request)

    async def _watched(self, waiting: Awaitable[_Waited]) -> _Waited:
        """Wait for a response, no longer than an attempt may take. Raise Again if another attempt is made instead."""
        retries = self._retries
        if retries is None:
            return await waiting
        response: ResponseHead | None = None
        refused = Refused("route-timeout", "the attempt")
        try:
            with trio.CancelScope(deadline=retries.deadline):
                response = await waiting
                if response is None:
                    return response
        except Refused as failed:
            refused = failed
        left, room = self._phase.left, self._place is None or self._place.may_retry()
        if response is None:
            self._told_failure(refused)
            if not (self._repeatable(retries) and retries.after_failure(refused, self._upstream, left, room)):
                raise refused
            if self._upstream is not None:
                retries.tried.append(self._upstream.endpoint)
            self._break()
            raise Again
        if self._repeatable(retries) and retries.after_response(response, left, room):
            await self._drop(response, retries)
            raise Again
        retries.forget()
        if retries.retry.timeout is None:  # it is not backendRequest, which bounds the whole response
            self._phase.bound(math.inf, retries.deadline - trio.current_time())
        return response

    def _repeatable(self, retries: Retries) -> bool:
        """Return whether all that was taken of the request's body can be sent again."""
        return retries.body is not None or self._upload is None

    def _told_failure(self, refused: Refused) -> None:
        """Tell the circuit of a failure of the server."""
        if self._place is not None and bounded.is_failure(refused):
            self._place.outcome(True, trio.current_time())

    async def _drop(self, response: ResponseHead, retries: Retries) -> None:
        """End an attempt whose response the caller does not get.

        A small one is awaited for a moment of the wait before the next attempt, so that its connection can be kept.
        """
        upstream, upload, head = self._upstream, self._upload, self.head
        assert upstream is not None
        assert head is not None
        retries.tried.append(upstream.endpoint)
        incoming, size = upstream.incoming, 0
        began = trio.current_time()
        with trio.move_on_after(min(retries.wait, _DROPPING)), contextlib.suppress(Refused):
            while not incoming.complete and size <= self._limits.buffer_bytes:
                if (piece := incoming.body()) is None:
                    await upstream.more(self._limits)
                else:
                    size += len(piece)
        retries.wait -= min(retries.wait, trio.current_time() - began)
        self._upstream = None
        self._conn.context.live.ended(upstream.endpoint)
        sent = self._caller.incoming.complete and (upload is None or not upload.sending)
        if incoming.complete and sent and not (response.close or head.bare):
            upstream.finish(reusable=True)
        else:
            upstream.abort()

    async def _retried(self, pick: Pick, request: Request) -> ResponseHead | None:
        """Attempt the request, and once more over a new connection if the first attempt had no effect.

        Return None if its body is still arriving.
        """
        for fresh in (False, True):
            upstream = await self._attempt(self._again(request) if fresh else pick, request, fresh)
            try:
                if not self._caller.incoming.complete:
                    await upstream.open()
                    return None
                await upstream.flush()
                return await self._response_head(upstream)
            except Refused as refused:
                if fresh or not self._stale(upstream, refused):
                    raise
                self._break()
        raise AssertionError("the second attempt is the last")

    def _stale(self, upstream: Server, refused: Refused) -> bool:
        """Return whether a request that failed may be sent again.

        RFC 9110 section 9.2.2: the server may have closed an idle connection just as it was reused. Or the server has
        said that it did not process the request; then no part of a body was sent.
        """
        head = self.head
        assert head is not None
        if refused.flag != "upstream-broken":
            return False
        return upstream.unprocessed or (
            upstream.used and not upstream.heard and head.method in IDEMPOTENT and not head.length
        )

    async def _attempt(self, pick: Pick, request: Request, fresh: bool) -> Server:
        """Begin the request on a connection to the picked endpoint: an idle one, unless `fresh`, else a new one."""
        conn, record, head, h2 = self._conn, self.record, self.head, self._caller.h2
        assert head is not None
        timeouts, retries = self._pick.timeouts, self._retries
        if timeouts is not None and retries is None:
            self._phase.bound(math.inf, timeouts.attempt or math.inf)
        if not fresh:
            bounded.take(conn, pick, request)
        if self._place is not None:
            self._place.sent(trio.current_time())
        upstream = None if fresh else resting(conn, pick, record, head, h2)
        if upstream is None:
            self._phase.unbounded()
            upstream = await dialled(conn, record, pick, head, h2, lambda tried: self._another(request, tried))
        self._upstream = upstream
        context = conn.context
        self._limits = context.limits_for(upstream.endpoint)
        if timeouts is not None and (timeouts.request or timeouts.attempt):
            # What a rule says counts, whether it is shorter or longer
            self._limits = structs.replace(self._limits, response_timeout=timeouts.request or timeouts.attempt)
        if retries is not None and retries.deadline < math.inf and not (timeouts is not None and timeouts.request):
            self._limits = structs.replace(self._limits, response_timeout=NEVER)  # the attempt's time bounds it
        context.live.began(upstream.endpoint)
        record.endpoint = upstream.name
        self._phase.begin(
            "response-timeout", self._limits.response_timeout
        )  # a server that does not read counts as one that does not respond
        # Nobody outside the mesh needs to know who calls within it
        through = self._through if pick.workload is not None or pick.service else head.forwarded_for
        upstream.begin(head, self.sent, self._host, through)
        if self._piece is not None:
            upstream.add(self._piece, self._caller.incoming)
        return upstream

    async def _response_head(self, upstream: Server) -> ResponseHead:
        """Wait for the final response head (101 is final too), and forward 1xx responses meanwhile."""
        head = self.head
        assert head is not None
        if self._caller.incoming.complete:
            self._phase.begin("response-timeout", self._limits.response_timeout)
        for count in itertools.count(1):
            response = await upstream.next_response(head.method, self._limits)
            if response.status >= 200 or response.status == 101:
                if self._place is not None:
                    self._place.outcome(response.status >= 500, trio.current_time())
                return response
            if count > _MOST_INTERIM:
                break
            if self._retries is not None and response.status != 100:
                self._retries.spoken = True
            if head.minor:  # RFC 9110 section 15.2: no 1xx to an HTTP/1.0 client
                await self._caller.interim(response)
            await trio.lowlevel.checkpoint()  # a server that sends a thousand at once does not block the others
        raise Refused("upstream-broken", f"{upstream.name} sent more than {_MOST_INTERIM} interim responses")

    async def _deliver(self, response: ResponseHead) -> bool:
        """Send the response to the caller. Return whether the caller's connection can carry another request."""
        head, record, caller, upstream = self.head, self.record, self._caller, self._upstream
        assert head is not None
        assert upstream is not None
        incoming = upstream.incoming
        if response.status == 101 or (head.method == b"CONNECT" and response.status < 300):
            return await self._switch(upstream, response)
        if self._filters:
            on_response(self._filters, head, response)
        close = head.close
        upload = self._upload
        sending = upload is not None and upload.sending
        if upload is not None and sending and (head.expect or response.close or upload.refused):
            # An early response: the caller may or may not send the rest of the body, and it is not waited for.
            close = True
        # The server may want the rest of the body, so it continues. If not, it will be too late to announce that the
        # connection ends.
        self._last = close or (sending and upstream.says_enough_late)
        # The first send holds the head and the available body: for a small response that is everything.
        caller.begin(response, head, self._last)
        if not incoming.complete:
            piece = incoming.body()
            if piece is not None:
                caller.add(piece, incoming)
        if incoming.complete:
            self._phase.flag = "idle"
        else:
            self._phase.begin("idle", self._limits.patience)
        self._begun = True
        if upload is not None:
            upload.answered = True
        record.status = response.status
        record.bytes_out += await caller.flush()
        while not incoming.complete:
            self._phase.moved(self._limits.patience)
            while (piece := incoming.body()) is None:
                await upstream.more(self._limits)
            caller.add(piece, incoming)
            record.bytes_out += await caller.flush()
        if upload is None or not upload.sending:  # otherwise the body continues, and the request ends with it
            self._finish(response, reusable=not response.close and not head.bare)
        return not close

    # a request with a body

    async def _carry_with_body(self) -> bool:
        """Carry a request body that is still arriving and its response, at the same time."""
        head, upstream, caller = self.head, self._upstream, self._caller
        assert head is not None
        assert upstream is not None
        response: ResponseHead | None = None
        more = False
        failure: Exception | None = None
        told = self._passes_on if self._copies or self._retries is not None else None
        upload = self._upload = Upload(caller, upstream, self.record, self._phase, self._limits, told)
        self._phase.moved(self._limits.patience)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload.run, nursery.cancel_scope)
            try:
                response = await self._watched(self._response_head(upstream))
                more = await self._deliver(response)
                if not more or upload.refused:
                    nursery.cancel_scope.cancel()
                elif upload.sending and self._last:
                    upstream.on_enough(nursery.cancel_scope.cancel)
                    nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
            except (Refused, Again, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                failure = error  # raised below: the nursery would wrap it in a group
                nursery.cancel_scope.cancel()
        if upload.failure is not None:
            raise upload.failure
        if failure is not None:
            raise failure
        assert response is not None
        if self._report is not None:  # _deliver left it open: the response was over before the body
            self._finish(response, reusable=not (upload.sending or response.close or head.bare))
        if upload.sending:
            with trio.move_on_after(LINGER):
                await caller.linger(self._limits)
            return False
        return more and not self._last

    # a connection that becomes another protocol

    async def _switch(self, upstream: Server, response: ResponseHead) -> bool:
        """Switch to opaque bytes in both directions, after 101, or 2xx to CONNECT."""
        head, record, caller = self.head, self.record, self._caller
        assert head is not None
        if response.status == 101:
            if not caller.incoming.complete or not agreed(head, response):
                raise Refused("upstream-broken", f"{upstream.name} switched to a protocol that was not asked for")
            record.protocol = response.upgrade.decode("latin-1").lower()
        caller.switch(response)
        self._phase.free()  # a rule's timeouts are for requests
        self._begun = True
        if self._upload is not None:
            self._upload.answered = True
        record.status = response.status
        self._phase.unbounded()
        record.bytes_out += await caller.flush()
        limits = self._limits
        await relay(
            caller.pipe(), upstream.pipe(), limits.patience, record, limits.buffer_bytes, self._conn.context.fast
        )
        self._finish(response, reusable=False)
        return False

    # a request that the fast path has sent

    async def _answered(self, returned: Handback, request: Request) -> bool:
        """Continue with a stream's request: it is read here, and the fast path has perhaps not sent all of it."""
        record, pick, upstream, incoming = self.record, returned.pick, returned.server, self._caller.incoming
        if returned.peer is not None:
            note_peer(record, returned.peer)
        if returned.failure is not None:
            raise returned.failure
        assert upstream is not None, "it has answered, or it has failed"
        self._upstream = upstream
        self._filters = made(pick.filters) if pick is not None else ()
        self._conn.context.live.began(upstream.endpoint)
        if pick is None:
            decide(self._conn, self._route, request, record)
        else:
            self._conn.moves(pick, request)
            note_pick(record, pick)
            if not self._route.still_allows(pick, request):  # policy has changed since it was sent
                raise Refused("cut")
        record.endpoint = upstream.name
        record.bytes_in = returned.bytes_in + len(self._piece or b"")
        if not returned.whole:
            upstream.add(self._piece or b"", incoming)
            if not incoming.complete:
                return await self._carry_with_body()
            await upstream.flush()
        return await self._deliver(await self._response_head(upstream))

    async def resume(self, returned: Handback) -> bool:
        """Continue where the fast path stopped.

        Return whether the caller's connection can carry another request. Raise Refused.
        """
        self.stand(returned)
        if returned.failure is not None:
            self._begun = returned.begun
            raise returned.failure
        upstream = returned.server
        assert upstream is not None, "it has answered, or it has failed"
        self._upstream = upstream
        self._filters = made(returned.pick.filters) if returned.pick is not None else ()
        self._conn.context.live.began(upstream.endpoint)
        return await self._deliver(await self._response_head(upstream))

    def stand(self, returned: Handback) -> None:
        """Open the record of a request that the fast path has sent, with its current values."""
        head = returned.head
        assert head is not None
        record = self._open(head.method, returned.began)
        record.path = head.target.partition(b"?")[0].decode("latin-1")[:_PATH_SHOWN]
        record.host = (head.host or b"").decode("latin-1")[:HOST_SHOWN]
        record.bytes_in, record.bytes_out = returned.bytes_in, returned.bytes_out
        record.status = returned.status if returned.begun else 0
        if returned.pick is not None:
            note_pick(record, returned.pick)
            record.endpoint = str(returned.pick.endpoint)
        if returned.peer is not None:
            note_peer(record, returned.peer)

    # how a request ends

    def _finish(self, response: ResponseHead, reusable: bool) -> None:
        """End a request that succeeded: its server connection is pooled or closed, its record is written."""
        upstream = self._upstream
        assert upstream is not None
        self._upstream = None
        self._conn.context.live.ended(upstream.endpoint)
        upstream.finish(reusable and (self._most is None or upstream.served < self._most))
        if response.told:  # the other node's own response, not the server's
            self.record.id = response.told_id or new_id()
            self.record.trace = trace_id(self.head.fields) if self.head is not None else ""
            self._close("peer-refused", response.told, response.status)
        else:
            self._close(status=response.status)
        self._conn.rests()

    async def refuse(self, refused: Refused) -> bool:
        """Respond to a refusal.

        Return whether the connection can continue. Raise it again if a response is no longer possible.
        """
        head, caller = self.head, self._caller
        self._told_failure(refused)
        self._break()
        if refused.flag == "client-gone" or self._begun:
            self._close(refused.flag, refused.detail)
            raise refused
        if self._report is None:
            self._open(b"")  # a head that could not be read counts as a request
        keep = head is not None and refused.flag not in _CLOSING and not head.close and head.method != b"CONNECT"
        if head is not None and not caller.incoming.complete:
            keep = keep and not head.expect and 0 <= head.length <= self._limits.buffer_bytes
        record = self.record
        note_refusal(record, refused)
        record.trace = trace_id(head.fields) if head is not None else ""
        record.bytes_out = caller.refuse(refused, record.id, not keep, head)
        self._close(refused.flag, refused.detail, refused.status)
        self._conn.rests()
        with trio.move_on_after(self._limits.head_timeout):
            await caller.flush()
            if keep:
                return await caller.discard_body(self._limits)
        if refused.flag not in ("head-timeout", "idle"):
            with trio.move_on_after(LINGER):
                await caller.linger(self._limits)
        return False

    def end(self, flag: str) -> None:
        """Leave nothing open. A request that is still unrecorded was cut, and ends with this flag."""
        self._break()
        self._close(flag)

    def _break(self) -> None:
        upstream = self._upstream
        if upstream is not None:
            self._upstream = None
            self._conn.context.live.ended(upstream.endpoint)
            upstream.abort()

    def _open(self, method: bytes, began: float = 0.0) -> Record:
        """Open the record. `began`: by the monotonic clock; 0: now."""
        conn = self._conn
        started = time.time() - (time.monotonic() - began if began else 0.0)
        self.record = record = conn.report.record.of_request(started, "http", method.decode("ascii"))
        self._report = Report(conn.context.sink, record, began)
        return record

    def _close(self, flag: str = "", detail: str = "", status: int | None = None) -> None:
        """Close the record, once, and add its bytes to those of its connection."""
        for copy in self._copies:
            copy.drop()
        report = self._report
        if self._place is not None:
            self._place.leave()
        if report is not None:
            self._report = None
            total = self._conn.report.record
            total.bytes_in += report.record.bytes_in
            total.bytes_out += report.record.bytes_out
            report.close(flag, detail, status)
