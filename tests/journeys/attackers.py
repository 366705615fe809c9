"""Somebody who stands on the link between two nodes, with whatever certificate he could lay hands on."""

from __future__ import annotations

import contextlib
import socket
import time

import h11
import trio

from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Connection
from nodeproxy.tls import contexts, handshake
from tests.journeys.stand_ins import bound

DOOR = 15008
SERVED = "served"


class Attacker:
    """What each attempt says in the end is SERVED, the status of an answer, or the flag of what the attacker's own end met."""

    def __init__(self, mesh, nursery, mint):
        self.mesh = mesh
        self.nursery = nursery
        self.mint = mint
        self.source = "127.0.0.66"
        self.contexts = contexts.Contexts()

    def certificate(self, namespace, account, **how):
        return self.mint.credentials(f"spiffe://cluster.local/ns/{namespace}/sa/{account}", "west", **how)

    async def dial(self, address):
        sock = trio.socket.from_stdlib_socket(bound(self.source, socket.SOCK_STREAM))
        await sock.connect((address, DOOR))
        return trio.SocketStream(sock)

    async def tunnel(
        self, credentials, authority, *more, door=None, alpn=contexts.ALPN_TUNNEL, context=None, path=b"/books"
    ):
        """CONNECT through the door at an address, and a request in the tunnel. `door` None: that of the authority itself."""
        fields = [(b":method", b"CONNECT"), (b":authority", authority.encode()), *more]
        return await self.ask(credentials, door or authority.rpartition(":")[0], fields, alpn, context, path, more)

    async def native(self, credentials, door, authority, *more):
        """A request between edgemesh nodes, which needs no tunnel."""
        fields = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/books"),
            (b":authority", b"bookstore-v1.bookstore"),
            (b"x-edgemesh-destination", authority.encode()),
            *more,
        ]
        return await self.ask(credentials, door, fields, contexts.ALPN_MESH)

    async def ask(self, credentials, door, fields, alpn, context=None, path=b"", more=()):
        with trio.fail_after(30):
            stream = await self.dial(door)
            roots = self.mint.trust()
            context = context or self.contexts.client(credentials, roots, alpn)
            try:
                expects = {"spiffe://cluster.local/node/east", *self.servers()}
                secured = await handshake.connect(stream, context, roots, expects, 5, time.time)
            except Refused as refused:
                stream.socket.close()
                return refused.flag
            connection = Connection(secured.stream, True, Bounds(), "attacker")
            self.nursery.start_soon(self._run, connection)
            try:
                channel = await connection.open(fields, end=not path)
                head, _ = await channel.head()
                status = dict(head)[b":status"].decode()
                if status != "200" or not path:
                    return SERVED if status == "200" else status
                return await self.speak(channel, path, more)
            except (Refused, trio.BrokenResourceError):
                return "peer-lost"
            finally:
                connection.close()
                secured.stream.abort()

    async def in_plain(self, door):
        async with await self.dial(door) as stream:
            return await self.speak(stream)

    async def speak(self, stream, path=b"/books", more=()):
        """A request in the open."""
        http = h11.Connection(h11.CLIENT)
        headers = [(b"host", b"bookstore-v1.bookstore"), *more]
        await stream.send_all(
            http.send(h11.Request(method="GET", target=path, headers=headers)) + http.send(h11.EndOfMessage())
        )
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                try:
                    http.receive_data(await stream.receive_some(4096))
                except trio.BrokenResourceError:
                    return "reset"
            elif isinstance(event, h11.Response):
                return SERVED if event.status_code == 200 else str(event.status_code)
            elif isinstance(event, h11.ConnectionClosed):
                return "closed"

    def servers(self):
        return [
            f"spiffe://cluster.local/ns/{space}/sa/{account}"
            for space, account in (("bookstore", "bookstore"), ("bookwarehouse", "mysql"))
        ]

    async def _run(self, connection):
        with contextlib.suppress(Refused, trio.BrokenResourceError):
            await connection.run()
