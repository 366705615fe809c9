"""Reads and writes of one stream, with as little as possible between a request and the kernel when the stream is a plain socket.

trio.SocketStream tries to read before it waits, which fails nearly always where a request or a response is awaited, and lets
every other task run after each write. Waiting first and writing at once takes about a third off what relaying a small request
and its response costs. Who writes in a loop must therefore also read, or checkpoint, in it: all loops of this package do.
"""

from __future__ import annotations

import errno
import os

import trio

from nodeproxy.stream import Peeked, WholeStream


class Wire:
    """`receive` and `send` of any stream. Errors are trio's: BrokenResourceError, ClosedResourceError."""

    __slots__ = ("_peeked", "_socket", "stream")

    def __init__(self, stream: WholeStream) -> None:
        self.stream = stream
        self._peeked = stream if isinstance(stream, Peeked) else None
        plain = stream.stream if isinstance(stream, Peeked) else stream
        self._socket = plain.socket if isinstance(plain, trio.SocketStream) else None

    def __repr__(self) -> str:
        return f"<Wire {self.stream!r}>"

    async def receive(self, max_bytes: int) -> bytes | bytearray:
        """The next bytes, b"" at the end of the stream. Always a checkpoint."""
        sock = self._socket
        if sock is None:
            return await self.stream.receive_some(max_bytes)
        if self._peeked is not None:
            if self._peeked.held:
                return await self._peeked.receive_some(max_bytes)
            self._peeked = None  # nobody peeks any more
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                # The descriptor is asked for anew each time: a number that was kept could be another connection's by now.
                return os.read(sock.fileno(), max_bytes)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _translated(error) from error

    async def send(self, data: bytes) -> None:
        """Send all of it. A checkpoint only when the kernel does not take it at once."""
        sock = self._socket
        if sock is None:
            await self.stream.send_all(data)
            return
        try:
            sent = os.write(sock.fileno(), data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _translated(error) from error
        if sent < len(data):
            await self.stream.send_all(memoryview(data)[sent:])


def _translated(error: OSError) -> Exception:
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError("this stream was already closed")
    return trio.BrokenResourceError(f"connection broken: {error.strerror}")
