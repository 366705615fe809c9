"""One TLS connection over any stream.

OpenSSL stands between two memory buffers, since the bytes may come over any stream. TLS 1.3 only, where a write never
waits for a read: one task may read while another writes.

Ends. The closing side sends close_notify, if that needs no wait. An end without close_notify is an error here (RFC 8446
section 6.1): a part must not pass for the whole. The layer above may treat it otherwise, when it had ended by its own
rules before.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from operator import index
from typing import Any

import trio

from nodeproxy.stream import abort, close_now, plain_socket

_CHUNK = 32768  # bytes: two records. OpenSSL's memory buffers never shrink, so a connection keeps what it once needed
_CLOSING = 1.0  # seconds for the last bytes on a stream that can only be written with a wait


class TlsStream(trio.abc.HalfCloseableStream):
    """One TLS connection over any stream. One task may read while another writes."""

    def __init__(self, stream: Any, context: ssl.SSLContext, server: bool) -> None:
        self._stream = stream
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server)
        self._reading = self._writing = self._closed = False
        self._ended = False  # the peer has sent its end
        self._broken = ""  # why nothing moves any more
        self._ahead = b""  # taken out of OpenSSL before anybody asked
        self._torn = False  # a send was cut off: nothing can follow half a record, but the peer may still be read

    def __repr__(self) -> str:
        state = "closed" if self._closed else "broken" if self._broken else "open"
        return f"<TlsStream {state} over {self._stream!r}>"

    @property
    def object(self) -> ssl.SSLObject:
        return self._tls

    async def handshake(self, held: bytes | bytearray = b"") -> None:
        """Run the handshake; `held` was received before. Raise ssl.SSLError or BrokenResourceError."""
        self._in.write(held)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._flush()  # the alert that gives the reason
                raise
            else:
                await self._flush()
                return

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes; b"" after the peer's close_notify.

        Raise BrokenResourceError after an alert, or an end without close_notify.
        """
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._reading:
            raise trio.BusyResourceError("another task is receiving")
        self._reading = True
        try:
            # Bytes are handed out only after the checkpoint, so that a cancelled reader loses nothing.
            if self._closed or self._ended or self._broken or self._in.pending or self._tls.pending():
                await trio.lowlevel.checkpoint()
            if self._ahead:
                await trio.lowlevel.checkpoint()
                size = max_bytes or len(self._ahead)
                data, self._ahead = self._ahead[:size], self._ahead[size:]
                return data
            while True:
                self._check()
                data = b"" if self._ended else self._take(max_bytes or _CHUNK)
                if data or self._ended:
                    return data
                self._check()
                # Nothing to send: OpenSSL keeps the answer to a KeyUpdate for the next write (RFC 8446 section 4.6.3
                # allows it).
                await self._fill()
        finally:
            self._reading = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._writing:
            raise trio.BusyResourceError("another task is sending")
        self._writing = True
        try:
            self._check()
            if self._torn:
                raise trio.BrokenResourceError("an earlier send was cut off")
            if not len(data):
                await trio.lowlevel.checkpoint()
            with memoryview(data) as whole:
                at = 0
                while at < len(whole):
                    try:
                        at += self._tls.write(whole[at : at + _CHUNK])
                    except ssl.SSLError as error:
                        raise self._breaks(error) from error
                    await self._flush()
        finally:
            self._writing = False

    async def wait_send_all_might_not_block(self) -> None:
        self._check()
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send close_notify: this end sends no more, and still reads (RFC 8446 section 6.1)."""
        if self._writing:
            raise trio.BusyResourceError("another task is sending")
        self._check()
        while found := self._take(_CHUNK):  # OpenSSL reads on while it ends, and would lose what it finds
            self._ahead += found
        with contextlib.suppress(ssl.SSLError, ValueError, OSError):
            self._tls.unwrap()  # always raises, except when the peer has ended too
        self._torn = True
        if self._out.pending:
            await self._stream.send_all(self._out.read())

    async def aclose(self) -> None:
        """Send close_notify, and close the stream below."""
        try:
            if last := self._last_words():
                with (
                    trio.move_on_after(_CLOSING),
                    contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
                ):
                    await self._stream.send_all(last)
        finally:
            await self._stream.aclose()

    def close(self) -> None:
        """Send close_notify where that needs no wait, and close the stream below. Not a checkpoint."""
        last, below = self._last_words(), plain_socket(self._stream)
        if last and below is not None:
            with contextlib.suppress(OSError):
                os.write(below.socket.fileno(), last)
        close_now(self._stream)

    def abort(self) -> None:
        """Abort the stream below: over TCP the peer sees a reset. Not a checkpoint."""
        self._closed = True
        abort(self._stream)

    def _last_words(self) -> bytes:
        """Return close_notify, or the alert of the failure; nothing after half a record or an earlier close."""
        if self._closed or self._torn:
            self._closed = True
            return b""
        self._closed = True
        with contextlib.suppress(ssl.SSLError, ValueError, OSError):
            self._tls.unwrap()  # always raises, except when the peer has ended too: it would wait for that
        return self._out.read()

    def _take(self, most: int) -> bytes:
        """Return what has arrived, up to `most` bytes. After b"", `_ended` and `_broken` give the reason."""
        found = []
        try:
            while most and (self._in.pending or self._in.eof or self._tls.pending()):
                piece = self._tls.read(most)
                if not piece:
                    self._ended = True
                    break
                found.append(piece)
                most -= len(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._breaks(error)
        return found[0] if len(found) == 1 else b"".join(found)

    async def _fill(self) -> None:
        data = await self._stream.receive_some(
            _CHUNK + 64
        )  # and what encryption adds to two records (RFC 8446 section 5.2)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def _flush(self) -> None:
        """Send what OpenSSL has written."""
        if self._out.pending:
            self._torn = True  # until all of it is sent
            await self._stream.send_all(self._out.read())
            self._torn = False

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._broken:
            raise trio.BrokenResourceError(self._broken)

    def _breaks(self, error: ssl.SSLError) -> trio.BrokenResourceError:
        self._broken = in_words(error)
        return trio.BrokenResourceError(self._broken)


def in_words(error: Exception) -> str:
    """Return what went wrong, without the library's decoration: "the peer sent alert unknown ca"."""
    if isinstance(error, ssl.SSLEOFError):
        return "the stream was cut off: it ended without close_notify"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "the peer answered something that is no TLS"
    words = re.sub(r"^\[.*?\] | \(_ssl\.c:\d+\)$", "", str(error.args[-1] if error.args else error))
    return re.sub(r"^(?:tls|ssl)v\d+ (?:alert )?", "the peer sent alert ", words)
