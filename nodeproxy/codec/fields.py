"""Which header fields act here, which end here, and which are forwarded (sans-IO).

A field that frames a message or belongs to one connection is never copied: edgemesh acts on it and writes its own for
the next connection.
"""

from __future__ import annotations

import re

from nodeproxy.codec.message import (
    CHUNKED,
    HOP_BY_HOP,
    MOST_RESPONSE_FIELDS,
    NO_BODY,
    OURS,
    RequestHead,
    ResponseHead,
    is_authority,
)
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits

_LENGTH = re.compile(rb"[0-9]{1,18}")
_REQUEST_SPECIAL = HOP_BY_HOP | frozenset(
    (b"host", b"content-length", b"expect", b"x-forwarded-for", b"x-forwarded-proto")
)
_RESPONSE_SPECIAL = HOP_BY_HOP | frozenset((b"content-length",))
# A switch to these would take requests past the policy (RFC 9113 section 3.1 obsoleted the h2c upgrade).
_NO_UPGRADE = (b"h2", b"http/", b"tls/")


def pair(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")


def read_request_fields(head: RequestHead, block: bytes, limits: Limits, more: int = 0) -> None:
    """Sort the fields of a request: those that are forwarded unchanged, those that are rewritten, and those that end
    here.

    `more`: fields allowed above limits.header_count. Raise Refused if a field is not allowed.
    """
    raw = block.split(b"\r\n")
    raw.pop()  # what follows the last CRLF
    if len(raw) > limits.header_count + more:
        raise Refused("head-too-large", f"{len(raw)} fields, {limits.header_count} allowed")
    fields, lines = head.fields, head.lines
    length: bytes | None = None
    encoding: bytes | None = None
    options: list[bytes] = []
    upgrade = b""
    proto = False
    for line in raw:
        name, _, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        if name not in _REQUEST_SPECIAL:
            if not name.startswith(OURS):
                fields.append((name, value))
                lines.append(line)
        elif name == b"host":
            if head.host is not None:
                raise Refused("bad-request", "several Host fields (RFC 9112 section 3.2)")
            if value and not is_authority(value):
                raise Refused("bad-request", "Host is not host[:port] (RFC 9112 section 3.2)")
            head.host = value
            fields.append((name, value))
        elif name == b"content-length":
            if length is not None:
                raise Refused("bad-request", "several Content-Length fields (RFC 9112 section 6.3)")
            if not _LENGTH.fullmatch(value):
                raise Refused("bad-request", "Content-Length is not a number (RFC 9112 section 6.3)")
            length = value
            head.declared = True
            fields.append((name, value))
        elif name == b"transfer-encoding":
            if encoding is not None or value.lower() != b"chunked":
                raise Refused("bad-request", "Transfer-Encoding other than chunked (RFC 9112 section 6.1)")
            encoding = value
        elif name == b"connection":
            options += value.lower().replace(b" ", b"").replace(b"\t", b"").split(b",")
        elif name == b"upgrade":
            upgrade = upgrade + b", " + value if upgrade else value
        elif name == b"x-forwarded-for":
            head.forwarded_for = head.forwarded_for + b", " + value if head.forwarded_for else value
        elif name == b"te":
            head.trailers_ok = value.lower() == b"trailers"
        elif name == b"expect":
            if head.minor:  # RFC 9110 section 10.1.1: ignore it in an HTTP/1.0 request
                head.expect = value.lower() == b"100-continue"
                fields.append((name, value))
                lines.append(line)
        elif name == b"x-forwarded-proto":
            proto = True
            fields.append((name, value))
            lines.append(line)
    if head.host is None and head.minor:
        raise Refused("bad-request", "no Host field (RFC 9112 section 3.2)")
    if encoding is not None:
        # RFC 9112 section 6.3: such a message ought to be handled as an error; section 6.1: HTTP/1.0 has no such field.
        if length is not None:
            raise Refused("bad-request", "both Content-Length and Transfer-Encoding (RFC 9112 section 6.3)")
        if not head.minor:
            raise Refused("bad-request", "Transfer-Encoding in an HTTP/1.0 request (RFC 9112 section 6.1)")
        head.length = CHUNKED
    elif length is not None:
        head.length = int(length)
    head.bare = head.length != 0 and head.method in NO_BODY
    if head.method == b"CONNECT" and head.length:
        raise Refused("bad-request", "CONNECT with a body (RFC 9110 section 9.3.6)")
    head.forwarded_proto = proto
    if not proto:
        fields.append((b"x-forwarded-proto", b"http"))
        lines.append(b"x-forwarded-proto: http")
    if options:
        head.close = head.close or b"close" in options
        if upgrade and head.minor and b"upgrade" in options:
            head.upgrade = b", ".join(
                p for p in map(bytes.strip, upgrade.split(b",")) if p and not p.lower().startswith(_NO_UPGRADE)
            )
            if head.upgrade:
                fields.append((b"upgrade", head.upgrade))
        dropped = {o for o in options if o and o not in _REQUEST_SPECIAL and o not in (b"close", b"keep-alive")}
        if dropped:
            head.fields = [field for field in fields if field[0] not in dropped]
            head.lines = [line for line in lines if pair(line)[0] not in dropped]


def read_response_fields(head: ResponseHead, raw: list[bytes]) -> None:
    """Sort the fields of a response, given as lines. Raise Refused "upstream-broken"."""
    if len(raw) > MOST_RESPONSE_FIELDS:
        raise Refused("upstream-broken", f"the response has {len(raw)} fields, {MOST_RESPONSE_FIELDS} allowed")
    lines = head.lines
    length: bytes | None = None
    encoding: bytes | None = None
    identity = False
    options: list[bytes] = []
    for line in raw:
        name, _, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        if name not in _RESPONSE_SPECIAL:
            if not name.startswith(OURS):
                lines.append(line)
        elif name == b"content-length":
            if (length is not None and length != value) or not _LENGTH.fullmatch(value):
                raise Refused("upstream-broken", "the response has several or invalid Content-Length fields")
            length = value
        elif name == b"transfer-encoding":
            if value.lower() == b"identity":
                # No coding at all: RFC 2616 section 3.6 had it, RFC 9112 does not, and servers still send it beside a
                # length. Clients read on by the length, and so does edgemesh; the forwarded response does not mention
                # it. The connection is not reused, as with the other faulty framings (RFC 9112 section 6.3).
                identity = True
                continue
            if encoding is not None or value.lower() != b"chunked":
                raise Refused("upstream-broken", "the response has a Transfer-Encoding other than chunked")
            encoding = value
        elif name == b"connection":
            options += value.lower().replace(b" ", b"").replace(b"\t", b"").split(b",")
        elif name == b"upgrade":
            head.upgrade = value
    if encoding is not None:
        head.declared = head.length = CHUNKED
        # RFC 9112 sections 6.1 and 6.3: faulty framing; read the body, do not forward Content-Length, and close.
        head.close = head.close or length is not None
    elif length is not None:
        head.declared = head.length = int(length)
    head.close = head.close or identity
    if options:
        head.close = head.close or b"close" in options
        dropped = {o for o in options if o and o not in _RESPONSE_SPECIAL and o not in (b"close", b"keep-alive")}
        if dropped:
            head.lines = [line for line in lines if pair(line)[0] not in dropped]


def agreed(head: RequestHead, response: ResponseHead) -> bool:
    """Return whether a 101 switches to a protocol that the request offered (RFC 9110 section 7.8)."""
    offered = head.upgrade.lower().replace(b" ", b"").split(b",")
    return response.upgrade != b"" and response.upgrade.lower() in offered
