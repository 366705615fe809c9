"""One HTTP/2 connection (RFC 9113) over any stream, in either role.

Theory of operation. `run` has two tasks. The reader feeds what arrives to the state machine, which tells this connection, and that
its channels, without waiting for anybody. The writer alone sends: it takes all that was queued meanwhile in one piece, so that
what several tasks queue in one turn of the loop goes out together, and a sender that is cancelled never leaves half a frame
behind. Senders wait while more than bounds.queue_bytes are queued, or while the peer's windows are shut.

Windows. A stream begins with 64 KiB and grows while its consumer keeps up, to bounds.stream_window, as long as all growth together
is no more than a third of bounds.connection_window. Bytes are given back to the peer, for stream and connection alike, when the
consumer takes them: so a connection never holds more than bounds.connection_window, whatever its peer sends and whoever does not
read. Where streams that nobody reads must not stall others, that is made large enough for all streams (Bounds.shared).

Ends. `drain` or the peer's GOAWAY: no new streams, old ones finish, what is queued goes out, then `run` returns. A violation: GOAWAY
goes out, best effort, and `run` raises. Whatever the end, streams that are still open then are broken.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import trio
from trio.lowlevel import ParkingLot

from nodeproxy.errors import Refused
from nodeproxy.http.h2_bounds import FIRST_WINDOW, Bounds, Code, too_large, wrong_request, wrong_response, wrong_trailers
from nodeproxy.http.h2_channel import Channel
from nodeproxy.http.h2_machine import Listener, Machine, Violation
from nodeproxy.http.message import Fields
from nodeproxy.http.wire import Wire
from nodeproxy.native import AVAILABLE
from nodeproxy.stream import WholeStream

if AVAILABLE:
    from nodeproxy.http.h2_native import NativeMachine

__all__ = ["Bounds", "Channel", "Code", "Connection"]

_PIECE = 65536  # read, sent and queued at once


def machine(client: bool, bounds: Bounds, listener: Listener, now: float) -> Machine | NativeMachine:
    """The state machine: the compiled one where it is there and wanted."""
    if AVAILABLE and bounds.native:
        return NativeMachine(client, bounds, listener, now)
    return Machine(client, bounds, listener, now)


class Connection:
    """One connection. Streams can be opened at once; they move while `run` runs."""

    def __init__(self, stream: WholeStream, client: bool, bounds: Bounds, name: str) -> None:
        now = trio.current_time()
        self.name = name
        self.bounds = bounds
        self.client = client
        self.closed = False
        self.idle_since = now  # when the last stream ended
        self.last_heard = now
        self.queue = ParkingLot()  # senders that wait for the writer
        self._wire = Wire(stream)
        self._machine = machine(client, bounds, self, now)
        self._accept: Callable[[Channel], None] | None = None
        self._channels: dict[int, Channel] = {}  # whose stream is not over
        self._served: set[Channel] = set()  # opened by the peer, and their owners are not done with them
        self._untold = 0  # bytes taken that the peer was not yet given back
        self._windows = ParkingLot()  # senders that wait for the window of the connection
        self._work = ParkingLot()  # the writer, when nothing is queued
        self._pings: dict[bytes, trio.Event] = {}
        self._pinged = 0
        self._last_taken: int | None = None  # of the peer's streams, once we sent GOAWAY
        self._told = ""  # what the peer's GOAWAY said
        self._draining = False  # no new streams
        self._finishing = False  # what is queued goes out, and that is all
        self._failure: Refused | None = None
        self._reading = trio.CancelScope()
        self._scope: trio.CancelScope | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "draining" if self._draining else "open"
        return f"<Connection {self.name}, {state}, {self.streams} streams>"

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._channels)

    @property
    def ending(self) -> bool:
        """It takes no new streams, whichever end said so."""
        return self.closed or self._draining

    @property
    def held(self) -> int:
        """Bytes that arrived on open streams and were not taken."""
        return sum(channel.held for channel in self._channels.values())

    @property
    def peer_max_streams(self) -> int:
        return self._machine.peer_max_streams

    def room(self) -> int:
        """How many more streams may be opened now."""
        if self.closed or self._draining or self._machine.exhausted:
            return 0
        return max(0, min(self.peer_max_streams, self.bounds.max_streams) - self.streams)

    # Life

    async def run(self, accept: Callable[[Channel], None] | None = None) -> None:
        """Carry the streams until the connection ends; `accept` is called for each one that the peer opens.

        Returns when it ended in order: drained, closed here, or closed by the peer without streams. Raises Refused("http2-abuse") or
        Refused("peer-lost"). The stream below is left to its owner.
        """
        self._accept = accept
        try:
            if self.closed:
                return
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._write)
                await self._read()
                self._finishing = True
                nursery.cancel_scope.deadline = trio.current_time() + self.bounds.farewell
                self._stir()
        finally:
            self._end(str(self._failure) if self._failure else "the connection ended")
        if self._failure is not None:
            raise self._failure

    async def _read(self) -> None:
        machine = self._machine
        self._reading.deadline = min(self._reading.deadline, trio.current_time() + self.bounds.preface)
        with self._reading:
            try:
                while data := await self._wire.receive(_PIECE):
                    self.last_heard = trio.current_time()
                    machine.feed(data, self.last_heard)
                    if machine.queued:
                        self._stir()
            except Violation as violation:
                self._fail("http2-abuse", str(violation))
                self._end(str(self._failure))  # now: h2 takes nothing more from the streams, and raises its own errors at them
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                if self.streams or not self._draining:
                    self._fail("peer-lost", str(error))
            else:
                if self.streams:
                    self._fail("peer-lost", f"it closed the connection{self._told}, {self.streams} streams were open")
        if self._reading.cancelled_caught and not machine.greeted and not self._draining:
            self._fail("peer-lost" if self.client else "http2-abuse", f"no SETTINGS within {self.bounds.preface:g} s")

    async def _write(self) -> None:
        machine = self._machine
        try:
            while True:
                data = machine.data_to_send()
                if not data:
                    if self._finishing:
                        return
                    self._finish_if_drained(flushed=True)
                    await self._work.park()
                    continue
                if self.queue:
                    self.queue.unpark_all()
                for start in range(0, len(data), _PIECE):
                    with trio.move_on_after(self.bounds.stall) as scope:
                        await self._wire.send(data if len(data) <= _PIECE else data[start : start + _PIECE])
                    if scope.cancelled_caught:
                        self._fail("peer-lost", f"it took no bytes for {self.bounds.stall:g} s")
                        self._reading.cancel()
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if self.streams:
                self._fail("peer-lost", str(error))
            self._reading.cancel()

    def _stir(self) -> None:
        """Let the writer look again."""
        if self._work:
            self._work.unpark_all()

    def _fail(self, flag: str, detail: str) -> None:
        if self._failure is None:
            self._failure = Refused(flag, f"{self.name}: {detail}")

    def drain(self) -> None:
        """Take no more streams, and say so. `run` returns when the last one ended."""
        if self._last_taken is None and not self.closed:
            self._draining = True
            self._last_taken = self._machine.go_away()
            self._stir()  # it looks whether that was all

    def close(self) -> None:
        """End it at once; streams break."""
        self._end("the connection was closed here")
        if self._scope is not None:
            self._scope.cancel()

    def _end(self, why: str) -> None:
        self.closed = self._draining = True
        while self._channels:
            self._channels.popitem()[1].lose(why)
        self.queue.unpark_all()
        for event in self._pings.values():
            event.set()

    def _finish_if_drained(self, flushed: bool) -> None:
        if self._draining and flushed and not self._channels:
            # A server waits a moment for its client to close: what it sent last may be on its way, and closing a socket with
            # unread bytes in it (a WINDOW_UPDATE) would reset that.
            wait = 0.0 if self.client else self.bounds.farewell
            self._reading.deadline = min(self._reading.deadline, trio.current_time() + wait)

    async def ping(self, timeout: float) -> bool:
        """Did the peer answer within `timeout` seconds?"""
        if self.closed:
            return False
        self._pinged += 1
        mark = struct.pack(">Q", self._pinged)
        event = self._pings[mark] = trio.Event()
        try:
            self._machine.ping(mark)
            self._stir()
            with trio.move_on_after(timeout):
                await event.wait()
            return mark not in self._pings
        finally:
            self._pings.pop(mark, None)

    async def open(self, fields: Fields, end: bool = False) -> Channel:
        """Open a stream. Raises Refused("peer-lost") when the connection takes no more."""
        while self.room() and self.queue_full():
            await self.queue.park()
        if not self.room():
            why = "it is ending" if self._draining else f"it takes no more than {self.streams} streams at once"
            raise Refused("peer-lost", f"{self.name}: {why}")
        number = self._machine.open(fields, end)
        channel = self._channels[number] = Channel(self, number, fields, tunnel=(b":method", b"CONNECT") in fields, asked=True)
        self._sent(channel, end)
        return channel

    # What channels ask for

    def queue_full(self) -> bool:
        return self._machine.queued >= self.bounds.queue_bytes

    def send_fields(self, channel: Channel, fields: Fields, end: bool) -> None:
        self._machine.send_fields(channel.id, fields, end)
        self._sent(channel, end)

    def send_data(self, channel: Channel, data: bytes | memoryview, end: bool) -> None:
        self._machine.send_data(channel.id, data, end_stream=end)
        channel.shut_since = math.inf
        self._sent(channel, end)

    def sendable(self, channel: Channel, wanted: int) -> int:
        """How many of the wanted bytes can be queued now."""
        machine = self._machine
        if machine.queued >= self.bounds.queue_bytes:
            return 0
        return max(0, min(wanted, machine.local_flow_control_window(channel.id), machine.max_outbound_frame_size, _PIECE))

    async def wait_sendable(self, channel: Channel) -> None:
        """Wait until it is worth to look at `sendable` again. Breaks the stream when its peer opens no window for too long."""
        if self.queue_full():
            await self.queue.park()
            return
        lot = self._windows if self._machine.outbound_flow_control_window <= 0 else channel.windows
        # Not from now: what wakes it need not be a window of its own.
        channel.shut_since = min(channel.shut_since, trio.current_time())
        with trio.move_on_at(channel.shut_since + self.bounds.stall) as scope:
            await lot.park()
        if scope.cancelled_caught and channel.id in self._channels:
            self._break(channel, Code.CANCEL, f"the peer opened no window for {self.bounds.stall:g} s")

    def taken(self, channel: Channel, size: int) -> None:
        """Bytes of a channel were taken, or dropped: the peer may send as many."""
        self._give_back(size)
        channel.untold += size
        if channel.untold * 2 >= channel.window and channel.id in self._channels and not (channel.heard_end or channel.released):
            growth = 0
            if not channel.held:  # its consumer keeps up
                growth = min(channel.window, self.bounds.stream_window - channel.window, self._machine.growth)
                self._machine.growth -= growth
                channel.window += growth
            self._machine.give_back(channel.id, channel.untold, growth)
            channel.untold = 0
            self._stir()

    def release(self, channel: Channel, code: int) -> None:
        """Its owner is done with it: reset it, if anything is still to come."""
        self._served.discard(channel)
        if self._channels.pop(channel.id, None) is not None:
            self._machine.drop(channel.id, code)
            self._over(channel)

    def wake(self, channel: Channel) -> None:
        """Let its sender look again at what it waits for."""
        for lot in (channel.windows, self._windows, self.queue):
            if lot:
                lot.unpark_all()

    def _give_back(self, size: int) -> None:
        self._untold += size
        if self._untold * 4 >= self.bounds.connection_window and not self.closed:
            self._machine.give_back(0, self._untold)
            self._untold = 0
            self._stir()

    def _sent(self, channel: Channel, end: bool) -> None:
        self._stir()
        if end:
            channel.sent_end = True
            self._over_if_ended(channel)

    def _over_if_ended(self, channel: Channel) -> None:
        if channel.sent_end and channel.heard_end and self._channels.pop(channel.id, None) is not None:
            self._machine.served()
            self._over(channel)

    def _over(self, channel: Channel) -> None:
        self._machine.growth += channel.window - FIRST_WINDOW
        if not self._channels:
            self.idle_since = trio.current_time()
        self._stir()  # when draining, it looks whether that was the last

    def _break(self, channel: Channel, code: int, why: str) -> None:
        del self._channels[channel.id]
        self._machine.drop(channel.id, code)
        self._over(channel)
        channel.lose(why)

    # What the peer did: h2_machine.Listener

    def requested(self, number: int, fields: Fields, ended: bool) -> None:
        machine, most = self._machine, self.bounds.max_streams
        why = wrong_request(fields)
        if self._accept is None or (self._last_taken is not None and number > self._last_taken):
            machine.drop(number, Code.REFUSED_STREAM)
        elif self.streams >= most or len(self._served) >= 2 * most:
            # The second: a stream that was reset is over for HTTP/2, but its owner may still be at work (CVE-2023-44487).
            machine.drop(number, Code.REFUSED_STREAM)
            machine.blame("streams beyond our limit")
        elif why:
            machine.drop(number, Code.PROTOCOL_ERROR)
            machine.blame(f"malformed requests, the last one: {why}")
        else:
            channel = Channel(self, number, fields, tunnel=(b":method", b"CONNECT") in fields, asked=False)
            channel.heard_end = ended
            self._channels[number] = channel
            self._served.add(channel)
            self._accept(channel)

    def responded(self, number: int, fields: Fields, ended: bool) -> None:
        channel = self._channels.get(number)
        if channel is None:
            return
        why = wrong_response(fields) or ("it is too large" if too_large(fields, self.bounds) else "")
        if why:
            self._break(channel, Code.PROTOCOL_ERROR, f"malformed response: {why}")
        elif not channel.arrived_head(fields, ended):
            self._break(channel, Code.ENHANCE_YOUR_CALM, "more interim responses than anybody reads")

    def trailed(self, number: int, fields: Fields) -> None:
        channel = self._channels.get(number)
        if channel is None:
            return
        why = wrong_trailers(fields) or ("they are too large" if too_large(fields, self.bounds) else "")
        if why:
            self._break(channel, Code.PROTOCOL_ERROR, f"malformed trailers: {why}")
            self._machine.blame(f"malformed trailers, the last ones: {why}")
        else:
            channel.trailers = fields

    def arrived(self, number: int, data: bytes, size: int) -> None:
        channel = self._channels.get(number)
        if channel is None:
            self._give_back(size)
            return
        if size > len(data):  # padding
            self.taken(channel, size - len(data))
        if data:
            channel.arrived(data)

    def ended(self, number: int) -> None:
        channel = self._channels.get(number)
        if channel is not None:
            channel.arrived_end()
            self._over_if_ended(channel)

    def was_reset(self, number: int, code: int, by_peer: bool) -> None:
        channel = self._channels.pop(number, None)
        if channel is not None:
            self._over(channel)
            if by_peer:
                channel.reset(code)
            else:
                channel.lose(f"the peer broke HTTP/2 on this stream (error code {code})")
        self._machine.blame("resets of streams" if by_peer else "streams on which HTTP/2 was broken")

    def windows_opened(self, number: int | None) -> None:
        if number == 0:
            self._windows.unpark_all()
        elif number is None:
            for channel in self._channels.values():
                channel.windows.unpark_all()
        elif (opened := self._channels.get(number)) is not None:
            opened.windows.unpark_all()

    def greeted(self) -> None:
        if self._channels or not self._draining:
            self._reading.deadline = math.inf

    def answered(self, mark: bytes) -> None:
        event = self._pings.pop(mark, None)
        if event is not None:
            event.set()

    def left(self, last: int, code: int) -> None:
        self._draining = True
        self._told = f" after GOAWAY with error code {code}"
        for channel in [c for c in self._channels.values() if self.client and c.id > last]:
            del self._channels[channel.id]
            self._over(channel)
            channel.refused_unprocessed = True  # RFC 9113 section 6.8
            channel.lose(f"the peer is ending the connection{self._told[6:]} and did not take this stream")
        self._stir()
