"""What moves the bytes of an HTTP/2 connection: two tasks over a stream, or the fast path (fastpath/transport.py)."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import ParkingLot

from nodeproxy.h2.limits import Bounds, Violation
from nodeproxy.h2.stream import Channel
from nodeproxy.stream import WholeStream, Wire

if TYPE_CHECKING:
    from nodeproxy.h2.machine import Machine
    from nodeproxy.h2.native_machine import NativeMachine

_PIECE = 65536  # bytes read and sent at once


class DrivenConnection(Protocol):
    """What a transport needs of the connection (connection.py) whose bytes it moves."""

    bounds: Bounds
    machine: Machine | NativeMachine
    queue: ParkingLot  # senders that wait for room
    reading: trio.CancelScope  # when cancelled, the transport stops reading from the peer
    draining: bool
    closed: bool

    @property
    def streams(self) -> int:
        """Number of open streams."""
        ...

    @property
    def last_heard(self) -> float: ...

    def queue_full(self) -> bool: ...

    def listens(self) -> AbstractContextManager[None]:
        """Listen to the peer while in this block."""
        ...

    def heard(self) -> None:
        """Note that bytes have arrived."""
        ...

    def fails(self, flag: str, detail: str) -> None:
        """End the connection, or explain its end, with this flag and detail; the first reason counts."""
        ...

    def broke_rules(self, violation: Violation) -> None:
        """End the connection, since the peer broke rules."""
        ...

    def closed_by_peer(self, why: str) -> None:
        """Handle that nothing more comes. `why` "": the peer ended in order."""
        ...

    def finish_if_drained(self) -> None:
        """End a draining connection without streams. Called when nothing is queued."""
        ...

    def adopt(self, number: int, whole: bool) -> Channel:
        """Take over a stream of the transport, whose request was sent (`whole`: to its end)."""
        ...


class Transport(Protocol):
    """Moves the bytes of one connection."""

    @property
    def last_heard(self) -> float:
        """Time when bytes arrived last, as far as only the transport knows."""
        ...

    @property
    def idle_since(self) -> float:
        """Time when the last stream ended that only the transport knows."""
        ...

    async def run(self, connection: DrivenConnection, nursery: trio.Nursery) -> None:
        """Move bytes until the connection has ended, and tell it how. Tasks that send the rest may stay."""
        ...

    def stir(self) -> None:
        """Wake the transport: bytes were queued, or a stream ended."""
        ...

    def wants_room(self, connection: DrivenConnection) -> None:
        """Note that a sender is about to wait in connection.queue."""
        ...

    def carries(self, number: int) -> bool:
        """Return whether this stream, which was lent to the transport, is still open."""
        ...


class StreamTransport:
    """The reader feeds the state machine; only the writer sends."""

    last_heard = idle_since = -math.inf  # the connection knows

    def __init__(self, stream: WholeStream) -> None:
        self._wire = Wire(stream)
        self._work = ParkingLot()  # wakes the writer when something is queued
        self._finishing = False  # queued bytes go out, and nothing follows

    def __repr__(self) -> str:
        return f"<StreamTransport over {self._wire!r}>"

    async def run(self, connection: DrivenConnection, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._write, connection)
        await self._read(connection)
        self._finishing = True
        nursery.cancel_scope.deadline = trio.current_time() + connection.bounds.farewell
        self.stir()

    def stir(self) -> None:
        if self._work:
            self._work.unpark_all()

    def wants_room(self, connection: DrivenConnection) -> None:
        return

    def carries(self, number: int) -> bool:
        return False  # none is lent

    async def _read(self, connection: DrivenConnection) -> None:
        machine = connection.machine
        with connection.listens():
            try:
                while data := await self._wire.receive(_PIECE):
                    connection.heard()
                    machine.feed(data, connection.last_heard)
                    if machine.queued:
                        self.stir()
            except Violation as violation:
                connection.broke_rules(violation)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                connection.closed_by_peer(str(error) or "it broke")
            else:
                connection.closed_by_peer("")

    async def _write(self, connection: DrivenConnection) -> None:
        machine, stall = connection.machine, connection.bounds.stall
        try:
            while True:
                data = machine.data_to_send()
                if not data:
                    if self._finishing:
                        return
                    connection.finish_if_drained()
                    await self._work.park()
                    continue
                if connection.queue:
                    connection.queue.unpark_all()
                for start in range(0, len(data), _PIECE):
                    with trio.move_on_after(stall) as scope:
                        await self._wire.send(data if len(data) <= _PIECE else data[start : start + _PIECE])
                    if scope.cancelled_caught:
                        connection.fails("peer-lost", f"it took no bytes for {stall:g} s")
                        connection.reading.cancel()
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if connection.streams:
                connection.fails("peer-lost", str(error))
            connection.reading.cancel()
