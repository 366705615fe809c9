"""The one small HTTP client: one request and its response over a connection that the caller opened.

The connection is TCP, TLS or a Unix socket. The client is sans-IO (`Exchange`), with a loop for trio and one for a
blocking socket. Heads and bodies are bounded. The caller sets deadlines: with a cancel scope, or with the socket's
timeout. A connection carries one request and is closed afterwards (RFC 9112 section 9.6), unless the caller says `keep`.
A body without an end, as that of a Kubernetes watch, is read piece by piece (`begin`, `Exchange.pieces`).

Updates are not downloaded with this client (agent/ota/fetch.py): they need redirects, proxies and ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import Struct

from nodeproxy.codec.http1 import Incoming
from nodeproxy.codec.message import UNTIL_CLOSE, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits

if TYPE_CHECKING:  # a command that asks the daemon should not have to load these
    import socket

    import trio

_LIMITS = Limits(head_bytes=8192, header_count=64)
_BLOCK = 65536  # bytes of one read
JSON = "application/json"
_NO_FIELDS: Mapping[str, str] = MappingProxyType({})


class Response(Struct, frozen=True):
    status: int
    body: bytes


class Exchange:
    """The bytes of one request, and the parser of its response.

    `target`: the path with its query (RFC 9112 section 3.2.1). `host`: the Host field. `body`: b"" for no body. `most`:
    bytes that the response's body may have. `fields`: further fields of the request; their values may be secrets.
    `keep`: the connection may carry another request afterwards, if `reusable` says so.
    """

    def __init__(
        self,
        method: str,
        target: str,
        host: str,
        body: bytes = b"",
        most: int = 64 * 1024,
        *,
        accept: str = JSON,
        content_type: str = JSON,
        fields: Mapping[str, str] = _NO_FIELDS,
        keep: bool = False,
    ) -> None:
        """Raise ValueError if a part of the head has a character that could end its line."""
        connection = "" if keep else "connection: close\r\n"
        head = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n{connection}accept: {accept}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        if body:
            head += f"content-type: {content_type}\r\n"
        if body or method == "POST":
            head += f"content-length: {len(body)}\r\n"  # RFC 9110 section 8.6
        lines = 3 + (not keep) + len(fields) + bool(body) + (bool(body) or method == "POST")
        if not head.count("\r") == head.count("\n") == lines or not head.isascii():
            raise ValueError(f"{method} {target!r}: a part of its head holds a line's end, or is no ASCII")
        self.request = head.encode("ascii") + b"\r\n" + body
        self._method = method.encode("ascii")
        self._most = most
        self._incoming = Incoming("upstream-broken")
        self._head: ResponseHead | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<Exchange {self.request.partition(b' HTTP/')[0].decode()}>"

    def receive(self, data: bytes | bytearray) -> Response | None:
        """Feed received bytes, or b"" at the end of the connection. Return the response once it is complete, else None.

        Raise Refused (flag "upstream-broken") when the response is no HTTP, is cut short, or is too large.
        """
        incoming = self._incoming
        head = self.receive_head(data)
        if head is None:
            return None
        while not incoming.complete:
            piece = incoming.body()
            if piece is None:
                return None
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > self._most:
                raise Refused("upstream-broken", f"the answer is larger than {self._most // 1024} KiB")
        return Response(head.status, b"".join(self._pieces))

    def receive_head(self, data: bytes | bytearray) -> ResponseHead | None:
        """Feed received bytes, or b"" at the end of the connection. Return the head once it is there.

        Then `receive(...)` reads the body whole, or `pieces()` what there is of it. Raise Refused as `receive` does.
        """
        if data:
            self._incoming.feed(data)
        else:
            self._incoming.feed_end()
        while self._head is None or self._head.status < 200:  # interim responses: RFC 9110 section 15.2
            self._head = self._incoming.response_head(self._method, _LIMITS)
            if self._head is None:
                return None
        return self._head

    @property
    def begun(self) -> bool:
        """Whether anything of a response has arrived."""
        return self._head is not None or bool(self._incoming.data)

    @property
    def too_large(self) -> bool:
        """Whether `receive` refused the response for its size."""
        return self._size > self._most

    def pieces(self) -> bytes:
        """Take out the bytes of the body that have arrived, without a bound on all of them; see `complete`."""
        return b"" if self._incoming.complete else self._incoming.body() or b""

    @property
    def complete(self) -> bool:
        """Whether the whole response was taken out."""
        return self._head is not None and self._head.status >= 200 and self._incoming.complete

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request: RFC 9112 section 9.3."""
        return (
            self.complete
            and self._head is not None
            and not self._head.close
            and self._head.length != UNTIL_CLOSE
            and not self._incoming.data
            and not self._incoming.ended
        )

    def field(self, name: bytes) -> str:
        """Return the value of a field of the response's head; "" if it has none. `name`: in lower case."""
        for line in self._head.lines if self._head else ():
            found, _, value = line.partition(b":")
            if found.lower() == name:
                return value.strip().decode("latin-1")
        return ""


async def begin(stream: trio.abc.Stream, exchange: Exchange) -> ResponseHead:
    """Send the request over a trio stream, and return the head of the response.

    Raise Refused as `Exchange.receive` does, and trio.BrokenResourceError.
    """
    await stream.send_all(exchange.request)
    while True:
        head = exchange.receive_head(await stream.receive_some(_BLOCK))
        if head is not None:
            return head


async def more(stream: trio.abc.Stream, exchange: Exchange) -> bytes:
    """Return the next piece of the body of a response that `begin` has begun; b"" at its end.

    Raise Refused if the body is cut short, and trio.BrokenResourceError.
    """
    while not exchange.complete:
        if piece := exchange.pieces():
            return piece
        if not exchange.complete:
            exchange.receive_head(await stream.receive_some(_BLOCK))
    return b""


async def fetch(stream: trio.abc.Stream, exchange: Exchange) -> Response:
    """Send the request over a trio stream and return the response.

    Raise Refused as `Exchange.receive` does, and trio.BrokenResourceError.
    """
    await stream.send_all(exchange.request)
    while True:
        response = exchange.receive(await stream.receive_some(_BLOCK))
        if response is not None:
            return response


def fetch_blocking(sock: socket.socket, exchange: Exchange) -> Response:
    """Send the request over a blocking socket and return the response.

    Raise Refused as `Exchange.receive` does, and OSError; TimeoutError after the socket's timeout.
    """
    sock.sendall(exchange.request)
    while True:
        response = exchange.receive(sock.recv(_BLOCK))
        if response is not None:
            return response
