"""One DNS connection over TCP (RFC 7766): several questions, answered in any order, some here and the others upstream.

Questions that are not for Services share one connection to the resolver that was asked, opened for the first of them.
Replies on it go to the client unchanged, so a zone transfer (many messages for one question) passes too. Every question
gets an answer: if the resolver does not answer it in time, or the connection breaks before, it gets an old answer or
SERVFAIL.

Two tasks: `run` reads the client, `_copy_back` reads the resolver. Both write to the client, one message at a time. No
exception leaves the nursery: a client that disconnects or does not read cancels it.
"""

from __future__ import annotations

from typing import Protocol

import trio

from nodeproxy.codec.dns import Next
from nodeproxy.dns.memory import DEADLINE
from nodeproxy.limits import Gate

IDLE = 30.0  # seconds between two questions; BIND's tcp-idle-timeout is the same


class Answers(Protocol):
    """Where the answers for one connection come from. It counts them."""

    def at_once(self, message: bytes) -> bytes | Next:
        """Return the answer that nobody need wait for, or what to do with the message."""
        ...

    async def look_up(self, message: bytes) -> bytes:
        """Return the answer that depends on what is found for another name."""
        ...

    def patience(self, message: bytes) -> float:
        """Return the seconds that the client waits for the resolver."""
        ...

    async def connect(self) -> trio.abc.Stream:
        """Return a connection to the resolver that was asked. Raise OSError if there is none."""
        ...

    def replied(self, message: bytes, reply: bytes, took: float) -> bytes:
        """Return what the client gets for this reply to its question. `took`: seconds."""
        ...

    def unanswered(self, message: bytes, took: float) -> bytes:
        """Return what the client gets instead of an answer. `took`: seconds that it waited for one."""
        ...

    def dropped(self) -> None:
        """Count a question that gets no answer."""
        ...


class Frames:
    """The messages of a stream, each with two bytes of length before it (RFC 1035 section 4.2.2)."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> bytes | None:
        """Return the next message; None if the stream ended or broke.

        On cancellation the bytes that have arrived are kept.
        """
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
    """Serves one client connection. All connections of the workload share `outstanding`."""

    def __init__(self, client: trio.abc.Stream, answers: Answers, outstanding: Gate) -> None:
        self._client = client
        self._answers = answers
        self._outstanding = outstanding
        self._sending = trio.Lock()
        self._upstream: trio.abc.Stream | None = None
        self._waiting: dict[bytes, tuple[bytes, float, float]] = {}  # id -> question, when it came, when to give it up
        self._looking_up = 0  # questions that wait for what is found for another name
        self._leaving = False  # the client asks no more questions
        self._scope = trio.CancelScope()
        self._listening = trio.CancelScope()  # to the resolver, until the first question is to be given up

    def __repr__(self) -> str:
        return f"<Conversation {len(self._waiting)} waiting, upstream {self._upstream}>"

    async def run(self) -> None:
        """Serve until the client asks no more and has its answers, is idle, or violates the protocol.

        Do not close the client.
        """
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
                        outcome = self._answers.at_once(message)
                        if outcome is Next.DROP:
                            self._answers.dropped()
                            self._scope.cancel()
                        elif outcome is Next.LOOK_UP:
                            if self._outstanding.enter():
                                self._looking_up += 1
                                nursery.start_soon(self._look_up, message)
                            else:
                                await self._send(self._answers.unanswered(message, 0.0))
                        elif outcome is Next.FORWARD:
                            await self._forward(message, nursery)
                        else:
                            await self._send(outcome)
                    self._leaving = True
                    if not self._waiting and not self._looking_up:
                        self._scope.cancel()
        finally:
            for _ in self._waiting:
                self._outstanding.leave()
                self._answers.dropped()

    async def _forward(self, message: bytes, nursery: trio.Nursery) -> None:
        identifier = message[:2]
        # RFC 7766 section 6.2.1: an id that is still waiting must not be used again.
        if identifier in self._waiting or not self._outstanding.enter():
            await self._send(self._answers.unanswered(message, 0.0))
            return
        now = trio.current_time()
        give_up = now + self._answers.patience(message)
        self._waiting[identifier] = (message, now, give_up)
        self._listening.deadline = min(self._listening.deadline, give_up)
        sent = False
        with trio.move_on_after(DEADLINE):
            try:
                if self._upstream is None:
                    self._upstream = await self._answers.connect()
                    nursery.start_soon(self._copy_back, self._upstream)
                await self._upstream.send_all(framed(message))
                sent = True
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        if not sent:
            if self._upstream is not None:
                await trio.aclose_forcefully(self._upstream)  # half a message may be on it; _copy_back sees it end
            await self._fail(identifier)

    async def _look_up(self, message: bytes) -> None:
        try:
            await self._send(await self._answers.look_up(message))
        finally:
            self._outstanding.leave()
            self._looking_up -= 1
        if self._leaving and not self._waiting and not self._looking_up:
            self._scope.cancel()

    async def _copy_back(self, upstream: trio.abc.Stream) -> None:
        frames = Frames(upstream)
        async with upstream:
            while True:
                idle = trio.current_time() + DEADLINE
                reply = None
                with trio.CancelScope(
                    deadline=min((deadline for _, _, deadline in self._waiting.values()), default=idle)
                ) as self._listening:
                    reply = await frames.next()
                if self._listening.cancelled_caught:
                    if not self._waiting:
                        break  # no question uses it
                    now = trio.current_time()
                    for late in [
                        identifier for identifier, (_, _, deadline) in self._waiting.items() if deadline <= now
                    ]:
                        await self._fail(late)
                elif reply is None:
                    break
                else:
                    asked = self._waiting.pop(reply[:2], None)
                    if asked is not None:
                        self._outstanding.leave()
                        reply = self._answers.replied(asked[0], reply, trio.current_time() - asked[1])
                    await self._send(reply)
                if self._leaving and not self._waiting:
                    break
            # No checkpoint between these two: a question asked after them belongs to the next connection.
            self._upstream = None
            lost = list(self._waiting)
        for identifier in lost:
            await self._fail(identifier)

    async def _fail(self, identifier: bytes) -> None:
        asked = self._waiting.pop(identifier, None)
        if asked is not None:
            self._outstanding.leave()
            await self._send(self._answers.unanswered(asked[0], trio.current_time() - asked[1]))

    async def _send(self, message: bytes) -> None:
        with trio.move_on_after(DEADLINE):
            try:
                async with self._sending:
                    await self._client.send_all(framed(message))
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        self._scope.cancel()  # it disconnected or does not read: nothing more can be sent
