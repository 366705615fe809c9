"""Lend a connection to the fast path between two requests. What comes back is a value: a Handback, or the end.

A lease covers one connection of a caller that speaks HTTP/1.1 over a plain socket, or one HTTP/2 stream that the fast
path carries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from nodeproxy.codec.message import RequestHead
from nodeproxy.errors import Refused
from nodeproxy.fastpath.callers import Callers
from nodeproxy.fastpath.flows import Flows, Plan
from nodeproxy.fastpath.handback import of_endpoint
from nodeproxy.fastpath.links import Links
from nodeproxy.fastpath.streams import Streams
from nodeproxy.fastpath.transport import NativeTransport
from nodeproxy.native import END, FAILED, REQUEST
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.protocols.http.http1 import Caller
from nodeproxy.protocols.http.http2 import StreamCaller
from nodeproxy.protocols.http.interfaces import Ended, Handback, Server
from nodeproxy.stream import plain_socket

if TYPE_CHECKING:
    from nodeproxy.context import Conn
    from nodeproxy.native import Given
    from nodeproxy.upstream.http1_pool import Upstream
    from policy.model import Request


class Parts(NamedTuple):
    """The parts of the fast path that a lease uses."""

    flows: Flows
    callers: Callers
    streams: Streams
    links: Links


def lease(fast: Parts, conn: Conn, caller: object) -> ConnectionLease | StreamLease | None:
    """Return the lease of a connection or stream, or None if the fast path cannot serve it."""
    if isinstance(caller, StreamCaller):
        return (
            StreamLease(fast, conn, caller)
            if isinstance(caller.channel.connection.transport, NativeTransport)
            else None
        )
    if not isinstance(caller, Caller):
        return None
    socket = plain_socket(caller.stream)
    return ConnectionLease(fast, conn, caller, socket) if socket is not None else None


class ConnectionLease:
    """interfaces.Lease of a connection that speaks HTTP/1.1."""

    __slots__ = ("_ahead", "_caller", "_conn", "_fast", "_socket")

    def __init__(self, fast: Parts, conn: Conn, caller: Caller, socket: trio.SocketStream) -> None:
        self._ahead = False  # more than one request came back
        self._fast = fast
        self._conn = conn
        self._caller = caller
        self._socket = socket

    async def early(self, phase: Phase) -> Handback | Ended | None:
        if self._conn.context.draining or self._goes_on():
            return None
        plan = self._fast.flows.ready(self._conn)
        return None if plan is None else await self._lent(plan, phase)

    def refused(self, refused: Refused, head: RequestHead, sent: bytes, asked: Request) -> None:
        if refused.flag in ("denied", "no-identity") and not head.length:
            self._fast.flows.learn_refusal(self._conn, head, sent, asked)

    async def lend(self, head: RequestHead, sent: bytes, asked: Request, phase: Phase) -> Handback | Ended | None:
        conn = self._conn
        if conn.pick is None or conn.context.draining or self._goes_on():
            return None
        taught = self._fast.flows.learn(conn, head, sent, asked, conn.pick)
        if taught is None:
            return None
        plan, target = taught
        if target is not None and not self._fast.flows.lead(conn, target, conn.pick, head, h2=False):
            return None
        return await self._lent(plan, phase)

    def left(self) -> Handback | None:
        given = self._fast.callers.left(self._conn)
        if given is None:
            return None
        self._count(given)
        return _handback(self._fast, given, self._head(given), None, None) if given.began else None

    def answered(self) -> None:
        return None

    def _goes_on(self) -> bool:
        """Return whether requests are left of several that came back together; the slow path serves those.

        Lending them again would hand all of them back once for each request that the fast path cannot serve.
        """
        self._ahead = self._ahead and bool(self._caller.incoming.data)
        return self._ahead

    async def _lent(self, plan: Plan, phase: Phase) -> Handback | Ended | None:
        """Lend the connection, and return what comes back."""
        phase.unbounded()
        incoming = self._caller.incoming
        given = await self._fast.callers.carry(
            self._conn, plan, self._socket, self._caller.stream.take_held() + incoming.rest()
        )
        self._count(given)
        if given.what == END:
            return Ended(bool(given.flag))
        if given.what == REQUEST:
            if given.data:
                incoming.feed(given.data)
                self._ahead = True
            return None
        if not given.began:
            if given.flag == "client-gone":
                raise trio.BrokenResourceError(given.detail)
            raise Refused(given.flag, given.detail)
        return self._handback(given)

    def _count(self, given: Given) -> None:
        total = self._conn.report.record
        total.bytes_in += given.total_in
        total.bytes_out += given.total_out

    def _head(self, given: Given) -> RequestHead:
        """Read the head of the request that was sent on."""
        incoming = self._caller.incoming
        incoming.feed(given.data)
        head = incoming.request_head(self._conn.context.limits)
        assert head is not None, "the lane sends whole heads on"
        incoming.body_passed()
        return head

    def _handback(self, given: Given) -> Handback:
        """Return the state from which a Call resumes: a request was sent on, and its response is to come."""
        head = self._head(given)
        pick = self._fast.flows.pick_of(given)
        name = str(pick.endpoint) if pick is not None else ""
        server: Server | None = None
        failure: Refused | None = None
        if given.what == FAILED:
            head.close = head.close or bool(head.length and not given.asked_all)  # the rest of its body follows
            failure = Refused(given.flag, of_endpoint(given.flag, name, given.detail))
        elif given.back:
            server = self._fast.streams.adopted(given, pick.endpoint) if pick is not None else None
            if server is None:
                failure = Refused("upstream-broken", f"{name} the connection to its node ended")
        else:
            server = taken_back(self._fast.flows, given)
        return _handback(self._fast, given, head, server, failure)


class StreamLease:
    """interfaces.Lease of a stream that the fast path carries: the next such stream may be served there."""

    __slots__ = ("_caller", "_conn", "_fast")

    def __init__(self, fast: Parts, conn: Conn, caller: StreamCaller) -> None:
        self._fast = fast
        self._conn = conn
        self._caller = caller

    async def early(self, phase: Phase) -> None:
        return

    def refused(self, refused: Refused, head: RequestHead, sent: bytes, asked: Request) -> None:
        return

    async def lend(self, head: RequestHead, sent: bytes, asked: Request, phase: Phase) -> None:
        conn, fast, channel, h2 = self._conn, self._fast, self._caller.channel, self._caller.h2
        if conn.pick is None or conn.context.draining:
            return
        transport = channel.connection.transport
        if not (isinstance(transport, NativeTransport) and transport.local):
            fast.streams.learn(conn, channel, head, sent, asked, conn.pick, h2)
            return
        taught = fast.flows.learn(conn, head, sent, asked, conn.pick, h2)
        if taught is None:
            return
        plan, target = taught
        if target is None or fast.flows.lead(conn, target, conn.pick, head, h2):
            fast.streams.serve(channel, plan)

    def left(self) -> None:
        return None

    def answered(self) -> Handback | None:
        streams = self._fast.streams
        given = streams.answered(self._caller.channel)
        if given is None:
            return None
        server: Server | None = None
        failure: Refused | None = None
        if given.back:
            pick = self._fast.flows.pick_of(given)
            server = streams.adopted(given, pick.endpoint) if pick is not None else None
            if server is None:
                streams.drop_adopted(given.caller)
                failure = Refused("upstream-broken", "the connection to the server ended")
        else:
            server = taken_back(self._fast.flows, given)
        return _handback(self._fast, given, None, server, failure)


def _handback(
    fast: Parts, given: Given, head: RequestHead | None, server: Server | None, failure: Refused | None
) -> Handback:
    return Handback(
        head,
        fast.flows.pick_of(given),
        fast.links.peer(given.target),
        given.began,
        given.bytes_in,
        given.bytes_out,
        given.begun,
        given.status,
        given.asked_all,
        server,
        failure,
    )


def taken_back(flows: Flows, given: Given) -> Upstream:
    """Return the server's connection whose response continues in Python."""
    upstream = flows.take_back(given.server)
    upstream.incoming.feed(given.rest)
    upstream.used = upstream.heard = True
    return upstream
