"""What a caller is told when we say no: an HTTP response that names the reason and what to do about it (sans-IO)."""

from __future__ import annotations

from urllib.parse import quote

from nodeproxy.errors import FLAGS, Refused
from nodeproxy.http.message import Fields

# RFC 9110 section 15; 499 is nginx's and never sent.
_REASONS = {
    400: b"Bad Request",
    403: b"Forbidden",
    408: b"Request Timeout",
    414: b"URI Too Long",
    421: b"Misdirected Request",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


# gRPC's own table for an HTTP status without grpc-status (grpc/doc/http-grpc-status-mapping.md).
_GRPC = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}


def reason_word(refused: Refused) -> str:
    """`x-edgemesh-reason`: the flag; for a denial the reason word of policy, with which the detail begins."""
    if refused.flag == "denied":
        return refused.detail.partition(":")[0] or refused.flag
    return refused.flag


def sentence(refused: Refused) -> str:
    flag = FLAGS[refused.flag]
    return f"edgemesh: {flag.meaning}" + (f": {refused.detail}" if refused.detail else "")


def content(refused: Refused) -> bytes:
    """The body: what happened and what to do about it."""
    hint = FLAGS[refused.flag].hint
    return (sentence(refused) + (f"\n{hint}" if hint else "")).encode("utf-8", "backslashreplace") + b"\n"


def answer(refused: Refused, close: bool, head_only: bool = False, request_id: str = "") -> bytes:
    """The whole response. `head_only`: it answers HEAD, so the body is announced but not sent (RFC 9110 section 9.3.2)."""
    status, body = FLAGS[refused.flag].status, content(refused)
    head = b"HTTP/1.1 %d %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n%b%b\r\n" % (
        status,
        _REASONS.get(status, b""),
        len(body),
        b"".join(b"%b: %b\r\n" % field for field in said(refused, request_id)),
        b"connection: close\r\n" if close else b"",
    )
    return head if head_only else head + body


def said(refused: Refused, request_id: str) -> Fields:
    """Why, and the id under which `edgemesh explain --request` knows it on every node that it passed."""
    fields = [(b"x-edgemesh-reason", reason_word(refused).encode())]
    return [*fields, (b"x-edgemesh-request", request_id.encode())] if request_id else fields


def answer_fields(refused: Refused, request_id: str, length: int) -> Fields:
    """The head of the same answer over HTTP/2."""
    return [
        (b":status", b"%d" % FLAGS[refused.flag].status),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % length),
        *said(refused, request_id),
    ]


def grpc_fields(refused: Refused, request_id: str) -> Fields:
    """The same for gRPC: trailers only, HTTP status 200 (gRPC over HTTP/2, "Trailers-Only")."""
    message = quote(sentence(refused), safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % _GRPC.get(FLAGS[refused.flag].status, 2)),
        (b"grpc-message", message.encode("ascii", "replace")),
        *said(refused, request_id),
    ]
