"""HTTP/1.1 syntax (RFC 9112), sans-IO: bytes in, heads and body pieces out, and heads and chunks as bytes. Only this
file imports h11.

Theory of operation. An `Incoming` holds the bytes of one direction of one connection. Heads are matched whole against
the strict grammar below, which admits less than h11 does: it refuses everything that two parsers could read in two ways
(bare LF or CR, folded lines, NUL, space before a colon, two framings). A head that passes needs no second parser. h11
on both sides took 250 us per request where this takes 20, and did not catch bare LF in trailers and bare CR in chunk
lines. The tests prove that both read every accepted request alike. h11 reads responses that are not in the strict form:
it knows the deviations that clients have always tolerated in servers. Such a head is forwarded in strict form.
"""

from __future__ import annotations

import re

from nodeproxy.codec.fields import pair, read_request_fields, read_response_fields
from nodeproxy.codec.message import CHUNKED, UNTIL_CLOSE, Body, RequestHead, ResponseHead, travels_in_trailer
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits

# RFC 9110 section 5.6.2 (token), RFC 9112 sections 3, 4 and 5. Quantifiers are possessive: no head can cause
# backtracking.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"
_LINES = rb"(?:%s:%s\r\n)*+" % (_TOKEN, _VALUE)
_REQUEST = re.compile(rb"(%s) ([\x21-\x7e]++) HTTP/1\.([01])\r\n(%s)" % (_TOKEN, _LINES))
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) (%s)\r\n(%s)" % (_VALUE, _LINES))
_TRAILERS = re.compile(_LINES)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;%s)?" % _VALUE)
# What no complete head may contain, to be found before the head is complete.
_ODD = re.compile(rb"\x00|(?<!\r)\n|\r(?!\n|\Z)")
_BLANK_LINE = re.compile(rb"\n\r?\n")  # how lenient servers end a head
_PADDED_NAME = re.compile(rb"^(%s)[ \t]++:" % _TOKEN, re.MULTILINE)

_TRAILER_BYTES = 8192  # of a whole trailer section
_CHUNK_LINE = 1024  # bytes of a chunk-size line; extensions are legal and unused


