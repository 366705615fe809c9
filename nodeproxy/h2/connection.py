"""One HTTP/2 connection (RFC 9113) over any stream, in either role.

Theory of operation. A transport moves the bytes (transport.py). What arrives goes to the state machine. The machine
tells this connection, and the connection tells its channels; none of them waits. Everything that is queued in one turn
of the loop, by any number of tasks, goes out together, and a cancelled sender never leaves half a frame behind. Senders
wait while more than bounds.queue_bytes are queued, or while the peer's windows are shut.

Windows. A stream begins with 64 KiB and grows to bounds.stream_window while its consumer keeps up, as long as all
growth together is no more than a third of bounds.connection_window. Bytes are credited to the peer, for stream and
connection alike, when the consumer takes them. So a connection never holds more than bounds.connection_window, whatever
its peer sends and however many consumers do not read. Where unread streams must not stall others,
bounds.connection_window is made large enough for all streams (Bounds.shared).

Ends. `drain` or the peer's GOAWAY: no new streams, old ones finish, queued bytes go out, then `run` returns. A
violation: GOAWAY goes out, best effort, and `run` raises. At any end, streams that are still open are broken.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import ParkingLot

from nodeproxy.codec.http2 import response_too_large, too_large, wrong_request, wrong_response, wrong_trailers
from nodeproxy.codec.message import Fields
from nodeproxy.errors import Refused
from nodeproxy.h2.limits import FIRST_WINDOW, Bounds, Code, Violation
from nodeproxy.h2.stream import Channel
from nodeproxy.h2.transport import StreamTransport, Transport
from nodeproxy.limits import Owner
from nodeproxy.native import AVAILABLE
from nodeproxy.stream import WholeStream

if AVAILABLE:
    from nodeproxy.h2.native_machine import NativeMachine
if TYPE_CHECKING:
    from nodeproxy.h2.machine import Listener, Machine

__all__ = ["Bounds", "Channel", "Code", "Connection"]

_PIECE = 65536  # bytes queued at once
# How many streams a connection counts for, if its peer ended it by breaking rules: a handshake, its settings, the end.
_BROKEN = 10


def machine(
    client: bool, bounds: Bounds, listener: Listener, now: float, owner: Owner | None = None
) -> Machine | NativeMachine:
    """Return a state machine: the compiled one if it is available and wanted."""
    if AVAILABLE and bounds.native:
        return NativeMachine(client, bounds, listener, now, owner)
    from nodeproxy.h2.machine import Machine  # 1.2 MiB, with the h2 library

    return Machine(client, bounds, listener, now, owner)


class Connection:
    """One HTTP/2 connection. Streams can be opened at once; their bytes move while `run` runs."""

    def __init__(
        self,
        stream: WholeStream,
        client: bool,
        bounds: Bounds,
        name: str,
        transport: Transport | None = None,
        owner: Owner | None = None,
    ) -> None:
        """`transport`: moves the bytes instead of two tasks over `stream`.

        `owner`: counts what all connections of the same workload or peer have together.
        """
        now = trio.current_time()
        self.name = name
        self.bounds = bounds
        self.client = client
        self.closed = False
        self._idle_since = self._last_heard = now
        self.queue = ParkingLot()  # senders that wait for the writer
        self.transport = transport or StreamTransport(stream)
        self.owner = owner
        self.machine = machine(client, bounds, self, now, owner)
        self._accept: Callable[[Channel], None] | None = None
        self._channels: dict[int, Channel] = {}  # streams that are not over
        self._lent: set[Channel] = set()  # streams whose bytes the transport moves
        self._served: set[Channel] = set()  # streams that the peer opened and whose owners still work
        self._untold = 0  # bytes taken but not yet credited to the peer
        self._windows = ParkingLot()  # senders that wait for the connection's window
        self._pings: dict[bytes, trio.Event] = {}
        self._pinged = 0
        self._last_taken: int | None = None  # last stream of the peer that is served, once we sent GOAWAY
        self._told = ""  # the reason in the peer's GOAWAY
        self.draining = False  # no new streams
        self._failure: Refused | None = None
        self.reading = trio.CancelScope()
        self._scope: trio.CancelScope | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "draining" if self.draining else "open"
        return f"<Connection {self.name}, {state}, {self.streams} streams>"

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return len(self._channels) + self.machine.lent

    @property
    def ending(self) -> bool:
        """True when no new streams are taken, whichever end said so."""
        return self.closed or self.draining

    @property
    def held(self) -> int:
        """Bytes that arrived on open streams and were not taken."""
        return sum(channel.held for channel in self._channels.values())

    @property
    def idle_since(self) -> float:
        """Time when the last stream ended."""
        return max(self._idle_since, self.transport.idle_since)

    @property
    def last_heard(self) -> float:
        """Time when bytes arrived last."""
        return max(self._last_heard, self.transport.last_heard)

    @property
    def peer_max_streams(self) -> int:
        return self.machine.peer_max_streams

    def room(self) -> int:
        """Return how many more streams may be opened now."""
        if self.closed or self.draining or self.machine.exhausted:
            return 0
        return max(0, min(self.peer_max_streams, self.bounds.max_streams) - self.streams)

    # Life

    async def run(self, accept: Callable[[Channel], None] | None = None) -> None:
        """Carry the streams until the connection ends; `accept` is called for each stream that the peer opens.

        Return when it ended in order: drained, closed here, or closed by the peer without streams. Raise
        Refused("http2-abuse") or Refused("peer-lost"). The stream below is left to its owner.
        """
        self._accept = accept
        try:
            if self.closed:
                return
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                await self.transport.run(self, nursery)
        finally:
            self.end(self.why_ended())
        if self._failure is not None:
            raise self._failure

    @contextlib.contextmanager
    def listens(self) -> Iterator[None]:
        """Listen to the peer until `reading` is cancelled, and not for long without SETTINGS."""
        if not self.machine.greeted:
            self.reading.deadline = min(self.reading.deadline, trio.current_time() + self.bounds.preface)
        with self.reading:
            yield
        if self.reading.cancelled_caught and not self.machine.greeted and not self.draining:
            self.fails("peer-lost" if self.client else "http2-abuse", f"no SETTINGS within {self.bounds.preface:g} s")

    def stay_small(self) -> None:
        """Let no window grow: the owner has many connections, and their number of streams bounds what they hold."""
        self.machine.growth = 0

    def heard(self) -> None:
        """Note that bytes have arrived."""
        self._last_heard = trio.current_time()

    def fails(self, flag: str, detail: str) -> None:
        """End the connection, or explain its end, with this flag and detail; the first reason counts."""
        if self._failure is None:
            self._failure = Refused(flag, f"{self.name}: {detail}")

    def broke_rules(self, violation: Violation) -> None:
        """End the streams, since the peer broke rules. The machine takes nothing more: h2 would raise its errors."""
        self.fails("http2-abuse", str(violation))
        self._for_nothing(_BROKEN + self.streams)
        self.end(str(self._failure))

    def _for_nothing(self, streams: int) -> None:
        """Charge the owner for this many streams of wasted work, because the peer ended the connection.

        So its next connection has less to spend.
        """
        if self.owner is not None and not self.client:
            for _ in range(streams):
                self.owner.spend(self.machine.now)

    def closed_by_peer(self, why: str) -> None:
        """Handle that nothing more comes. `why` "": the peer ended in order."""
        if not self.draining:
            self._for_nothing(self.streams)
        if why:
            if self.streams or not self.draining:
                self.fails("peer-lost", why)
        elif self.streams:
            self.fails("peer-lost", f"it closed the connection{self._told}, {self.streams} streams were open")

    def drain(self) -> None:
        """Take no more streams, and tell the peer. `run` returns when the last one ended."""
        if self._last_taken is None and not self.closed:
            self.draining = True
            self._last_taken = self.machine.go_away()
            self.transport.stir()  # it checks whether that was the last

    def close(self) -> None:
        """End the connection at once; its streams break."""
        self.end("the connection was closed here")
        if self._scope is not None:
            self._scope.cancel()

    def why_ended(self) -> str:
        return str(self._failure) if self._failure else "the connection ended"

    def end(self, why: str) -> None:
        self.closed = self.draining = True
        while self._channels:
            self._channels.popitem()[1].lose(why)
        for channel in self._lent:
            if not channel.broken and self.transport.carries(channel.id):
                channel.lose(why)
        self.queue.unpark_all()
        for event in self._pings.values():
            event.set()

    def finish_if_drained(self) -> None:
        """End a draining connection without streams. Called when nothing is queued."""
        if self.draining and not self.streams:
            # A server waits a moment for its client to close. Its last bytes may still be on their way, and closing a
            # socket with unread bytes in it (a WINDOW_UPDATE) would reset them.
            wait = 0.0 if self.client else self.bounds.farewell
            self.reading.deadline = min(self.reading.deadline, trio.current_time() + wait)

    async def ping(self, timeout: float) -> bool:
        """Return whether the peer answered within `timeout` seconds."""
        if self.closed:
            return False
        self._pinged += 1
        mark = struct.pack(">Q", self._pinged)
        event = self._pings[mark] = trio.Event()
        try:
            self.machine.ping(mark)
            self.transport.stir()
            with trio.move_on_after(timeout):
                await event.wait()
            return mark not in self._pings
        finally:
            self._pings.pop(mark, None)

    async def open(self, fields: Fields, end: bool = False) -> Channel:
        """Open a stream. Raise Refused("peer-lost") when the connection takes no more."""
        while self.room() and self.queue_full():
            await self.wait_room()
        if not self.room():
            why = "it is ending" if self.draining else f"it takes no more than {self.streams} streams at once"
            raise Refused("peer-lost", f"{self.name}: {why}")
        number = self.machine.open(fields, end)
        channel = self._channels[number] = Channel(
            self, number, fields, tunnel=(b":method", b"CONNECT") in fields, asked=True
        )
        self._sent(channel, end)
        return channel

    def adopt(self, number: int, whole: bool) -> Channel:
        """Take over a stream of the transport: its request was sent (`whole`: to its end), its response is to come."""
        channel = self._channels[number] = Channel(self, number, [], tunnel=False, asked=True)
        channel.sent_end = whole
        return channel

    def lend(self, channel: Channel) -> None:
        """Let the transport move the bytes of this stream from here on."""
        del self._channels[channel.id]
        self._lent.add(channel)

    def take_back(self, channel: Channel) -> None:
        """Make a lent stream an ordinary one again, as far as it is still open."""
        self._lent.discard(channel)
        if not self.closed and self.transport.carries(channel.id):
            self._channels[channel.id] = channel

    # for channels

    def queue_full(self) -> bool:
        return self.machine.queued >= self.bounds.queue_bytes

    async def wait_room(self) -> None:
        """Wait until less is queued."""
        self.transport.wants_room(self)
        await self.queue.park()

    def send_fields(self, channel: Channel, fields: Fields, end: bool) -> None:
        self.machine.send_fields(channel.id, fields, end)
        self._sent(channel, end)

    def send_data(self, channel: Channel, data: bytes | memoryview, end: bool) -> None:
        self.machine.send_data(channel.id, data, end_stream=end)
        channel.shut_since = math.inf
        self._sent(channel, end)

    def sendable(self, channel: Channel, wanted: int) -> int:
        """Return how many of the wanted bytes can be queued now."""
        machine = self.machine
        if machine.queued >= self.bounds.queue_bytes:
            return 0
        return max(
            0, min(wanted, machine.local_flow_control_window(channel.id), machine.max_outbound_frame_size, _PIECE)
        )

    async def wait_sendable(self, channel: Channel) -> None:
        """Wait until `sendable` may return more. Break the stream if its peer opens no window for too long."""
        if self.queue_full():
            await self.wait_room()
            return
        lot = self._windows if self.machine.outbound_flow_control_window <= 0 else channel.windows
        # Count from the first wait: a wake-up is not always for this stream's own window.
        channel.shut_since = min(channel.shut_since, trio.current_time())
        with trio.move_on_at(channel.shut_since + self.bounds.stall) as scope:
            await lot.park()
        if scope.cancelled_caught and channel.id in self._channels:
            self._break(channel, Code.CANCEL, f"the peer opened no window for {self.bounds.stall:g} s")

    def taken(self, channel: Channel, size: int) -> None:
        """Credit the peer with bytes of a channel that were taken or dropped."""
        self._give_back(size)
        channel.untold += size
        if (
            channel.untold * 2 >= channel.window
            and channel.id in self._channels
            and not (channel.heard_end or channel.released)
        ):
            growth = 0
            if not channel.held:  # the consumer keeps up
                growth = min(channel.window, self.bounds.stream_window - channel.window, self.machine.growth)
                self.machine.growth -= growth
                channel.window += growth
            self.machine.give_back(channel.id, channel.untold, growth)
            channel.untold = 0
            self.transport.stir()

    def release(self, channel: Channel, code: int) -> None:
        """Drop a stream that its owner is done with: reset it if something is still to come."""
        if channel in self._served:
            self._served.remove(channel)
            if self.owner is not None:
                self.owner.end()
        if self._channels.pop(channel.id, None) is not None:
            self.machine.drop(channel.id, code)
            self._over(channel)

    def wake(self, channel: Channel) -> None:
        """Wake the sender of this stream."""
        for lot in (channel.windows, self._windows, self.queue):
            if lot:
                lot.unpark_all()

    def _give_back(self, size: int) -> None:
        self._untold += size
        if self._untold * 4 >= self.bounds.connection_window and not self.closed:
            self.machine.give_back(0, self._untold)
            self._untold = 0
            self.transport.stir()

    def _sent(self, channel: Channel, end: bool) -> None:
        self.transport.stir()
        if end:
            channel.sent_end = True
            self._over_if_ended(channel)

    def _over_if_ended(self, channel: Channel) -> None:
        if channel.sent_end and channel.heard_end and self._channels.pop(channel.id, None) is not None:
            self.machine.served()
            self._over(channel)

    def _over(self, channel: Channel) -> None:
        self.machine.growth += channel.window - FIRST_WINDOW
        if not self._channels:
            self._idle_since = trio.current_time()
        self.transport.stir()  # when draining, it checks whether that was the last

    def _break(self, channel: Channel, code: int, why: str) -> None:
        del self._channels[channel.id]
        self.machine.drop(channel.id, code)
        self._over(channel)
        channel.lose(why)

    # machine.Listener: what the peer did

    def requested(self, number: int, fields: Fields, ended: bool, taken: bool = False, cut: bool = False) -> None:
        machine, most = self.machine, self.bounds.max_streams
        why = wrong_request(fields)
        if self._accept is None or (self._last_taken is not None and number > self._last_taken):
            machine.drop(number, Code.REFUSED_STREAM)
        elif self.streams >= most or len(self._served) >= 2 * most:
            # The second case: HTTP/2 counts a reset stream as over, but its owner may still be at work
            # (CVE-2023-44487).
            machine.drop(number, Code.REFUSED_STREAM)
            machine.blame("streams beyond our limit")
        elif why:
            machine.drop(number, Code.PROTOCOL_ERROR)
            machine.blame(f"malformed requests, the last one: {why}")
        elif self.owner is not None and not self.owner.begin():
            machine.drop(number, Code.REFUSED_STREAM)
            machine.blame("streams on all connections of one caller")
        else:
            channel = Channel(self, number, fields, tunnel=(b":method", b"CONNECT") in fields, asked=False)
            channel.heard_end = ended
            channel.body_taken, channel.head_cut = taken, cut
            self._channels[number] = channel
            self._served.add(channel)
            self._accept(channel)

    def responded(self, number: int, fields: Fields, ended: bool) -> None:
        channel = self._channels.get(number)
        if channel is None:
            return
        why = wrong_response(fields) or (
            "it is too large" if response_too_large(fields, self.bounds.head_bytes) else ""
        )
        if why:
            self._break(channel, Code.PROTOCOL_ERROR, f"malformed response: {why}")
        elif not channel.arrived_head(fields, ended):
            self._break(channel, Code.ENHANCE_YOUR_CALM, "more interim responses than anybody reads")

    def trailed(self, number: int, fields: Fields) -> None:
        channel = self._channels.get(number)
        if channel is None:
            return
        why = wrong_trailers(fields) or (
            "they are too large" if too_large(fields, self.bounds.header_count, self.bounds.head_bytes) else ""
        )
        if why:
            self._break(channel, Code.PROTOCOL_ERROR, f"malformed trailers: {why}")
            self.machine.blame(f"malformed trailers, the last ones: {why}")
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
                if channel.on_gone is not None and (channel.cut or not (channel.sent_end or channel.held)):
                    channel.on_gone()
            else:
                channel.lose(f"the peer broke HTTP/2 on this stream (error code {code})")
        self.machine.blame("resets of streams" if by_peer else "streams on which HTTP/2 was broken")

    def windows_opened(self, number: int | None) -> None:
        if number == 0:
            self._windows.unpark_all()
        elif number is None:
            for channel in self._channels.values():
                channel.windows.unpark_all()
        elif (opened := self._channels.get(number)) is not None:
            opened.windows.unpark_all()

    def greeted(self) -> None:
        if self._channels or not self.draining:
            self.reading.deadline = math.inf

    def answered(self, mark: bytes) -> None:
        event = self._pings.pop(mark, None)
        if event is not None:
            event.set()

    def left(self, last: int, code: int) -> None:
        self.draining = True
        self._told = f" after GOAWAY with error code {code}"
        for channel in [c for c in self._channels.values() if self.client and c.id > last]:
            del self._channels[channel.id]
            self._over(channel)
            channel.refused_unprocessed = True  # RFC 9113 section 6.8
            channel.lose(f"the peer is ending the connection{self._told[6:]} and did not take this stream")
        self.transport.stir()
