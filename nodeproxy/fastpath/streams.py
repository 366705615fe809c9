"""Calls of which the fast path carries one end, or both, as a stream of HTTP/2: Python's part of them.

On the called node a stream comes with a destination and a caller. `learn` says by which plan such streams are decided,
and under which connection their caller is recorded (a guest: the connection under which the stream that taught the flow
was recorded). Within a node, a caller that speaks HTTP/2 has one plan for all streams of its connection (`serve`). What
the fast path cannot finish comes back here: a request or response that continues in Python, or a failure, which is
answered and recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nodeproxy.codec.fields import pair
from nodeproxy.codec.http2 import DESTINATION, is_grpc_field
from nodeproxy.codec.local_reply import answer_fields, content, grpc_fields
from nodeproxy.codec.message import RequestHead
from nodeproxy.codec.trace_context import trace_id
from nodeproxy.context import Conn
from nodeproxy.errors import FLAGS, Refused
from nodeproxy.fastpath.engine import Engine
from nodeproxy.fastpath.flows import Flows, Plan
from nodeproxy.fastpath.handback import of_endpoint
from nodeproxy.fastpath.links import Links
from nodeproxy.fastpath.records import Records
from nodeproxy.fastpath.transport import NativeTransport
from nodeproxy.h2.stream import Channel
from nodeproxy.interfaces import Pick
from nodeproxy.native import FAILED, H2, RESPONSE, Given, Linked
from nodeproxy.protocols.http.http2 import StreamServer
from nodeproxy.telemetry.record import new_id
from policy.model import Endpoint, Request

_MOST_GUESTS = 1024
_CANCEL, _NO_ERROR = 8, 0  # RFC 9113 section 7


class Streams:
    """Streams of the fast path. `forget_all`: forgets also what was learned of connections (path.py)."""

    def __init__(
        self, engine: Engine, links: Links, flows: Flows, records: Records, forget_all: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._links = links
        self._flows = flows
        self._records = records
        self._forget_all = forget_all
        self._guests = records.guests
        self._plans: dict[tuple[int, bytes, bytes], Plan] = {}
        self._callers: dict[NativeTransport, int] = {}  # connections of callers on this node that speak HTTP/2
        self._adopted: dict[int, Channel] = {}  # by caller: streams whose response continues in Python
        # Streams of peers whose response from the server continues in Python; by connection and stream.
        self._answered: dict[tuple[int, int], Given] = {}

    def __repr__(self) -> str:
        return f"<Streams {len(self._plans)} plans>"

    # connections

    def link(self, transport: NativeTransport, fd: int, tls: Any, h2: H2, stall: float) -> Linked:
        """Carry a connection until `unlink`."""
        linked = self._links.add(transport, fd, tls, h2, stall)
        if transport.caller is not None:
            guest = self._callers[transport] = self._engine.next_id()
            self._guests[guest] = transport.caller
            plan = self._flows.ready(transport.caller, h2=True)
            if plan is not None:
                self._open(transport, linked, plan)
        self._engine.stir()
        return linked

    def unlink(self, transport: NativeTransport, bye: bool) -> None:
        """Stop carrying a connection. `bye`: tell the peer that this is the end."""
        number, counted = self._links.remove(transport, bye)
        if transport.caller is not None:
            total = transport.caller.report.record
            total.bytes_in, total.bytes_out = total.bytes_in + counted[0], total.bytes_out + counted[1]
            guest = self._callers.pop(transport)
            if not any(whose == guest for *_, whose in self._engine.lane.calls()):
                del self._guests[guest]
        for key in [key for key in self._plans if key[0] == number]:
            del self._plans[key]
        for stream in [stream for stream in self._answered if stream[0] == number]:
            given = self._answered.pop(stream)
            if given.server:
                self._flows.take_back(given.server).close()
            self.drop_adopted(given.caller)
        transport.left()

    def stir(self) -> None:
        """Wake the fast path: there is something to send on one of the connections."""
        self._engine.stir()

    # teaching

    def serve(self, channel: Channel, plan: Plan) -> None:
        """Let this plan decide the streams of this caller's connection."""
        transport = channel.connection.transport
        linked = self._links.of(transport)
        if linked is not None and isinstance(transport, NativeTransport) and transport in self._callers:
            self._open(transport, linked, plan)

    def _open(self, transport: NativeTransport, linked: Linked, plan: Plan) -> None:
        plan.refill()
        self._engine.lane.door(linked, b"", b"", plan.native, self._callers[transport])

    def learn(
        self, conn: Conn, channel: Channel, head: RequestHead, sent: bytes, asked: Request, pick: Pick, h2: bool
    ) -> None:
        """Learn from a stream that the slow path served: the fast path may serve equal ones of this peer.

        `h2`: its caller speaks HTTP/2.
        """
        transport = channel.connection.transport
        linked = self._links.of(transport)
        if linked is None:
            return
        said = dict(reversed(channel.fields))  # the first of each name counts
        what, whom = said.get(DESTINATION, b""), said.get(b"x-forwarded-for", b"")
        key = (self._links.number(transport), what, whom.rpartition(b",")[2].strip(b" \t"))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._flows.plan_of_stream(conn, h2)
            if plan is None:
                return
            if len(self._guests) - len(self._callers) >= _MOST_GUESTS:
                self._forget_all()
            self._plans[key] = plan
            guest = self._engine.next_id()
            self._guests[guest] = conn
            self._engine.lane.door(linked, what, whom, plan.native, guest)
        taught, target = self._flows.teach(plan, conn, head, sent, asked, pick)
        if taught and target is not None:
            self._flows.lead(conn, target, pick, head, h2)

    def forget(self) -> None:
        """Make everything stale that was learned. Calls in progress continue; their guest is known until they end."""
        self._plans.clear()
        alive = {guest for _, _, _, guest in self._engine.lane.calls()} | set(self._callers.values())
        for guest in self._guests.keys() - alive:
            del self._guests[guest]

    # what comes back

    def adopt(self, given: Given) -> None:
        """Continue a response on a stream of ours in Python, before its next native events are delivered."""
        channel = self._links.transports[given.back_link].adopt(given.back, given.asked_all)
        if channel is not None:
            self._adopted[given.caller] = channel

    def adopted(self, given: Given, endpoint: Endpoint) -> StreamServer | None:
        """Return the stream on which the fast path has sent the request, or None if it is gone."""
        channel = self._adopted.pop(given.caller, None)
        if channel is None:
            return None
        transport = channel.connection.transport
        return StreamServer.adopted(
            channel, endpoint, through_node=not (isinstance(transport, NativeTransport) and transport.local)
        )

    def drop_adopted(self, caller: int) -> None:
        """Drop a stream that no task has taken over."""
        channel = self._adopted.pop(caller, None)
        if channel is not None:
            channel.abort()

    def answered(self, channel: Channel) -> Given | None:
        """Return the server's response to this stream, if it continues in Python."""
        transport = channel.connection.transport
        return self._answered.pop((self._links.number(transport), channel.id), None) if self._answered else None

    def back(self, given: Given) -> None:
        """Finish a call of a stream that has left the fast path."""
        if given.what == RESPONSE:
            self._answered[given.link, given.stream] = given
        elif given.what == FAILED:
            self._failed(given)

    def _failed(self, given: Given) -> None:
        conn, pick = self._guests.get(given.guest), self._flows.pick_of(given)
        if conn is None or pick is None:
            return
        transport = self._links.transports.get(given.link)
        flag = given.flag
        if flag == "client-gone" and transport is not None and transport.cut:
            flag = conn.verdict or "drained"  # as in protocols/http/exchange.py
        refused = Refused(flag, of_endpoint(flag, str(pick.endpoint), given.detail))
        fields = [pair(line) for line in given.data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        host = next((value for name, value in fields if name == b"host"), b"")
        line = given.data.partition(b"\r\n")[0] + b"\n" + host
        record = self._records.of(conn, pick, line, time.monotonic() - given.began)
        record.bytes_in, record.bytes_out = given.bytes_in, given.bytes_out
        record.flag, record.detail, record.id, record.trace = refused.flag, refused.detail, new_id(), trace_id(fields)
        record.status = given.status if given.begun else 0
        self._links.note(record, given.target)
        if transport is not None and given.stream and not given.begun:
            if given.flag == "cut":
                transport.drop(given.stream, _CANCEL)
            else:
                record.status = FLAGS[refused.flag].status
                body, said = b"", grpc_fields(refused, record.id)
                if not any(is_grpc_field(name, value) for name, value in fields):
                    body = content(refused, record.id)
                    said = answer_fields(refused, record.id, len(body))
                head_only = given.data.startswith(b"HEAD ")
                record.bytes_out = transport.answer(given.stream, said, b"" if head_only else body)
        if given.guest in self._callers.values():
            total = conn.report.record
            total.bytes_in, total.bytes_out = total.bytes_in + record.bytes_in, total.bytes_out + record.bytes_out
        conn.context.sink(record)