class Incoming:
    """One direction of a connection: feed it bytes, take heads and bodies out. None means that more bytes are needed.

    On a fault it raises Refused with the given flag: "bad-request" for what callers send, "upstream-broken" for what
    servers send. After a fault the object must not be used again.
    """

    __slots__ = ("_flag", "_left", "_searched", "_state", "complete", "data", "ended", "trailers")

    def __init__(self, flag: str) -> None:
        self._flag = flag
        self.data = b""
        self._searched = 0  # how far `data` was searched for the end of a head
        self._left = 0  # bytes of the body, or of the chunk, that are still to come; UNTIL_CLOSE
        self._state = ""  # of a chunked body: "size", "data", "crlf", "trailers"; "" if the body is not chunked
        self.complete = True  # the whole body was taken out
        self.ended = False  # the peer ended its sending
        self.trailers: list[bytes] = []  # forwarded lines of the last message's trailers

    def __repr__(self) -> str:
        return f"<Incoming {len(self.data)} bytes held, {'complete' if self.complete else self._state or self._left}>"

    def feed(self, data: bytes | bytearray) -> None:
        self.data = self.data + data if self.data else bytes(data)

    def feed_end(self) -> None:
        """Record that the peer ended its sending. Raise Refused if that cuts a body short (RFC 9112 section 8)."""
        self.ended = True
        if not self.complete:
            if self._left != UNTIL_CLOSE:
                raise Refused(self._flag, "the connection ended in the middle of a body")
            self.complete = True

    def body_passed(self) -> None:
        """Record that the body of the last head went another way."""
        self._begin_body(0)

    def rest(self) -> bytes:
        """Take out all unread bytes: the first bytes of the protocol that an upgrade switched to."""
        data, self.data = self.data, b""
        return data

    # heads

    def request_head(self, limits: Limits) -> RequestHead | None:
        """Take out the next request head; return None if it is not complete. Raise Refused."""
        data = self.data
        # RFC 9112 section 2.2: ignore at least one empty line before the request line. Exactly one is ignored.
        begin = 2 if data.startswith(b"\r\n") else 0
        end = data.find(b"\r\n\r\n", begin if self._searched < 4 else self._searched - 3)
        if end < 0:
            self._check_partial(data, begin, limits)
            return None
        end += 2
        if end - begin > limits.head_bytes:
            raise _too_large(data, begin, limits)
        match = _REQUEST.fullmatch(data, begin, end)
        if match is None:
            raise _fault(data[begin:end])
        method, target, minor, block = match.groups()
        head = RequestHead(method, target, 1 if minor == b"1" else 0)
        head.size = end + 2
        read_request_fields(head, block, limits)
        self.data = data[end + 2 :]
        self._searched = 0
        self._begin_body(head.length)
        return head

    def response_head(self, method: bytes, limits: Limits) -> ResponseHead | None:
        """Take out the next response head, final or 1xx; return None if it is not complete.

        `method` is that of the request. Raise Refused.
        """
        data = self.data
        end = data.find(b"\r\n\r\n", self._searched - 3 if self._searched > 3 else 0) + 2
        match = _RESPONSE.fullmatch(data, 0, end) if end > 1 else None
        if match is not None and end <= limits.head_bytes:
            minor, status, reason, block = match.groups()
            head = ResponseHead(int(status), reason, 1 if minor == b"1" else 0)
            raw = block.split(b"\r\n")
            raw.pop()
            read_response_fields(head, raw)
            self.data = data[end + 2 :]
        elif (
            blank := _BLANK_LINE.search(data, max(self._searched - 2, 0))
        ) is not None and blank.end() <= limits.head_bytes:
            # RFC 9112 section 5.1: a proxy removes white space before the colon from a response.
            head, self.data = _lenient_response(_PADDED_NAME.sub(rb"\1:", data[: blank.end()]), data[blank.end() :])
        elif len(data) > limits.head_bytes:
            raise Refused("upstream-broken", f"the response head is larger than {limits.head_bytes} bytes")
        elif self.ended or not b"HTTP/".startswith(data[:5]):
            raise Refused("upstream-broken", "what the server sent is not an HTTP/1 response")
        else:
            self._searched = len(data)
            return None
        self._searched = 0
        # RFC 9112 section 6.3, steps 1 and 2: responses that have no body whatever their head says.
        if (
            method == b"HEAD"
            or head.status in (204, 304)
            or head.status < 200
            or (method == b"CONNECT" and head.status < 300)
        ):
            head.length = 0
        if head.status >= 200:
            self._begin_body(head.length)
        return head

    def _check_partial(self, data: bytes, begin: int, limits: Limits) -> None:
        """Refuse an incomplete head as soon as no further bytes could complete it."""
        if len(data) - begin > limits.head_bytes:
            raise _too_large(data, begin, limits)
        if len(data) > begin:
            odd = _ODD.search(data, max(begin, self._searched - 1))
            if odd is not None or not re.match(_TOKEN, data[begin : begin + 1]):
                if data != b"\r":
                    raise _fault(data[begin:])
            elif self.ended:
                raise Refused("client-gone", "the connection ended in the middle of a request head")
        self._searched = len(data)

    # bodies

    def _begin_body(self, length: int) -> None:
        self._left = length
        self._state = ""
        self.trailers = []
        self.complete = length == 0
        if length == CHUNKED:
            self._state = "size"

    def body(self) -> bytes | None:
        """Take out the available body bytes; `complete` says whether they were the last.

        Return None if more are needed.
        """
        data = self.data
        if self._state:
            return self._chunks(data)
        left = self._left
        if left >= 0:
            if len(data) >= left:
                self.complete = True
                self._left = 0
                self.data = data[left:]
                return data[:left]
            self._left = left - len(data)
        elif self.ended:
            self.complete = True
        self.data = b""
        return data or (b"" if self.complete else None)

    def _chunks(self, data: bytes) -> bytes | None:
        """Read chunks (RFC 9112 section 7.1).

        Chunks that are available together come out together: their borders mean nothing.
        """
        pieces: list[bytes] = []
        at = 0
        while True:
            if self._state == "data":
                piece = data[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._state = "crlf"
            elif self._state == "crlf":
                here = data[at : at + 2]
                if here != b"\r\n":
                    if b"\r\n".startswith(here):
                        break
                    raise Refused(self._flag, "a chunk is longer than it said")
                at += 2
                self._state = "size"
            elif self._state == "size":
                end = data.find(b"\r\n", at)
                line = data[at : at + _CHUNK_LINE + 1] if end < 0 else data[at:end]
                fits = len(line.removesuffix(b"\r")) < _CHUNK_LINE
                if end < 0 and fits and not _ODD.search(line):
                    break
                if self._flag == "upstream-broken":
                    line = line.rstrip(b" \t")  # servers in use pad it; callers must not
                match = _CHUNK.fullmatch(line) if fits else None
                if match is None:
                    raise Refused(self._flag, "a chunk begins with no valid size")
                at = end + 2
                self._left = int(match[1], 16)
                self._state = "data" if self._left else "trailers"
            else:
                taken = self._read_trailers(data, at)
                if taken < 0:
                    break
                at = taken
                self._state = ""
                self.complete = True
                break
        self.data = data[at:]
        return b"".join(pieces) if pieces or self.complete else None

    def _read_trailers(self, data: bytes, at: int) -> int:
        """Read the trailer section that begins at `at`. Return where it ends; -1 if it is not complete."""
        if data.startswith(b"\r\n", at):
            return at + 2
        seen = at + max(self._searched - 3, 0)  # bytes that were searched before are not searched again
        end = data.find(b"\r\n\r\n", seen)
        block = data[at : end + 2] if end >= 0 else data[at:]
        begun = end < 0 and block.endswith(b"\r\n\r")  # the line that ends the section
        if (
            len(block) > _TRAILER_BYTES + begun
            or _ODD.search(data, seen, at + len(block))
            or (end >= 0 and not _TRAILERS.fullmatch(block))
        ):
            raise Refused(self._flag, "the trailer section is malformed or too large")
        if end < 0:
            self._searched = len(block)
            return -1
        self._searched = 0
        self.trailers = [line for line in block.split(b"\r\n")[:-1] if travels_in_trailer(pair(line)[0])]
        return end + 4


def _lenient_response(data: bytes, after: bytes) -> tuple[ResponseHead, bytes]:
    """Read a response head with h11: bare LF, folded lines, no reason phrase.

    Return the head and the bytes after it.
    """
    import h11  # most nodes never meet such a server

    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(data) + 1)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "server")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    try:
        event = reader.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused("upstream-broken", f"the server broke HTTP/1.1: {error}") from error
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise Refused("upstream-broken", "what the server sent is not an HTTP/1 response")
    head = ResponseHead(event.status_code, bytes(event.reason), 0 if event.http_version < b"1.1" else 1)
    raw = [bytes(name) + b": " + bytes(value) for name, value in event.headers.raw_items()]
    if not all(_TRAILERS.fullmatch(line + b"\r\n") for line in raw):
        raise Refused("upstream-broken", "a field of the response holds a control character")
    read_response_fields(head, raw)
    return head, bytes(reader.trailing_data[0]) + after


