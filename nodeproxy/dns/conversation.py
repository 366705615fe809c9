"""One DNS connection over TCP (RFC 7766): several questions, answered in any order, ours here and others upstream.

Questions that are not ours share one connection to the resolver that was asked, opened for the first of them; what comes
back on it goes to the client as it is, so a zone transfer (many messages for one question) passes too. Whoever asked gets
an answer: a question that the resolver leaves unanswered for DEADLINE, or that the connection takes down with it, is
answered SERVFAIL.

Two tasks: `run` reads the client, `_copy_back` reads the resolver. Both write to the client, one message at a time.
Nothing raises out of the nursery: a client that is gone, or does not read, ends it by cancelling it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from nodeproxy.dns.message import Next, servfail
from nodeproxy.limits import Gate

DEADLINE = 5.0  # seconds that a resolver gets; glibc waits as long (resolv.conf(5), RES_TIMEOUT)
IDLE = 30.0  # seconds between two questions; BIND's tcp-idle-timeout is the same

Answer = Callable[[bytes], bytes | Literal[Next.FORWARD, Next.DROP]]
Count = Callable[[Literal["answered", "forwarded", "failed", "dropped"]], None]


class Frames:
    """The messages of a stream, each with two bytes of length before it (RFC 1035 section 4.2.2)."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> bytes | None:
        """The next message; None when the stream ended or broke. What has arrived of one is kept when this is cancelled."""
        while True:
            length = 2 + int.from_bytes(self._buffer[:2])
            if len(self._buffer) >= max(length, 2):
                message = bytes(self._buffer[2:length])
                del self._buffer[:length]
                return message
            try:
                data = await self._stream.receive_some(4096)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._buffer += data


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2) + message


class Conversation:
    """`connect` opens a stream to the resolver that was asked, or raises OSError; `outstanding` is shared by the workload."""

    def __init__(
        self, client: trio.abc.Stream, answer: Answer, connect: Callable[[], Awaitable[trio.abc.Stream]], outstanding: Gate, count: Count
    ) -> None:
        self._client = client
        self._answer = answer
        self._connect = connect
        self._outstanding = outstanding
        self._count = count
        self._sending = trio.Lock()
        self._upstream: trio.abc.Stream | None = None
        self._waiting: dict[bytes, tuple[bytes, float]] = {}  # id -> question, and when it is given up
        self._leaving = False  # the client asks nothing more
        self._scope = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Conversation {len(self._waiting)} waiting, upstream {self._upstream}>"

    async def run(self) -> None:
        """Until the client asks no more (and has its answers), is idle, or breaks the protocol. Does not close the client."""
        frames = Frames(self._client)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    while True:
                        message = None
                        with trio.move_on_after(IDLE):
                            message = await frames.next()
                        if message is None:
                            break
                        outcome = self._answer(message)
                        if outcome is Next.DROP:
                            self._count("dropped")
                            self._scope.cancel()
                        elif outcome is Next.FORWARD:
                            await self._forward(message, nursery)
                        else:
                            self._count("answered")
                            await self._send(outcome)
                    self._leaving = True
                    if not self._waiting:
                        self._scope.cancel()
        finally:
            for _ in self._waiting:
                self._outstanding.leave()
                self._count("dropped")

    async def _forward(self, message: bytes, nursery: trio.Nursery) -> None:
        identifier = message[:2]
        # RFC 7766 section 6.2.1: an id that is still waiting must not be used again.
        if identifier in self._waiting or not self._outstanding.enter():
            self._count("failed")
            await self._send(servfail(message))
            return
        self._waiting[identifier] = (message, trio.current_time() + DEADLINE)
        sent = False
        with trio.move_on_after(DEADLINE):
            try:
                if self._upstream is None:
                    self._upstream = await self._connect()
                    nursery.start_soon(self._copy_back, self._upstream)
                await self._upstream.send_all(framed(message))
                sent = True
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        if not sent:
            if self._upstream is not None:
                await trio.aclose_forcefully(self._upstream)  # half a message may be on it; _copy_back sees it end
            await self._fail(identifier)

    async def _copy_back(self, upstream: trio.abc.Stream) -> None:
        frames = Frames(upstream)
        async with upstream:
            while True:
                idle = trio.current_time() + DEADLINE
                reply = None
                with trio.CancelScope(deadline=min((deadline for _, deadline in self._waiting.values()), default=idle)) as patience:
                    reply = await frames.next()
                if patience.cancelled_caught:
                    if not self._waiting:
                        break  # nobody uses it
                    now = trio.current_time()
                    for late in [identifier for identifier, (_, deadline) in self._waiting.items() if deadline <= now]:
                        await self._fail(late)
                elif reply is None:
                    break
                else:
                    if self._waiting.pop(reply[:2], None):
                        self._outstanding.leave()
                        self._count("forwarded")
                    await self._send(reply)
                if self._leaving and not self._waiting:
                    break
            # No checkpoint between these two: a question asked after them belongs to the next connection.
            self._upstream = None
            lost = list(self._waiting)
        for identifier in lost:
            await self._fail(identifier)

    async def _fail(self, identifier: bytes) -> None:
        message, _ = self._waiting.pop(identifier, (None, 0.0))
        if message is not None:
            self._outstanding.leave()
            self._count("failed")
            await self._send(servfail(message))

    async def _send(self, message: bytes) -> None:
        with trio.move_on_after(DEADLINE):
            try:
                async with self._sending:
                    await self._client.send_all(framed(message))
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        self._scope.cancel()  # it is gone or does not read: nothing sent after this would make sense
