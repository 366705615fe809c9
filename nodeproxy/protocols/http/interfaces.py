"""The two sides of an exchange, whatever version of HTTP they speak: the caller and the server.

call.py sees these interfaces and nothing of HTTP/1.1 or HTTP/2. On each side a message is sent as `begin`, `add`,
`flush`: what was begun and added leaves together, so that a small message is one send. A message arrives as a head, and
as pieces of a body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from nodeproxy.codec.message import Body, RequestHead, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.interfaces import PeerConnection, Pick
from nodeproxy.limits import Limits
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.stream import Stream
from policy.model import Endpoint, Request

if TYPE_CHECKING:
    from nodeproxy.context import Conn


class Caller(Protocol):
    """The side that sends requests."""

    h2: bool  # speaks HTTP/2, and so does a server without a declared protocol

    @property
    def incoming(self) -> Body: ...

    async def next_head(self, limits: Limits, phase: Phase) -> RequestHead | None:
        """Wait for the next request; return None if there is no other. Raise Refused."""
        ...

    async def more(self, limits: Limits) -> None:
        """Wait for more of the request's body. Raise Refused "client-gone" if it breaks off."""
        ...

    async def interim(self, response: ResponseHead) -> None:
        """Forward a 1xx response."""
        ...

    def begin(self, response: ResponseHead, head: RequestHead, close: bool) -> None:
        """Begin a response. `close`: the caller's connection ends with it."""
        ...

    def switch(self, response: ResponseHead) -> None:
        """Begin a response after which the connection is opaque."""
        ...

    def add(self, piece: bytes, source: Body) -> None:
        """Add a piece of the body, and the end of the body if `source` is complete."""
        ...

    async def flush(self) -> int:
        """Send what was begun and added. Return the number of bytes."""
        ...

    def refuse(self, refused: Refused, request_id: str, close: bool, head: RequestHead | None) -> int:
        """Begin a complete local response. Return the number of bytes."""
        ...

    async def discard_body(self, limits: Limits) -> bool:
        """Read and discard the rest of a small body, so that the next request can be read.

        Return False if there will be none.
        """
        ...

    async def linger(self, limits: Limits) -> None:
        """End the sending side, and wait until the caller ends too, so that it sees the response."""
        ...

    def pipe(self) -> Stream:
        """Return the rest of the connection, as opaque bytes."""
        ...


class Server(Protocol):
    """The side that answers: one connection, or one stream of a connection that other requests share."""

    endpoint: Endpoint
    name: str  # of the endpoint, for people
    used: bool  # it has carried a request before
    served: int  # requests that its connection has carried with this one; 0: others share the connection
    heard: bool  # a byte of this request's response has arrived
    says_enough_late: bool  # only its whole response shows if it takes the rest of a request (RFC 9113 section 8.1)

    @property
    def incoming(self) -> Body: ...

    @property
    def unprocessed(self) -> bool:
        """Return whether the server said that it did not process this request.

        If so, any method may be sent again (RFC 9113 section 8.7).
        """
        ...

    def begin(self, head: RequestHead, sent: bytes, host: bytes, forwarded_for: bytes) -> None: ...

    def on_enough(self, call: Callable[[], None]) -> None:
        """Call `call` once the server is known to take no more of the request, now or later."""
        ...

    def add(self, piece: bytes, source: Body) -> None: ...

    async def open(self) -> None:
        """Send the head, on a connection that other requests share.

        Such a connection may just be ending: then the request is `unprocessed`. `flush` calls this too. Raise Refused
        "upstream-broken".
        """
        ...

    async def flush(self) -> None:
        """Send what was begun and added. Raise Refused "upstream-broken"."""
        ...

    async def next_response(self, method: bytes, limits: Limits) -> ResponseHead:
        """Wait for the next response head, which may be interim. Raise Refused."""
        ...

    async def more(self, limits: Limits) -> None:
        """Wait for more of the response's body; it may turn out to be complete. Raise Refused."""
        ...

    def finish(self, reusable: bool) -> None:
        """End an exchange that succeeded. `reusable`: both messages were whole, and nothing is left over."""
        ...

    def abort(self) -> None:
        """End an exchange that was cut short: the server must not take a part for the whole."""
        ...

    def pipe(self) -> Stream: ...


class Copying(Protocol):
    """A copy of a request that is made while the request passes."""

    def passed(self, piece: bytes, source: Body, conn: Conn, head: RequestHead, target: bytes, h2: bool) -> None:
        """Take a piece of the body, which `source` says is the last one or not. `target`: as the server gets it."""
        ...

    def drop(self) -> None:
        """The request has ended: what has not passed by now will not."""
        ...


class Acting(Protocol):
    """The call that a filter acts on, for a filter that needs more of it than its head."""

    @property
    def conn(self) -> Conn:
        """The caller's connection."""
        ...

    async def body(self, most: int) -> bytes | None:
        """Wait for the whole body, and return it. None: it has more than `most` bytes. Raise Refused."""
        ...

    def copy_to(self, copy: Copying) -> None:
        """Let a copy be made of the request as it is sent to the server, once policy has admitted that."""
        ...


class CallFilter:
    """A filter that needs more of a call than its head: `act` is called in the place of filters.Filter's `request`."""

    async def act(self, head: RequestHead, call: Acting) -> None:
        """Do what Filter.request does."""
        raise NotImplementedError

    def response(self, head: RequestHead, response: ResponseHead) -> None:
        """Do what Filter.response does."""
        raise NotImplementedError


class Handback(NamedTuple):
    """A request that the fast path has sent and gives back: a Call continues from it."""

    head: RequestHead | None  # None: of a stream, whose Call has read it
    pick: Pick | None  # the decision for it; None: no longer known
    peer: PeerConnection | None  # the connection to another node that carried it
    began: float  # by the monotonic clock
    bytes_in: int  # bytes of the request that were sent
    bytes_out: int  # bytes of the response that the caller received
    begun: bool  # bytes of the final response were sent
    status: int  # of the response, if there is one
    whole: bool  # the whole request was sent
    server: Server | None = None  # the server whose response is to be delivered
    failure: Refused | None = None  # the failure, if there is no response


class Ended(NamedTuple):
    """The connection ended in the fast path.

    `incomplete`: its last request is not whole, though the caller has its response.
    """

    incomplete: bool


class Lease(Protocol):
    """The fast path's part in one connection or stream, which may be lent to it between two requests.

    `early` and `lend` return if nothing is lent, or with the result of the loan. None: read the next request; if the
    fast path read a request that it did not send on, the caller holds it then. Both raise Refused or
    BrokenResourceError if the connection failed between two requests. They move the deadline of `phase`, because the
    fast path has its own deadlines.
    """

    async def early(self, phase: Phase) -> Handback | Ended | None:
        """Lend before the first request, or after a refusal."""
        ...

    async def lend(self, head: RequestHead, sent: bytes, asked: Request, phase: Phase) -> Handback | Ended | None:
        """Lend after a request that was served.

        `sent`: the target that was sent to the server. `asked`: the request as policy saw it, before filters.
        """
        ...

    def left(self) -> Handback | None:
        """Return the request that was under way when a loan was cancelled."""
        ...

    def refused(self, refused: Refused, head: RequestHead, sent: bytes, asked: Request) -> None:
        """Take note that a request was refused, and that the connection continues."""
        ...

    def answered(self) -> Handback | None:
        """Return the request that is about to be served, if the fast path has already sent it."""
        ...
