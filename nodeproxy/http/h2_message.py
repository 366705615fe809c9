"""HTTP/2 fields and messages, both ways (sans-IO): pseudo fields (RFC 9113 section 8.3) to the vocabulary of message.py and back.

What comes in goes through the same strict reading of fields as HTTP/1.1, so that a request means one thing whatever it came over,
and can be sent on over either.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from nodeproxy.errors import Refused
from nodeproxy.http.fields import pair, read_request_fields, read_response_fields
from nodeproxy.http.message import CHUNKED, NO_BODY, OURS, Fields, RequestHead, ResponseHead, travels_in_trailer
from nodeproxy.limits import Limits

DESTINATION = b"x-edgemesh-destination"  # ADDRESS:PORT of the workload, on a request to another node; ";h2" as its caller speaks
REASON = b"x-edgemesh-reason"
REQUEST = b"x-edgemesh-request"

_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+: [\t\x20-\x7e\x80-\xff]*")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
# Carried by the frames themselves, or by a pseudo field.
_NOT_A_FIELD = frozenset((b"host", b"upgrade"))


def request_head(fields: Fields, ended: bool, limits: Limits) -> RequestHead:
    """A request as it came in. `ended`: without a body. Raises Refused."""
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    size = jar = 0
    for name, value in fields:
        size += len(name) + len(value)
        if name.startswith(b":"):
            pseudo[name] = value
        elif name == b"cookie":
            if not cookies:
                jar = len(lines)
                lines.append(b"")
            cookies.append(value)  # RFC 9113 section 8.2.3: crumbs are joined for HTTP/1.1
        else:
            lines.append(name + b": " + value)
    if cookies:
        lines[jar] = b"cookie: " + b"; ".join(cookies)
    if (counted := size + 32 * len(fields)) > limits.head_bytes:  # RFC 9113 section 6.5.2 counts so
        raise Refused("head-too-large", f"{counted} bytes of fields, {limits.head_bytes} allowed")
    method, authority = pseudo.get(b":method", b""), pseudo.get(b":authority", b"")
    target = authority if method == b"CONNECT" else pseudo.get(b":path", b"")
    if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target) or not (target[:1] in (b"/", b"*") or method == b"CONNECT"):
        raise Refused("bad-request", "method or path is malformed (RFC 9113 section 8.3.1)")
    if method == b"CONNECT":  # its DATA would be no body; tunnels between nodes are opened before this room (hbone.py)
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
    read_request_fields(head, b"".join(line + b"\r\n" for line in lines), limits)
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
    """A request to send on. `sent` is the target to send; bodies are framed by HTTP/2 itself."""
    fields: Fields = [(b":method", head.method), (b":scheme", b"http"), (b":path", sent), (b":authority", host)]
    fields += [field for field in head.fields if field[0] not in _NOT_A_FIELD and field[0] != b"x-forwarded-for"]
    fields.append((b"x-forwarded-for", forwarded_for))
    if head.trailers_ok:
        fields.append((b"te", b"trailers"))
    return fields


def response_head(fields: Fields, ended: bool, method: bytes, from_node: bool) -> ResponseHead:
    """A response as it came in. `from_node`: it passed another node of the mesh, whose own words are believed. Raises Refused."""
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
            head.told_id = said.get(REQUEST, b"").decode("latin-1")
            head.lines += own
    return head


def response_fields(response: ResponseHead) -> Fields:
    """A response to send on."""
    fields: Fields = [(b":status", b"%d" % response.status)]
    fields += map(pair, response.lines)
    if response.declared >= 0 and response.status >= 200 and response.status != 204:
        fields.append((b"content-length", b"%d" % response.declared))
    return fields


def trailer_lines(fields: Fields) -> list[bytes]:
    """Trailers that travel on."""
    lines = [name + b": " + value for name, value in fields if travels_in_trailer(name)]
    return [line for line in lines if _FIELD.fullmatch(line)]


def trailer_fields(lines: list[bytes]) -> Fields:
    return [pair(line) for line in lines]


def is_grpc(head: RequestHead) -> bool:
    return any(is_grpc_field(name, value) for name, value in head.fields)


def is_grpc_field(name: bytes, value: bytes) -> bool:
    return name == b"content-type" and value.startswith(b"application/grpc")
