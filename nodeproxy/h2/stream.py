"""One stream of an HTTP/2 connection, as trio's half-closeable stream and as an HTTP message in each direction."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from operator import index
from typing import Protocol

import trio
from trio.abc import HalfCloseableStream
from trio.lowlevel import ParkingLot

from nodeproxy.codec.message import Fields
from nodeproxy.h2.limits import FIRST_WINDOW, Bounds, Code

# Some peers (ztunnel) reset with one of these after our own end, to close a tunnel: it counts as an end.
_MILD = (Code.NO_ERROR, Code.CANCEL)

_HEADS = 16  # interim responses, and the one that follows, that may wait to be read


class StreamConnection(Protocol):
    """What a stream needs of its connection (connection.py), and what the holder of a stream sees of it."""

    name: str
    bounds: Bounds

    @property
    def transport(self) -> object:
        """The transport that moves the bytes of the connection."""
        ...

    @property
    def ending(self) -> bool:
        """True when no new streams are taken, whichever end said so."""
        ...

    def why_ended(self) -> str: ...

    async def open(self, fields: Fields, end: bool = False) -> Channel:
        """Open another stream. Raise Refused("peer-lost") when the connection takes no more."""
        ...

    def queue_full(self) -> bool: ...

    async def wait_room(self) -> None:
        """Wait until less is queued."""
        ...

    def send_fields(self, channel: Channel, fields: Fields, end: bool) -> None: ...

    def send_data(self, channel: Channel, data: bytes | memoryview, end: bool) -> None: ...

    def sendable(self, channel: Channel, wanted: int) -> int:
        """Return how many of the wanted bytes can be queued now."""
        ...

    async def wait_sendable(self, channel: Channel) -> None:
        """Wait until `sendable` may return more."""
        ...

    def taken(self, channel: Channel, size: int) -> None:
        """Credit the peer with bytes of a stream that were taken or dropped."""
        ...

    def release(self, channel: Channel, code: int) -> None:
        """Drop a stream that its owner is done with: reset it if something is still to come."""
        ...

    def lend(self, channel: Channel) -> None:
        """Let the transport of the connection move this stream's bytes from here on."""
        ...

    def take_back(self, channel: Channel) -> None:
        """Make the stream an ordinary one again."""
        ...

    def wake(self, channel: Channel) -> None:
        """Wake the senders of the stream."""
        ...


