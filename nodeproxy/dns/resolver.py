"""The resolver of one captured workload: its questions arrive here because the kernel redirects port 53 to these doors.

A question that is not ours goes on bytes for bytes, each from a socket of its own: a fresh port that an attacker would have
to guess (RFC 5452 section 9.2), connected, so that the kernel takes only what that resolver sends. What one workload can
hold is bounded, and one turn of the loop takes one datagram of one door, so a flood costs others one datagram's work.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import TYPE_CHECKING, Any, Literal

import trio
from msgspec import Struct

from nodeproxy.capture import original_destination
from nodeproxy.dns.conversation import DEADLINE, Conversation
from nodeproxy.dns.message import Next, answer, answers, servfail
from nodeproxy.limits import Gate

if TYPE_CHECKING:
    from nodeproxy.context import Context
    from policy.model import Service, Workload

MAX_OUTSTANDING = 64  # questions of one workload that wait for a resolver; more are answered SERVFAIL
MAX_CONNECTIONS = 32  # DNS connections over TCP of one workload; more are closed
MAX_QUESTION = 4096  # bytes over UDP; the EDNS sizes that clients send are no larger
MAX_REPLY = 65535

Address = tuple[str, int]

IP_PKTINFO = 8  # linux/in.h; the socket module has it from Python 3.12
_PKTINFO4 = struct.Struct("=i4s4s")  # in_pktinfo: interface, our address, address in the header
_PKTINFO6 = struct.Struct("=16si")  # in6_pktinfo: our address, interface
_ANCILLARY_SPACE = socket.CMSG_SPACE(_PKTINFO6.size)


class Counts(Struct):
    """What became of the questions of one workload. Read by status and metrics."""

    answered: int = 0  # by us
    forwarded: int = 0  # by the resolver that was asked
    failed: int = 0  # SERVFAIL: no resolver could be asked or answered in time, or too many waited
    dropped: int = 0  # not answered: no question at all, too large, the client left, or too many connections


class Resolver:
    """Serves the DNS doors of one workload, by UDP and TCP, with common bounds and counts."""

    def __init__(self, workload_key: str, context: Context) -> None:
        self.workload_key = workload_key
        self.counts = Counts()
        self._namespace = workload_key.partition("/")[0]
        self._context = context
        self._outstanding = Gate(MAX_OUTSTANDING)
        self._connections = Gate(MAX_CONNECTIONS)

    def __repr__(self) -> str:
        return f"<Resolver {self.workload_key} {self._outstanding.open} waiting, {self.counts}>"

    async def serve_udp(self, door: socket.socket) -> None:
        """Serve a bound UDP socket until cancelled. The caller owns it and closes it after that."""
        _tell_destination(door)
        sock = trio.socket.from_stdlib_socket(door)
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    # A checkpoint each time: other tasks have their turn between two datagrams.
                    message, ancillary, flags, client = await sock.recvmsg(MAX_QUESTION, _ANCILLARY_SPACE)
                except OSError:
                    await trio.sleep(0.1)  # out of memory or the like: it may pass, and must not spin
                    continue
                came = _Datagram(sock, message, client, ancillary)
                outcome = Next.DROP if flags & socket.MSG_TRUNC else self._answer(message, tcp=False)
                if outcome is Next.DROP:
                    self.counts.dropped += 1
                elif outcome is not Next.FORWARD:
                    self.counts.answered += 1
                    await came.reply(outcome)
                elif self._outstanding.enter():
                    nursery.start_soon(self._forward_datagram, came, door.getsockname()[1])
                else:
                    self.counts.failed += 1
                    await came.reply(servfail(message))

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
                    await trio.sleep(0.1)  # out of file descriptors or the like
                    continue
                if self._connections.enter():
                    nursery.start_soon(self._converse, accepted)
                else:
                    self.counts.dropped += 1
                    accepted.close()

    def _answer(self, message: bytes, *, tcp: bool) -> bytes | Literal[Next.FORWARD, Next.DROP]:
        return answer(message, self._lookup, self._context.dns_ttl, tcp=tcp)

    def _lookup(self, host: str) -> Service | None:
        return self._context.snapshot.named(host, self._namespace)

    async def _forward_datagram(self, came: _Datagram, port: int) -> None:
        reply = None
        try:
            with trio.move_on_after(DEADLINE):
                reply = await self._ask(came, (came.here, port))
        except OSError:
            pass  # no route, no such namespace any more, nobody listens there
        finally:
            self._outstanding.leave()
        if reply is None:
            self.counts.failed += 1
            reply = servfail(came.message)
        else:
            self.counts.forwarded += 1
        await came.reply(reply)

    async def _ask(self, came: _Datagram, listener: Address) -> bytes | None:
        workload = self._context.snapshot.workload(self.workload_key)
        if workload is None:
            return None
        resolver = self._context.sockets.resolver_asked(workload, came.client, listener)
        if resolver is None or self._is_ours(resolver, listener):
            return None
        with trio.socket.from_stdlib_socket(self._outwards(workload, resolver, socket.SOCK_DGRAM)) as sock:
            await sock.connect(resolver)
            await sock.send(came.message)
            while True:
                reply = await sock.recv(MAX_REPLY)
                if answers(came.message, reply):
                    return reply

    async def _converse(self, accepted: socket.socket) -> None:
        try:
            async with trio.SocketStream(trio.socket.from_stdlib_socket(accepted)) as client:

                async def connect() -> trio.SocketStream:
                    return await self._connect(accepted)

                def count(what: Literal["answered", "forwarded", "failed", "dropped"]) -> None:
                    setattr(self.counts, what, getattr(self.counts, what) + 1)

                await Conversation(client, lambda message: self._answer(message, tcp=True), connect, self._outstanding, count).run()
        except OSError:
            pass  # it was reset before it began
        finally:
            self._connections.leave()

    async def _connect(self, accepted: socket.socket) -> trio.SocketStream:
        """A connection to the resolver that `accepted` was aimed at. OSError when there is none to be had."""
        workload = self._context.snapshot.workload(self.workload_key)
        resolver = original_destination(accepted)
        if workload is None or self._is_ours(resolver, accepted.getsockname()[:2]):
            raise OSError(errno.ELOOP, "the question was sent to our own door, or by a workload that is gone")
        with contextlib.ExitStack() as closing:
            sock = closing.enter_context(trio.socket.from_stdlib_socket(self._outwards(workload, resolver, socket.SOCK_STREAM)))
            await sock.connect(resolver)
            closing.pop_all()
        return trio.SocketStream(sock)

    def _outwards(self, workload: Workload, resolver: Address, kind: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in resolver[0] else socket.AF_INET
        return self._context.sockets.outwards(workload, family, kind)

    def _is_ours(self, resolver: Address, listener: Address) -> bool:
        """Was the question aimed at one of our doors? Forwarding it would bring it back here."""
        return resolver[1] in self._context.ports or resolver == listener


class _Datagram:
    """One question, and the way back: from the address it came to, or the kernel would not undo the redirection."""

    __slots__ = ("_sock", "_whole_client", "client", "here", "message")

    def __init__(self, sock: trio.socket.SocketType, message: bytes, client: Any, ancillary: list[tuple[int, int, bytes]]) -> None:
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
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, self.here), 0)
        return socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, socket.inet_aton(self.here), bytes(4))


def _tell_destination(door: socket.socket) -> None:
    """Have the kernel say to which of our addresses each datagram came."""
    if door.family == socket.AF_INET6:
        door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        door.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