def _too_large(data: bytes, begin: int, limits: Limits) -> Refused:
    # RFC 9112 section 3: 414 if the target is too long.
    if b"\r\n" not in data[begin : begin + limits.head_bytes]:
        return Refused("path-too-long", f"the request line is longer than {limits.head_bytes} bytes")
    return Refused("head-too-large", f"more than {limits.head_bytes} bytes")


def _fault(head: bytes) -> Refused:
    """Return why a request head, or its beginning, is refused: for people, so the first fault that explains it."""
    line, _, block = head.partition(b"\r\n")
    if b"\0" in head:
        detail = "a NUL byte in the head (RFC 9110 section 5.5)"
    elif re.search(rb"(?<!\r)\n", head):
        detail = "a line that ends in LF without CR (RFC 9112 section 2.2)"
    elif re.search(rb"\r(?!\n|\Z)", head):
        detail = "a CR without LF (RFC 9112 section 2.2)"
    elif not re.fullmatch(rb"%s [\x21-\x7e]+ HTTP/[0-9]\.[0-9]" % _TOKEN, line):
        detail = "the first line is no request line: METHOD TARGET HTTP/1.1 (RFC 9112 section 3)"
    elif not line.endswith((b"HTTP/1.0", b"HTTP/1.1")):
        detail = "a version other than HTTP/1.0 and HTTP/1.1 (RFC 9112 section 2.3)"
    elif re.search(rb"(?:\A|\n)[ \t]", block):
        detail = "a folded line (RFC 9112 section 5.2)"
    elif re.search(rb"(?:\A|\n)%s[ \t]+:" % _TOKEN, block):
        detail = "white space between field name and colon (RFC 9112 section 5.1)"
    elif re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", block):
        detail = "a control character in a field (RFC 9110 section 5.5)"
    else:
        detail = "a line that is no field: name, colon, value (RFC 9112 section 5)"
    return Refused("bad-request", detail)


