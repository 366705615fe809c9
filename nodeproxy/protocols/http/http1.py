"""A caller that speaks HTTP/1.1: requests arrive one after the other, and unwanted bytes are read and discarded."""

from __future__ import annotations

import trio

from nodeproxy.codec.http1 import Incoming, framed, response_framing, write_response
from nodeproxy.codec.local_reply import answer
from nodeproxy.codec.message import Body, RequestHead, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.stream import Peeked, Stream, Wire

_LINGER_BYTES = 1 << 20


class Caller:
    """interfaces.Caller. `incoming` holds the bytes that were read of the requests."""

    __slots__ = ("_chunked", "_ends", "_out", "_whole", "h2", "incoming", "stream", "wire")

    def __init__(self, stream: Peeked) -> None:
        self.h2 = False
        self.stream = stream
        self.wire = Wire(stream)
        self.incoming = Incoming("bad-request")
        self._out = b""
        self._chunked = False
        self._ends = False  # the connection, with this response
        self._whole = False  # the whole response was added

    def __repr__(self) -> str:
        return f"<Caller {self.incoming!r}>"

    async def next_head(self, limits: Limits, phase: Phase) -> RequestHead | None:
        """Wait for the next request head; return None if the caller ended the connection between two requests.

        Raise Refused.
        """
        incoming = self.incoming
        if incoming.data:
            head = incoming.request_head(limits)
            if head is not None:
                await (
                    trio.lowlevel.checkpoint()
                )  # pipelined: a caller that sends a hundred requests at once does not block the others
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
            if not phase.flag:  # from its first byte on: a slow sender gains nothing
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
        self._ends, self._whole = close, response.length == 0

    def switch(self, response: ResponseHead) -> None:
        self._out = write_response(response, None, close=False)

    def add(self, piece: bytes, source: Body) -> None:
        self._out += framed(piece, source, self._chunked)
        self._whole = source.complete

    async def flush(self) -> int:
        out, self._out = self._out, b""
        await self.wire.send(out, last=self._ends and self._whole and self.incoming.complete)
        return len(out)

    def refuse(self, refused: Refused, request_id: str, close: bool, head: RequestHead | None) -> int:
        self._ends, self._whole = close, True
        self._out = answer(refused, close, head is not None and head.method == b"HEAD", request_id)
        return len(self._out)

    def pipe(self) -> Stream:
        return Peeked(self.stream, self.incoming.rest())

    async def discard_body(self, limits: Limits) -> bool:
        """Read and discard the rest of a small body, so that the next request can be read.

        Return False if the caller ended instead.
        """
        incoming = self.incoming
        while not incoming.complete:
            if incoming.body() is None:
                data = await self.wire.receive(limits.buffer_bytes)
                if not data:
                    return False
                incoming.feed(data)
        return True

    async def linger(self, limits: Limits) -> None:
        """End the sending side, and read until the caller ends too.

        RFC 9112 section 9.6: closing with bytes unread would reset the connection, and a reset may overtake the
        response.
        """
        seen = 0
        await self.stream.send_eof()
        while seen < _LINGER_BYTES and (data := await self.wire.receive(limits.buffer_bytes)):
            seen += len(data)
