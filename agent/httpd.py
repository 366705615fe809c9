"""The one small HTTP server of the daemon, on the admin socket and on the metrics address: GET, and POST without a body.

Heads are read with the parser of the data plane. Everything is bounded: connections, heads, time. A fault in an answer is logged
and answered 500; it must not reach the nursery, where it would end the node's traffic with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

import msgspec
import trio
from msgspec import Struct

from nodeproxy.errors import Refused
from nodeproxy.http.h1 import Incoming
from nodeproxy.http.message import RequestHead
from nodeproxy.limits import Gate, Limits
from nodeproxy.stream import close_now

log = logging.getLogger("edgemesh.httpd")

CONNECTIONS = 16  # open at once on one listener: a person, a scraper and a probe need three
LIMITS = Limits(head_bytes=8192, header_count=64)
_HEAD_TIMEOUT = 10.0  # seconds for a head to arrive, and between two requests of one connection
_SEND_TIMEOUT = 30.0  # seconds for an answer to be taken

JSON = "application/json"


class Ask(Struct, frozen=True):
    """A request: its path, and its query parameters in order."""

    path: str
    query: tuple[tuple[str, str], ...] = ()
    method: str = "GET"

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.query if key == name), default)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]


class Reply(Struct, frozen=True):
    body: bytes
    status: int = 200
    content_type: str = JSON


Handler = Callable[[Ask], Awaitable[Reply]]


def json_reply(value: object, status: int = 200) -> Reply:
    return Reply(msgspec.json.encode(value) + b"\n", status)


def failure(status: int, error: str, hint: str = "") -> Reply:
    return json_reply({"error": error, "hint": hint}, status)


async def serve(listener: trio.SocketListener, handler: Handler, conversations: trio.Nursery | None = None, posts: bool = False) -> None:
    """Answer requests until cancelled. The listener is closed at the end; so are connections, unless they are `conversations`' affair.

    `posts`: POST is for the handler too.
    """
    gate = Gate(CONNECTIONS)
    await trio.serve_listeners(partial(_converse, handler=handler, gate=gate, posts=posts), [listener], handler_nursery=conversations)


async def _converse(stream: trio.SocketStream, handler: Handler, gate: Gate, posts: bool) -> None:
    """One connection: requests one after the other until one of us has enough."""
    if not gate.enter():
        close_now(stream)
        return
    try:
        incoming = Incoming("bad-request")
        while True:
            with trio.fail_after(_HEAD_TIMEOUT):
                head = await _head(stream, incoming)
            if head is None:
                return
            reply, last = await _answer(head, handler, posts)
            with trio.fail_after(_SEND_TIMEOUT):
                await stream.send_all(_encode(reply, head, last))
            if last:
                return
    except (trio.BrokenResourceError, trio.TooSlowError):
        return
    finally:
        gate.leave()
        close_now(stream)


async def _head(stream: trio.SocketStream, incoming: Incoming) -> RequestHead | Refused | None:
    """The next request head, why it is none, or None when the caller has ended."""
    while True:
        try:
            head = incoming.request_head(LIMITS)
        except Refused as refused:
            return refused
        if head is not None:
            return head
        data = await stream.receive_some(LIMITS.head_bytes)
        if not data:
            return None
        incoming.feed(data)


async def _answer(head: RequestHead | Refused, handler: Handler, posts: bool) -> tuple[Reply, bool]:
    """What to say, and whether the connection ends with it."""
    if isinstance(head, Refused):
        return failure(head.status, str(head)), True
    if head.length:
        return failure(413, "a request here has no body"), True
    if head.method not in (b"GET", b"HEAD") and not (posts and head.method == b"POST"):
        return failure(405, f"{head.method.decode()} is not done here, only GET"), head.close
    path, _, query = head.target.decode("ascii").partition("?")
    ask = Ask(unquote(path), tuple(parse_qsl(query, keep_blank_values=True)), "POST" if head.method == b"POST" else "GET")
    try:
        return await handler(ask), head.close
    except Exception:
        log.exception("GET %s", path)
        return failure(500, "a fault of edgemesh itself", "please report it with the daemon's log"), True


def _encode(reply: Reply, head: RequestHead | Refused, last: bool) -> bytes:
    """RFC 9112 section 4; for HEAD the same head without the body (RFC 9110 section 9.3.2)."""
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        f"content-type: {reply.content_type}",
        f"content-length: {len(reply.body)}",
        "cache-control: no-store",
    ]
    if reply.status == 405:
        lines.append("allow: GET, HEAD")
    if last:
        lines.append("connection: close")
    elif isinstance(head, RequestHead) and not head.minor:
        lines.append("connection: keep-alive")
    body = b"" if isinstance(head, RequestHead) and head.method == b"HEAD" else reply.body
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
