"""A caller that speaks HTTP/1.1: requests come in one after the other, and what nobody wants is read away."""

from __future__ import annotations

import trio

from nodeproxy.errors import Refused
from nodeproxy.http.answers import answer
from nodeproxy.http.h1 import Incoming, framed, response_framing, write_response
from nodeproxy.http.message import RequestHead, ResponseHead
from nodeproxy.http.phase import Phase
from nodeproxy.http.sides import Body
from nodeproxy.http.wire import Wire
from nodeproxy.limits import Limits
from nodeproxy.stream import Peeked, Stream

_LINGER_BYTES = 1 << 20


class Caller:
    """sides.Caller. `incoming` holds what was read of the requests."""

    __slots__ = ("_chunked", "_out", "h2", "incoming", "stream", "wire")

    def __init__(self, stream: Peeked) -> None:
        self.h2 = False
        self.stream = stream
        self.wire = Wire(stream)
        self.incoming = Incoming("bad-request")
        self._out = b""
        self._chunked = False

    def __repr__(self) -> str:
        return f"<Caller {self.incoming!r}>"

    async def next_head(self, limits: Limits, phase: Phase) -> RequestHead | None:
        """Wait for the next request head; None when the caller ended the connection between two requests. Raises Refused."""
        incoming = self.incoming
        if incoming.data:
            head = incoming.request_head(limits)
            if head is not None:
                await trio.lowlevel.checkpoint()  # pipelined: who sends a hundred requests at once does not stop the others
                return head
            phase.begin("head-timeout", limits.head_timeout)
        else:
            phase.begin("", limits.keepalive_timeout)
        while True:
            data = await self.wire.receive(limits.buffer_bytes)
            if not data:
                if incoming.data:
                    raise Refused("client-gone", "the connection ended in the middle of a request head")
                return None
            incoming.feed(data)
            head = incoming.request_head(limits)
            if head is not None:
                return head
            if not phase.flag:  # from its first byte on: who sends slowly gains nothing
                phase.begin("head-timeout", limits.head_timeout)

    async def more(self, limits: Limits) -> None:
        data = await self.wire.receive(limits.buffer_bytes)
        if not data:
            raise Refused("client-gone", "the connection ended in the middle of the request body")
        self.incoming.feed(data)

    async def interim(self, response: ResponseHead) -> None:
        await self.wire.send(write_response(response, None, close=False))

    def begin(self, response: ResponseHead, head: RequestHead, close: bool) -> None:
        framing, self._chunked = response_framing(response, head.minor)
        self._out = write_response(response, framing, close)

    def switch(self, response: ResponseHead) -> None:
        self._out = write_response(response, None, close=False)

    def add(self, piece: bytes, source: Body) -> None:
        self._out += framed(piece, source, self._chunked)

    async def flush(self) -> int:
        out, self._out = self._out, b""
        await self.wire.send(out)
        return len(out)

    def refuse(self, refused: Refused, request_id: str, close: bool, head: RequestHead | None) -> int:
        self._out = answer(refused, close, head is not None and head.method == b"HEAD", request_id)
        return len(self._out)

    def pipe(self) -> Stream:
        return Peeked(self.stream, self.incoming.rest())

    async def discard_body(self, limits: Limits) -> bool:
        """Read the rest of a small body away, so that the next request can be read. False: the caller ended instead."""
        incoming = self.incoming
        while not incoming.complete:
            if incoming.body() is None:
                data = await self.wire.receive(limits.buffer_bytes)
                if not data:
                    return False
                incoming.feed(data)
        return True

    async def linger(self, limits: Limits) -> None:
        """End our sending, and read until the caller ends too. RFC 9112 section 9.6: closing with bytes unread would reset the
        connection, and a reset may overtake the answer."""
        seen = 0
        await self.stream.send_eof()
        while seen < _LINGER_BYTES and (data := await self.wire.receive(limits.buffer_bytes)):
            seen += len(data)
