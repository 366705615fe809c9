"""The daemon's one small HTTP server: for the admin socket, the metrics address, and the authority's clients.

`serve` accepts connections from a listener; `converse` takes a connection that the caller has accepted, for example
over TLS. Heads are read with the data plane's parser. Connections, heads, bodies and time are bounded. A fault in a
handler is logged and answered with 500; it must not reach the nursery, where it would end the node's traffic.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

import msgspec
import trio
from msgspec import Struct

from nodeproxy.codec.http1 import Incoming
from nodeproxy.codec.message import RequestHead
from nodeproxy.errors import Refused
from nodeproxy.limits import Gate, Limits
from nodeproxy.stream import close_now

log = logging.getLogger("edgemesh.httpd")

CONNECTIONS = 16  # connections open at once on one listener: a person, a scraper and a probe need three
LIMITS = Limits(head_bytes=8192, header_count=64)
_REQUEST_TIMEOUT = 10.0  # seconds for a request to arrive completely, and between two requests of one connection
_SEND_TIMEOUT = 30.0  # seconds for a response to be sent
_BLOCK = 16384  # bytes of one read
READ_ONLY = ("GET",)  # and HEAD

JSON = "application/json"


class HttpRequest(Struct, frozen=True):
    """A request: path, query parameters in order, the `Authorization` and `edgemesh-token` fields, body."""

    path: str
    query: tuple[tuple[str, str], ...] = ()
    method: str = "GET"
    authorization: str = ""
    body: bytes = b""
    token: str = ""

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.query if key == name), default)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]


class HttpResponse(Struct, frozen=True):
    body: bytes
    status: int = 200
    content_type: str = JSON
    challenge: str = ""  # of a 401: the required authentication (RFC 9110 section 11.6.1)


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


def json_reply(value: object, status: int = 200) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(value) + b"\n", status)


def failure(status: int, error: str, hint: str = "") -> HttpResponse:
    return json_reply({"error": error, "hint": hint}, status)


async def serve(
    listener: trio.SocketListener, handler: Handler, conversations: trio.Nursery | None = None, posts: bool = False
) -> None:
    """Serve requests without a body until cancelled.

    The listener is closed at the end. So are connections, unless they run in the nursery `conversations`. `posts`: the
    handler takes POST too.
    """
    gate = Gate(CONNECTIONS)
    methods = (*READ_ONLY, "POST") if posts else READ_ONLY
    await trio.serve_listeners(
        partial(_serve_one, handler=handler, gate=gate, methods=methods), [listener], handler_nursery=conversations
    )


async def _serve_one(stream: trio.SocketStream, handler: Handler, gate: Gate, methods: Sequence[str]) -> None:
    """Serve one connection from its first byte to its end."""
    if not gate.enter():
        close_now(stream)
        return
    # for example out of memory: it must not reach the nursery, where it would end the node's traffic
    try:
        await converse(stream, handler, methods)
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        return
    except Exception as error:
        log.warning("a conversation broke off: %s", error or type(error).__name__)
    finally:
        gate.leave()
        close_now(stream)


async def converse(
    stream: trio.abc.Stream, handler: Handler, methods: Sequence[str] = READ_ONLY, body_bytes: int = 0
) -> None:
    """Serve the requests of one connection, one after another, until one side ends it. The caller closes the stream.

    `methods`: the methods that the handler takes; GET includes HEAD. `body_bytes`: bytes that a request's body may
    have; 0: no body. Raise trio.TooSlowError when a response cannot be sent in time, and trio.BrokenResourceError.
    """
    incoming = Incoming("bad-request")
    while True:
        head: RequestHead | None = None
        try:
            with trio.fail_after(_REQUEST_TIMEOUT):
                received = await _receive(stream, incoming, body_bytes)
        except Refused as refused:
            reply = failure(refused.status, str(refused))
        except trio.TooSlowError:
            if not incoming.data and incoming.complete:
                return  # between two requests
            reply = failure(408, f"the request did not arrive within {_REQUEST_TIMEOUT:.0f} s")
        else:
            if received is None:
                return
            if isinstance(received, HttpResponse):
                reply = received
            else:
                head, body = received
                reply = await _reply(head, body, handler, methods)
        last = head is None or head.close or reply.status >= 500
        with trio.fail_after(_SEND_TIMEOUT):
            await stream.send_all(_encode(reply, head, last, methods))
        if last:
            return


async def _receive(
    stream: trio.abc.Stream, incoming: Incoming, body_bytes: int
) -> tuple[RequestHead, bytes] | HttpResponse | None:
    """Return the next request with its body, the refusal of it, or None when the client has ended. Raise Refused."""
    too_large = failure(
        413, f"the body is larger than {body_bytes // 1024} KiB" if body_bytes else "a request here has no body"
    )
    while (head := incoming.request_head(LIMITS)) is None:
        if not await _feed(stream, incoming):
            return None
    if head.length > body_bytes or (head.length and not body_bytes):
        return too_large
    if head.expect and not incoming.data:
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 section 10.1.1
    body = b""
    while not incoming.complete:
        piece = incoming.body()
        if piece is None:
            await _feed(stream, incoming)
            continue
        body += piece
        if len(body) > body_bytes:
            return too_large
    return head, body


async def _feed(stream: trio.abc.Stream, incoming: Incoming) -> bool:
    """Feed what arrives next. Return False when the client has ended."""
    data = await stream.receive_some(_BLOCK)
    if data:
        incoming.feed(data)
    else:
        incoming.feed_end()
    return bool(data)


async def _reply(head: RequestHead, body: bytes, handler: Handler, methods: Sequence[str]) -> HttpResponse:
    method = "GET" if head.method == b"HEAD" else head.method.decode()
    if method not in methods:
        return failure(405, f"{head.method.decode()} is not done here, only {', '.join(methods)}")
    path, _, query = head.target.decode("ascii").partition("?")
    authorization, token = _only(head, b"authorization"), _only(head, b"edgemesh-token")
    ask = HttpRequest(
        unquote(path), tuple(parse_qsl(query, keep_blank_values=True)), method, authorization, body, token
    )
    try:
        return await handler(ask)
    except Exception:
        log.exception("%s %s", method, path)
        return failure(500, "a fault of edgemesh itself", "please report it with the daemon's log")


def _only(head: RequestHead, wanted: bytes) -> str:
    """Return the value of a field; "" if there is none, or several."""
    found = [value.decode("latin-1") for name, value in head.fields if name == wanted]
    return found[0] if len(found) == 1 else ""


def _encode(reply: HttpResponse, head: RequestHead | None, last: bool, methods: Sequence[str]) -> bytes:
    """Encode a response (RFC 9112 section 4); for HEAD the same head without the body (RFC 9110 section 9.3.2)."""
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        f"content-type: {reply.content_type}",
        f"content-length: {len(reply.body)}",
        "cache-control: no-store",
    ]
    if reply.challenge:
        lines.append(f"www-authenticate: {reply.challenge}")
    if reply.status == 405:
        lines.append(f"allow: {', '.join(methods).replace('GET', 'GET, HEAD')}")  # RFC 9110 section 15.5.6
    if last:
        lines.append("connection: close")
    elif head is not None and not head.minor:
        lines.append("connection: keep-alive")
    body = b"" if head is not None and head.method == b"HEAD" else reply.body
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
