"""Context: what every connection can reach. Conn: one accepted connection."""

from __future__ import annotations

import itertools
import resource
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Literal

import trio
from msgspec import Struct
from msgspec.structs import replace

from nodeproxy.capture import Ports, Sockets
from nodeproxy.codec.client_hello import Hello
from nodeproxy.h2.limits import Bounds
from nodeproxy.h2.owner import of_all
from nodeproxy.h2.peer_limits import Guests
from nodeproxy.housekeeping import Housekeeping
from nodeproxy.interfaces import Asides, FastPath, PeerPool, Pick, Route, no_asides, no_fast_path, no_peers
from nodeproxy.keys import Keys
from nodeproxy.limits import Gate, Limits
from nodeproxy.telemetry.record import Record, Report, Sink
from nodeproxy.ties import Ties
from nodeproxy.tls.certificates import Certificates
from nodeproxy.tls.credentials import Identities, NoIdentities
from nodeproxy.tls.gateway import Client, ServerContexts
from nodeproxy.tls.unauthenticated import Anteroom
from nodeproxy.upstream.http2_pool import Http2Pool
from nodeproxy.upstream.rates import Rates
from nodeproxy.upstream.shares import Shares
from nodeproxy.user_filters import UserFilters
from policy.gateway import ClientCheck, Listener
from policy.model import Endpoint, Identity, Request, Workload
from policy.networks import Networks
from policy.snapshot import Snapshot

if TYPE_CHECKING:
    from nodeproxy.stream import Peeked
    from nodeproxy.upstream.balance import Live
    from nodeproxy.upstream.http1_pool import Pool


# Owns the listeners of Gateways, and calls other nodes as this node: no workload of the mesh has an empty namespace.
GATE = Workload("", "gateway", "")


def no_resolvers(workload: Workload) -> Collection[str]:
    """Trust no resolver."""
    return ()


# Handshakes with clients outside: at once, and a second. One costs the loop a millisecond or two.
_PACE = ((256, 100.0), (1024, 400.0), (1024, 400.0))
_MOST_RESERVED = 256  # descriptors; if the limit is low, an eighth of it


class Edge(Struct, frozen=True):
    """What a listener of a Gateway knows of a caller outside the mesh."""

    scheme: bytes  # b"http" or b"https"
    trusted: bool  # a proxy that is believed
    sni: str | None = None  # the host that the TLS handshake named; None: no TLS
    client: Client | None = None  # what its certificate proves
    check: ClientCheck | None = None  # which certificate its handshake asked for

    def may_reach(self, listener: Listener) -> bool:
        """Return whether the caller was asked for the certificate that callers of this listener have to show."""
        check = listener.clients
        return check is None or check.optional or check == self.check


class Front:
    """What the listeners of Gateways share, to which anybody may connect.

    `trusted`: ranges of proxies before this node. `proxied`: their connections begin with a PROXY header.
    """

    def __init__(self, trusted: Sequence[str] = (), proxied: bool = False) -> None:
        self.certificates = Certificates()
        self.contexts = ServerContexts()
        self.anteroom = Anteroom(pace=_PACE)  # of clients whose first request has not begun
        self.proxied = proxied
        self._trusted = Networks((network, network) for network in trusted)

    def trusts(self, address: str) -> bool:
        """Return whether this is the address of a proxy that is believed."""
        return self._trusted.rule(address) != ""


