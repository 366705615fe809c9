"""Interfaces of the parts that can be replaced: Route decides, PeerPool connects nodes, FastPath repeats decisions.

Their users know no more of them than is here. Each has its stand-in here too, for a node without that part.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Never, TypeVar
from typing import Protocol as Interface

import trio
from msgspec import Struct

from nodeproxy.errors import Refused
from nodeproxy.h2.limits import Bounds
from nodeproxy.limits import Limits
from nodeproxy.telemetry.record import Record
from policy.doors import Came
from policy.match import Look
from policy.model import Endpoint, Hop, Protocol, Request, Workload
from policy.route import Filter, Retry, Rule, Timeouts
from policy.upstream import ServiceBounds

if TYPE_CHECKING:
    from nodeproxy.codec.message import Fields, RequestHead, ResponseHead
    from nodeproxy.h2.connection import Connection
    from nodeproxy.h2.stream import Channel
    from nodeproxy.h2.transport import Transport
    from nodeproxy.stream import Peeked, Stream
    from nodeproxy.tls.credentials import AnySecured, Credentials, Peer, Trust
    from nodeproxy.upstream.balance import Turns
    from nodeproxy.upstream.http1_pool import Key, Upstream


Conn = TypeVar("Conn")  # context.Conn, which is made with what is here
Asker_contra = TypeVar("Asker_contra", contravariant=True)  # the same, for an interface that only takes one


class Pick(Struct, frozen=True):
    """A decision: this connection or request goes to this endpoint, and this rule says that it may."""

    endpoint: Endpoint
    workload: Workload | None  # None: outside the mesh
    service: str  # key of the Service that the endpoint was chosen for, "" for none
    rule: str
    local: bool  # the endpoint runs on this node and is captured here
    hop: Hop | None = None  # the endpoint is on another node: how to reach it
    protocol: Protocol = ""  # declared by the chosen Service port
    filters: tuple[Filter, ...] = ()  # of the Route's rule that applies, and of the backend; they have not acted yet
    timeouts: Timeouts | None = None  # of the rule
    backend: str = ""  # key of the chosen backend, if it has filters of its own
    trial: str = ""  # the rule that alone admits it and is to be removed; "" for none (policy.model.Verdict)
    bounds: tuple[ServiceBounds, ...] = ()  # whose rates hold for it at this node, which is the server's
    upstream: ServiceBounds | None = None  # of the chosen Service: holds at this node, which is the caller's
    retry: Retry | None = None  # of the rule, or of the caller
    via: str = ""  # key of the Gateway by whose listener the caller came
    came: Came | None = None  # with `hop`: that caller, of whom the other node is told


class Unserved(Refused):
    """No server gets this request: one of the rule's filters responds, or it is refused."""

    def __init__(self, rule: Rule) -> None:
        super().__init__("bad-route", f"{rule.name}: no filter responds")
        self.filters: tuple[Filter, ...] = rule.filters


