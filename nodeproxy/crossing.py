"""Calls of which the native lane carries an end, or both, as a stream of HTTP/2: what Python has to do with them.

On the node that calls, a server is the connection to its node (`route`): the lane opens a stream on it for each request that it was
taught. On the node that is called, a stream comes with a destination and a caller; `learn` says by which plan such streams are decided,
and who their caller is for the records (a guest: the connection that was made of the stream which taught it). Within a node a server that
speaks HTTP/2 is the connections to it (`route_server`), and a caller that does has one plan for all streams of his connection (`serve`).
What the lane cannot finish comes back here: a request or response that goes on in Python, or a failure, which is answered and recorded.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nodeproxy.errors import FLAGS, Refused
from nodeproxy.http.answers import answer_fields, content, grpc_fields
from nodeproxy.http.fields import pair
from nodeproxy.http.h2 import Connection
from nodeproxy.http.h2_channel import Channel
from nodeproxy.http.h2_message import DESTINATION, is_grpc_field
from nodeproxy.http.message import RequestHead
from nodeproxy.http.streams import StreamServer
from nodeproxy.linked import LaneCarrier
from nodeproxy.peer import PeerConnection, note_peer
from nodeproxy.telemetry.report import Record, new_id, trace_id
from policy.model import Endpoint

if TYPE_CHECKING:
    from nodeproxy.context import Conn, Pick
    from nodeproxy.lane import FastLane, Given, Plan
    from nodeproxy.native import H2, Linked, Target

_MOST_GUESTS = 1024
_CANCEL, _NO_ERROR = 8, 0  # RFC 9113 section 7


class Crossing:
    """Of one lane."""

    def __init__(self, lane: FastLane) -> None:
        self._lane = lane
        self._carriers: dict[int, LaneCarrier] = {}
        self._numbers: dict[LaneCarrier, int] = {}
        self._linked: dict[LaneCarrier, Linked] = {}
        self._plans: dict[tuple[int, bytes, bytes], Plan] = {}
        self._guests: dict[int, Conn] = {}
        self._callers: dict[LaneCarrier, int] = {}  # guests of this node: connections of callers who speak HTTP/2
        self._adopted: dict[int, Channel] = {}  # by caller: streams whose response goes on in Python
        self._answered: dict[
            tuple[int, int], Given
        ] = {}  # streams of peers, whose request was answered by a server in a way that is Python's
        self._peers: dict[int, PeerConnection] = {}  # by target: who is at the other end, for records

    def __repr__(self) -> str:
        return f"<Crossing {len(self._carriers)} connections, {len(self._plans)} plans>"

    # connections

    def link(self, carrier: LaneCarrier, fd: int, tls: Any, h2: H2, stall: float) -> Linked:
        """Carry a connection until `unlink`."""
        number = self._lane.next_id()
        linked = self._lane.lane.link(number, fd, tls, h2, stall, carrier.local)
        self._carriers[number] = carrier
        self._numbers[carrier] = number
        self._linked[carrier] = linked
        if carrier.caller is not None:
            guest = self._callers[carrier] = self._lane.next_id()
            self._guests[guest] = carrier.caller
            plan = self._lane.ready(carrier.caller, h2=True)
            if plan is not None:
                self._open(carrier, plan)
        self._lane.stir()
        return linked

    def unlink(self, carrier: LaneCarrier, bye: bool) -> None:
        """`bye`: tell the peer that this is the end."""
        number = self._numbers.pop(carrier)
        linked = self._linked.pop(carrier)
        counted = linked.totals
        linked.close(bye)
        self._lane.collect()  # what broke with it
        del self._carriers[number]
        if carrier.caller is not None:
            total = carrier.caller.report.record
            total.bytes_in, total.bytes_out = total.bytes_in + counted[0], total.bytes_out + counted[1]
            guest = self._callers.pop(carrier)
            if not any(whose == guest for *_, whose in self._lane.lane.calls()):
                del self._guests[guest]
        for key in [key for key in self._plans if key[0] == number]:
            del self._plans[key]
        for stream in [stream for stream in self._answered if stream[0] == number]:
            given = self._answered.pop(stream)
            if given.server:
                self._lane.take_back(given.server).close()
            self.drop_adopted(given.caller)
        carrier.left()

    def tell(self) -> None:
        """The lane has something for some of the connections."""
        for number in self._lane.lane.links():
            if (carrier := self._carriers.get(number)) is not None:
                carrier.told()

    def lends(self, channel: Channel) -> Linked | None:
        """The connection of a tunnel, where the lane may pass its bytes."""
        carrier = channel.connection.carrier
        linked = self._linked.get(carrier) if isinstance(carrier, LaneCarrier) else None
        if linked is None or not isinstance(carrier, LaneCarrier):
            return None
        carrier.told()  # what came for it is in it before it is lent
        return linked if channel.lendable and not linked.ended else None

    # teaching

    def route(self, target: Target, peer: PeerConnection, endpoint: Endpoint, h2: bool) -> bool:
        """Requests for this target may go over this connection. False: it is not the lane's. `h2`: their caller speaks HTTP/2."""
        carrier = getattr(peer, "carrier", None)
        linked = self._linked.get(carrier) if isinstance(carrier, LaneCarrier) else None
        if linked is None or not peer.native:
            return False
        self._lane.lane.route(target, linked, f"{endpoint};h2".encode() if h2 else str(endpoint).encode())
        self._peers[target.serial] = peer
        return True

    def route_server(self, target: Target, connections: list[Connection]) -> bool:
        """Requests for this target may go over these connections, straight to the server. False: none is the lane's."""
        linked = [found for one in connections if isinstance(one.carrier, LaneCarrier) and (found := self._linked.get(one.carrier))]
        for one in linked:
            self._lane.lane.route(target, one, b"")
        return bool(linked)

    def serve(self, channel: Channel, plan: Plan) -> None:
        """Streams of this caller's connection are decided by this plan."""
        carrier = channel.connection.carrier
        if isinstance(carrier, LaneCarrier) and carrier in self._callers:
            self._open(carrier, plan)

    def _open(self, carrier: LaneCarrier, plan: Plan) -> None:
        plan.refill()
        self._lane.lane.door(self._linked[carrier], b"", b"", plan.native, self._callers[carrier])

    def learn(self, conn: Conn, channel: Channel, head: RequestHead, sent: bytes, pick: Pick, h2: bool) -> None:
        """A stream was served by the slow lane: may the lane serve such ones of this peer? `h2`: its caller speaks HTTP/2."""
        carrier = channel.connection.carrier
        linked = self._linked.get(carrier) if isinstance(carrier, LaneCarrier) else None
        if linked is None or not isinstance(carrier, LaneCarrier):
            return
        said = dict(reversed(channel.fields))  # the first of each name counts
        what, whom = said.get(DESTINATION, b""), said.get(b"x-forwarded-for", b"")
        key = (self._numbers[carrier], what, whom.rpartition(b",")[2].strip(b" \t"))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._lane.plan_of_stream(conn, h2)
            if plan is None:
                return
            if len(self._guests) - len(self._callers) >= _MOST_GUESTS:
                self._lane.forget()
            self._plans[key] = plan
            guest = self._lane.next_id()
            self._guests[guest] = conn
            self._lane.lane.door(linked, what, whom, plan.native, guest)
        if self._lane.teach(plan, conn, head, sent, pick):
            self._lane.lead(conn, plan, pick, head, h2)

    def forget(self) -> None:
        """Nothing holds that was learned; what is under way goes on, and is known by its guest until it is over."""
        self._plans.clear()
        self._peers.clear()
        alive = {guest for _, _, _, guest in self._lane.lane.calls()} | set(self._callers.values())
        for guest in self._guests.keys() - alive:
            del self._guests[guest]

    def guest(self, number: int) -> Conn | None:
        return self._guests.get(number)

    def note(self, record: Record, conn: Conn, serial: int) -> None:
        """Who the other node is, for the record of a call that crossed."""
        if (peer := self._peers.get(serial)) is not None:
            note_peer(record, peer)
        elif conn.direction == "inbound":
            was = conn.report.record
            record.tls_peer, record.tls_version, record.tls_cipher = was.tls_peer, was.tls_version, was.tls_cipher

    # what comes back

    def adopt(self, given: Given) -> None:
        """A response on a stream of ours goes on in Python, before the lane's next events for it are told."""
        channel = self._carriers[given.back_link].adopt(given.back, given.asked_all)
        if channel is not None:
            self._adopted[given.caller] = channel

    def adopted(self, given: Given, endpoint: Endpoint) -> StreamServer | None:
        """The stream on which the lane has asked. None: it is gone."""
        channel = self._adopted.pop(given.caller, None)
        if channel is None:
            return None
        carrier = channel.connection.carrier
        return StreamServer.adopted(channel, endpoint, through_node=not (isinstance(carrier, LaneCarrier) and carrier.local))

    def drop_adopted(self, caller: int) -> None:
        """Nobody came for it."""
        channel = self._adopted.pop(caller, None)
        if channel is not None:
            channel.abort()

    def answered(self, channel: Channel) -> Given | None:
        """What the lane has got of a server for this stream, if that goes on in Python."""
        carrier = channel.connection.carrier
        if not self._answered or not isinstance(carrier, LaneCarrier):
            return None
        return self._answered.pop((self._numbers.get(carrier, 0), channel.id), None)

    def back(self, given: Given) -> None:
        """The call of a stream has left the lane."""
        if given.what == self._lane.RESPONSE:
            self._answered[given.link, given.stream] = given
        elif given.what == self._lane.FAILED:
            self._failed(given)

    def _failed(self, given: Given) -> None:
        conn, pick = self._guests.get(given.guest), self._lane.pick_of(given)
        if conn is None or pick is None:
            return
        carrier = self._carriers.get(given.link)
        flag = given.flag
        if flag == "client-gone" and carrier is not None and carrier.cut:
            flag = conn.verdict or "drained"  # as exchange.py says it
        refused = Refused(flag, of_endpoint(str(pick.endpoint), given.detail))
        fields = [pair(line) for line in given.data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        record = self._lane.record_of(conn, pick, given.data.partition(b"\r\n")[0], time.monotonic() - given.began)
        record.bytes_in, record.bytes_out = given.bytes_in, given.bytes_out
        record.flag, record.detail, record.id = refused.flag, refused.detail, trace_id(fields) or new_id()
        record.status = given.status if given.begun else 0
        self.note(record, conn, given.target)
        if carrier is not None and given.stream and not given.begun:
            if given.flag == "cut":
                carrier.drop(given.stream, _CANCEL)
            else:
                record.status = FLAGS[refused.flag].status
                body, said = b"", grpc_fields(refused, record.id)
                if not any(is_grpc_field(name, value) for name, value in fields):
                    body = content(refused)
                    said = answer_fields(refused, record.id, len(body))
                head_only = given.data.startswith(b"HEAD ")
                record.bytes_out = carrier.answer(given.stream, said, b"" if head_only else body)
        if given.guest in self._callers.values():
            total = conn.report.record
            total.bytes_in, total.bytes_out = total.bytes_in + record.bytes_in, total.bytes_out + record.bytes_out
        conn.context.sink(record)


def of_endpoint(name: str, detail: str) -> str:
    """What became of a request, as the lane tells it, said of its endpoint."""
    return detail and (name + detail if detail[0] == ":" else f"{name} {detail}")
