"""What one HTTP/2 peer may ask of us: bounds, budgets, and which fields are well formed (sans-IO, without the h2 library)."""

from __future__ import annotations

import re
from enum import IntEnum

from msgspec import Struct

from nodeproxy.http.message import Fields

FIRST_WINDOW = 65535  # RFC 9113 section 6.9.2: what every stream and connection has before anybody says another number


class Code(IntEnum):
    """Error codes of RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Bounds(Struct, frozen=True):
    """Numbers of one connection, for boards with little memory.

    `connection_window` bounds what all streams together hold for consumers that do not take it. When they hold that much, every
    stream of the connection waits. So a connection that several workloads share needs max_streams * 64 KiB and half as much
    again, or one workload that does not read could stall the others: see `shared`.
    """

    stream_window: int = 262144  # what a stream whose consumer keeps up may grow to; each begins with 64 KiB
    connection_window: int = 1048576
    max_streams: int = 100
    head_bytes: int = 65536  # of one head, decoded, counted as RFC 9113 section 6.5.2 does; and of its encoded block
    header_count: int = 100
    frame_size: int = 16384
    queue_bytes: int = 65536  # senders wait while more is queued; four times that, made by the peer's own frames, is abuse
    control_burst: int = 1000  # frames that carry nothing: PING, SETTINGS, WINDOW_UPDATE, empty DATA ...
    control_rate: int = 100  # and so many a second; frames that do carry something earn some
    reset_burst: int = 500  # streams that the peer resets, or that we must reset or refuse for what it sent
    reset_rate: int = 50  # and so many a second; each stream served to its end earns one
    preface: float = 10.0  # seconds for the connection preface and the first SETTINGS
    stall: float = 300.0  # seconds that a sender waits for a window, or the writer for the peer to read anything
    farewell: float = 1.0  # seconds for the last bytes (GOAWAY) of a connection to leave
    native: bool = True  # by the compiled state machine, where there is one

    def __post_init__(self) -> None:
        if min(self.stream_window, self.connection_window) < FIRST_WINDOW:
            raise ValueError(f"a window below {FIRST_WINDOW} bytes cannot be told to the peer in time (RFC 9113 section 6.9.2)")

    def shared(self) -> Bounds:
        """The same for a connection that several workloads share: streams that nobody reads cannot stall the others."""
        held = self.max_streams * (FIRST_WINDOW + 1)
        return Bounds(**{**{name: getattr(self, name) for name in self.__struct_fields__}, "connection_window": held + held // 2})


class Budget:
    """A token bucket: `burst` at once, `rate` a second."""

    __slots__ = ("_at", "burst", "left", "rate")

    def __init__(self, burst: int, rate: int, now: float) -> None:
        self.burst = burst
        self.rate = rate
        self.left = float(burst)
        self._at = now

    def __repr__(self) -> str:
        return f"<Budget {self.left:.0f} of {self.burst} left>"

    def earn(self, amount: int) -> None:
        if self.left < self.burst:
            self.left += amount

    def spend(self, cost: int, now: float) -> bool:
        """False when it is used up."""
        self.left -= cost
        if self.left >= 0:
            return True
        self.left = min(self.burst - cost, self.left + (now - self._at) * self.rate)
        self._at = now
        return self.left >= 0


# RFC 9113 section 8.2.1 forbids less than this. These fields may be sent on as HTTP/1.1, whose grammar (RFC 9110 section 5.5) has no
# control characters either, so that nobody after us can read two fields out of one.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_STATUS = re.compile(rb"[1-9][0-9][0-9]")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
# RFC 9113 section 8.2.2
_CONNECTION_SPECIFIC = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


def wrong_request(fields: Fields) -> str:
    """Why a request head is malformed (RFC 9113 section 8.3.1), "" when it is not."""
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
    """Why a response head is malformed (RFC 9113 section 8.3.2), "" when it is not."""
    pseudo = dict[bytes, bytes]()
    why = _wrong(fields, pseudo)
    if why:
        return why
    status = pseudo.get(b":status", b"")
    if len(pseudo) != 1 or not _STATUS.fullmatch(status):
        return "a response needs :status, and no other pseudo field"
    return "101 (RFC 9113 section 8.6)" if status == b"101" else ""


def wrong_trailers(fields: Fields) -> str:
    """Why trailers are malformed (RFC 9113 section 8.1), "" when they are not."""
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


def too_large(fields: Fields, bounds: Bounds) -> bool:
    return len(fields) > bounds.header_count or sum(len(name) + len(value) + 32 for name, value in fields) > bounds.head_bytes
