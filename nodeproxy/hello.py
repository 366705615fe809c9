"""The first message of a TLS client, read without opening it (sans-IO): server name, protocols and versions (RFC 8446 section 4.1.2).

Strict where two readers could differ: what is said twice, or is longer or shorter than it says, is no ClientHello.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from msgspec import Struct

_T = TypeVar("_T")

MOST = 16384  # bytes that are looked at; with post-quantum key shares a ClientHello comes to about 2,000
TLS12, TLS13 = 0x0303, 0x0304

# Alerts that we answer with before anything is encrypted (RFC 8446 section 6, RFC 7301 section 3.2)
DECODE_ERROR, PROTOCOL_VERSION, UNRECOGNIZED_NAME, NO_APPLICATION_PROTOCOL = 50, 70, 112, 120

_HANDSHAKE, _CLIENT_HELLO = 0x16, 1
_RECORD = 16384  # RFC 8446 section 5.1: the most that a record carries
_RECORDS = 32  # a client that sends byte by byte makes us read the start again each time: what that costs is bounded by this
_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS = 0, 16, 43
# RFC 6066 section 3: ASCII, no address. Underscores are in use.
_HOST = re.compile(r"[a-z0-9_](?:[-a-z0-9_.]{0,252}[a-z0-9_])?")


class Hello(Struct, frozen=True):
    """What a ClientHello says in the clear. `sni` is "" and `alpn` is () when it says nothing."""

    sni: str = ""
    alpn: tuple[str, ...] = ()
    versions: tuple[int, ...] = (TLS12,)

    @property
    def tls13(self) -> bool:
        return TLS13 in self.versions


def read_hello(data: bytes | bytearray) -> Hello | None:
    """The ClientHello that these bytes begin with; None while more are needed. Raises ValueError when they are none, or too many."""
    message = _message(data)
    return None if message is None else _hello(message)


def alert(code: int) -> bytes:
    """A fatal alert in a record of its own (RFC 8446 sections 5.1 and 6)."""
    return bytes((0x15, 0x03, 0x03, 0, 2, 2, code))


def _message(data: bytes | bytearray) -> bytes | None:
    """The handshake message, put together from records (RFC 8446 section 5.1)."""
    if data and data[0] != _HANDSHAKE:
        raise ValueError("it begins with no TLS handshake record")
    message = bytearray()
    at = records = 0
    while len(data) > at:
        records += 1
        if records > _RECORDS:
            raise ValueError(f"a ClientHello in more than {_RECORDS} records")
        header = data[at : at + 5]
        if header[0] != _HANDSHAKE or header[1:2] not in (b"", b"\x03"):
            raise ValueError("no TLS handshake record where one must be")
        if len(header) < 5:
            break
        length = int.from_bytes(header[3:5])
        if not 0 < length <= _RECORD:
            raise ValueError(f"a TLS record of {length} bytes")
        message += data[at + 5 : at + 5 + length]
        if message and message[0] != _CLIENT_HELLO:
            raise ValueError("the first handshake message is no ClientHello")
        if len(message) >= 4:
            size = 4 + int.from_bytes(message[1:4])
            if size > MOST:
                raise ValueError(f"a ClientHello of {size} bytes; {MOST} are allowed")
            if len(message) > size:
                # RFC 8446 section 4.1.2: the client sends nothing more before the server has answered, but early data in other records.
                raise ValueError("another handshake message follows the ClientHello in its record")
            if len(message) == size:
                return bytes(message[4:])
        at += 5 + length
    if len(data) >= MOST:
        raise ValueError(f"no whole ClientHello in {MOST} bytes")
    return None


def _hello(message: bytes) -> Hello:
    body = _Fields(message)
    version = body.number(2)
    body.take(32)  # random
    body.block(1)  # legacy_session_id
    body.block(2)  # cipher_suites
    body.block(1)  # legacy_compression_methods
    found: dict[int, _Fields] = {}
    if not body.ended:  # TLS 1.2 may go without extensions
        for kind, extension in body.whole(2).each(lambda fields: (fields.number(2), _Fields(fields.block(2)))):
            if kind in found:
                raise ValueError(f"extension {kind} comes twice")
            found[kind] = extension
        body.end()
    return Hello(
        _server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else "",
        _protocols(found[_ALPN]) if _ALPN in found else (),
        _versions(found[_SUPPORTED_VERSIONS]) if _SUPPORTED_VERSIONS in found else (version,),
    )


def _server_name(extension: _Fields) -> str:
    names = dict[int, bytes]()
    for kind, name in extension.whole(2).each(lambda fields: (fields.number(1), fields.block(2))):
        if kind in names:
            raise ValueError("two server names of one type")
        names[kind] = name
    extension.end()
    host = names.get(0, b"").decode("latin-1").lower()
    if host and not _HOST.fullmatch(host):
        raise ValueError("the server name is no host name")
    return host


def _protocols(extension: _Fields) -> tuple[str, ...]:
    found = tuple(extension.whole(2).each(lambda fields: fields.block(1).decode("latin-1")))
    extension.end()
    if not all(found):
        raise ValueError("an empty protocol name")
    return found


def _versions(extension: _Fields) -> tuple[int, ...]:
    found = tuple(extension.whole(1).each(lambda fields: fields.number(2)))
    extension.end()
    return found


class _Fields:
    """Takes fields off the front of bytes. Raises ValueError when these are shorter than they say."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) < count:
            raise ValueError("the ClientHello is shorter than it says")
        self.at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def block(self, size: int) -> bytes:
        """A field that begins with its own length, of `size` bytes."""
        return self.take(self.number(size))

    def whole(self, size: int) -> _Fields:
        return _Fields(self.block(size))

    def each(self, read: Callable[[_Fields], _T]) -> Iterator[_T]:
        while not self.ended:
            yield read(self)

    @property
    def ended(self) -> bool:
        return self.at == len(self.data)

    def end(self) -> None:
        if not self.ended:
            raise ValueError("the ClientHello is longer than it says")
