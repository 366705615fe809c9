"""The two sides of an exchange, whatever version of HTTP they speak: who asks, and who answers.

exchange.py sees these and nothing of HTTP/1.1 or HTTP/2. On each side a message goes out as `begin`, `add`, `flush`: what is begun
and added together leaves together, so that a small message is one send. A message comes in as a head, and as pieces of a body.
"""

from __future__ import annotations

from typing import Protocol

from nodeproxy.errors import Refused
from nodeproxy.http.message import RequestHead, ResponseHead
from nodeproxy.http.phase import Phase
from nodeproxy.limits import Limits
from nodeproxy.stream import Stream
from policy.model import Endpoint


class Body(Protocol):
    """What has come of a body."""

    @property
    def complete(self) -> bool:
        """All of it was taken out."""
        ...

    @property
    def trailers(self) -> list[bytes]:
        """Lines that travel on, known when it is complete."""
        ...

    def body(self) -> bytes | None:
        """Take out what is here; None: nothing yet. `complete` says whether that was the last of it."""
        ...


class Caller(Protocol):
    """Who asks."""

    h2: bool  # speaks HTTP/2, and so does a server of which nobody declared anything

    @property
    def incoming(self) -> Body: ...

    async def next_head(self, limits: Limits, phase: Phase) -> RequestHead | None:
        """Wait for the next request; None when there is no other. Raises Refused."""
        ...

    async def more(self, limits: Limits) -> None:
        """Wait for more of the request's body. Raises Refused "client-gone" when it breaks off."""
        ...

    async def interim(self, response: ResponseHead) -> None:
        """Send a 1xx response on."""
        ...

    def begin(self, response: ResponseHead, head: RequestHead, close: bool) -> None:
        """Begin a response. `close`: the caller's connection ends with it."""
        ...

    def switch(self, response: ResponseHead) -> None:
        """Begin a response after which the connection is opaque."""
        ...

    def add(self, piece: bytes, source: Body) -> None:
        """Add a piece of the body, and the end of it when `source` is complete."""
        ...

    async def flush(self) -> int:
        """Send what was begun and added; answers the bytes of it."""
        ...

    def refuse(self, refused: Refused, request_id: str, close: bool, head: RequestHead | None) -> int:
        """Begin an answer of our own, whole; answers the bytes of it."""
        ...

    async def discard_body(self, limits: Limits) -> bool:
        """Read the rest of a small body away, so that the next request can be read. False: there will be none."""
        ...

    async def linger(self, limits: Limits) -> None:
        """End our sending, and let the caller end his, so that he sees the answer."""
        ...

    def pipe(self) -> Stream:
        """The rest of the connection, as opaque bytes."""
        ...


class Server(Protocol):
    """Who answers: one connection, or one stream of a connection that others use too."""

    endpoint: Endpoint
    name: str  # of the endpoint, for people
    used: bool  # it has carried a request before
    heard: bool  # a byte of this request's response has come

    @property
    def incoming(self) -> Body: ...

    @property
    def unprocessed(self) -> bool:
        """Did the server say that it has not looked at this request? Then any method may be sent again (RFC 9113 section 8.7)."""
        ...

    def begin(self, head: RequestHead, sent: bytes, host: bytes, forwarded_for: bytes) -> None: ...

    def add(self, piece: bytes, source: Body) -> None: ...

    async def flush(self) -> None:
        """Raises Refused "upstream-broken"."""
        ...

    async def next_response(self, method: bytes, limits: Limits) -> ResponseHead:
        """Wait for the next response head, which may be interim. Raises Refused."""
        ...

    async def more(self, limits: Limits) -> None:
        """Wait for more of the response's body; it may turn out to be complete. Raises Refused."""
        ...

    def finish(self, reusable: bool) -> None:
        """The exchange went well. `reusable`: both messages were whole, and nothing is left over."""
        ...

    def abort(self) -> None:
        """Something was cut short: the server must not take a part for the whole."""
        ...

    def pipe(self) -> Stream: ...