class Unsettled(Refused):
    """It is refused as far as is known. `settle` tries to find out more, and returns whether to decide anew."""

    def __init__(self, flag: str, detail: str, settle: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(flag, detail)
        self.settle = settle


class Spread(NamedTuple):
    """The endpoints that calls are spread over, by backend; the turns of the backends if there are several."""

    turns: Turns | None
    groups: Mapping[str, tuple[Endpoint, ...]]


class Way(NamedTuple):
    """How a Pick goes to any of these endpoints: its fields of these names."""

    service: str
    filters: tuple[Filter, ...]
    endpoints: tuple[Endpoint, ...]


class Share(NamedTuple):
    """The backends that a rule spreads calls over, by key; their turns if there are several."""

    turns: Turns | None
    ways: Mapping[str, Way]


class Ruled(NamedTuple):
    """Where calls may go, by the number of the rule that applies; rules without a share are left to `pick`.

    Which rule applies depends on the method, on which of `patterns` the path fits, and on `looks`.
    """

    patterns: tuple[str, ...]
    looks: tuple[Look, ...]
    shares: Mapping[int, Share]
    always: bool  # one rule applies to every request


class Route(Interface):
    """Decides where one connection's bytes go. It decides anew for every request, always with the newest snapshot."""

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        """Choose an endpoint that may be used, except those in `tried`; with `backend`, one of that backend.

        `request` None: an opaque stream. Raise Refused.
        """
        ...

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        """Return whether the newest snapshot would still admit this, to that same endpoint."""
        ...

    def misdirected(self, host: str) -> bool:
        """Return whether this Host names a mesh Service other than the dialled one (RFC 9110 section 15.5.20)."""
        ...

    def spread(self) -> Spread | None:
        """Return where every call of this connection may go; None if it depends on the request or on more than
        policy.
        """
        ...

    def ruled(self) -> Ruled | None:
        """Return where calls may go where that depends on the request, or where filters act; None for nowhere."""
        ...

    def rule(self, request: Request) -> int:
        """Return the number of the rule that applies to a request, by the newest snapshot."""
        ...

    def refuses(self, endpoint: Endpoint, request: Request, via: str = "") -> Refused | None:
        """Return the refusal of a request that goes to this endpoint; None if it is admitted."""
        ...

    def crosses(self, workload: Workload, endpoint: Endpoint) -> bool:
        """Return whether this endpoint is reached through a connection to its node."""
        ...


class PeerConnection(Interface):
    """A connection to another node, as protocols see it.

    It has no ssl object, so that other implementations can replace it.
    """

    @property
    def peer(self) -> Peer:
        """The identity that the other end proved."""
        ...

    @property
    def native(self) -> bool:
        """Whether the other end takes requests other than CONNECT."""
        ...

    async def open(self, fields: Fields, end: bool = False) -> Channel:
        """Open a stream. Raise Refused("peer-lost") if the connection takes no more."""
        ...

    def room(self) -> int:
        """Return how many more streams may be opened now."""
        ...

    def drain(self) -> None:
        """Open no new streams; the connection ends with the last one."""
        ...

    def close(self) -> None: ...


class PeerPool(Interface):
    """Connections to other nodes (mesh/pool.py), shared by the streams of one identity."""

    async def get(self, workload: Workload, hop: Hop, came: Came | None = None) -> PeerConnection:
        """Return a connection for this workload's identity, with room for a stream that is opened soon.

        `came`: a caller outside the mesh, for whom this node calls. Raise Refused.
        """
        ...

    def existing(self, workload: Workload, hop: Hop) -> PeerConnection | None:
        """Return a connection that is up and takes more streams, if there is one."""
        ...

    async def tunnel(
        self, workload: Workload, pick: Pick, hop: Hop, source: tuple[str, int], record: Record
    ) -> Channel:
        """Open a tunnel for opaque bytes to the picked endpoint. Raise Refused.

        `source`: the caller as its server sees it. The record gets the identity that the other node proved, and the id
        under which both nodes record the tunnel.
        """
        ...

    async def accept(
        self, stream: Peeked, credentials: Credentials, trust: Trust, seconds: float
    ) -> tuple[AnySecured, Transport | None]:
        """Run the server side of a handshake. Raise Refused; then the caller closes `stream`."""
        ...

    def admit(self, link: Connection) -> None:
        """Maintain a peer's connection to a listener of this node, until `dismiss`."""
        ...

    def dismiss(self, link: Connection) -> None:
        """Stop maintaining a connection that has ended."""
        ...

    # called by the proxy

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Maintain the connections until cancelled."""
        ...

    def recheck(self) -> int:
        """Apply a new snapshot: cut the connections of the peers that it refuses. Return how many."""
        ...

    def drain(self) -> None:
        """Ask the peers to open no more streams, because the daemon is stopping. Running streams continue."""
        ...

    def forget(self, key: str) -> None:
        """Drop the connections that were made in the namespace of a workload that has left this node."""
        ...

    def retain(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        """Drop what was made with other certificates or roots than these."""
        ...

    def nodes(self) -> list[dict[str, Any]]:
        """Return every other node with configured addresses, and every peer that was dialled; ages in seconds."""
        ...


class NoPeers:
    """PeerPool of a standalone node."""

    async def get(self, workload: Workload, hop: Hop, came: Came | None = None) -> PeerConnection:
        raise Refused("no-certificate", f"{workload.identity}, to call {hop}")

    def existing(self, workload: Workload, hop: Hop) -> None:
        return None

    async def tunnel(
        self, workload: Workload, pick: Pick, hop: Hop, source: tuple[str, int], record: Record
    ) -> Channel:
        raise Refused("no-certificate", f"{workload.identity}, to call {hop}")

    async def accept(
        self, stream: Peeked, credentials: Credentials, trust: Trust, seconds: float
    ) -> tuple[AnySecured, Transport | None]:
        raise Refused("no-certificate", "this node stands alone")

    def admit(self, link: Connection) -> None:
        return None

    def dismiss(self, link: Connection) -> None:
        return None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()

    def recheck(self) -> int:
        return 0

    def drain(self) -> None:
        return None

    def forget(self, key: str) -> None:
        return None

    def retain(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        return None

    def nodes(self) -> list[dict[str, Any]]:
        return []


def no_peers(context: object) -> PeerPool:
    """Make the PeerPool of a standalone node."""
    return NoPeers()


class Aside(NamedTuple):
    """An HTTP request that a filter makes to a Service beside the caller's own."""

    service: str  # key
    port: int  # of that Service
    head: RequestHead
    body: bytes = b""
    h2: bool = False  # the server of a port that declares nothing gets HTTP/2
    seconds: float = 30.0  # for all of it
    kept: int = 0  # bytes of the response's body that are kept; the rest is read and dropped


class Reply(NamedTuple):
    """What came of an Aside."""

    head: ResponseHead | None = None  # of the final response; None: there was none
    body: bytes = b""  # at most `kept` bytes
    refused: Refused | None = None  # why there is no response


class Place(Interface):
    """Room for one Aside among those that may be under way at once."""

    def free(self) -> None:
        """Give it back, unless it was used or given back before."""
        ...


class Asides(Interface[Asker_contra]):
    """Makes the requests of filters, as the caller: policy has to admit them like the caller's own."""

    dropped: int  # requests that were not made in the background

    def place(self, conn: Asker_contra) -> Place | None:
        """Reserve room for one request; None: too many are under way, and this one is counted as dropped."""
        ...

    def lost(self) -> None:
        """Count a request that is not made."""
        ...

    def send(self, conn: Asker_contra, aside: Aside, place: Place) -> None:
        """Make a request in the background, in the place that was reserved for it. Nobody hears what comes of it."""
        ...

    async def ask(self, conn: Asker_contra, aside: Aside) -> Reply:
        """Make a request, and wait for what comes of it. Raise nothing but cancellation."""
        ...

    # called by the proxy

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run those in the background until cancelled."""
        ...

    def forget(self, key: str) -> None:
        """End those of a workload that has left this node."""
        ...


class NoAsides:
    """Asides of a proxy that makes none."""

    dropped = 0

    def place(self, conn: object) -> None:
        return None

    def lost(self) -> None:
        return None

    def send(self, conn: object, aside: Aside, place: Place) -> None:
        raise AssertionError("there is no place")

    async def ask(self, conn: object, aside: Aside) -> Reply:
        return Reply(refused=Refused("internal", "this proxy makes no requests of its own"))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()

    def forget(self, key: str) -> None:
        return None


def no_asides(context: object) -> NoAsides:
    """Make the Asides of a proxy that makes none."""
    return NoAsides()


class FastStats(NamedTuple):
    """Which path serves HTTP requests here."""

    compiled: bool  # False: the slow path does everything
    served: int = 0  # by the fast path alone
    missed: int = 0  # handed back to the slow path


class FastPath(Interface[Conn]):
    """Repeats earlier decisions without Python. Each method returns an outcome, or None: the slow path has to do it.

    fastpath/path.py has the compiled implementation. NoFastPath replaces it if it was not compiled, or is disabled.
    """

    logging: bool  # each request makes a record; otherwise requests are only counted, which costs a fifth less

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        ...

    # bytes

    async def relay(
        self, left: Stream, right: Stream, idle_timeout: float, record: Record | None
    ) -> tuple[int, int] | None:
        """Relay as protocols/relay.py does, with the same outcome and the same refusals."""
        ...

    def lease(self, conn: Conn, caller: object) -> Any:
        """Return the fast path's part in an HTTP connection, a Lease (protocols/http/interfaces.py), or None."""
        ...

    def resting(self, key: Key) -> Upstream | None:
        """Take back a connection to a server that is idle in the fast path."""
        ...

    # connections

    def transport(self, stream: object, bounds: Bounds, caller: Conn | None = None) -> Transport | None:
        """Return what moves the bytes of an HTTP/2 connection of a workload (`caller`), or to one.

        It takes the bytes that `stream` holds.
        """
        ...

    async def accept_tls(
        self, stream: Peeked, credentials: Credentials, trust: Trust, seconds: float, now: Callable[[], float]
    ) -> tuple[AnySecured, Transport] | None:
        """Run the server side of the handshake between nodes. Raise Refused; then the caller closes `stream`."""
        ...

    async def connect_tls(
        self,
        stream: object,
        credentials: Credentials,
        trust: Trust,
        expects: Collection[str],
        seconds: float,
        now: Callable[[], float],
    ) -> tuple[AnySecured, Transport] | None:
        """Run the client side of the handshake between nodes.

        `expects`: SPIFFE IDs of which the server must prove one. Raise Refused; then the caller closes `stream`.
        """
        ...

    def retain_tls(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        """Drop what was made with other credentials or roots than these."""
        ...

    # called by the proxy

    def limit(self, limits: Limits) -> None:
        """Apply new limits."""
        ...

    def forget(self) -> None:
        """Forget all that was learned: a snapshot was published, or an endpoint failed."""
        ...

    def recheck(self) -> int:
        """Cut what the newest snapshot forbids. Return how many calls."""
        ...

    def drop_resting(self, addresses: Collection[str], workload: str) -> None:
        """Close idle connections from or to these addresses, or this workload."""
        ...

    def recall(self) -> None:
        """Give back connections as soon as no request is under way on them, because the daemon stops."""
        ...

    @property
    def under_way(self) -> int:
        """The number of calls under way."""
        ...

    def calls(self) -> Iterator[tuple[Conn, Pick, Request]]:
        """Return the calls under way."""
        ...

    def count(self) -> None:
        """Report the counts since the last call."""
        ...

    def stats(self) -> FastStats:
        """Return the counts since the start."""
        ...


class NoFastPath:
    """FastPath if nothing was compiled, or it is disabled: the slow path does everything."""

    logging = False
    under_way = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()

    async def relay(self, left: Stream, right: Stream, idle_timeout: float, record: Record | None) -> None:
        return None

    def lease(self, conn: object, caller: object) -> None:
        return None

    def resting(self, key: Key) -> None:
        return None

    def transport(self, stream: object, bounds: Bounds, caller: object = None) -> None:
        return None

    async def accept_tls(
        self, stream: Peeked, credentials: Credentials, trust: Trust, seconds: float, now: Callable[[], float]
    ) -> None:
        return None

    async def connect_tls(
        self,
        stream: object,
        credentials: Credentials,
        trust: Trust,
        expects: Collection[str],
        seconds: float,
        now: Callable[[], float],
    ) -> None:
        return None

    def retain_tls(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        return None

    def limit(self, limits: Limits) -> None:
        return None

    def forget(self) -> None:
        return None

    def recheck(self) -> int:
        return 0

    def drop_resting(self, addresses: Collection[str], workload: str) -> None:
        return None

    def recall(self) -> None:
        return None

    def calls(self) -> Iterator[Never]:
        return iter(())

    def count(self) -> None:
        return None

    def stats(self) -> FastStats:
        return FastStats(compiled=False)


NO_FAST_PATH = NoFastPath()


def no_fast_path(context: object) -> NoFastPath:
    """Make the fast path of a proxy that has it disabled."""
    return NoFastPath()
