"""The first message of a TLS client, read without terminating TLS (sans-IO): server name, protocols and versions (RFC
8446 section 4.1.2).

The parser is strict where two readers could differ: a message with a repeated item, or with a length that does not fit
its content, is no ClientHello.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from msgspec import Struct

_T = TypeVar("_T")

MOST = 16384  # bytes that are examined; with post-quantum key shares a ClientHello has about 2,000
TLS12, TLS13 = 0x0303, 0x0304

# Alerts that edgemesh sends before anything is encrypted (RFC 8446 section 6, RFC 7301 section 3.2)
ACCESS_DENIED, DECODE_ERROR, PROTOCOL_VERSION, UNRECOGNIZED_NAME, NO_APPLICATION_PROTOCOL = 49, 50, 70, 112, 120

_HANDSHAKE, _CLIENT_HELLO = 0x16, 1
_RECORD = 16384  # RFC 8446 section 5.1: the maximum content of a record
_RECORDS = 32  # each record makes the start be read again, so this bounds the cost of a client that sends byte by byte
_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS, _ECH = 0, 16, 43, 0xFE0D
# RFC 6066 section 3: ASCII, no address. Underscores are in use.
_HOST = re.compile(r"[a-z0-9_](?:[-a-z0-9_.]{0,252}[a-z0-9_])?")


class Hello(Struct, frozen=True):
    """What a ClientHello contains in plain text. `sni` is "" and `alpn` is () if the client sent none."""

    sni: str = ""
    alpn: tuple[str, ...] = ()
    versions: tuple[int, ...] = (TLS12,)
    ech: bool = False  # the server name may be another one, encrypted (encrypted_client_hello)

    @property
    def tls13(self) -> bool:
        return TLS13 in self.versions


def read_hello(data: bytes | bytearray) -> Hello | None:
    """Return the ClientHello that these bytes begin with; None if more bytes are needed.

    Raise ValueError if the bytes are no ClientHello, or too many.
    """
    message = _message(data)
    return None if message is None else _hello(message)


def alert(code: int) -> bytes:
    """Return a fatal alert in its own record (RFC 8446 sections 5.1 and 6)."""
    return bytes((0x15, 0x03, 0x03, 0, 2, 2, code))


def _message(data: bytes | bytearray) -> bytes | None:
    """Return the handshake message, reassembled from records (RFC 8446 section 5.1)."""
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
                # RFC 8446 section 4.1.2: until the server replies, the client sends nothing more, except early data in
                # other records.
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
    if not body.ended:  # TLS 1.2 allows no extensions at all
        for kind, extension in body.whole(2).each(lambda fields: (fields.number(2), _Fields(fields.block(2)))):
            if kind in found:
                raise ValueError(f"extension {kind} comes twice")
            found[kind] = extension
        body.end()
    return Hello(
        _server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else "",
        _protocols(found[_ALPN]) if _ALPN in found else (),
        _versions(found[_SUPPORTED_VERSIONS]) if _SUPPORTED_VERSIONS in found else (version,),
        _ECH in found,
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
    """Takes fields off the front of bytes. Raises ValueError if the bytes are shorter than their length fields say."""

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
        """Return a field that begins with its own length, of `size` bytes."""
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
