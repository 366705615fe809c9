"""The resolver of one captured workload: the kernel redirects port 53 to these listeners, so its questions arrive here.

A question that is not for a Service goes to the resolver that was asked (upstream.py), unless the answer is known. The
resources of one workload are bounded, and one turn of the loop takes one datagram of one listener. So a flood delays
others by one datagram's work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from copy import copy
from typing import TYPE_CHECKING, Any, Literal

import trio
from msgspec import Struct

from nodeproxy.capture import original_destination
from nodeproxy.codec import dns_reply
from nodeproxy.codec.dns import (
    ANY,
    CNAME,
    MAX_ADDRESSES,
    NXDOMAIN,
    PTR,
    SRV,
    STALE,
    Next,
    Question,
    addresses_of,
    answer_of,
    answers,
    authority_of,
    name_of,
    read,
    record_of,
    servfail,
    service_record,
)
from nodeproxy.codec.dns_reply import behind_alias
from nodeproxy.dns.cache import Cache
from nodeproxy.dns.conversation import Conversation
from nodeproxy.dns.memory import CONNECT, Address
from nodeproxy.dns.upstream import Answer, Upstream
from nodeproxy.limits import Gate
from nodeproxy.ties import Ties
from policy.zone import UNKNOWN, Found, Zone

if TYPE_CHECKING:
    from nodeproxy.context import Context
    from policy.snapshot import Snapshot

PORT = 53
LOOK_UP = 4.0  # seconds that a call may wait for what DNS says of its host
_ASKED = 3  # resolvers that are asked for it, one after the other
MAX_OUTSTANDING = 64  # questions of one workload that wait for a resolver; SERVFAIL for more
MAX_CONNECTIONS = 32  # DNS connections over TCP of one workload; more are closed
_MOST_RECENT, _LONGEST_RECENT = 128, 300  # questions whose answers are at hand, and bytes of one: 200 KiB at most
MAX_QUESTION = 4096  # bytes over UDP; the EDNS sizes that clients send are no larger

IP_PKTINFO = 8  # linux/in.h; the socket module has it from Python 3.12
_PKTINFO4 = struct.Struct("=i4s4s")  # in_pktinfo: interface, local address, address in the header
_PKTINFO6 = struct.Struct("=16si")  # in6_pktinfo: local address, interface
_ANCILLARY_SPACE = socket.CMSG_SPACE(_PKTINFO6.size)


class Counts(Struct):
    """The outcomes of the questions of one workload. Status and metrics read them."""

    answered: int = 0  # by edgemesh
    cached: int = 0  # by what a resolver answered before
    stale: int = 0  # the same though its time was over: no resolver gave a newer answer
    forwarded: int = 0  # by the resolver that was asked
    failed: int = 0  # SERVFAIL: no resolver could be asked or answered in time, or too many questions waited
    dropped: int = 0  # not answered: no question at all, too large, the client left, or too many connections

    def add(self, other: Counts) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Resolver:
    """Serves the DNS listeners of one workload, UDP and TCP, with common bounds and counts."""

    def __init__(self, workload_key: str, context: Context, cache: Cache) -> None:
        self.workload_key = workload_key
        self.counts = Counts()
        self._namespace = workload_key.partition("/")[0]
        self._context = context
        self._outstanding = Gate(MAX_OUTSTANDING)
        self._connections = Gate(MAX_CONNECTIONS)
        self._upstream = Upstream(cache, self._outwards)
        self._nursery: trio.Nursery | None = None  # of the UDP listener, while it is served
        context.lookups[workload_key] = self.tie
        self._seen: Snapshot | None = None  # that `_by_names` is of
        self._by_names = False
        # By question without its id: the answer without its id; or the question, if it is not about the cluster.
        self._recent: dict[bytes, bytes | Question] = {}
        self._zone: Zone | None = None  # that they are of

    def __repr__(self) -> str:
        return f"<Resolver {self.workload_key} {self._outstanding.open} waiting, {self.counts}>"

    def close(self) -> None:
        """Give back the memory for answers."""
        self._upstream.cache.close()
        if self._context.lookups.get(self.workload_key) == self.tie:
            del self._context.lookups[self.workload_key]

    async def tie(self, host: str, rdtype: int) -> None:
        """Ask a resolver that counts for a host, and note the answer as if the workload had asked.

        It takes LOOK_UP seconds at most.
        """
        context, upstream, nursery = self._context, self.look(), self._nursery
        workload = context.snapshot.workload(self.workload_key)
        if workload is None or nursery is None or not self._by_names or not self._outstanding.enter():
            return
        try:
            asked = context.ties.get(self.workload_key)
            trusted = context.dns_trusted(workload)
            resolvers = [asked.trusted] if asked and asked.trusted and asked.trusted[0] in trusted else []
            resolvers += [(address, PORT) for address in sorted(trusted) if (address, PORT) not in resolvers]
            with trio.move_on_after(LOOK_UP):
                for resolver in resolvers[:_ASKED]:
                    how, kept, ttl = await upstream.look_up(host, rdtype, resolver, nursery)
                    if kept is not None and how != "failed" and upstream is self._upstream:
                        ties = context.ties.setdefault(self.workload_key, Ties())
                        ties.give(host, dns_reply.addresses(kept), ttl, trio.current_time())
                        break
        finally:
            self._outstanding.leave()

    def down(self) -> list[tuple[Address, float]]:
        """Return the resolvers that do not answer, and since when, by the loop's clock."""
        return self._upstream.memory.down()

    async def serve_udp(self, door: socket.socket) -> None:
        """Serve a bound UDP socket until cancelled. The caller owns it and closes it after that."""
        _tell_destination(door)
        sock = trio.socket.from_stdlib_socket(door)
        port = door.getsockname()[1]
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._receive(sock, port, nursery)
            finally:
                if self._nursery is nursery:
                    self._nursery = None

    async def _receive(self, sock: trio.socket.SocketType, port: int, nursery: trio.Nursery) -> None:
        while True:
            try:
                # A checkpoint each time: other tasks run between two datagrams.
                message, ancillary, flags, client = await sock.recvmsg(MAX_QUESTION, _ANCILLARY_SPACE)
            except OSError:
                await trio.sleep(0.1)  # out of memory or similar: it may be temporary, and must not spin
                continue
            came = _Datagram(sock, message, client, ancillary)
            if flags & socket.MSG_TRUNC:
                self.counts.dropped += 1
            else:
                await self._serve(came, port, nursery)

    async def serve_tcp(self, door: socket.socket) -> None:
        """Serve a listening TCP socket until cancelled. The caller owns it and closes it after that."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    await trio.lowlevel.wait_readable(door)
                    accepted, _ = door.accept()
                except BlockingIOError:
                    continue  # the client left before its turn
                except OSError:
                    await trio.sleep(0.1)  # out of file descriptors or similar
                    continue
                if self._connections.enter():
                    nursery.start_soon(self._converse, accepted, nursery)
                else:
                    self.counts.dropped += 1
                    accepted.close()

    async def _serve(self, came: _Datagram, port: int, nursery: trio.Nursery) -> None:
        """Answer one datagram, or ask for the answer in a task of its own."""
        self.look()
        ours, asked = self._judge(came.message)
        if ours is Next.DROP:
            self.counts.dropped += 1
            return
        if isinstance(ours, bytes):
            self.counts.answered += 1
            await came.reply(ours)
            return
        resolver = self._resolver_asked(came, port)
        if resolver is None:
            await came.reply(self.counted(Answer("failed", servfail(came.message))))
        elif ours is Next.LOOK_UP and asked is not None:
            if self._outstanding.enter():
                nursery.start_soon(self._look_up, came, asked, resolver, nursery)
            else:
                await came.reply(self.counted(Answer("failed", servfail(came.message))))
        elif (answer := self._upstream.at_once(came.message, asked, resolver)) is not None:
            await came.reply(self.counted(answer, asked, resolver, self._upstream))
        elif self._outstanding.enter():
            nursery.start_soon(self._ask, came, asked, resolver, nursery)
        else:
            answer = self._upstream.unanswered(came.message, asked, resolver)
            await came.reply(self.counted(answer, asked, resolver, self._upstream))

    def _judge(self, message: bytes) -> tuple[bytes | Next, Question | None]:
        """Return the answer to a datagram about the cluster, or what to do with it; and its question, if it has one.

        Programs ask the same again and again: what was said of the last ones is kept, until other policy is in force.
        """
        zone = self._context.snapshot.zone
        if zone is not self._zone:
            self._zone = zone
            self._recent.clear()
        known = self._recent.get(message[2:])
        if known is not None:
            if isinstance(known, bytes):
                return message[:2] + known, None
            question = copy(known)
            question.message = message
            return Next.FORWARD, question
        found = read(message)
        if not isinstance(found, Question):
            return found, None
        ours = self.ours(found, tcp=False)
        if ours is not Next.LOOK_UP and len(message) <= _LONGEST_RECENT:
            if len(self._recent) >= _MOST_RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[message[2:]] = ours[2:] if isinstance(ours, bytes) else found
        return ours, found

    async def _ask(self, came: _Datagram, question: Question | None, resolver: Address, nursery: trio.Nursery) -> None:
        upstream = self._upstream
        try:
            answer = await upstream.ask(came.message, question, resolver, nursery)
        finally:
            self._outstanding.leave()
        await came.reply(self.counted(answer, question, resolver, upstream))

    async def _look_up(self, came: _Datagram, question: Question, resolver: Address, nursery: trio.Nursery) -> None:
        try:
            answer = await self.looked_up(question, resolver, nursery, tcp=False)
        finally:
            self._outstanding.leave()
        await came.reply(answer)

    def _resolver_asked(self, came: _Datagram, port: int) -> Address | None:
        """Return the resolver that a datagram was sent to; None if it is not known, or is edgemesh itself."""
        workload = self._context.snapshot.workload(self.workload_key)
        listener = (came.here, port)
        if workload is None:
            return None
        try:
            resolver = self._context.sockets.resolver_asked(workload, came.client, listener)
        except OSError:
            return None  # the namespace is gone
        return None if resolver is None or self.is_own(resolver, listener) else resolver

    def ours(self, question: Question, *, tcp: bool) -> bytes | Literal[Next.FORWARD, Next.LOOK_UP]:
        """Return the answer to a question about the cluster; FORWARD if it is about something else."""
        zone = self._context.snapshot.zone
        rdtype, ttl = question.rdtype, self._context.dns_ttl
        if question.signed:
            return Next.FORWARD  # edgemesh could not sign an answer
        found = zone.find(question.name, self._namespace, rdtype == SRV)
        if not isinstance(found, Found):
            if found == UNKNOWN or self._context.dns_ask_unknown:
                return Next.FORWARD
            return answer_of(question, (), tcp=tcp, authority=[authority_of(zone.domain, ttl)], rcode=NXDOMAIN)
        if found.alias:
            return self._alias(question, found.alias, tcp)
        if rdtype == SRV:
            records = [service_record(one.host, one.port, ttl) for one in found.targets[:MAX_ADDRESSES]]
        elif rdtype == PTR:
            records = [record_of(PTR, ttl, name_of(name)) for name in found.pointers]
        else:
            records = addresses_of(rdtype, found.addresses, ttl)
        # Without an SOA, no resolver may keep that there is nothing (RFC 2308 section 5).
        authority = [authority_of(zone.domain, ttl)] if found.inside and not records else ()
        return answer_of(question, records, tcp=tcp, authority=authority)

    def _alias(self, question: Question, host: str, tcp: bool) -> bytes | Literal[Next.LOOK_UP]:
        """Return the answer for the name of an ExternalName, if it does not depend on a resolver."""
        ttl = self._context.dns_ttl
        if question.malformed or question.rdtype in (CNAME, ANY):
            return behind_alias(question, host, None, ttl, 0, tcp=tcp)
        found = self._context.snapshot.zone.find(host, self._namespace)
        if not isinstance(found, Found) or found.alias:
            return Next.LOOK_UP
        records = addresses_of(question.rdtype, found.addresses, ttl, name_of(host))
        return answer_of(question, [record_of(CNAME, ttl, name_of(host)), *records], tcp=tcp)

    async def looked_up(self, question: Question, resolver: Address, nursery: trio.Nursery, *, tcp: bool) -> bytes:
        """Return the answer for the name of an ExternalName: an alias, and what the resolver says of its host."""
        zone, ttl = self._context.snapshot.zone, self._context.dns_ttl
        found = zone.find(question.name, self._namespace)
        if not isinstance(found, Found) or not found.alias:
            return self.counted(Answer("failed", servfail(question.message)))  # it was removed meanwhile
        upstream = self._upstream
        how, kept, time = await upstream.look_up(found.alias, question.rdtype, resolver, nursery)
        if kept is None:
            return self.counted(Answer("failed", servfail(question.message)))
        options = STALE if how == "stale" else b""
        answer = behind_alias(question, found.alias, kept, ttl, time, tcp=tcp, options=options)
        return self.counted(Answer(how, answer), question, resolver, upstream)

    def counted(
        self,
        answer: Answer,
        question: Question | None = None,
        resolver: Address | None = None,
        upstream: Upstream | None = None,
    ) -> bytes:
        """Count an answer, and return it. `question`, `resolver`, `upstream`: what was asked, whom, and how, if that is
        known.
        """
        setattr(self.counts, answer.how, getattr(self.counts, answer.how) + 1)
        if question is not None and resolver is not None and upstream is self._upstream and answer.how != "failed":
            self._tie(question, resolver, answer.message)
        return answer.message

    def look(self) -> Upstream:
        """Return whom to ask by the newest snapshot.

        What was learned before policy went by names is forgotten then: it came through the workload's own network, where
        who may send raw packets forges it.
        """
        snapshot = self._context.snapshot
        if snapshot is not self._seen:
            self._seen = snapshot
            workload = snapshot.workload(self.workload_key)
            by_names = workload is not None and snapshot.goes_by_names(workload.identity)
            if by_names and not self._by_names:
                self._upstream = Upstream(self._upstream.cache.anew(), self._outwards)
            self._by_names = by_names
        return self._upstream

    def _tie(self, question: Question, resolver: Address, answer: bytes) -> None:
        """Note which addresses an answer gives for a name, where policy goes by it (ties.py).

        The workload chooses whom it asks, and may ask somebody who says what it likes: only resolvers that somebody
        else named count.
        """
        context = self._context
        workload = context.snapshot.workload(self.workload_key)
        if workload is None or not self._by_names:
            return
        ties = context.ties.setdefault(self.workload_key, Ties())
        if resolver[0] not in context.dns_trusted(workload):
            ties.distrusted = resolver[0]
            return
        ties.trusted = resolver
        kept = dns_reply.read(question, answer)
        if kept is not None:
            ties.give(question.name.lower(), dns_reply.addresses(kept), kept.ttl, trio.current_time())

    async def _converse(self, accepted: socket.socket, nursery: trio.Nursery) -> None:
        try:
            async with trio.SocketStream(trio.socket.from_stdlib_socket(accepted)) as client:
                talk = _Talk(self, self.look(), accepted, nursery)
                await Conversation(client, talk, self._outstanding).run()
        except OSError:
            pass  # it was reset before it began
        finally:
            self._connections.leave()

    def _outwards(self, resolver: Address, kind: int) -> socket.socket:
        workload = self._context.snapshot.workload(self.workload_key)
        if workload is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), self.workload_key)
        family = socket.AF_INET6 if ":" in resolver[0] else socket.AF_INET
        if self._by_names and resolver[0] in self._context.dns_trusted(workload):
            sock = self._context.sockets.from_node(family, kind)  # what comes back there, the workload cannot forge
        else:
            sock = self._context.sockets.outwards(workload, family, kind)
        if not self._context.spares(sock.fileno()):
            sock.close()
            raise OSError(errno.EMFILE, "descriptors run short on this node")
        return sock

    def outwards(self, resolver: Address) -> socket.socket:
        """Return a TCP socket that can dial a resolver. Raise OSError if there is none."""
        return self._outwards(resolver, socket.SOCK_STREAM)

    def is_own(self, resolver: Address, listener: Address) -> bool:
        """Return whether the question was aimed at a listener of edgemesh. Forwarding it would bring it back here."""
        return resolver[1] in self._context.ports or resolver == listener


class _Talk:
    """Where the answers for one TCP connection come from: the Answers of conversation.py."""

    def __init__(self, owner: Resolver, upstream: Upstream, accepted: socket.socket, nursery: trio.Nursery) -> None:
        self._owner = owner
        self._upstream = upstream
        self._nursery = nursery
        self._resolver: Address | None = None
        try:
            asked = original_destination(accepted)
            self._resolver = None if owner.is_own(asked, accepted.getsockname()[:2]) else asked
        except OSError:
            pass  # the kernel does not know it

    def at_once(self, message: bytes) -> bytes | Next:
        question = read(message)
        if question is Next.DROP:
            return Next.DROP
        if isinstance(question, bytes):
            self._owner.counts.answered += 1
            return question
        asked = None if question is Next.FORWARD else question
        ours = Next.FORWARD if asked is None else self._owner.ours(asked, tcp=True)
        if isinstance(ours, bytes):
            self._owner.counts.answered += 1
            return ours
        if self._resolver is None:
            return self._owner.counted(Answer("failed", servfail(message)))
        if ours is Next.LOOK_UP:
            return ours
        answer = self._upstream.at_once(message, asked, self._resolver, tcp=True)
        return Next.FORWARD if answer is None else self._owner.counted(answer, asked, self._resolver, self._upstream)

    def patience(self, message: bytes) -> float:
        assert self._resolver is not None
        return self._upstream.patience(_question(message), self._resolver)

    async def look_up(self, message: bytes) -> bytes:
        question = _question(message)
        assert question is not None and self._resolver is not None
        return await self._owner.looked_up(question, self._resolver, self._nursery, tcp=True)

    async def connect(self) -> trio.SocketStream:
        assert self._resolver is not None
        with contextlib.ExitStack() as closing:
            sock = closing.enter_context(trio.socket.from_stdlib_socket(self._owner.outwards(self._resolver)))
            with trio.move_on_after(CONNECT):
                await sock.connect(self._resolver)
                closing.pop_all()
                return trio.SocketStream(sock)
        self._upstream.suspect(self._resolver, self._nursery)
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), self._resolver[0])

    def replied(self, message: bytes, reply: bytes, took: float) -> bytes:
        assert self._resolver is not None
        if not answers(message, reply):
            return self._owner.counted(Answer("forwarded", reply))  # what it is, the client knows
        question = _question(message)
        self._upstream.learn(question, self._resolver, reply, took)
        answer = self._upstream.instead(message, question, self._resolver, reply, tcp=True)
        return self._owner.counted(answer, question, self._resolver, self._upstream)

    def unanswered(self, message: bytes, took: float) -> bytes:
        assert self._resolver is not None
        question = _question(message)
        answer = self._upstream.unanswered(message, question, self._resolver, tcp=True)
        self._upstream.lost(question, self._resolver, took)
        return self._owner.counted(answer, question, self._resolver, self._upstream)

    def dropped(self) -> None:
        self._owner.counts.dropped += 1


def _question(message: bytes) -> Question | None:
    question = read(message)
    return question if isinstance(question, Question) else None


class _Datagram:
    """One question, and how to reply: from the address it came to, or the kernel would not undo the redirection."""

    __slots__ = ("_sock", "_whole_client", "client", "here", "message")

    def __init__(
        self, sock: trio.socket.SocketType, message: bytes, client: Any, ancillary: list[tuple[int, int, bytes]]
    ) -> None:
        self._sock = sock
        self._whole_client = client  # IPv6: with flow and scope
        self.message = message
        self.client: Address = client[:2]
        self.here = ""
        for level, kind, data in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                self.here = socket.inet_ntoa(_PKTINFO4.unpack(data)[2])
            elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                self.here = socket.inet_ntop(socket.AF_INET6, _PKTINFO6.unpack(data)[0])

    async def reply(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # as if the network had lost it: the client asks again
            await self._sock.sendmsg([message], [self._source()] if self.here else [], 0, self._whole_client)

    def _source(self) -> tuple[int, int, bytes]:
        if ":" in self.here:
            return (
                socket.IPPROTO_IPV6,
                socket.IPV6_PKTINFO,
                _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, self.here), 0),
            )
        return socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, socket.inet_aton(self.here), bytes(4))


def _tell_destination(door: socket.socket) -> None:
    """Make the kernel report the local address that each datagram came to."""
    if door.family == socket.AF_INET6:
        door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        door.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
