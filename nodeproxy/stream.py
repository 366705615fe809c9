"""Streams of bytes: the interfaces, one that can look before it reads, a fast path to the kernel, and how to end one.

Only this file distinguishes kinds of stream: `plain_socket`, `take_held`, `broke`, `abort`, `close_now`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import Protocol

import trio
from trio.abc import HalfCloseableStream

_RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


class WholeStream(Protocol):
    """A stream of bytes whose directions end together (TLS): the methods of trio's Stream."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def aclose(self) -> None: ...


class Stream(WholeStream, Protocol):
    """What protocol handlers need of a stream of bytes: the methods of trio's HalfCloseableStream."""

    async def send_eof(self) -> None: ...


class Peeked(HalfCloseableStream):
    """Any half-closeable stream, with `peek`: `receive_some` returns the peeked bytes again, first and in order."""

    def __init__(self, stream: HalfCloseableStream, held: bytes = b"") -> None:
        self.stream = stream
        self._held = held
        self._ended = False  # the peer's end was seen while peeking
        self._broke: trio.BrokenResourceError | None = (
            None  # likewise; the kernel reports a reset once, and then an end
        )

    def __repr__(self) -> str:
        return f"<Peeked {len(self._held)} bytes held of {self.stream!r}>"

    @property
    def held(self) -> bytes:
        return self._held

    @property
    def broken(self) -> bool:
        """Whether the stream broke during `peek`. A reader gets the held bytes first, and then the error."""
        return self._broke is not None

    async def peek(self, max_bytes: int = 65536) -> bytes:
        """Wait for more bytes than are held now, and return all that are held.

        If the peer has ended, return the same bytes as before.
        """
        if not self._ended:
            self._check()
            try:
                more = await self.stream.receive_some(max_bytes)
            except trio.BrokenResourceError as error:
                self._broke = error
                raise
            self._ended = not more
            self._held += more
        return self._held

    def take_held(self) -> bytes:
        """Return the bytes that were peeked at and not read, without waiting."""
        held, self._held = self._held, b""
        return held

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._held:
            await trio.lowlevel.checkpoint()
            if max_bytes is None or max_bytes >= len(self._held):
                held, self._held = self._held, b""
            else:
                held, self._held = self._held[:max_bytes], self._held[max_bytes:]
            return held
        if self._ended:
            await trio.lowlevel.checkpoint()
            return b""
        self._check()
        return await self.stream.receive_some(max_bytes)

    def _check(self) -> None:
        if self._broke is not None:
            raise trio.BrokenResourceError(str(self._broke)) from self._broke

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        self._held = b""
        await self.stream.aclose()


def plain_socket(stream: object) -> trio.SocketStream | None:
    """Return the socket whose bytes a stream passes unchanged, or None: TLS, a stream of HTTP/2, memory."""
    while isinstance(stream, Peeked):
        stream = stream.stream
    return stream if isinstance(stream, trio.SocketStream) else None


def take_held(stream: object) -> bytes:
    """Return the bytes that were peeked at and not read. A reader of the socket below must take them first."""
    return stream.take_held() if isinstance(stream, Peeked) else b""


def broke(stream: object) -> bool:
    """Return whether a stream broke while it was peeked at: a reader of the socket below would see an end."""
    return isinstance(stream, Peeked) and stream.broken


def abort(stream: object) -> None:
    """End a stream at once. Over TCP the peer sees a reset, never a clean end that would make a part look like the
    whole.

    Not a checkpoint, so that it also works during cancellation.
    """
    while isinstance(stream, Peeked):
        stream = stream.stream
    if isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError):
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        stream.socket.close()
    elif hasattr(stream, "abort"):
        stream.abort()


def close_now(stream: object) -> None:
    """Close without waiting and without a reset: bytes already sent still arrive. Not a checkpoint."""
    while isinstance(stream, Peeked):
        stream = stream.stream
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    elif hasattr(stream, "close"):
        stream.close()


class Wire:
    """`receive` and `send` of any stream, with as little work as possible before the kernel if the stream is a plain
    socket.

    trio.SocketStream tries to read before it waits, which nearly always fails when a request or a response is awaited,
    and lets every other task run after each write. Waiting first and writing at once saves about a third of the cost of
    relaying a small request and its response. A task that writes in a loop must therefore also read, or checkpoint, in
    it: all loops of this package do. Errors are trio's: BrokenResourceError, ClosedResourceError.
    """

    __slots__ = ("_peeked", "_socket", "stream")

    def __init__(self, stream: WholeStream) -> None:
        self.stream = stream
        self._peeked = stream if isinstance(stream, Peeked) else None
        plain = plain_socket(stream)
        self._socket = plain.socket if plain is not None else None

    def __repr__(self) -> str:
        return f"<Wire {self.stream!r}>"

    async def receive(self, max_bytes: int) -> bytes | bytearray:
        """Return the next bytes, b"" at the end of the stream. Always a checkpoint."""
        sock = self._socket
        if sock is None:
            return await self.stream.receive_some(max_bytes)
        if self._peeked is not None:
            if self._peeked.held or self._peeked.broken:
                return await self._peeked.receive_some(max_bytes)
            self._peeked = None  # peeking is over
        while True:
            try:
                await trio.lowlevel.wait_readable(sock)  # the kernel may have no memory to watch it with
                # The descriptor is read anew each time: a stored number could belong to another connection by now.
                return os.read(sock.fileno(), max_bytes)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _translated(error) from error

    async def send(self, data: bytes, last: bool = False) -> None:
        """Send all of it. A checkpoint only if the kernel does not take it at once.

        `last`: over a plain socket the end of stream goes with it, in one segment. Otherwise a peer that has received
        everything closes first, and keeps its port for a minute.
        """
        sock = self._socket
        if sock is None:
            await self.stream.send_all(data)
            return
        if last:
            with contextlib.suppress(OSError):  # no TCP
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        try:
            sent = os.write(sock.fileno(), data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _translated(error) from error
        if sent < len(data):
            await self.stream.send_all(memoryview(data)[sent:])
        if last:
            with contextlib.suppress(OSError):  # the peer has gone
                sock.shutdown(socket.SHUT_WR)


def _translated(error: OSError) -> Exception:
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError("this stream was already closed")
    return trio.BrokenResourceError(f"connection broken: {error.strerror}")
