"""Context: what every connection can reach. Conn: what we know of one. Route: where its bytes may go."""

from __future__ import annotations

import itertools
import resource
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Literal
from typing import Protocol as Interface

import trio
from msgspec import Struct

from nodeproxy.capture import Ports, Sockets
from nodeproxy.credentials import Identities, NoIdentities
from nodeproxy.http.h2_bounds import Bounds
from nodeproxy.limits import Limits
from nodeproxy.telemetry.report import Record, Report, Sink
from policy.model import Endpoint, Hop, Identity, Protocol, Request, Workload
from policy.snapshot import Snapshot

if TYPE_CHECKING:
    from nodeproxy.http.pool import Pool
    from nodeproxy.http.shared import Shared
    from nodeproxy.lane import FastLane
    from nodeproxy.stream import Peeked
    from nodeproxy.upstream.live import Live
    from nodeproxy.upstream.peers import Peers


class Pick(Struct, frozen=True):
    """A decision: this connection or request goes to this endpoint, and this rule says that it may."""

    endpoint: Endpoint
    workload: Workload | None  # None: outside the mesh
    service: str  # key of the service that the endpoint was chosen for, "" for none
    rule: str
    local: bool  # the endpoint runs on this node and is captured here
    hop: Hop | None = None  # it runs on another node, and this is the way there
    protocol: Protocol = ""  # what the chosen Service port declares


class Route(Interface):
    """Decides where one connection's bytes go. Asked anew for every request, always with the newest snapshot."""

    def pick(self, request: Request | None, tried: Collection[Endpoint] = ()) -> Pick:
        """Choose an endpoint that may be used, leaving out `tried`. `request` None: an opaque stream. Raises Refused."""
        ...

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        """Would the newest snapshot still admit this, to that same endpoint?"""
        ...

    def misdirected(self, host: str) -> bool:
        """Does this Host name a mesh service other than the one that was dialled (RFC 9110 section 15.5.20)?"""
        ...


class Context:
    """Shared by all connections of one proxy. `snapshot` is replaced, never edited; the rest is experience or settings."""

    def __init__(
        self,
        snapshot: Snapshot,
        sockets: Sockets,
        live: Live,
        pool: Pool,
        limits: Limits,
        ports: Ports,
        sink: Sink,
        identities: Identities | None = None,
        h2_bounds: Bounds | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.sockets = sockets
        self.live = live
        self.pool = pool
        self.limits = limits
        self.ports = ports
        self.sink = sink
        self.identities: Identities = identities or NoIdentities()
        self.peers: Peers | None = None  # connections to other nodes; None before the proxy runs
        self.h2_bounds = h2_bounds or Bounds()
        self.lane: FastLane | None = None  # where it was compiled; None before the proxy runs
        self.shared: Shared | None = None  # connections to servers that speak HTTP/2; likewise
        self.dns_ttl = 5  # seconds; CoreDNS's kubernetes plugin has the same
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.descriptors = sys.maxsize if soft == resource.RLIM_INFINITY else soft  # of this process; a connection takes two
        self.draining = False  # callers are told to come back on another connection
        self.conns: dict[int, Conn] = {}
        self.captured: set[str] = set()  # keys of the workloads whose doors are open here
        self._ids = itertools.count(1)

    def next_id(self) -> int:
        return next(self._ids)


class Conn:
    """One accepted connection: who calls, what was dialled, through whose door. Its one owner is its task in listen.py."""

    __slots__ = (
        "active",
        "context",
        "dialled",
        "direction",
        "id",
        "identity",
        "peer",
        "pick",
        "report",
        "request",
        "route",
        "scope",
        "source",
        "started",
        "stream",
        "verdict",
        "workload",
    )

    def __init__(
        self,
        context: Context,
        stream: Peeked,
        workload: Workload,
        direction: Literal["outbound", "inbound"],
        peer: tuple[str, int],
        dialled: tuple[str, int],
        started: float,
        source: Workload | None = None,
        report: Report | None = None,
    ) -> None:
        """`source`: who calls through an inbound door, when that was proved. `report`: of the connection that carries this one."""
        self.id = context.next_id()
        self.context = context
        self.stream = stream
        self.workload = workload  # the local workload whose door this came through
        self.direction = direction
        self.peer = peer
        self.dialled = dialled
        self.started = started  # seconds since the epoch
        self.scope = trio.CancelScope()  # the connection's life
        self.source: Workload | None = workload if direction == "outbound" else source
        self.identity: Identity | None = self.source.identity if self.source else None  # proved: by the socket, or by a certificate
        self.route: Route | None = None
        # What is moving now, so that publish() can ask whether it still may. None when nothing moves (idle keep-alive).
        self.pick: Pick | None = None
        self.request: Request | None = None
        self.active = False
        self.verdict = ""  # the flag that cut it, when publish() did
        self.report = report or Report(
            context.sink,
            Record(
                kind="connection",
                direction=direction,
                started=started,
                duration=0.0,
                source=self.source,
                source_address=peer[0],
                destination=workload if direction == "inbound" else None,
                service="",
                dialled=_address(dialled),
                endpoint="",
                protocol="",
            ),
        )

    def __repr__(self) -> str:
        source = self.source.key if self.source else self.peer[0]
        state = f" -> {self.pick.endpoint}" if self.pick else ""
        return f"<Conn {self.id} {self.direction} {source} -> {_address(self.dialled)}{state}>"

    def branch(self, stream: Peeked) -> Conn:
        """One stream of this connection: it is decided, registered and cut by itself, and counts in this connection's report."""
        branch = Conn(self.context, stream, self.workload, self.direction, self.peer, self.dialled, self.started, self.source, self.report)
        branch.identity = self.identity
        return branch

    def moves(self, pick: Pick, request: Request | None) -> None:
        """Register what is about to move, before the last check (register, then check: publish() cannot miss it)."""
        self.pick = pick
        self.request = request
        self.active = True

    def rests(self) -> None:
        self.active = False
        self.request = None


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