# what edgemesh sends


def write_request(head: RequestHead, sent: bytes, host: bytes, forwarded_for: bytes) -> bytes:
    """Return a request head as bytes: the checked fields, and framing that edgemesh writes itself.

    `sent` is the target to send. `forwarded_for` b"": nobody is named.
    """
    # RFC 9110 section 7.2: Host first. The body's framing is the caller's, but newly written.
    lines = [b"%b %b HTTP/1.1\r\nhost: %b" % (head.method, sent, host)]
    lines += head.lines
    if forwarded_for:
        lines.append(b"x-forwarded-for: " + forwarded_for)
    if head.length == CHUNKED:
        lines.append(b"transfer-encoding: chunked")
    elif head.declared:
        lines.append(b"content-length: %d" % head.length)
    if head.bare:
        # A server that reads no body here would take it for the next request, which policy has not seen. So no next
        # request follows.
        lines.append(b"connection: close")
    elif head.upgrade:
        lines.append(b"connection: upgrade\r\nupgrade: " + head.upgrade)
    if head.trailers_ok:
        lines.append(b"connection: te\r\nte: trailers")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def write_response(head: ResponseHead, framing: int | None, close: bool) -> bytes:
    """Return a response head as bytes.

    `framing`: the body's length or CHUNKED; None or UNTIL_CLOSE: no framing field is written.
    """
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    lines += head.lines
    if framing == CHUNKED:
        lines.append(b"transfer-encoding: chunked")
    elif framing is not None and framing >= 0:
        lines.append(b"content-length: %d" % framing)
    if head.status in (101, 426) and head.upgrade:  # RFC 9110 sections 15.2.2 and 15.5.22
        lines.append(b"connection: upgrade\r\nupgrade: " + head.upgrade)
    if close:
        lines.append(b"connection: close")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def write_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def write_last_chunk(trailers: list[bytes]) -> bytes:
    if not trailers:
        return b"0\r\n\r\n"
    return b"0\r\n" + b"\r\n".join(trailers) + b"\r\n\r\n"


def framed(piece: bytes, source: Body, chunked: bool) -> bytes:
    """Return a piece of a body as it is forwarded, with the end of the body if `source` is complete."""
    if not chunked:
        return piece
    out = write_chunk(piece) if piece else b""
    return out + write_last_chunk(source.trailers) if source.complete else out


def response_framing(response: ResponseHead, minor: int) -> tuple[int | None, bool]:
    """Return how a response is framed for a caller of HTTP/1.minor: the `framing` for write_response, and whether its
    body is chunked.

    A body that ends with the server's connection is chunked for the caller, whose connection may continue. For an
    HTTP/1.0 caller, which cannot read chunks, the body ends with the caller's connection.
    """
    if response.length == 0:
        # RFC 9110 sections 9.3.2 and 15.4.5: HEAD and 304 announce the body that GET would have had. Section 8.6: 204
        # none.
        framing = None if response.status == 204 else response.declared
        return (None if framing == CHUNKED and not minor else framing), False
    if response.length > 0:
        return response.length, False
    return (CHUNKED, True) if minor else (None, False)
