"""One stream of an HTTP/2 connection, as trio's half-closeable stream and as an HTTP message each way."""

from __future__ import annotations

import math
from collections import deque
from operator import index
from typing import TYPE_CHECKING

import trio
from trio.abc import HalfCloseableStream
from trio.lowlevel import ParkingLot

from nodeproxy.http.h2_bounds import FIRST_WINDOW, Code
from nodeproxy.http.message import Fields

if TYPE_CHECKING:
    from nodeproxy.http.h2 import Connection

# A reset with these, after our own end, is how some peers (ztunnel) close a tunnel: as an end.
_MILD = (Code.NO_ERROR, Code.CANCEL)

_HEADS = 16  # interim responses, and the one that follows, that may wait to be read


class Channel(HalfCloseableStream):
    """A stream. Its owner ends it with `close` (what is still open is reset) or `abort`.

    Bytes that arrived are held here until they are taken; only then may the peer send more (RFC 9113 section 5.2). What is sent is
    queued frame by frame, each whole, so a sender can be cancelled anywhere without harm to the connection.
    Errors are trio's: BrokenResourceError after a reset or the end of the connection, ClosedResourceError after `close`.
    """

    def __init__(self, connection: Connection, number: int, fields: Fields, tunnel: bool, asked: bool) -> None:
        self.id = number
        self.fields = fields  # of the request
        self.trailers: Fields = []
        self.tunnel = tunnel  # CONNECT: bytes like those of TCP, where closing is an end and not a fault
        self.refused_unprocessed = False  # the peer said that it did nothing with this: it may be sent again
        self.reset_code: int | None = None  # with which the peer reset it
        self.window = FIRST_WINDOW  # what the peer may have sent without our having taken it
        self.untold = 0  # bytes taken that the peer was not yet given back
        self.shut_since = math.inf  # when a sender began to wait for a window, having sent nothing since
        self.torn = False  # a sender was cancelled between two pieces of what it had to send
        self.released = False  # its owner is done with it
        self.sent_head = asked  # of a response that is not interim, or of the request
        self.sent_end = False
        self.heard_end = False
        self.broken = ""  # why nothing more can be sent
        self.cut = False  # nor read
        self.windows = ParkingLot()  # a sender that waits for the peer to open the window of this stream
        self._arrivals = ParkingLot()
        self.connection = connection
        self._heads: deque[tuple[Fields, bool]] = deque()
        self._held: bytes | bytearray = b""
        self._sending = self._receiving = False

    def __repr__(self) -> str:
        state = self.broken or ("closed" if self.released else f"{len(self._held)} bytes held")
        return f"<Channel {self.id} of {self.connection.name}, {state}>"

    @property
    def complete(self) -> bool:
        """Was all of the body taken out, and did the peer end it?"""
        return self.heard_end and not self._held and not self.cut

    @property
    def held(self) -> int:
        """Bytes that arrived and were not taken."""
        return len(self._held)

    # Reading

    async def head(self) -> tuple[Fields, bool]:
        """The next response head, interim ones (1xx) one by one, and whether the stream ended with it."""
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
        """What is here without waiting: b"" only at the end, None for nothing yet (or a stream that broke)."""
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
            if self.tunnel:  # as every stream of trio; a message is of few pieces, and waits where it is not
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

    # Lending: the native lane moves the bytes of a tunnel (lane.py)

    @property
    def lendable(self) -> bool:
        """Is it a tunnel that is open, and nobody's but its owner's?"""
        busy = self._sending or self._receiving or self.torn or bool(self._heads)
        return self.tunnel and self.sent_head and not (busy or self.sent_end or self.released or self.broken or self.cut)

    def lend(self) -> tuple[bytes, int, int]:
        """Somebody else reads and sends until `take_back`. Answers what had arrived, the window, and what its peer is still to be given
        back of that beside those bytes."""
        self.connection.lend(self)
        lent = bytes(self._held), self.window, self.untold
        self._held, self.window, self.untold = b"", FIRST_WINDOW, 0
        return lent

    def take_back(self) -> None:
        """It is its owner's again."""
        self.connection.take_back(self)

    def passed(self) -> None:
        """While it was lent, both ends of it were passed on."""
        self.sent_end = self.heard_end = True

    # Ending

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Be done with it. A message of which something is still to come or to be sent is reset; a tunnel is ended."""
        if self.released:
            return
        # Only a tunnel: the end of a message that was not sent whole would make a part of it look like all of it.
        if self.tunnel and self.sent_head and not (self.sent_end or self.torn or self.broken):
            self.connection.send_data(self, b"", end=True)
        # RFC 9113 section 8.1: NO_ERROR tells the peer that what we sent is whole, and that we need no more of what it sends.
        self.abort(Code.NO_ERROR if self.sent_end else Code.CANCEL)

    def abort(self, code: int | None = None) -> None:
        """Reset the stream, so that no part looks like the whole. For a tunnel that is CONNECT_ERROR (RFC 9113 section 8.5)."""
        if self.released:
            return
        self.released = True
        self._drop()
        self.connection.release(self, code if code is not None else Code.CONNECT_ERROR if self.tunnel else Code.CANCEL)
        self._wake()

    # What the connection tells

    def arrived_head(self, fields: Fields, end: bool) -> bool:
        """False when there are too many that nobody took."""
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
        """The peer reset it."""
        self.reset_code = code
        self.refused_unprocessed = code == Code.REFUSED_STREAM
        if self.tunnel and self.sent_end and code in _MILD:
            self.heard_end = True
        self.lose(f"the peer reset the stream (error code {code})")

    def lose(self, why: str) -> None:
        """Nothing more comes or goes. What had arrived whole can still be read (RFC 9113 section 8.1)."""
        self.broken = why
        if not self.heard_end:
            self.cut = True
            self._heads.clear()
            self._drop()
        self._wake()

    def _drop(self) -> None:
        dropped, self._held = len(self._held), b""
        self.connection.taken(self, dropped)

    def _stir(self) -> None:
        """Let its readers look again."""
        if self._arrivals:
            self._arrivals.unpark_all()

    def _wake(self) -> None:
        self._stir()
        self.connection.wake(self)