class Context:
    """Shared by all connections of one proxy.

    `snapshot` is replaced, never edited; the rest is observed state or settings.
    """

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
        dns_ttl: int = 5,
        refuse_other_hosts: bool = False,
        dns_ask_unknown: bool = False,
        dns_trusted: Callable[[Workload], Collection[str]] = no_resolvers,
        fast: Callable[[Context], FastPath[Conn]] = no_fast_path,
        peers: Callable[[Context], PeerPool] = no_peers,
        front: Front | None = None,
        asides: Callable[[Context], Asides[Conn]] = no_asides,
        keys: Keys | None = None,
        user_filters: UserFilters | None = None,
    ) -> None:
        """`dns_ttl`: seconds; CoreDNS's kubernetes plugin has the same.

        `refuse_other_hosts`: respond 421 to a caller that dialled one Service and names another. `dns_ask_unknown`: ask
        the resolver for names of the cluster that nothing has. `dns_trusted`: the resolvers whose answers count where a
        workload may call hosts outside the mesh by name. `fast`, `peers`, `asides`: make the implementations.
        `front`: of the listeners of Gateways. `keys`: of filters. `user_filters`: Python of this node.
        """
        self.snapshot = snapshot
        self.sockets = sockets
        self.live = live
        self.pool = pool
        self.rates = Rates()
        self.shares = Shares()
        self.limits = limits
        self.ports = ports
        self.sink = sink
        self.identities: Identities = identities or NoIdentities()
        self.h2_bounds = h2_bounds or Bounds()
        self.dns_ttl = dns_ttl
        self.refuse_other_hosts = refuse_other_hosts
        self.dns_ask_unknown = dns_ask_unknown
        self.dns_trusted = dns_trusted
        self.ties: dict[str, Ties] = {}  # by key of the workload: what it was told of names
        # By key of the workload: asks a resolver that counts for a name and a type, and notes the answer in `ties`
        self.lookups: dict[str, Callable[[str, int], Awaitable[None]]] = {}
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.descriptors = (
            sys.maxsize if soft == resource.RLIM_INFINITY else soft
        )  # of this process; a connection takes two
        # Descriptors from this number on are reserved for the daemon itself: its rules, certificates, admin socket and
        # updates. The kernel assigns the lowest free number, so the number of a new descriptor shows how many are in
        # use.
        self.first_reserved = self.descriptors - min(_MOST_RESERVED, self.descriptors // 8)
        self.housekeeping = Housekeeping()
        self.anteroom = Anteroom()  # of the tunnel listeners
        self.front = front or Front()
        self.guests = Guests(self.limits, self.h2_bounds)  # accepted at the tunnel listeners
        self.draining = False  # callers are asked to come back on another connection
        self.conns: dict[int, Conn] = {}
        self.captured: set[str] = set()  # keys of the workloads with open listeners here
        self._ids = itertools.count(1)
        # Last, because each of these uses the rest.
        self.fast = fast(self)
        self.http2_pool = Http2Pool(self.h2_bounds, limits.pool_idle_timeout, self.fast.transport)
        self.peers = peers(self)
        self.asides = asides(self)
        self.keys = keys or Keys()
        self.user_filters = user_filters or UserFilters()

    def gate(self) -> Gate:
        """Return the gate for the connections of one workload."""
        return Gate(self.limits.connections, of_all(self.limits.streams, self.h2_bounds, trio.current_time()))

    def limits_for(self, endpoint: Endpoint) -> Limits:
        """Return the limits for calls to this endpoint: a Service may set the idle timeout of its connections."""
        own = self.snapshot.idle_timeout(endpoint)
        return self.limits if own is None else replace(self.limits, idle_timeout=own)

    def failed(self, endpoint: Endpoint) -> None:
        """Record that an endpoint did not answer: it may rest for a while, and the fast path forgets what it
        learned.
        """
        self.live.failed(endpoint, trio.current_time())
        self.fast.forget()

    def next_id(self) -> int:
        return next(self._ids)

    def spares(self, descriptor: int) -> bool:
        """Return whether a call may have this new descriptor. False: it is to be closed, and the call refused."""
        return descriptor < self.first_reserved


class Conn:
    """One accepted connection: its caller, the dialled address, and the listener.

    Its task in downstream/accept.py owns it.
    """

    __slots__ = (
        "active",
        "context",
        "dialled",
        "direction",
        "edge",
        "gate",
        "hello",
        "id",
        "identity",
        "keys",
        "peer",
        "pick",
        "report",
        "request",
        "route",
        "scope",
        "shown",
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
        gate: Gate | None = None,
    ) -> None:
        """`source`: the caller at an inbound listener, if proved. `report`: of the connection that carries this one.

        `gate`: the gate that counts it; None: none does.
        """
        self.gate = gate or Gate(sys.maxsize)
        self.id = context.next_id()
        self.context = context
        self.stream = stream
        self.workload = workload  # the local workload that owns the listener
        self.direction = direction
        self.peer = peer
        self.dialled = dialled
        self.started = started  # seconds since the epoch
        self.scope = trio.CancelScope()  # the connection's life
        self.source: Workload | None = workload if direction == "outbound" else source
        self.identity: Identity | None = (
            self.source.identity if self.source else None
        )  # proved: by the socket, or by a certificate
        # The caller's addresses as servers see them, over IPv4 and over IPv6, and its pool keys (routing/source.py);
        # None: not yet determined.
        self.shown: tuple[str, str] | None = None
        self.keys: tuple[str, str] | None = None
        self.route: Route | None = None
        self.hello: Hello | None = None  # what the caller said, if its protocol is TLS that passes unopened
        # The current traffic, so that publish() can check whether it is still allowed. None if nothing moves (idle
        # keep-alive).
        self.pick: Pick | None = None
        self.request: Request | None = None
        self.active = False
        self.verdict = ""  # the flag for which publish() cut it
        self.edge: Edge | None = None  # at a listener of a Gateway
        self.report = report or Report(
            context.sink,
            Record.of_connection(
                direction,
                started,
                self.source,
                peer[0],
                workload if direction == "inbound" else None,
                _address(dialled),
            ),
        )

    def __repr__(self) -> str:
        source = self.source.key if self.source else self.peer[0]
        state = f" -> {self.pick.endpoint}" if self.pick else ""
        return f"<Conn {self.id} {self.direction} {source} -> {_address(self.dialled)}{state}>"

    def unmask(self, came: tuple[str, int]) -> None:
        """Take the address that the caller had before NAT. Call it before anything was decided by the other one."""
        record = self.report.record
        record.nat_address, record.source_address = self.peer[0], came[0]
        self.peer = came

    def branch(self, stream: Peeked) -> Conn:
        """Return a Conn for one stream of this connection.

        It is decided, registered and cut by itself, and counts in this connection's report.
        """
        branch = Conn(
            self.context,
            stream,
            self.workload,
            self.direction,
            self.peer,
            self.dialled,
            self.started,
            self.source,
            self.report,
        )
        branch.identity, branch.edge = self.identity, self.edge
        branch.shown, branch.keys = self.shown, self.keys
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
