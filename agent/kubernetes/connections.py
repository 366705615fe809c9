"""Connections to an API server, and the token, certificate and roots by which both ends prove who they are.

These files are renewed in place, so they are read again each minute, at once when the server says 401, and after a
connection that failed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable

import trio

from agent.kubernetes import tls
from agent.kubernetes.access import Access, AccessError
from nodeproxy.errors import Refused

CONNECT = 10.0  # seconds to connect, with the TLS handshake
_MOST_IDLE = 2  # connections that are kept
_IDLE = 30.0  # seconds that a connection is kept; an API server keeps it for 3 minutes
_RENEW = 60.0  # seconds after which the files are read again
# A peer that is gone without a word, or a NAT that forgot the connection, is found within a minute of silence.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_SENT_UNANSWERED = 30_000  # milliseconds that sent bytes may stay without acknowledgement (TCP_USER_TIMEOUT)

# What is raised where there is no connection, or it breaks; `in_words` has the words for it.
BROKEN = (Refused, OSError, trio.BrokenResourceError, trio.ClosedResourceError, AccessError)

Dial = Callable[[str, int], Awaitable[trio.SocketStream]]


class Connections:
    """The connections of one client. What breaks, or cannot be read, is raised as one of BROKEN."""

    def __init__(self, access: Access, dial: Dial) -> None:
        self._access = access
        self._dial = dial
        self._idle: list[tuple[trio.abc.Stream, float]] = []
        self._context: tls.Context | None = None
        self._material: tuple[bytes, ...] = ()  # what was in the files
        self._read_at = -_RENEW

    def __repr__(self) -> str:
        return f"<Connections to {self._access.place}, {len(self._idle)} idle>"

    @property
    def token(self) -> str:
        """The token, as it is sent; "" for none. It is read again when that is due. Raise AccessError."""
        self.renew()
        return self._material[0].decode("latin-1")

    async def kept(self) -> trio.abc.Stream | None:
        """Take an idle connection, if there is one: the newest, as it is the likeliest to be open."""
        while self._idle:
            stream, since = self._idle.pop()
            if trio.current_time() - since < _IDLE:
                return stream
            await trio.aclose_forcefully(stream)
        return None

    async def give_back(self, stream: trio.abc.Stream, reusable: bool) -> None:
        """Keep a connection for another request, or close it."""
        if reusable and len(self._idle) < _MOST_IDLE:
            self._idle.append((stream, trio.current_time()))
        else:
            await trio.aclose_forcefully(stream)

    async def open(self) -> trio.abc.Stream:
        """Connect."""
        access = self._access
        stream: trio.SocketStream | None = None
        try:
            with trio.fail_after(CONNECT):
                stream = await self._dial(access.host, access.port)
                _watch_the_peer(stream)
                if access.plain:
                    return stream
                if self._context is None:
                    self._context = tls.context_of(access)
                return await tls.secured(stream, self._context, access.server_name or access.host)
        except BaseException as error:
            if stream is not None:
                await trio.aclose_forcefully(stream)
            if isinstance(error, trio.TooSlowError):
                raise TimeoutError(f"no connection within {CONNECT:g} s") from error
            if isinstance(error, OSError | trio.BrokenResourceError):
                self._read_at = -_RENEW  # its root may be a new one
            raise

    def renew(self, at_once: bool = False) -> bool:
        """Read the files again if that is due. Return whether something is new. Raise AccessError."""
        now = time.monotonic()
        if not at_once and now - self._read_at < _RENEW:
            return False
        access = self._access
        try:
            material = tuple(part.read() for part in (access.token, access.roots, access.certificate, access.key))
        except AccessError:
            if self._material:  # a file that is being replaced; what we had may still be good
                return False
            raise
        material = (material[0].strip(), *material[1:])
        self._read_at = now
        if material == self._material:
            return False
        if material[1:] != self._material[1:]:
            self._context = None
        self._material = material
        return True

    async def aclose(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop()[0])


def _watch_the_peer(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        stream.setsockopt(socket.IPPROTO_TCP, option, value)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SENT_UNANSWERED)


def in_words(error: BaseException) -> str:
    """Return why there is no connection; of several addresses that were tried, each reason once."""
    if words := tls.why(error):
        return words
    if isinstance(error, Refused):
        return error.detail
    if isinstance(error, AccessError):
        return error.message
    if isinstance(error.__cause__, BaseExceptionGroup):
        return ", ".join(dict.fromkeys(in_words(one) for one in error.__cause__.exceptions))
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error) or "the connection broke"
