"""HTTP/2 connections that the native lane carries: it reads, writes and times them, and tells Python of what is Python's.

They lead to another node (over TLS), come from a workload that speaks HTTP/2, or lead to a server that does (plain). Streams of which the
lane knows everything (a request it was taught, on its way to whoever takes it) never come here. For all others
the connection is what it is over any stream: http/h2.py with its channels, whose machine is the one that the lane feeds (native/h2.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from nodeproxy.http.h2_machine import Violation
from nodeproxy.http.h2_native import NativeMachine
from nodeproxy.http.message import Fields
from nodeproxy.stream import Peeked
from nodeproxy.tls_native import in_words

if TYPE_CHECKING:
    from nodeproxy.context import Conn
    from nodeproxy.http.h2 import Connection
    from nodeproxy.http.h2_bounds import Bounds
    from nodeproxy.http.h2_channel import Channel
    from nodeproxy.lane import FastLane
    from nodeproxy.native import Linked


class LaneCarrier:
    """http/h2_carrier.Carrier: the lane owns the descriptor while `run` runs."""

    def __init__(self, lane: FastLane, fd: int, tls: Any, local: bool = False, held: bytes = b"", caller: Conn | None = None) -> None:
        """`tls`: the handshake that is done (tls_native.py); None: bytes are plain. `local`: a workload is at the other end, and nothing
        that it says is believed. `held`: what was read before. `caller`: whose connection it is, where a workload asks on it."""
        self.local = local
        self.caller = caller
        self.cut = False  # it ends because we end it
        self._held = held
        self._lane = lane
        self._fd = fd
        self._tls = tls
        self._linked: Linked | None = None
        self._connection: Connection | None = None
        self._over = trio.Event()  # nothing more comes
        self._waits_for = 0  # as Linked.when_below was asked
        self._all_sent = trio.Event()
        self._since = trio.current_time()

    def __repr__(self) -> str:
        return f"<LaneCarrier {self._linked!r}>"

    @property
    def last_heard(self) -> float:
        return self._linked.heard if self._linked is not None else self._since

    @property
    def idle_since(self) -> float:
        return self._linked.idle_since if self._linked is not None else self._since

    async def run(self, connection: Connection, nursery: trio.Nursery) -> None:
        machine = connection.machine
        assert isinstance(machine, NativeMachine), "made for the lane"
        self._connection = connection
        self._linked = linked = self._lane.crossing.link(self, self._fd, self._tls, machine.h2, connection.bounds.stall)
        if self._held:
            linked.feed(self._held)
            self._held = b""
            self.told()
        in_order = False
        try:
            with connection.listens():
                await self._over.wait()
            with trio.move_on_after(connection.bounds.farewell):
                self._waits_for = 1
                linked.when_below(1)
                self._lane.stir()
                await self._all_sent.wait()
                in_order = True
        finally:
            self.cut = not self._over.is_set()
            # A word that this is the end, where all that went before has gone out.
            self._lane.crossing.unlink(self, in_order)

    def stir(self) -> None:
        if self._linked is not None:
            self._linked.due()
            self._lane.stir()
            if self._connection is not None and self._connection.draining:
                self._watch_draining(self._connection)

    def wants_room(self, connection: Connection) -> None:
        if self._linked is not None and not self._waits_for:
            self._waits_for = connection.bounds.queue_bytes
            self._linked.when_below(self._waits_for)
            self._lane.stir()

    def told(self) -> None:
        """The lane has something for us: events, room, or the end. Raises nothing."""
        connection, linked = self._connection, self._linked
        if connection is None or linked is None:
            return
        machine = connection.machine
        assert isinstance(machine, NativeMachine)
        machine.now = linked.heard
        try:
            machine.dispatch()
        except Violation as violation:
            connection.broke_rules(violation)
            self._over.set()
        if linked.ended and not self._over.is_set():
            connection.closed_by_peer(in_words(linked.why))
            self._over.set()
        if self._waits_for and machine.queued < self._waits_for:
            if self._waits_for == 1:
                self._all_sent.set()
            self._waits_for = 0
        if connection.queue and not connection.queue_full():
            connection.queue.unpark_all()
        if linked.ended:
            self._all_sent.set()
        if connection.draining:
            self._watch_draining(connection)
        if machine.queued:
            linked.due()

    def _watch_draining(self, connection: Connection) -> None:
        """A connection that takes no new streams ends with its last one, which may be the lane's."""
        linked, machine = self._linked, connection.machine
        if linked is None:
            return
        if connection.streams:
            linked.when_idle()
        elif not machine.queued:
            connection.finish_if_drained()
        elif not self._waits_for:
            self._waits_for = 2
            linked.when_below(2)

    def left(self) -> None:
        """It has left the lane."""
        self._linked = None

    def carries(self, number: int) -> bool:
        machine = self._connection.machine if self._connection is not None else None
        return isinstance(machine, NativeMachine) and machine.has(number)

    # what was the lane's, and is Python's from here on

    def adopt(self, number: int, whole: bool) -> Channel | None:
        """A stream of ours, on which a request was sent; `whole`: all of it."""
        return self._connection.adopt(number, whole) if self._connection is not None and not self._connection.closed else None

    def answer(self, number: int, fields: Fields, body: bytes) -> int:
        """Answer a stream of the peer, and be done with it. Answers how many bytes that is."""
        if self._connection is None:
            return 0
        machine = self._connection.machine
        machine.send_fields(number, fields, not body)
        if body:
            machine.send_data(number, body, end_stream=True)
        self.drop(number, 0)
        return len(body)

    def drop(self, number: int, code: int) -> None:
        if self._connection is not None:
            self._connection.machine.drop(number, code)
            self.stir()


def plain_carrier(lane: FastLane | None, stream: object, bounds: Bounds, caller: Conn | None = None) -> LaneCarrier | None:
    """For a connection of a workload, or to one. None: the lane cannot have it."""
    below = stream.stream if isinstance(stream, Peeked) else stream
    if lane is None or not bounds.native or not isinstance(below, trio.SocketStream):
        return None
    held = stream.take_held() if isinstance(stream, Peeked) else b""
    return LaneCarrier(lane, below.socket.fileno(), None, True, held, caller)
