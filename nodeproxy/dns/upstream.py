"""Asks the resolvers of one workload, each question once at a time, and gives what is known without asking.

A question is forwarded byte for byte, each from its own socket. The socket has a fresh port that an attacker would have
to guess (RFC 5452 section 9.2), and it is connected, so that the kernel accepts only what that resolver sends. Whoever
asks the same meanwhile waits for the same reply. What it says is kept (cache.py).

An answer whose time is over is asked for anew, and given all the same where the resolver gives no better one within
STALE_AFTER. Where the resolver is known as dead (memory.py), nobody waits.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Literal, NamedTuple

import trio

from nodeproxy.codec import dns_reply
from nodeproxy.codec.dns import (
    HEADER,
    NOERROR,
    NXDOMAIN,
    RCODE,
    RD,
    STALE,
    Question,
    answers,
    asks_for,
    read,
    readdressed,
    servfail,
)
from nodeproxy.codec.dns_reply import Kept
from nodeproxy.dns.cache import STALE_TTL, Cache, Entry, Key
from nodeproxy.dns.memory import CHECKS, DEADLINE, SUSPECT, Address, Known, Memory

STALE_AFTER = 1.8  # seconds that a client waits for a better answer than an old one; RFC 8767 section 5
PATIENCE_AFTER_FAILURE = 1.0  # seconds that it waits for an answer to what failed before
MAX_REPLY = 65535
MAX_UNDER_WAY = 64  # questions of one workload at its resolvers, also those that nobody waits for any more
MAX_WATCHED = 16  # resolvers of one workload that are checked; it chooses whom it asks

_CHECK = b"\0\0\2\0\1"  # the name of the root, type NS, class IN: every resolver has it

Outcome = Literal["cached", "stale", "forwarded", "failed"]


class Answer(NamedTuple):
    how: Outcome
    message: bytes


class _Flight:
    """One question under way. `ended`: there is a reply, or nobody waits for one any more."""

    __slots__ = ("ended", "reply")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.reply: bytes | None = None


class Upstream:
    """The resolvers of one workload. `opened` returns a socket of a kind that can dial a resolver, or raises
    OSError.
    """

    def __init__(self, cache: Cache, opened: Callable[[Address, int], socket.socket]) -> None:
        self.cache = cache
        self.memory = Memory()
        self._opened = opened
        self._flights: dict[tuple[Address, bytes], _Flight] = {}
        self._under_way = 0
        self._watching = 0

    def __repr__(self) -> str:
        return f"<Upstream {self._under_way} under way, {self.memory}, {self.cache}>"

    def at_once(self, message: bytes, question: Question | None, resolver: Address, tcp: bool = False) -> Answer | None:
        """Return the answer to a question that need not wait for its resolver; None: ask it.

        `question` None: `message` is none that can be read.
        """
        now = trio.current_time()
        silent = self.memory.asks(resolver, now).silent
        if question is not None and question.common:
            entry = self.cache.find((resolver, *question.key), now)
            if entry is not None:
                if entry.kept is not None and now < entry.until:
                    ttl = int(entry.until - now)
                    return Answer("cached", dns_reply.replay(question, entry.kept, ttl, tcp=tcp))
                if silent or now < entry.pause_until:
                    return self.without(message, question, entry.kept, tcp)
        return Answer("failed", servfail(message)) if silent else None

    def patience(self, question: Question | None, resolver: Address) -> float:
        """Return the seconds that a client waits for the answer to this question."""
        entry = self._entry(question, resolver)
        if entry is None:
            return DEADLINE
        return PATIENCE_AFTER_FAILURE if entry.kept is None else STALE_AFTER

    async def ask(self, message: bytes, question: Question | None, resolver: Address, nursery: trio.Nursery) -> Answer:
        """Return the resolver's reply over UDP, or what is to be said without it.

        The question stays under way in `nursery` for DEADLINE, so that a late answer is known to the next who asks.
        """
        twin = (resolver, question.twin if question is not None and question.common else message)
        flight = self._flights.get(twin)
        if flight is None:
            if self._under_way >= MAX_UNDER_WAY:
                return self.unanswered(message, question, resolver)
            self._under_way += 1
            flight = self._flights[twin] = _Flight()
            nursery.start_soon(self._fly, message, question, twin, flight, nursery)
        with trio.move_on_after(self.patience(question, resolver)):
            await flight.ended.wait()
        if flight.reply is None:
            return self.unanswered(message, question, resolver)
        reply = flight.reply
        if reply[:2] != message[:2] and question is not None:
            reply = readdressed(reply, question)
        return self.instead(message, question, resolver, reply)

    async def look_up(
        self, host: str, rdtype: int, resolver: Address, nursery: trio.Nursery
    ) -> tuple[Outcome, Kept | None, int]:
        """Return what the resolver says of another name than a client asked for, and for how many seconds; None if it
        says nothing.
        """
        message = asks_for(host, rdtype, int.from_bytes(os.urandom(2)))
        question = read(message)
        if not isinstance(question, Question):
            return "failed", None, 0
        answer = self.at_once(message, question, resolver, tcp=True)
        if answer is None:
            answer = await self.ask(message, question, resolver, nursery)
        kept = dns_reply.read(question, answer.message)
        return answer.how, kept, 0 if kept is None else kept.ttl

    def instead(
        self, message: bytes, question: Question | None, resolver: Address, reply: bytes, tcp: bool = False
    ) -> Answer:
        """Return a resolver's reply, or an old answer if the reply says that the resolver could not find out."""
        if not _says(reply) and (entry := self._entry(question, resolver)) is not None and entry.kept is not None:
            return self.unanswered(message, question, resolver, tcp)
        return Answer("forwarded", reply)

    def unanswered(self, message: bytes, question: Question | None, resolver: Address, tcp: bool = False) -> Answer:
        """Return the answer to a question that the resolver did not answer."""
        entry = self._entry(question, resolver)
        if question is None or entry is None or entry.kept is None:
            return self.without(message, question, None, tcp)
        self.cache.failed((resolver, *question.key), trio.current_time())
        return self.without(message, question, entry.kept, tcp)

    @staticmethod
    def without(message: bytes, question: Question | None, kept: Kept | None, tcp: bool) -> Answer:
        if question is None or kept is None:
            return Answer("failed", servfail(message))
        return Answer("stale", dns_reply.replay(question, kept, STALE_TTL, tcp=tcp, options=STALE))

    def learn(self, question: Question | None, resolver: Address, reply: bytes, took: float) -> None:
        """Take up what a reply says that belongs to a question. `took`: seconds."""
        if question is None or not question.common:
            return
        key = (resolver, *question.key)
        kept = dns_reply.read(question, reply)
        if kept is not None:
            self._learned(key, kept)
        elif not _says(reply):
            self.lost(question, resolver, took)

    def lost(self, question: Question | None, resolver: Address, took: float) -> None:
        """Record that a question got no answer. Only after a wait, so that the next who asks need not wait again."""
        if question is not None and question.common and took >= SUSPECT:
            self.cache.failed((resolver, *question.key), trio.current_time())

    def _learned(self, key: Key, kept: Kept) -> None:
        """Keep an answer. Here it is known who asked whom for which name, what the addresses are, and until when."""
        self.cache.put(key, kept, trio.current_time())

    def suspect(self, resolver: Address, nursery: trio.Nursery) -> None:
        """Find out whether a resolver that gave no answer gives any."""
        known = self.memory.asks(resolver, trio.current_time())
        if not known.watched and self._watching < MAX_WATCHED:
            known.watched = True
            self._watching += 1
            nursery.start_soon(self._watch, resolver, known)

    def _answered(self, resolver: Address, known: Known) -> None:
        if known.down is not None:
            self.cache.resume(resolver)
        self.memory.answered(known, trio.current_time())

    def _entry(self, question: Question | None, resolver: Address) -> Entry | None:
        if question is None or not question.common:
            return None
        return self.cache.find((resolver, *question.key), trio.current_time())

    async def _fly(
        self,
        message: bytes,
        question: Question | None,
        twin: tuple[Address, bytes],
        flight: _Flight,
        nursery: trio.Nursery,
    ) -> None:
        resolver = twin[0]
        asked = trio.current_time()
        known = self.memory.asks(resolver, asked)
        reply = None
        try:
            with trio.socket.from_stdlib_socket(self._opened(resolver, socket.SOCK_DGRAM)) as sock:
                await sock.connect(resolver)
                await sock.send(message)
                with trio.move_on_after(SUSPECT):
                    reply = await _reply(sock, message)
                if reply is None:
                    self.suspect(resolver, nursery)
                    with trio.move_on_after(DEADLINE - SUSPECT):
                        reply = await _reply(sock, message)
            if reply is not None:
                self._answered(resolver, known)
                self.learn(question, resolver, reply, trio.current_time() - asked)
                flight.reply = reply
            elif not flight.ended.is_set():  # otherwise it was the resolver that failed, and it may be back
                self.lost(question, resolver, DEADLINE)
        except OSError:
            self.memory.refused(known, trio.current_time())  # no route, or no process listens there
        finally:
            self._under_way -= 1
            self._end(twin, flight)

    def _end(self, twin: tuple[Address, bytes], flight: _Flight) -> None:
        if self._flights.get(twin) is flight:
            del self._flights[twin]
        flight.ended.set()

    async def _watch(self, resolver: Address, known: Known) -> None:
        """Check a resolver that is silent; while it is dead, again and again."""
        began = trio.current_time()
        try:
            if await self._check(resolver, known) or not self.memory.gave_no_answer(known, began):
                return
            for twin, flight in list(self._flights.items()):
                if twin[0] == resolver:
                    self._end(twin, flight)  # whoever waits is told; an answer that comes late is taken up all the same
            while (rest := self.memory.rest(known, trio.current_time())) is not None:
                await trio.sleep(rest)
                if not known.silent or await self._check(resolver, known):
                    return
        finally:
            known.watched = False
            self._watching -= 1

    async def _check(self, resolver: Address, known: Known) -> bool:
        """Return whether a resolver answers an easy question, or the kernel says that nobody listens there: then nobody
        has to wait for it either.
        """
        question = HEADER.pack(int.from_bytes(os.urandom(2)), RD, 1, 0, 0, 0) + _CHECK
        try:
            with trio.socket.from_stdlib_socket(self._opened(resolver, socket.SOCK_DGRAM)) as sock:
                await sock.connect(resolver)
                for patience in CHECKS:
                    await sock.send(question)
                    with trio.move_on_after(patience):
                        await _reply(sock, question)
                        self._answered(resolver, known)
                        return True
        except ConnectionRefusedError:
            known.silent = False
            self.memory.refused(known, trio.current_time())
            return True
        except OSError:
            pass
        return False


async def _reply(sock: trio.socket.SocketType, question: bytes) -> bytes:
    while True:
        reply: bytes = await sock.recv(MAX_REPLY)
        if answers(question, reply):
            return reply


def _says(reply: bytes) -> bool:
    """Return whether a reply says what there is, or that there is nothing."""
    return HEADER.unpack_from(reply)[1] & RCODE in (NOERROR, NXDOMAIN)
