"""HTTP/2 connections that the fast path reads, writes and times; Python gets the events that remain.

They lead to another node (over TLS), come from a workload that speaks HTTP/2, or lead to a server that does (plain).
Streams that the fast path serves alone (a request that it has learned, on its way to the server) never come here. For
all others the connection is the same as over any stream: h2/connection.py with its channels. Its state machine is the
one that the fast path feeds (native/h2.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import trio

from nodeproxy.codec.message import Fields
from nodeproxy.fastpath.tls import in_words
from nodeproxy.h2.limits import Violation
from nodeproxy.h2.native_machine import NativeMachine
from nodeproxy.h2.transport import DrivenConnection
from nodeproxy.stream import Peeked

if TYPE_CHECKING:
    from nodeproxy.context import Conn
    from nodeproxy.h2.limits import Bounds
    from nodeproxy.h2.stream import Channel
    from nodeproxy.native import H2, Linked


class Keeper(Protocol):
    """Keeps all connections of the fast path (streams.py)."""

    def link(self, transport: NativeTransport, fd: int, tls: Any, h2: H2, stall: float) -> Linked:
        """Carry this connection until `unlink`."""
        ...

    def unlink(self, transport: NativeTransport, bye: bool) -> None:
        """Stop carrying this connection. `bye`: tell the peer that this is the end."""
        ...

    def stir(self) -> None:
        """Wake the fast path: there is something to send."""
        ...


class NativeTransport:
    """h2.transport.Transport: the fast path owns the descriptor while `run` runs."""

    def __init__(
        self, keeper: Keeper, fd: int, tls: Any, local: bool = False, held: bytes = b"", caller: Conn | None = None
    ) -> None:
        """`tls`: the finished handshake (tls.py); None: the bytes are plain.

        `local`: a workload is at the other end, and nothing that it says about itself is trusted. `held`: bytes that
        were read before. `caller`: the Conn, where a workload sends requests on it.
        """
        self.local = local
        self.caller = caller
        self.cut = False  # this end cuts it
        self._held = held
        self._keeper = keeper
        self._fd = fd
        self._tls = tls
        self._linked: Linked | None = None
        self._connection: DrivenConnection | None = None
        self._over = trio.Event()  # nothing more comes
        self._waits_for = 0  # the number that was passed to Linked.when_below
        self._all_sent = trio.Event()
        self._since = trio.current_time()

    def __repr__(self) -> str:
        return f"<NativeTransport {self._linked!r}>"

    @property
    def last_heard(self) -> float:
        return self._linked.heard if self._linked is not None else self._since

    @property
    def idle_since(self) -> float:
        return self._linked.idle_since if self._linked is not None else self._since

    async def run(self, connection: DrivenConnection, nursery: trio.Nursery) -> None:
        machine = connection.machine
        assert isinstance(machine, NativeMachine), "made for the lane"
        self._connection = connection
        self._linked = linked = self._keeper.link(self, self._fd, self._tls, machine.h2, connection.bounds.stall)
        in_order = False
        try:
            with connection.listens():
                if self._held:  # only now: these bytes may be what the deadline of `listens` waits for
                    linked.feed(self._held)
                    self._held = b""
                    self.told()
                await self._over.wait()
            with trio.move_on_after(connection.bounds.farewell):
                self._waits_for = 1
                linked.when_below(1)
                self._keeper.stir()
                await self._all_sent.wait()
                in_order = True
        finally:
            self.cut = not self._over.is_set()
            # Tell the peer that this is the end, if everything before it was sent.
            self._keeper.unlink(self, in_order)

    def stir(self) -> None:
        if self._linked is not None:
            self._linked.due()
            self._keeper.stir()
            if self._connection is not None and self._connection.draining:
                self._watch_draining(self._connection)

    def wants_room(self, connection: DrivenConnection) -> None:
        if self._linked is not None and not self._waits_for:
            self._waits_for = connection.bounds.queue_bytes
            self._linked.when_below(self._waits_for)
            self._keeper.stir()

    def told(self) -> None:
        """Handle what the fast path has: events, room, or the end. Raise nothing."""
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

    def _watch_draining(self, connection: DrivenConnection) -> None:
        """End a connection without new streams after its last stream, which the fast path may have."""
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
        """Handle that the connection has left the fast path."""
        self._linked = None

    def carries(self, number: int) -> bool:
        machine = self._connection.machine if self._connection is not None else None
        return isinstance(machine, NativeMachine) and machine.has(number)

    # streams that leave the fast path and continue in Python

    def adopt(self, number: int, whole: bool) -> Channel | None:
        """Return a stream of ours on which the fast path has sent a request; `whole`: all of it."""
        return (
            self._connection.adopt(number, whole)
            if self._connection is not None and not self._connection.closed
            else None
        )

    def answer(self, number: int, fields: Fields, body: bytes) -> int:
        """Send a whole response on a stream of the peer, and end it. Return the size of its body."""
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


def plain_transport(
    keeper: Keeper, stream: object, bounds: Bounds, caller: Conn | None = None
) -> NativeTransport | None:
    """Return a transport for a connection from or to a workload, or None if the fast path cannot have it."""
    below = stream.stream if isinstance(stream, Peeked) else stream
    if not bounds.native or not isinstance(below, trio.SocketStream):
        return None
    held = stream.take_held() if isinstance(stream, Peeked) else b""
    return NativeTransport(keeper, below.socket.fileno(), None, True, held, caller)
