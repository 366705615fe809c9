"""The types of HTTP messages, for every version: heads, framing, the request target and which fields are forwarded
(sans-IO).

This file knows no HTTP/1.1 syntax beyond the request target, whose grammar HTTP/2 shares (`:path`). Field names are
lower case.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from nodeproxy.errors import Refused
from policy.fields import OURS as _OURS
from policy.fields import bad_field

Fields = list[tuple[bytes, bytes]]  # (name in lower case, value without surrounding whitespace), in order

# How the end of a body is known (RFC 9112 section 6.3): a length >= 0 in bytes, or one of these.
CHUNKED = -1
UNTIL_CLOSE = -2

# RFC 9110 section 9.2.1 (safe methods) and 9.2.2 (idempotent methods): IDEMPOTENT requests may be sent again. RFC 9110
# section 9.3: "content received in a GET request has no generally defined semantics"; the same holds for the others in
# NO_BODY.
NO_BODY = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE"))
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

# RFC 9110 section 7.6.1: fields of one connection, never forwarded. Fields that Connection names are dropped too.
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"))
# Fields of one response. HAProxy's bound is 101 and Envoy's 100, and users with many cookies raise both; it bounds only
# memory.
MOST_RESPONSE_FIELDS = 1000
OURS = _OURS.encode()  # only edgemesh may write these fields, so that x-edgemesh-reason can be believed

# RFC 9110 section 6.5.1: a trailer must not change framing, routing or the input of a decision.
_NOT_IN_TRAILERS = HOP_BY_HOP | frozenset(
    (b"content-length", b"host", b"authorization", b"x-forwarded-for", b"x-forwarded-proto", b"expect", b"trailer")
)


class Body(Protocol):
    """The part of a body that has arrived, in either version of HTTP."""

    @property
    def complete(self) -> bool:
        """Whether the whole body was taken out."""
        ...

    @property
    def trailers(self) -> list[bytes]:
        """Lines that are forwarded, known once the body is complete."""
        ...

    def body(self) -> bytes | None:
        """Take out and return the available bytes; None if there are none yet.

        `complete` says whether they were the last.
        """
        ...


class RequestHead:
    """A request head that was checked.

    `fields` and `lines` hold only what is forwarded: no framing, no hop-by-hop field.
    """

    __slots__ = (
        "bare",
        "close",
        "declared",
        "expect",
        "fields",
        "forwarded_for",
        "forwarded_proto",
        "host",
        "length",
        "lines",
        "method",
        "minor",
        "size",
        "target",
        "trailers_ok",
        "upgrade",
    )

    def __init__(self, method: bytes, target: bytes, minor: int) -> None:
        self.method = method
        self.target = target  # as it was received; split_target returns what is forwarded
        self.minor = minor  # HTTP/1.minor
        self.host: bytes | None = None
        self.length = 0  # of the body: bytes, or CHUNKED
        self.declared = False  # Content-Length was present, even if 0
        self.close = minor == 0  # the caller's connection ends after this exchange
        self.expect = False  # the caller waits for 100 before it sends the body
        self.upgrade = b""  # protocols that the caller would switch to, b"" for none
        self.trailers_ok = False  # TE: trailers
        self.forwarded_for = b""
        self.forwarded_proto = False  # x-forwarded-proto was received, and not added here
        self.bare = False  # a body with a method that has none: not every server reads it
        self.fields: Fields = []
        self.lines: list[bytes] = []  # the same fields as lines, spelled as received, without CRLF
        self.size = 0  # bytes on the wire

    def __repr__(self) -> str:
        return f"<RequestHead {self.method.decode()} {self.target.decode('latin-1')} HTTP/1.{self.minor} body {self.length}>"

    def set_field(self, name: bytes, value: bytes) -> None:
        """Set a field, replacing all with that name. Raise ValueError if it is malformed, or filters may not set it."""
        check_field(name, value)
        self.remove_field(name)
        self.fields.append((name, value))
        self.lines.append(name + b": " + value)

    def add_field(self, name: bytes, value: bytes) -> None:
        """Add a field beside those with that name. Raise ValueError if it is malformed, or filters may not set it."""
        check_field(name, value)
        self.fields.append((name, value))
        self.lines.append(name + b": " + value)

    def remove_field(self, name: bytes) -> None:
        """Remove all fields with that name. Raise ValueError if filters may not set it."""
        check_field(name)
        self.fields = [field for field in self.fields if field[0] != name]
        self.lines = without(self.lines, name)


class ResponseHead:
    """A response head. `lines` holds only what is forwarded: no framing, no hop-by-hop field."""

    __slots__ = ("close", "declared", "length", "lines", "minor", "reason", "status", "told", "told_id", "upgrade")

    def __init__(self, status: int, reason: bytes, minor: int) -> None:
        self.status = status
        self.reason = reason
        self.minor = minor
        self.length = UNTIL_CLOSE  # of the body that follows: bytes, CHUNKED or UNTIL_CLOSE
        self.declared = UNTIL_CLOSE  # what the head announces, which for HEAD and 304 is not what follows
        self.close = minor == 0  # the server's connection ends after this exchange
        self.upgrade = b""
        self.lines: list[bytes] = []
        self.told = ""  # why another node refused, in its words; "" if this is the server's own response
        self.told_id = ""

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} HTTP/1.{self.minor} body {self.length}>"

    def set_field(self, name: bytes, value: bytes) -> None:
        """Set a field, replacing all with that name. Raise ValueError if it is malformed, or filters may not set it."""
        check_field(name, value)
        self.lines = without(self.lines, name)
        self.lines.append(name + b": " + value)

    def add_field(self, name: bytes, value: bytes) -> None:
        """Add a field beside those with that name. Raise ValueError if it is malformed, or filters may not set it."""
        check_field(name, value)
        self.lines.append(name + b": " + value)

    def remove_field(self, name: bytes) -> None:
        """Remove all fields with that name. Raise ValueError if filters may not set it."""
        check_field(name)
        self.lines = without(self.lines, name)


def check_field(name: bytes, value: bytes = b"") -> None:
    """Raise ValueError if a filter may not set such a field.

    The field is malformed (RFC 9110 section 5), or only edgemesh may set it.
    """
    wrong = bad_field(name.decode("latin-1"), value.decode("latin-1"))
    if wrong:
        raise ValueError(f"the field {name!r} {wrong}")


def without(lines: list[bytes], name: bytes) -> list[bytes]:
    """Return the lines of all fields except those with that name."""
    return [line for line in lines if line.partition(b":")[0].lower() != name]


class Target(NamedTuple):
    """A request target, split into its parts.

    The path that is decided on (`path`) is the path that is sent (`sent`).
    """

    path: str  # normalised, without query; "*" for asterisk-form, "" for CONNECT
    sent: bytes  # origin-form for the server: the same path, "?" and the query as received
    authority: bytes  # of absolute-form and CONNECT: it replaces Host (RFC 9112 section 3.2.2); b"" if there is none
    others: tuple[
        str, ...
    ] = ()  # other ways in which servers may read `path`: %2F as a slash. Policy has to admit these too


# Characters of a path beside "%" and "/": RFC 3986 pchar, and those that clients send unescaped: " < > [ ] ^ ` { | }
_PCHARS = rb"A-Za-z0-9\-._~!$&'()*+,;=:@\"<>\[\]^`{|}"
# The common case in one match: no escape, no segment that begins with a dot.
_PLAIN = re.compile(rb"(?:/(?:[A-Za-z0-9\-_~!$&'()*+,=:@][A-Za-z0-9\-._~!$&'()*+,;=:@]*)?)+")
_WHOLE = re.compile(rb"/[%s/%%]*" % _PCHARS)
_ESCAPE = re.compile(rb"%(.{0,2})", re.DOTALL)
_HEX = re.compile(rb"[0-9A-Fa-f]{2}")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986 section 2.3
# What a lenient server would cut off in a path: parameters of a segment (Tomcat), the rest after the end of a C string,
# a query.
_CUT = re.compile(rb"[;?#\0].*", re.DOTALL)
_SEPARATORS = re.compile(rb"[/\\]")
_SLASHES = re.compile(rb"/{2,}")
_NESTED = re.compile(rb"%(?:25)+")
_BLANK = bytes(range(0x21)) + b"\x7f"
_MOST_DECODINGS = 8
_QUERY = re.compile(rb"[\x21\x22\x24-\x7e]*")  # verbatim, but without "#": some servers would read a fragment
_ABSOLUTE = re.compile(rb"(?:https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9\-._~]+)?\])(?::[0-9]{0,5})?"
)
_FORBIDDEN = {0x5C: "an encoded backslash (%5C)", 0x00: "an encoded NUL (%00)"}


def split_target(target: bytes, method: bytes = b"GET", path_bytes: int = 8192) -> Target:
    """Split a request target so that no later server can read another path out of it than the one that policy saw.

    Literal dot segments are removed (RFC 3986 section 5.2.4). Escapes of unreserved characters are decoded and the
    others upper-cased (sections 6.2.2.1, 6.2.2.2). "//" and parameters (";x") stay, because they mean something to some
    servers. %2F stays too. A doubly escaped character stays as a name (section 2.4 forbids to decode it again), unless
    it would hide a dot segment. Raise Refused "bad-path" where servers are known to differ, "path-too-long" above
    `path_bytes`, "bad-request" for a form that the method does not have (RFC 9112 section 3.2).
    """
    path, mark, query = target.partition(b"?")
    if _PLAIN.fullmatch(path) and len(path) <= path_bytes and method != b"CONNECT":
        if mark:
            _check_query(query)
        return Target(path.decode("ascii"), target, b"")

    if method == b"CONNECT":
        if not is_authority(target) or not target.rpartition(b":")[2].isdigit():
            raise Refused("bad-request", "CONNECT needs a target of the form host:port")
        return Target("", target, target)
    if target == b"*":
        if method != b"OPTIONS":
            raise Refused("bad-request", "the target * is only for OPTIONS")
        return Target("*", b"*", b"")
    authority = b""
    if not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            raise Refused("bad-request", "the target is neither a path nor an http:// URI")
        authority = match[1]
        if not is_authority(authority):  # also refuses userinfo (RFC 9110 section 4.2.4)
            raise Refused("bad-request", "the URI names no valid host")
        if not match[2] and method == b"OPTIONS":
            return Target("*", b"*", authority)  # RFC 9112 section 3.2.4
        path, mark, query = match[2].partition(b"?")
        path = path or b"/"
    if len(path) > path_bytes:
        raise Refused("path-too-long", f"{len(path)} bytes, {path_bytes} allowed")
    if mark:
        _check_query(query)
    normal = _normalise(path)
    return Target(normal.decode("ascii"), normal + mark + query, authority, _others(normal))


def is_authority(value: bytes) -> bool:
    """Return whether this is host[:port] (RFC 3986 section 3.2, without userinfo): a valid Host that is not empty."""
    return _AUTHORITY.fullmatch(value) is not None


def travels_in_trailer(name: bytes) -> bool:
    """Return whether a trailer field of this (lower-case) name may be forwarded."""
    return name not in _NOT_IN_TRAILERS and not name.startswith(OURS)


def _normalise(path: bytes) -> bytes:
    if not _WHOLE.fullmatch(path):
        if b"\\" in path:
            raise Refused("bad-path", "the path holds a backslash")
        if b"#" in path:
            raise Refused("bad-path", "the target holds a fragment (#)")
        raise Refused("bad-path", "the path holds a character that must be escaped")
    if b"/." in path:
        path = _without_dots(path)
    if b"%" in path:
        path = _ESCAPE.sub(_escape, path)
    if _hides_dots(path):
        raise Refused("bad-path", "the path holds a dot segment that is hidden by an escape or a parameter")
    return path


def _hides_dots(path: bytes) -> bool:
    """Return whether a server that decodes too often, strips parameters or trims white space would find "." or ".." as
    a segment.

    None of that is correct, and each was seen: "..;x" (Tomcat), "..%20" (Windows trims), "..%2500" and "%252e%252e"
    (decoded twice).
    """
    for _ in range(_MOST_DECODINGS):
        decoded = unquote_to_bytes(_NESTED.sub(b"%", path))
        if decoded == path:
            return any(_CUT.sub(b"", segment).strip(_BLANK) in (b".", b"..") for segment in _SEPARATORS.split(path))
        path = decoded
    return True


def _others(path: bytes) -> tuple[str, ...]:
    """Return the path as read by a server that takes %2F for a slash, and by one that then merges slashes (nginx)."""
    if b"%2F" not in path:
        return ()
    decoded = path.replace(b"%2F", b"/")
    merged = _SLASHES.sub(b"/", decoded)
    return tuple(one.decode("ascii") for one in dict.fromkeys((decoded, merged)))


def _without_dots(path: bytes) -> bytes:
    """Apply remove_dot_segments (RFC 3986 section 5.2.4) to a path that begins with a slash."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _escape(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if not _HEX.fullmatch(digits):
        raise Refused("bad-path", "the path holds a % that begins no escape")
    code = int(digits, 16)
    if code in _FORBIDDEN:
        raise Refused("bad-path", f"the path holds {_FORBIDDEN[code]}")
    if code in _UNRESERVED:
        return bytes((code,))
    return b"%" + digits.upper()


def _check_query(query: bytes) -> None:
    if not _QUERY.fullmatch(query):
        raise Refused("bad-path", "the target holds a fragment (#) or a character that must be escaped")