class Channel(HalfCloseableStream):
    """A stream. Its owner ends it with `close` (an open rest is reset) or `abort`.

    Bytes that arrived are held here until they are taken; only then may the peer send more (RFC 9113 section 5.2).
    Bytes to send are queued in whole frames, so a sender can be cancelled anywhere without harm to the connection.
    Errors are trio's: BrokenResourceError after a reset or the end of the connection, ClosedResourceError after
    `close`.
    """

    def __init__(self, connection: StreamConnection, number: int, fields: Fields, tunnel: bool, asked: bool) -> None:
        self.id = number
        self.fields = fields  # of the request
        self.trailers: Fields = []
        self.tunnel = tunnel  # CONNECT: bytes like those of TCP, where closing is an end and not a fault
        self.refused_unprocessed = False  # the peer did nothing with it: the request may be sent again
        self.reset_code: int | None = None  # code of the peer's reset
        self.window = FIRST_WINDOW  # bytes that the peer may have sent before we take them
        self.untold = 0  # bytes taken but not yet credited to the peer
        self.shut_since = math.inf  # when a sender began to wait for a window, without having sent since
        self.torn = False  # a sender was cancelled between two pieces of what it had to send
        self.released = False  # its owner is done with it
        self.sent_head = asked  # the response head (not an interim one), or the request head
        self.sent_end = False
        self.heard_end = False
        self.head_cut = False  # a field was too large to be read
        self.body_taken = False  # an earlier holder of the stream took the whole body that came so far
        self.broken = ""  # why nothing more can be sent
        self.cut = False  # nothing can be read either
        self.on_lost: Callable[[], None] | None = None  # called when it breaks
        self.windows = ParkingLot()  # a sender that waits for the stream's window
        self._arrivals = ParkingLot()
        self.connection = connection
        # Called when the peer has reset the stream and no work is left to do for the peer.
        self.on_gone: Callable[[], None] | None = None
        self._heads: deque[tuple[Fields, bool]] = deque()
        self._held: bytes | bytearray = b""
        self._sending = self._receiving = False

    def __repr__(self) -> str:
        state = self.broken or ("closed" if self.released else f"{len(self._held)} bytes held")
        return f"<Channel {self.id} of {self.connection.name}, {state}>"

    @property
    def complete(self) -> bool:
        """True when the peer ended the body and all of it was taken."""
        return self.heard_end and not self._held and not self.cut

    @property
    def held(self) -> int:
        """Bytes that arrived and were not taken."""
        return len(self._held)

    # Reading

    async def head(self) -> tuple[Fields, bool]:
        """Return the next response head, and whether the stream ended with it. Interim heads (1xx) come one by one."""
        while not self._heads:
            self._check_readable()
            if self.heard_end:
                raise trio.BrokenResourceError("the stream ended without a response")
            await self._arrivals.park()
        return self._heads.popleft()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receiving = True
        try:
            if self._held or self.heard_end or self.cut or self.released:
                await trio.lowlevel.checkpoint()
            while True:
                self._check_readable()
                if self._held:
                    return self._take(max_bytes)
                if self.heard_end:
                    return b""
                await self._arrivals.park()
        finally:
            self._receiving = False

    def ready(self) -> bytes | None:
        """Return what is here without waiting: b"" only at the end, None for nothing yet (or a stream that broke)."""
        if self._held:
            return self._take(None)
        return b"" if self.complete and not self.released else None

    def _take(self, max_bytes: int | None) -> bytes:
        held = self._held
        if max_bytes is None or max_bytes >= len(held):
            taken, self._held = bytes(held), b""  # no copy when it is bytes already
        else:
            taken = bytes(held[:max_bytes])
            rest = held if isinstance(held, bytearray) else bytearray(held)
            del rest[:max_bytes]
            self._held = rest
        self.connection.taken(self, len(taken))
        return taken

    def _check_readable(self) -> None:
        if self.released:
            raise trio.ClosedResourceError("this stream was already closed")
        if self.cut:
            raise trio.BrokenResourceError(self.broken)

    # Sending

    async def send_head(self, fields: Fields, end: bool = False) -> None:
        """Send a response head, or an interim one."""
        await self._queue_room()
        self.sent_head = self.sent_head or not fields[0][1].startswith(b"1")
        self.connection.send_fields(self, fields, end)

    async def send_trailers(self, fields: Fields) -> None:
        await self._queue_room()
        self.connection.send_fields(self, fields, end=True)

    async def send_all(self, data: bytes | bytearray | memoryview, end: bool = False) -> None:
        """Send bytes, as the windows of stream and connection allow. `end`: they are the last ones."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            torn, self.torn = self.torn, True  # until all of it is queued
            if self.tunnel:  # as every stream of trio does; a message has few pieces, and waits between them
                await trio.lowlevel.checkpoint()
            self._check_writable()
            rest = memoryview(data)
            while rest:
                size = self.connection.sendable(self, len(rest))
                if size:
                    self.connection.send_data(self, rest[:size], end and size == len(rest))
                    rest = rest[size:]
                else:
                    await self.connection.wait_sendable(self)
                    self._check_writable()
            self.torn = torn
            if end and not self.sent_end:  # there were no bytes
                self.connection.send_data(self, b"", end=True)
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        if self.released or not self.sent_end:
            self._check_writable()
            self.connection.send_data(self, b"", end=True)

    async def wait_send_all_might_not_block(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_writable()
            while not self.connection.sendable(self, 1):
                await self.connection.wait_sendable(self)
                self._check_writable()
        finally:
            self._sending = False

    async def _queue_room(self) -> None:
        self._check_writable()
        while self.connection.queue_full():
            await self.connection.wait_room()
            self._check_writable()

    def _check_writable(self) -> None:
        if self.released:
            raise trio.ClosedResourceError("this stream was already closed")
        if self.broken:
            raise trio.BrokenResourceError(self.broken)
        if self.sent_end:
            raise trio.ClosedResourceError("the end of this stream was already sent")

    # lending: the fast path moves the bytes of a tunnel (fastpath/path.py)

    @property
    def lendable(self) -> bool:
        """Return whether it is an open tunnel that only its owner uses."""
        busy = self._sending or self._receiving or self.torn or bool(self._heads)
        return (
            self.tunnel and self.sent_head and not (busy or self.sent_end or self.released or self.broken or self.cut)
        )

    def lend(self) -> tuple[bytes, int, int]:
        """Let the fast path read and send until `take_back`.

        Return (bytes received, receive window, bytes consumed but not yet credited to the peer).
        """
        self.connection.lend(self)
        lent = bytes(self._held), self.window, self.untold
        self._held, self.window, self.untold = b"", FIRST_WINDOW, 0
        return lent

    def take_back(self) -> None:
        """Give the stream back to its owner."""
        self.connection.take_back(self)

    def passed(self) -> None:
        """Note that both ends of the stream were passed on while it was lent."""
        self.sent_end = self.heard_end = True

    # Ending

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """End the stream. A message that is incomplete in either direction is reset; a tunnel is ended."""
        if self.released:
            return
        # Only a tunnel: after an incomplete message, an end would make a part look like the whole.
        if self.tunnel and self.sent_head and not (self.sent_end or self.torn or self.broken):
            self.connection.send_data(self, b"", end=True)
        # RFC 9113 section 8.1: NO_ERROR tells the peer that we sent everything, and that we need no more of what it
        # sends.
        self.abort(Code.NO_ERROR if self.sent_end else Code.CANCEL)

    def abort(self, code: int | None = None) -> None:
        """Reset the stream, so that no part looks like the whole. Tunnels get CONNECT_ERROR (RFC 9113 section 8.5)."""
        if self.released:
            return
        self.released = True
        self._drop()
        self.connection.release(self, code if code is not None else Code.CONNECT_ERROR if self.tunnel else Code.CANCEL)
        self._wake()

    # called by the connection

    def arrived_head(self, fields: Fields, end: bool) -> bool:
        """Queue a head. Return False when too many wait to be read."""
        self._heads.append((fields, end))
        self._stir()
        return len(self._heads) <= _HEADS

    def arrived(self, data: bytes) -> None:
        if not self._held:
            self._held = data
        else:
            if isinstance(self._held, bytes):
                self._held = bytearray(self._held)  # one object for any number of small pieces: overhead is bounded too
            self._held += data
        self._stir()

    def arrived_end(self) -> None:
        self.heard_end = True
        self._stir()

    def reset(self, code: int) -> None:
        """Handle the peer's reset."""
        self.reset_code = code
        self.refused_unprocessed = code == Code.REFUSED_STREAM
        if self.tunnel and self.sent_end and code in _MILD:
            self.heard_end = True
        self.lose(f"the peer reset the stream (error code {code})")

    def lose(self, why: str) -> None:
        """Break the stream: nothing more comes or goes.

        What had arrived whole can still be read (RFC 9113 section 8.1).
        """
        self.broken = why
        if self.on_lost is not None:
            self.on_lost()
        if not self.heard_end:
            self.cut = True
            self._heads.clear()
            self._drop()
        self._wake()

    def _drop(self) -> None:
        dropped, self._held = len(self._held), b""
        self.connection.taken(self, dropped)

    def _stir(self) -> None:
        """Wake the readers of the stream."""
        if self._arrivals:
            self._arrivals.unpark_all()

    def _wake(self) -> None:
        self._stir()
        self.connection.wake(self)
