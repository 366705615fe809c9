"""Both sides of an exchange over HTTP/2: a caller's stream, and a stream of a shared connection to a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from nodeproxy.codec.entering import entering_fields
from nodeproxy.codec.http2 import (
    DESTINATION,
    is_grpc,
    request_fields,
    request_head,
    response_fields,
    response_head,
    trailer_fields,
    trailer_lines,
)
from nodeproxy.codec.local_reply import answer_fields, content, grpc_fields
from nodeproxy.codec.message import Body, Fields, RequestHead, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.h2.stream import Channel
from nodeproxy.limits import Limits
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.stream import Stream
from policy.doors import Came
from policy.model import Endpoint


class Opener(Protocol):
    """A connection on which streams can be opened."""

    async def open(self, fields: Fields, end: bool = False) -> Channel: ...


class StreamBody:
    """codec.message.Body of a channel."""

    __slots__ = ("_channel", "_held", "complete")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._held = b""
        self.complete = channel.complete

    @property
    def trailers(self) -> list[bytes]:
        return trailer_lines(self._channel.trailers)

    def body(self) -> bytes | None:
        if self._held:
            piece: bytes | None
            piece, self._held = self._held, b""
        else:
            piece = self._channel.ready()
        self.complete = self._channel.complete
        return piece

    async def more(self, max_bytes: int) -> None:
        """Wait for more of the body. Raise BrokenResourceError if the stream was reset."""
        self._held = await self._channel.receive_some(max_bytes)


class _Outgoing:
    """The parts of a message that were begun and added, until it is flushed."""

    __slots__ = ("done", "end", "fields", "piece", "trailers")

    def __init__(self) -> None:
        self.done = False  # this side's end of stream was sent
        self.fields: Fields | None = None
        self.piece = b""
        self.end = False
        self.trailers: list[bytes] = []

    def add(self, piece: bytes, source: Body) -> None:
        self.piece += piece
        if source.complete:
            self.end = True
            self.trailers = source.trailers

    def only_head(self) -> bool:
        """Return whether nothing follows the head. Then the head carries the end of the stream."""
        self.done = self.end and not self.piece and not self.trailers
        return self.done

    async def rest(self, channel: Channel) -> int:
        """Send everything but the head."""
        if self.done:
            return 0
        self.done = self.end
        piece, self.piece = self.piece, b""
        end = self.end and not self.trailers
        if piece:
            await channel.send_all(piece, end=end)
        elif end:
            await channel.send_eof()
        if self.end and self.trailers:
            await channel.send_trailers(trailer_fields(self.trailers))
        return len(piece)


class StreamCaller:
    """interfaces.Caller: one request of an HTTP/2 connection."""

    __slots__ = ("_from_node", "_out", "_taken", "channel", "h2", "incoming")

    def __init__(self, channel: Channel, h2: bool = True, from_node: bool = False) -> None:
        """Serve the request on `channel`. `from_node`: another node sends it, on behalf of its caller."""
        self.channel = channel
        self._from_node = from_node
        self.h2 = h2
        self.incoming = StreamBody(channel)
        self._out = _Outgoing()
        self._taken = False

    def __repr__(self) -> str:
        return f"<StreamCaller {self.channel!r}>"

    async def next_head(self, limits: Limits, phase: Phase) -> RequestHead | None:
        if self._taken:
            return None
        self._taken = True
        # Trailers that came with the head belong to a body, though an empty one.
        channel = self.channel
        if channel.head_cut:
            raise Refused("head-too-large", "a field of more than 65536 bytes")
        ended = channel.complete and not (channel.trailers or channel.body_taken)
        return request_head(channel.fields, ended, limits, self._from_node)

    async def more(self, limits: Limits) -> None:
        await self.incoming.more(limits.buffer_bytes)

    async def interim(self, response: ResponseHead) -> None:
        await self.channel.send_head(response_fields(response))

    def begin(self, response: ResponseHead, head: RequestHead, close: bool) -> None:
        self._out.fields = response_fields(response)
        self._out.end = response.length == 0

    def switch(self, response: ResponseHead) -> None:
        self._out.fields = response_fields(response)

    def add(self, piece: bytes, source: Body) -> None:
        self._out.add(piece, source)

    async def flush(self) -> int:
        out, sent = self._out, 0
        if out.fields is not None:
            fields, out.fields = out.fields, None
            sent = sum(len(name) + len(value) for name, value in fields)
            await self.channel.send_head(fields, end=out.only_head())
        return sent + await out.rest(self.channel)

    def refuse(self, refused: Refused, request_id: str, close: bool, head: RequestHead | None) -> int:
        out = self._out = _Outgoing()
        out.end = True
        if head is not None and is_grpc(head):
            out.fields = grpc_fields(refused, request_id)
        else:
            body = content(refused, request_id)
            out.fields = answer_fields(refused, request_id, len(body))
            if head is None or head.method != b"HEAD":
                out.piece = body
        return len(out.piece)

    async def discard_body(self, limits: Limits) -> bool:
        return False  # one stream, one request; the owner of the stream resets what is still to come

    async def linger(self, limits: Limits) -> None:
        return

    def pipe(self) -> Stream:
        return self.channel


class StreamServer:
    """interfaces.Server: one request on a shared connection.

    `through_node`: to another node, which sends it on to `endpoint`, and is told of a caller who `came` from outside.
    """

    says_enough_late = True
    served = 0

    __slots__ = (
        "_came",
        "_channel",
        "_h2",
        "_incoming",
        "_opener",
        "_out",
        "_through_node",
        "_tried",
        "endpoint",
        "heard",
        "name",
        "unopened",
        "used",
    )

    def __init__(
        self,
        opener: Opener,
        endpoint: Endpoint,
        through_node: bool = False,
        h2: bool = False,
        came: Came | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.name = str(endpoint)
        self.used = True  # the connection may be stale
        self.heard = False
        self.unopened = False  # the connection was gone before the request could be sent
        self._opener = opener
        self._through_node = through_node
        self._h2 = h2
        self._came = came
        self._channel: Channel | None = None
        self._incoming: StreamBody | None = None
        self._out = _Outgoing()
        self._tried = (
            trio.Event()
        )  # the head was sent, or could not be: one task sends the request, another waits for the response

    @classmethod
    def adopted(cls, channel: Channel, endpoint: Endpoint, through_node: bool) -> StreamServer:
        """Return the server side of a stream on which the fast path has sent the request."""
        server = cls(channel.connection, endpoint, through_node)
        server._channel = channel
        server._incoming = StreamBody(channel)
        server._tried.set()
        return server

    def __repr__(self) -> str:
        return f"<StreamServer {self.name} {self._channel!r}>"

    @property
    def incoming(self) -> StreamBody:
        assert self._incoming is not None, "asked before it was flushed"
        return self._incoming

    @property
    def unprocessed(self) -> bool:
        return self.unopened or (self._channel is not None and self._channel.refused_unprocessed)

    def begin(self, head: RequestHead, sent: bytes, host: bytes, forwarded_for: bytes) -> None:
        fields = request_fields(head, sent, host, forwarded_for)
        if self._through_node:
            fields.append((DESTINATION, (self.name + (";h2" if self._h2 else "")).encode()))
            fields += entering_fields(self._came)
        self._out.fields = fields
        self._out.end = head.length == 0

    def add(self, piece: bytes, source: Body) -> None:
        self._out.add(piece, source)

    def on_enough(self, call: Callable[[], None]) -> None:
        channel = self._channel
        if channel is None or channel.broken:
            call()
        else:
            channel.on_lost = call

    async def open(self) -> None:
        out = self._out
        if out.fields is None:
            return
        fields, out.fields = out.fields, None
        try:
            self._channel = await self._opener.open(fields, out.only_head())
            self._incoming = StreamBody(self._channel)
        except Refused as refused:
            self.unopened = True
            raise Refused("upstream-broken", f"{self.name}: {refused.detail}") from refused
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(error) from error
        finally:
            self._tried.set()

    async def flush(self) -> None:
        await self.open()
        assert self._channel is not None
        try:
            await self._out.rest(self._channel)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(error) from error

    async def next_response(self, method: bytes, limits: Limits) -> ResponseHead:
        await self._tried.wait()
        if self._channel is None:
            raise Refused("upstream-broken", f"{self.name}: the connection was gone before the request could be sent")
        try:
            fields, ended = await self._channel.head()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(error) from error
        self.heard = True
        response = response_head(fields, ended, method, self._through_node)
        if ended:
            self.incoming.complete = True
        return response

    async def more(self, limits: Limits) -> None:
        try:
            await self.incoming.more(limits.buffer_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(error) from error

    def finish(self, reusable: bool) -> None:
        if self._channel is not None:
            self._channel.close()  # a reset, if something is still to come

    def abort(self) -> None:
        if self._channel is not None:
            self._channel.abort()

    def pipe(self) -> Stream:
        assert self._channel is not None
        return self._channel

    def _broken(self, error: Exception) -> Refused:
        return Refused("upstream-broken", f"{self.name}: {error}")
