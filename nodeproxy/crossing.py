"""Calls that the native lane carries from one node to another: what Python has to do with them.

On the node that calls, a server is the connection to its node (`route`): the lane opens a stream on it for each request that it was
taught. On the node that is called, a stream comes with a destination and a caller; `learn` says by which plan such streams are decided,
and who their caller is for the records (a guest: the connection that was made of the stream which taught it). What the lane cannot
finish comes back here: a request or response that goes on in Python, or a failure, which is answered and recorded.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nodeproxy.errors import FLAGS, Refused
from nodeproxy.http.answers import answer_fields, content
from nodeproxy.http.h2_channel import Channel
from nodeproxy.http.h2_message import DESTINATION
from nodeproxy.http.message import Fields, RequestHead
from nodeproxy.linked import LaneCarrier
from nodeproxy.peer import PeerConnection, note_peer
from nodeproxy.telemetry.report import Record, new_id
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
        linked = self._lane.lane.link(number, fd, tls, h2, stall)
        self._carriers[number] = carrier
        self._numbers[carrier] = number
        self._linked[carrier] = linked
        self._lane.stir()
        return linked

    def unlink(self, carrier: LaneCarrier, bye: bool) -> None:
        """`bye`: tell the peer that this is the end."""
        number = self._numbers.pop(carrier)
        self._linked.pop(carrier).close(bye)
        self._lane.collect()  # what broke with it
        del self._carriers[number]
        for key in [key for key in self._plans if key[0] == number]:
            del self._plans[key]
        for stream in [stream for stream in self._answered if stream[0] == number]:
            self._lane.take_back(self._answered.pop(stream).server).close()
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

    def route(self, target: Target, peer: PeerConnection, endpoint: Endpoint) -> bool:
        """Requests for this target may go over this connection. False: it is not the lane's."""
        carrier = getattr(peer, "carrier", None)
        linked = self._linked.get(carrier) if isinstance(carrier, LaneCarrier) else None
        if linked is None or not peer.native:
            return False
        self._lane.lane.route(target, linked, str(endpoint).encode())
        self._peers[target.serial] = peer
        return True

    def learn(self, conn: Conn, channel: Channel, head: RequestHead, sent: bytes, pick: Pick) -> None:
        """A stream was served by the slow lane: may the lane serve such ones of this peer?"""
        carrier = channel.connection.carrier
        linked = self._linked.get(carrier) if isinstance(carrier, LaneCarrier) else None
        if linked is None or not isinstance(carrier, LaneCarrier):
            return
        said = dict(reversed(channel.fields))  # the first of each name counts
        what, whom = said.get(DESTINATION, b""), said.get(b"x-forwarded-for", b"")
        key = (self._numbers[carrier], what, whom.rpartition(b",")[2].strip(b" \t"))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._lane.plan_of_stream(conn)
            if plan is None:
                return
            if len(self._guests) >= _MOST_GUESTS:
                self._lane.forget()
            self._plans[key] = plan
            guest = self._lane.next_id()
            self._guests[guest] = conn
            self._lane.lane.door(linked, what, whom, plan.native, guest)
        if self._lane.teach(plan, conn, head, sent, pick):
            self._lane.lend(conn, plan, pick.endpoint)

    def forget(self) -> None:
        """Nothing holds that was learned; what is under way goes on, and is known by its guest until it is over."""
        self._plans.clear()
        self._peers.clear()
        alive = {guest for _, _, _, guest in self._lane.lane.calls()}
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
        channel = self._carriers[given.link].adopt(given.stream)
        if channel is not None:
            self._adopted[given.caller] = channel

    def adopted(self, given: Given) -> Channel | None:
        return self._adopted.pop(given.caller, None)

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
        refused = Refused(given.flag, given.detail and f"{pick.endpoint} {given.detail}")
        record = self._lane.record_of(conn, pick, given.data.partition(b"\r\n")[0], time.monotonic() - given.began)
        record.bytes_in, record.bytes_out = given.bytes_in, given.bytes_out
        record.flag, record.detail, record.id = refused.flag, refused.detail, new_id()
        record.status = given.status if given.begun else 0
        self.note(record, conn, given.target)
        carrier = self._carriers.get(given.link)
        if carrier is not None and given.stream and not given.begun:
            if given.flag == "cut":
                carrier.drop(given.stream, _CANCEL)
            else:
                record.status = FLAGS[refused.flag].status
                body = content(refused)
                fields: Fields = answer_fields(refused, record.id, len(body))
                head_only = given.data.startswith(b"HEAD ")
                record.bytes_out = carrier.answer(given.stream, fields, b"" if head_only else body)
        conn.context.sink(record)
