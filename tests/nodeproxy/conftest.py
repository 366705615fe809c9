"""A shop of four workloads, one connection's context without a kernel, and a dialler whose servers are in memory."""

from __future__ import annotations

import contextlib
import socket

import pytest
import trio

from nodeproxy.capture import Ports
from nodeproxy.context import Conn, Context
from nodeproxy.limits import Limits
from nodeproxy.stream import Peeked
from nodeproxy.upstream.balance import Live
from nodeproxy.upstream.http1_pool import Pool
from policy.model import Endpoint, Grant, Mesh, Service, ServicePort, Workload
from policy.snapshot import Snapshot
from tests.compiled import needs_lane
from tests.journeys.stand_ins import bound, unbound
from tests.nodeproxy.protocols.http.conftest import pipes

NODE = "10.0.0.254"
BUYER = Workload("shop", "buyer", "buyer", ("10.0.0.1", "fd00::1"))
STORE = Workload("shop", "store", "store", ("10.0.0.2", "fd00::2"))
SPARE = Workload("shop", "spare", "store", ("10.0.0.3",))
LONER = Workload("shop", "loner", "loner", ("10.0.0.9",), enrolled=False)  # known, but left out of the mesh

E2, E3 = Endpoint("10.0.0.2", 8080, STORE.key), Endpoint("10.0.0.3", 8080, SPARE.key)
OPAQUE = Grant("TrafficTarget shop/buying", BUYER.identity, STORE.identity, tcp=())


def service(name, address, *endpoints, port=80, route=None, protocol="", ports=None):
    if ports is None:
        ports = (ServicePort("main", port, protocol, endpoints=endpoints),)
    return Service("shop", name, (address,), ports, (route,) if route else ())


SHOP = service("store", "10.1.0.1", E2, E3)


def snapshot(*services, grants=(OPAQUE,), workloads=(BUYER, STORE, SPARE, LONER), **mesh):
    """What is in force: the services given (or the shop alone), buyer may open any stream to store, egress is off."""
    return Snapshot("here", Mesh(**{"egress": False, **mesh}), workloads, services or (SHOP,), grants)


opened = []  # by a test, whatever becomes of it: sockets that its end closes


@pytest.fixture(autouse=True)
def closed_at_the_end():
    yield
    while opened:
        opened.pop().close()


class FakeSockets:
    """nodeproxy.capture.Sockets on this machine's loopback; `made` says which were asked for, `error` what asking raises."""

    def __init__(self):
        self.made = []
        self.sockets = []
        self.error = None

    def towards(self, workload, caller, family, reuse=False):
        self.made.append(
            ("towards", workload.key, caller, family, "reuse") if reuse else ("towards", workload.key, caller, family)
        )
        return self._socket(
            bound(caller, socket.SOCK_STREAM) if caller.startswith("127.") else unbound(family, socket.SOCK_STREAM)
        )

    def outwards(self, workload, family, kind=socket.SOCK_STREAM):
        self.made.append(("outwards", workload.key, family, kind))
        return self._socket(unbound(family, kind))

    def from_node(self, family, kind=socket.SOCK_STREAM):
        self.made.append(("from_node", family))
        return self._socket(unbound(family, kind))

    def _socket(self, sock):
        self.sockets.append(sock)
        if self.error:
            sock.close()
            raise self.error
        return sock

    def node_addresses(self):
        return frozenset({NODE, "fd00::fe"})

    def lent_addresses(self):
        return self.node_addresses()

    def before_nat(self, peer, dialled):
        return None

    def probers(self):
        return frozenset({NODE, "fd00::fe"})


class Dialler:
    """Stands for connect.dial: `servers` are the far ends of the connections it made, `failures` what it raises first, in order."""

    def __init__(self):
        self.picks = []
        self.servers = []
        self.streams = []
        self.failures = []

    async def __call__(self, conn, pick):
        self.picks.append(pick)
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        server, ours = pipes()
        self.servers.append(server)
        self.streams.append(ours)
        return ours

    @property
    def endpoints(self):
        return [pick.endpoint for pick in self.picks]


@pytest.fixture
def records():
    return []


@pytest.fixture
def context(records):
    """What every connection can reach, with the snapshot above in force."""
    limits = Limits()
    context = Context(snapshot(), FakeSockets(), Live(seed=1), Pool(limits), limits, Ports(), records.append)
    context.captured.update((STORE.key, SPARE.key))
    return context


@pytest.fixture
def connect(context):
    """Make a Conn. Its caller's end in memory is `conn.stream.stream.peer`."""

    def connect(dialled=("10.1.0.1", 80), workload=BUYER, direction="outbound", peer=("10.0.0.1", 40000)):
        _, ours = pipes()
        return Conn(context, Peeked(ours), workload, direction, peer, dialled, 0.0)

    return connect


@pytest.fixture
def dialler(monkeypatch):
    """Every room's dial is this one."""
    dialler = Dialler()
    for module in ("nodeproxy.protocols.tcp", "nodeproxy.downstream.inbound", "nodeproxy.protocols.http.attempt"):
        monkeypatch.setattr(f"{module}.dial", dialler)
    return dialler


async def ends(stream):
    """How a stream ends after what it still carries: "closed" or "reset"."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
        return "closed"
    return "reset"


@pytest.fixture(params=["python", pytest.param("native", marks=needs_lane)])
def machine(request, monkeypatch):
    """Which HTTP/2 state machine connections have."""
    monkeypatch.setattr("nodeproxy.h2.connection.AVAILABLE", request.param == "native")
