"""The response to a refused caller: an HTTP response that names the reason and what to do about it (sans-IO)."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import quote

from nodeproxy.codec.message import Fields, check_field
from nodeproxy.errors import FLAGS, Refused

# 499 is nginx's and never sent. The names are those of RFC 9110 section 15, in every version of Python.
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_REASONS |= {
    413: b"Content Too Large",
    414: b"URI Too Long",
    416: b"Range Not Satisfiable",
    422: b"Unprocessable Content",
}


# gRPC's own table for an HTTP status without grpc-status (grpc/doc/http-grpc-status-mapping.md).
_GRPC = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}


class Answered(Refused):
    """A response in place of the server's, with a status and fields of its own."""

    def __init__(
        self,
        status: int,
        fields: Sequence[tuple[bytes, bytes]] = (),
        body: bytes | None = b"",
        detail: str = "",
        flag: str = "filtered",
    ) -> None:
        """Respond with this. `body` None: the flag's meaning and hint. `detail`: for the record. `flag`: a filter's.

        Raise ValueError if this is no final response, or if filters may not set `fields`.
        """
        if status < 200 or (status in (204, 205, 304) and body != b""):
            raise ValueError(f"{status} with {len(body or b'')} bytes is no final response of a filter")
        for name, value in fields:
            check_field(name, value)
        super().__init__(flag, detail)
        self.answer_status = status
        self.fields = list(fields)
        self.body = body

    @property
    def status(self) -> int:
        return self.answer_status


_JUDGED = (403, 421)  # the nearest rule, and the identities that were assumed, matter here


def reason_word(refused: Refused) -> str:
    """Return `x-edgemesh-reason`: the flag, or for a denial the reason word of policy, with which the detail begins."""
    if refused.flag == "denied":
        return refused.detail.partition(":")[0] or refused.flag
    return refused.flag


def sentence(refused: Refused) -> str:
    """Return the flag's meaning, with the detail if the caller may know it."""
    flag = FLAGS[refused.flag]
    return f"edgemesh: {flag.meaning}" + (f": {refused.detail}" if refused.detail and not flag.private else "")


def content(refused: Refused, request_id: str = "") -> bytes:
    """Return the body: what happened, what to do about it, and the command that shows what is withheld here."""
    if isinstance(refused, Answered) and refused.body is not None:
        return refused.body
    flag = FLAGS[refused.flag]
    withheld = (flag.private and refused.detail) or flag.status in _JUDGED
    more = (
        f"edgemesh explain --request {request_id} says more, on this node (in a cluster: --all-nodes)"
        if withheld and request_id
        else ""
    )
    return "\n".join(filter(None, (sentence(refused), flag.hint, more))).encode("utf-8", "backslashreplace") + b"\n"


def answer(refused: Refused, close: bool, head_only: bool = False, request_id: str = "") -> bytes:
    """Return the whole response.

    `head_only`: the request was HEAD, so the body is announced but not sent (RFC 9110 section 9.3.2).
    """
    body = content(refused, request_id)
    (_, status), *fields = answer_fields(refused, request_id, len(body))
    head = b"HTTP/1.1 %b %b\r\n%b%b\r\n" % (
        status,
        _REASONS.get(refused.status, b""),
        b"".join(b"%b: %b\r\n" % field for field in fields),
        b"connection: close\r\n" if close else b"",
    )
    return head if head_only else head + body


def said(refused: Refused, request_id: str) -> Fields:
    """Return the fields with the reason and the id that `edgemesh explain --request` takes on every node it passed."""
    fields = [(b"x-edgemesh-reason", reason_word(refused).encode())]
    return [*fields, (b"x-edgemesh-request", request_id.encode())] if request_id else fields


def answer_fields(refused: Refused, request_id: str, length: int) -> Fields:
    """Return the head of the same response over HTTP/2."""
    fields: Fields = [(b"content-type", b"text/plain; charset=utf-8")]
    if isinstance(refused, Answered):
        own = refused.fields
        fields = own if refused.body is not None or any(name == b"content-type" for name, _ in own) else fields + own
    if refused.status not in (204, 304):  # RFC 9110 section 8.6
        fields = [*fields, (b"content-length", b"%d" % length)]
    return [(b":status", b"%d" % refused.status), *fields, *said(refused, request_id)]


def grpc_fields(refused: Refused, request_id: str) -> Fields:
    """Return the same response for gRPC: trailers only, HTTP status 200 (gRPC over HTTP/2, "Trailers-Only")."""
    message = quote(sentence(refused), safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % _GRPC.get(refused.status, 2)),
        (b"grpc-message", message.encode("ascii", "replace")),
        *said(refused, request_id),
    ]
