"""Doors with real TLS over streams in memory, the identities of a small shop, and peers that knock."""

from __future__ import annotations

import contextlib
import time

import trio

from nodeproxy.context import Conn
from nodeproxy.downstream.hbone import node_tunnels, workload_tunnels
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Connection
from nodeproxy.mesh.pool import Peers
from nodeproxy.stream import Peeked, abort, close_now
from nodeproxy.tls import contexts, handshake
from policy.model import Workload
from tests.nodeproxy.protocols.http.conftest import pipes

DOMAIN = "cluster.local"
NODE_SPIFFE = f"spiffe://{DOMAIN}/node/here"
NODE_DOOR = Workload("", "node", "")
OK = [(b":status", b"200")]


class Known:
    """nodeproxy.tls.credentials.Identities with a certificate for everybody who is asked for; `renew` makes them anew."""

    def __init__(self, mint, node="here", **how):
        self.mint = mint
        self.name = node
        self.how = how
        self.roots = mint.trust()
        self.made = {}
        self.clock = time.time
        self.doubts = 0

    def trust(self):
        return self.roots

    def of(self, identity):
        return self._of(identity.spiffe(DOMAIN))

    def node(self):
        return self._of(f"spiffe://{DOMAIN}/node/{self.name}")

    def now(self):
        return self.clock()

    def doubt(self):
        self.doubts += 1

    def renew(self):
        self.made.clear()

    def _of(self, spiffe):
        if spiffe not in self.made:
            self.made[spiffe] = self.mint.credentials(spiffe, self.name, **self.how)
        return self.made[spiffe]


class Visitor:
    """A peer's connection to a door: `connection` is its HTTP/2, `conn` what the door has of it, `end` how the door's task ended."""

    def __init__(self, conn):
        self.conn = conn
        self.end = None  # the flag, "" for an end in order
        self.over = trio.Event()
        self.connection = None
        self.secured = None

    async def connect(self, authority, *more, source=None):
        """CONNECT; its channel, status and fields."""
        fields = [(b":method", b"CONNECT"), (b":authority", authority.encode()), *more]
        if source:
            fields.append((b"forwarded", f'for="{source}"'.encode()))
        return await self.ask(fields)

    async def ask(self, fields, end=False):
        channel = await self.connection.open(fields, end)
        answer, _ = await channel.head()
        found = {name.decode(): value.decode() for name, value in answer}
        return channel, int(found[":status"]), found


class Doors:
    """The tunnel doors of one node, `here`."""

    def __init__(self, nursery, context, mint):
        self.nursery = nursery
        self.context = context
        self.mint = mint
        context.identities = self.identities = Known(mint)
        context.peers = self.peers = Peers(context)
        self.others = Known(mint, "there")
        self.contexts = contexts.Contexts()
        self.gate = None

    async def knock(
        self,
        account="buyer",
        door=None,
        address="10.0.0.2",
        peer=("10.9.9.9", 40000),
        alpn=("h2",),
        credentials=None,
        bounds=None,
    ):
        """Connect as the service account of the shop to the door of a workload, or of the node. Raises Refused: the peer's own view."""
        theirs, ours = pipes()
        conn = Conn(
            self.context, Peeked(ours), door or NODE_DOOR, "inbound", peer, (address, 15008), 0.0, gate=self.gate
        )
        visitor = Visitor(conn)
        visitor.pipe = theirs
        self.nursery.start_soon(self._own, visitor, workload_tunnels if door else node_tunnels)
        credentials = credentials or self.others._of(f"spiffe://{DOMAIN}/ns/shop/sa/{account}")
        expects = (door.identity.spiffe(DOMAIN) if door else NODE_SPIFFE,)
        try:
            context = self.contexts.client(credentials, self.others.trust(), alpn)
            visitor.secured = await handshake.connect(theirs, context, self.others.trust(), expects, 5.0, time.time)
        except Refused:
            theirs.close()
            await visitor.over.wait()
            self.ends = visitor.end
            raise
        visitor.connection = Connection(visitor.secured.stream, True, bounds or Bounds(native=False), "door")
        self.nursery.start_soon(self._run, visitor)
        return visitor

    async def _own(self, visitor, door):
        conn = visitor.conn
        flag = "drained"
        try:
            self.context.conns[conn.id] = conn
            with conn.scope:
                await door(conn)
                flag = ""
        except Refused as refused:
            flag = refused.flag
            conn.report.record.detail = refused.detail
        except trio.BrokenResourceError:
            flag = "client-gone"
        finally:
            abort(conn.stream) if flag else close_now(conn.stream)
            self.context.conns.pop(conn.id, None)
            conn.report.close(flag)
            visitor.end = flag
            visitor.over.set()

    async def _run(self, visitor):
        with contextlib.suppress(Refused, trio.BrokenResourceError):
            await visitor.connection.run()
        visitor.secured.stream.abort()
