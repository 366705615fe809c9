"""HTTP/2 connections that the fast path reads and writes, and the targets they lead to.

On the calling node the server is reached over the connection to its node (`route`): the fast path opens a stream on it
for each request that it has learned. Within a node, a server that speaks HTTP/2 is reached over the connections to it
(`route_server`).
"""

from __future__ import annotations

from typing import Any

from nodeproxy.fastpath.engine import Engine
from nodeproxy.fastpath.transport import NativeTransport
from nodeproxy.h2.connection import Connection
from nodeproxy.h2.stream import Channel
from nodeproxy.interfaces import PeerConnection
from nodeproxy.mesh.connection import note_peer
from nodeproxy.native import H2, Linked, Target
from nodeproxy.telemetry.record import Record
from policy.model import Endpoint


class Links:
    """HTTP/2 connections, by number and by transport."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.transports: dict[int, NativeTransport] = {}
        self._numbers: dict[NativeTransport, int] = {}
        self._linked: dict[NativeTransport, Linked] = {}
        self._peers: dict[int, PeerConnection] = {}  # by target: the peer at the other end, for records

    def __repr__(self) -> str:
        return f"<Links {len(self.transports)} connections>"

    def add(self, transport: NativeTransport, fd: int, tls: Any, h2: H2, stall: float) -> Linked:
        """Carry a connection until `remove`."""
        number = self._engine.next_id()
        linked = self._engine.lane.link(number, fd, tls, h2, stall, transport.local)
        self.transports[number] = transport
        self._numbers[transport] = number
        self._linked[transport] = linked
        return linked

    def remove(self, transport: NativeTransport, bye: bool) -> tuple[int, tuple[int, int]]:
        """Stop carrying a connection. `bye`: tell the peer. Return its number, and the bytes received and sent."""
        number = self._numbers.pop(transport)
        linked = self._linked.pop(transport)
        counted = linked.totals
        linked.close(bye)
        self._engine.collect()  # what broke together with it
        del self.transports[number]
        return number, counted

    def of(self, transport: object) -> Linked | None:
        """Return the native side of a connection, or None if the fast path does not carry it."""
        return self._linked.get(transport) if isinstance(transport, NativeTransport) else None

    def number(self, transport: object) -> int:
        """Return the number of a connection, 0 for none."""
        return self._numbers.get(transport, 0) if isinstance(transport, NativeTransport) else 0

    def forget(self) -> None:
        """Make everything stale that was learned."""
        self._peers.clear()

    def tell(self) -> None:
        """Tell the transports for which the fast path has something."""
        for number in self._engine.lane.links():
            if (transport := self.transports.get(number)) is not None:
                transport.told()

    def lends(self, channel: Channel) -> Linked | None:
        """Return the connection of a tunnel whose bytes the fast path may pass, or None."""
        transport = channel.connection.transport
        linked = self._linked.get(transport) if isinstance(transport, NativeTransport) else None
        if linked is None or not isinstance(transport, NativeTransport):
            return None
        transport.told()  # deliver what came for the tunnel before it is lent
        return linked if channel.lendable and not linked.ended else None

    def route(self, target: Target, peer: PeerConnection, endpoint: Endpoint, h2: bool) -> bool:
        """Let requests for this target use this connection. Return False if the fast path does not carry it.

        `h2`: their caller speaks HTTP/2.
        """
        linked = self.of(getattr(peer, "transport", None))
        if linked is None or not peer.native:
            return False
        self._engine.lane.route(target, linked, f"{endpoint};h2".encode() if h2 else str(endpoint).encode())
        self._peers[target.serial] = peer
        return True

    def route_server(self, target: Target, connections: list[Connection]) -> bool:
        """Let requests for this target use these connections to the server. Return False if none is carried."""
        linked = [found for one in connections if (found := self.of(one.transport)) is not None]
        for one in linked:
            self._engine.lane.route(target, one, b"")
        return bool(linked)

    def peer(self, serial: int) -> PeerConnection | None:
        """Return the connection over which calls to this target reach another node."""
        return self._peers.get(serial)

    def note(self, record: Record, serial: int) -> None:
        """Write the other node's identity into the record of a call to another node."""
        if (peer := self._peers.get(serial)) is not None:
            note_peer(record, peer)
