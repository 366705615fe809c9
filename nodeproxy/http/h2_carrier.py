"""Who moves the bytes of an HTTP/2 connection: two tasks over a stream, or (nodeproxy/linked.py) the native lane."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import ParkingLot

from nodeproxy.http.h2_machine import Violation
from nodeproxy.http.wire import Wire
from nodeproxy.stream import WholeStream

if TYPE_CHECKING:
    from nodeproxy.http.h2 import Connection

_PIECE = 65536  # read and sent at once


class Carrier(Protocol):
    """Of one connection."""

    @property
    def last_heard(self) -> float:
        """When anything came last, as far as only the carrier knows."""
        ...

    @property
    def idle_since(self) -> float:
        """When the last stream ended of which only the carrier knows."""
        ...

    async def run(self, connection: Connection, nursery: trio.Nursery) -> None:
        """Move bytes until the connection has ended, and tell it how. Tasks may be left in the nursery for what is sent last."""
        ...

    def stir(self) -> None:
        """Something was queued, or a stream ended."""
        ...

    def wants_room(self, connection: Connection) -> None:
        """A sender is about to wait in connection.queue."""
        ...

    def carries(self, number: int) -> bool:
        """Is this stream, which was lent to the carrier, still open?"""
        ...


class StreamCarrier:
    """The reader feeds the state machine; the writer alone sends."""

    last_heard = idle_since = -math.inf  # the connection knows

    def __init__(self, stream: WholeStream) -> None:
        self._wire = Wire(stream)
        self._work = ParkingLot()  # the writer, when nothing is queued
        self._finishing = False  # what is queued goes out, and that is all

    def __repr__(self) -> str:
        return f"<StreamCarrier over {self._wire!r}>"

    async def run(self, connection: Connection, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._write, connection)
        await self._read(connection)
        self._finishing = True
        nursery.cancel_scope.deadline = trio.current_time() + connection.bounds.farewell
        self.stir()

    def stir(self) -> None:
        if self._work:
            self._work.unpark_all()

    def wants_room(self, connection: Connection) -> None:
        return

    def carries(self, number: int) -> bool:
        return False  # none is lent

    async def _read(self, connection: Connection) -> None:
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

    async def _write(self, connection: Connection) -> None:
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
