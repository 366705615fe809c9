"""HTTP/2 fields and messages, both ways (sans-IO): pseudo fields (RFC 9113 section 8.3) to the types of message.py and
back.

Incoming fields pass the same strict parser as HTTP/1.1. So a request means the same over either version, and can be
forwarded over either.

`nodeproxy/h2` applies `wrong_*` and `*too_large` to fields before any message is made of them.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from nodeproxy.codec.fields import pair, read_request_fields, read_response_fields
from nodeproxy.codec.message import (
    CHUNKED,
    MOST_RESPONSE_FIELDS,
    NO_BODY,
    OURS,
    Fields,
    RequestHead,
    ResponseHead,
    travels_in_trailer,
)
from nodeproxy.codec.trace_context import refusal_id
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits

DESTINATION = (
    b"x-edgemesh-destination"  # ADDRESS:PORT of the workload, on a request to another node; ";h2" if its caller uses it
)
ENTERING = b"x-edgemesh-entering"  # who calls from outside the mesh, on what a gateway's node sends to another one
REASON = b"x-edgemesh-reason"
REQUEST = b"x-edgemesh-request"

_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+: [\t\x20-\x7e\x80-\xff]*")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
# The names of RFC 9110, in every version of Python.
_REASONS |= {413: b"Content Too Large", 416: b"Range Not Satisfiable", 422: b"Unprocessable Content"}
_NODES_FIELDS, _NODES_BYTES = (
    3,
    512,
)  # x-forwarded-for, x-forwarded-proto, DESTINATION; with an address each, and pseudo fields
# Carried by the frames themselves, or by a pseudo field.
_NOT_A_FIELD = frozenset((b"host", b"upgrade"))


def request_head(fields: Fields, ended: bool, limits: Limits, from_node: bool = False) -> RequestHead:
    """Return the head of an incoming request. `ended`: it has no body.

    `from_node`: another node admitted the request and added fields. Raise Refused.
    """
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    size = jar = 0
    told = 0  # 1 for a caller outside the mesh: then there is x-forwarded-host, too
    for name, value in fields:
        if from_node and name == ENTERING and not told:  # read before (codec/entering.py), which bounds it
            told = 1
            continue
        size += len(name) + len(value)
        if name.startswith(b":"):
            pseudo[name] = value
        elif name == b"cookie":
            if not cookies:
                jar = len(lines)
                lines.append(b"")
            cookies.append(value)  # RFC 9113 section 8.2.3: cookie crumbs are joined for HTTP/1.1
        else:
            lines.append(name + b": " + value)
    if cookies:
        lines[jar] = b"cookie: " + b"; ".join(cookies)
    # Counted as HTTP/1.1 writes it, so that there is one limit. The limit announced to the peer (RFC 9113 section 6.5.2
    # adds 32 bytes per field) is lower.
    if (counted := size + 4 * (len(fields) - told)) > limits.head_bytes + (_NODES_BYTES << told if from_node else 0):
        raise Refused("head-too-large", f"{counted} bytes of fields, {limits.head_bytes} allowed")
    method, authority = pseudo.get(b":method", b""), pseudo.get(b":authority", b"")
    target = authority if method == b"CONNECT" else pseudo.get(b":path", b"")
    if (
        not _METHOD.fullmatch(method)
        or not _TARGET.fullmatch(target)
        or not (target[:1] in (b"/", b"*") or method == b"CONNECT")
    ):
        raise Refused("bad-request", "method or path is malformed (RFC 9113 section 8.3.1)")
    if method == b"CONNECT":  # its DATA would be no body; downstream/hbone.py opens tunnels between nodes before this
        raise Refused("bad-request", "CONNECT over HTTP/2 is for tunnels between nodes")
    hosts = [line for line in lines if line.startswith(b"host: ")]
    if authority and not hosts:
        lines.append(b"host: " + authority)
    elif authority and any(pair(line)[1].lower() != authority.lower() for line in hosts):
        raise Refused("bad-request", "Host and :authority differ (RFC 9113 section 8.3.1)")
    for line in lines:
        if not _FIELD.fullmatch(line):
            raise Refused("bad-request", "a field is malformed (RFC 9113 section 8.2.1)")
    head = RequestHead(method, target, 1)
    head.size = size
    read_request_fields(
        head, b"".join(line + b"\r\n" for line in lines), limits, _NODES_FIELDS + told if from_node else 0
    )
    if ended:
        if head.length > 0:
            raise Refused("bad-request", "Content-Length announces a body that does not come")
        head.length = 0
    elif not head.declared:
        head.length = CHUNKED
    head.bare = head.length != 0 and method in NO_BODY
    head.close = False
    head.upgrade = b""
    return head


def request_fields(head: RequestHead, sent: bytes, host: bytes, forwarded_for: bytes) -> Fields:
    """Return the fields of a request to forward. `sent` is the target to send; HTTP/2 itself frames the body."""
    fields: Fields = [(b":method", head.method), (b":scheme", b"http"), (b":path", sent), (b":authority", host)]
    fields += [field for field in head.fields if field[0] not in _NOT_A_FIELD and field[0] != b"x-forwarded-for"]
    if forwarded_for:
        fields.append((b"x-forwarded-for", forwarded_for))
    if head.trailers_ok:
        fields.append((b"te", b"trailers"))
    return fields


def response_head(fields: Fields, ended: bool, method: bytes, from_node: bool) -> ResponseHead:
    """Return the head of an incoming response. Raise Refused.

    `from_node`: it passed another node of the mesh, whose own fields are believed.
    """
    raw = fields[0][1] if fields and fields[0][0] == b":status" else b""
    if len(raw) != 3 or not raw.isdigit() or raw[:1] == b"0":
        raise Refused("upstream-broken", "the response has no valid status")
    status = int(raw)
    if status == 101:
        raise Refused("upstream-broken", "101 over HTTP/2 (RFC 9113 section 8.6)")
    lines = [name + b": " + value for name, value in fields[1:]]
    for line in lines:
        if not _FIELD.fullmatch(line):
            raise Refused("upstream-broken", "a field of the response is malformed (RFC 9113 section 8.2.1)")
    head = ResponseHead(status, _REASONS.get(status, b""), 1)
    read_response_fields(head, lines)
    head.close = False
    head.upgrade = b""
    if ended or method == b"HEAD" or status in (204, 304) or status < 200:
        head.length = 0
        if ended and head.declared < 0 and method != b"HEAD" and status not in (204, 304):
            head.declared = 0
    elif head.declared < 0:
        head.length = CHUNKED
    if from_node:
        own = [line for line in lines if line.startswith(OURS)]
        if own:
            said = dict(map(pair, own))
            head.told = said.get(REASON, b"").decode("latin-1")
            head.told_id = refusal_id(said.get(REQUEST, b"").decode("latin-1"))
            head.lines += own
    return head


def response_fields(response: ResponseHead) -> Fields:
    """Return the fields of a response to forward."""
    fields: Fields = [(b":status", b"%d" % response.status)]
    fields += map(pair, response.lines)
    if response.declared >= 0 and response.status >= 200 and response.status != 204:
        fields.append((b"content-length", b"%d" % response.declared))
    return fields


def trailer_lines(fields: Fields) -> list[bytes]:
    """Return the trailers that are forwarded, as lines."""
    lines = [name + b": " + value for name, value in fields if travels_in_trailer(name)]
    return [line for line in lines if _FIELD.fullmatch(line)]


def trailer_fields(lines: list[bytes]) -> Fields:
    return [pair(line) for line in lines]


def is_grpc(head: RequestHead) -> bool:
    return any(is_grpc_field(name, value) for name, value in head.fields)


def is_grpc_field(name: bytes, value: bytes) -> bool:
    return name == b"content-type" and value.startswith(b"application/grpc")


# Which fields are well formed.

# RFC 9113 section 8.2.1 forbids less than this. These fields may be forwarded as HTTP/1.1, whose grammar (RFC 9110
# section 5.5) has no control characters either, so that no later server can read two fields out of one.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_STATUS = re.compile(rb"[1-9][0-9][0-9]")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
# RFC 9113 section 8.2.2
_CONNECTION_SPECIFIC = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


def wrong_request(fields: Fields) -> str:
    """Return why a request head is malformed (RFC 9113 section 8.3.1); "" if it is well formed."""
    pseudo = dict[bytes, bytes]()
    why = _wrong(fields, pseudo)
    if why:
        return why
    method = pseudo.pop(b":method", b"")
    authority = pseudo.pop(b":authority", None)
    if not method:
        return "no :method"
    if method == b"CONNECT":  # section 8.5
        if pseudo or not authority:
            return "CONNECT has :authority and no other pseudo field"
        return "CONNECT with content-length" if any(name == b"content-length" for name, _ in fields) else ""
    path, scheme = pseudo.pop(b":path", b""), pseudo.pop(b":scheme", b"")
    if pseudo:
        return f"{next(iter(pseudo))!r} in a request"
    if not path or not _SCHEME.fullmatch(scheme):
        return "a request needs :scheme and :path"
    return ""


def wrong_response(fields: Fields) -> str:
    """Return why a response head is malformed (RFC 9113 section 8.3.2); "" if it is well formed."""
    pseudo = dict[bytes, bytes]()
    why = _wrong(fields, pseudo)
    if why:
        return why
    status = pseudo.get(b":status", b"")
    if len(pseudo) != 1 or not _STATUS.fullmatch(status):
        return "a response needs :status, and no other pseudo field"
    return "101 (RFC 9113 section 8.6)" if status == b"101" else ""


def wrong_trailers(fields: Fields) -> str:
    """Return why trailers are malformed (RFC 9113 section 8.1); "" if they are well formed."""
    pseudo = dict[bytes, bytes]()
    return _wrong(fields, pseudo) or ("a pseudo field in trailers" if pseudo else "")


def _wrong(fields: Fields, pseudo: dict[bytes, bytes]) -> str:
    regular = False
    for name, value in fields:
        if not _VALUE.fullmatch(value):
            return f"the value of {name[:64]!r} holds a control character or surrounding whitespace"
        if _NAME.fullmatch(name):
            regular = True
            if name in _CONNECTION_SPECIFIC:
                return f"{name!r} is of one connection (RFC 9113 section 8.2.2)"
            if name == b"te" and value != b"trailers":
                return "te other than trailers"
        elif not name.startswith(b":") or regular or name in pseudo:
            return f"{name[:64]!r} is no field name, or stands where it may not"
        else:
            pseudo[name] = value
    return ""


def response_too_large(fields: Fields, head_bytes: int) -> bool:
    """Return whether a response head exceeds its bounds.

    It is counted as HTTP/1.1 writes it, so one node admits what two admit.
    """
    return (
        len(fields) > MOST_RESPONSE_FIELDS + 1 or sum(len(name) + len(value) + 4 for name, value in fields) > head_bytes
    )


def too_large(fields: Fields, header_count: int, head_bytes: int) -> bool:
    """Return whether fields exceed these bounds, counted as in RFC 9113 section 6.5.2."""
    return len(fields) > header_count or sum(len(name) + len(value) + 32 for name, value in fields) > head_bytes
