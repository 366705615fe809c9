"""A stream that can look before it reads, and how to end a stream so that the peer knows it was cut off."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Protocol

import trio
from trio.abc import HalfCloseableStream

_RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


class WholeStream(Protocol):
    """Anything with bytes whose directions end together (TLS): the methods of trio's Stream."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...
    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
    async def aclose(self) -> None: ...


class Stream(WholeStream, Protocol):
    """What rooms need of anything with bytes: the methods of trio's HalfCloseableStream."""

    async def send_eof(self) -> None: ...


class Peeked(HalfCloseableStream):
    """Any half-closeable stream, with `peek`: bytes that were looked at come out of `receive_some` again, first and in order."""

    def __init__(self, stream: HalfCloseableStream, held: bytes = b"") -> None:
        self.stream = stream
        self._held = held
        self._ended = False  # the peer's end was seen while peeking

    def __repr__(self) -> str:
        return f"<Peeked {len(self._held)} bytes held of {self.stream!r}>"

    @property
    def held(self) -> bytes:
        return self._held

    async def peek(self, max_bytes: int = 65536) -> bytes:
        """Wait for more bytes than are held now, and answer all that are held; what it answered before when the peer ended."""
        if not self._ended:
            more = await self.stream.receive_some(max_bytes)
            self._ended = not more
            self._held += more
        return self._held

    def take_held(self) -> bytes:
        """What was looked at and not read, without a wait."""
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
        return await self.stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        self._held = b""
        await self.stream.aclose()


def abort(stream: object) -> None:
    """End a stream at once. Over TCP the peer sees a reset, never a clean end that would make a part look like the whole.

    Not a checkpoint, so that it also works while being cancelled.
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
