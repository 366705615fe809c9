"""HTTP with whoever came through the authority's door: requests in, answers of the authority out. The routes are in protocol.py.

What is asked is decided in authority.py, in a thread since it writes to the disk. Heads, bodies and time are bounded. A fault in one
answer is logged and answered 500 and ends nothing else.
"""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus
from typing import TypeVar

import msgspec
import trio
from msgspec import Struct

from agent.httpd import JSON
from agent.identity.authority import Authority, Exhausted, Malformed
from agent.identity.folder import FolderError
from agent.identity.protocol import AuthorityRefused, JoinRequest, Refusal, SignRequest
from nodeproxy.errors import Refused
from nodeproxy.http.h1 import Incoming
from nodeproxy.http.message import RequestHead
from nodeproxy.limits import Limits

log = logging.getLogger("edgemesh.authority")

_T = TypeVar("_T")

BODY_BYTES = 16 * 1024  # a request with a token and a signing request has about 1 KiB
_REQUEST_TIMEOUT = 10.0  # seconds for a request to arrive whole, and between two of one connection
_SEND_TIMEOUT = 30.0  # seconds for an answer to be taken
_LIMITS = Limits(head_bytes=8192, header_count=64)


class Caller(Struct, frozen=True):
    """Who is at the other end."""

    address: str
    node: str = ""  # the node that he proved to be; "" when he proved to be none
    serial: str = ""  # of the certificate he proved it with


class _TooLarge(Exception):  # noqa: N818 - it is an answer
    """The body is larger than anything that is asked here."""


class Answer(Struct, frozen=True):
    document: Struct
    status: int = 200


async def converse(stream: trio.abc.Stream, who: Caller, authority: Authority) -> None:
    """Requests one after the other until one of us has enough."""
    incoming = Incoming("bad-request")
    while True:
        try:
            with trio.fail_after(_REQUEST_TIMEOUT):
                request = await _request(stream, incoming)
        except Refused as refused:
            request, answer, last = None, _refusal(refused.status, str(refused)), True
        except _TooLarge:
            request, answer, last = None, _refusal(413, f"the body is larger than {BODY_BYTES // 1024} KiB"), True
        except trio.TooSlowError:
            if not incoming.data and incoming.complete:
                return  # between two requests
            request, answer, last = None, _refusal(408, f"the request did not arrive within {_REQUEST_TIMEOUT:.0f} s"), True
        else:
            if request is None:
                return
            answer = await _answer(request[0], request[1], who, authority)
            last = request[0].close or answer.status >= 500
        with trio.fail_after(_SEND_TIMEOUT):
            await stream.send_all(_encode(answer, last))
        if last:
            return


async def _request(stream: trio.abc.Stream, incoming: Incoming) -> tuple[RequestHead, bytes] | None:
    """The next request with its body; None when the caller has ended. Raises Refused."""
    while (head := incoming.request_head(_LIMITS)) is None:
        if not await _feed(stream, incoming):
            return None
    if head.length > BODY_BYTES:
        raise _TooLarge
    if head.expect and not incoming.data:
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 section 10.1.1
    body = b""
    while not incoming.complete:
        piece = incoming.body()
        if piece is None:
            await _feed(stream, incoming)
            continue
        body += piece
        if len(body) > BODY_BYTES:
            raise _TooLarge
    return head, body


async def _feed(stream: trio.abc.Stream, incoming: Incoming) -> bool:
    """Take in what comes next; False when the caller has ended."""
    data = await stream.receive_some(BODY_BYTES)
    if data:
        incoming.feed(data)
    else:
        incoming.feed_end()
    return bool(data)


async def _answer(head: RequestHead, body: bytes, who: Caller, authority: Authority) -> Answer:
    """The routes."""
    path = head.target.partition(b"?")[0]
    route = f"{head.method.decode()} {path.decode()}"
    try:
        if route == "GET /v1/bundle":
            return Answer(await trio.to_thread.run_sync(authority.bundle, who.node))
        if route == "POST /v1/join":
            return Answer(await trio.to_thread.run_sync(authority.join, _read(body, JoinRequest), who.address))
        if route == "POST /v1/sign":
            ask = partial(authority.sign, who.node, _read(body, SignRequest), who.serial, who.address)
            return Answer(await trio.to_thread.run_sync(ask))
    except Malformed as refusal:
        return _refusal(400, refusal.error, refusal.hint)
    except Exhausted as refusal:
        return _refusal(429, refusal.error, refusal.hint)
    except AuthorityRefused as refusal:
        return _refusal(403, refusal.error, refusal.hint)
    except FolderError as error:
        log.error("%s: %s", route, error)  # the caller need not know our paths
        return _refusal(503, "the authority cannot use its folder just now", "its log says why; try again later")
    except Exception:
        log.exception("%s", route)
        return _refusal(500, "a fault of edgemesh itself", "please report it with the daemon's log")
    return _refusal(404, f"there is no {route[:100]} here", "GET /v1/bundle, POST /v1/join, POST /v1/sign")


def _read(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is no {kind.__name__} in JSON: {error}") from error


def _refusal(status: int, error: str, hint: str = "") -> Answer:
    return Answer(Refusal(error, hint), status)


def _encode(answer: Answer, last: bool) -> bytes:
    """RFC 9112 section 4."""
    body = msgspec.json.encode(answer.document) + b"\n"
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"content-type: {JSON}",
        f"content-length: {len(body)}",
        "cache-control: no-store",
    ]
    if last:
        lines.append("connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
