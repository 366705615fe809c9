"""A whole proxy in one process, without the kernel's capture: the ring between unit tests and network namespaces.

Workloads are loopback addresses (127.x.y.n, x and y drawn for each mesh), servers are trio listeners on them. What a redirected
connection was aimed at is known from the test that made it instead of from conntrack. Everything else is the real thing: YAML
manifests, policy.build, sockets, clocks.
"""

from __future__ import annotations

import random
import socket

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from agent.sources import manifest
from nodeproxy.capture import Doors, Ports
from nodeproxy.dns import resolver
from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from nodeproxy.proxy import Proxy
from policy.build import build
from tests.compiled import needs_lane
from tests.journeys import bookstore
from tests.journeys.bookstore import WORKLOADS
from tests.journeys.stand_ins import PORT, Caller, Server, Web, bound, unbound


class Kernel:
    """The sockets of nodeproxy.capture.Sockets, and what would be in conntrack."""

    def __init__(self, node):
        self.node = node
        self.aimed = {}  # address of the caller's socket -> what it dialled
        self.resolver = None
        self.dialled = []  # (key of the workload dialled, source address wished for)

    def original_destination(self, sock):
        try:
            return self.aimed[sock.getpeername()[:2]]
        except KeyError:
            raise FileNotFoundError("not in conntrack") from None

    def towards(self, workload, caller, family, reuse=False):
        self.dialled.append((workload.key, caller))
        return bound(caller, socket.SOCK_STREAM) if caller else unbound(family, socket.SOCK_STREAM)

    def outwards(self, workload, family, kind=socket.SOCK_STREAM):
        return unbound(family, kind)

    def from_node(self, family, kind=socket.SOCK_STREAM):
        return unbound(family, kind)

    def gateway_door(self, address, port):
        return bound(address, socket.SOCK_STREAM, port, 100)

    def close_gateway_door(self, address, port):
        pass

    def resolver_asked(self, workload, client, listener):
        return self.resolver

    def node_addresses(self):
        return frozenset({self.node})

    def lent_addresses(self):
        return self.node_addresses()

    def before_nat(self, peer, dialled):
        return None

    def probers(self):
        return frozenset({self.node})


class Mesh:
    """The bookstore, one proxy, and what happened: `records` holds every report, `kernel.dialled` every try to reach a server."""

    port = PORT

    def __init__(self, nursery, limits, lane=False):
        prefix = f"127.{random.randrange(64, 250)}.{random.randrange(256)}"
        self.nursery = nursery
        self.addresses = {name: f"{prefix}.{number}" for number, name in enumerate(WORKLOADS, 1)}
        self.addresses["six"] = "::1"  # a machine has only one loopback address of that family
        self.accounts = {name: account for name, (_, account, _, _) in WORKLOADS.items()}
        self.node = f"{prefix}.100"
        self.stranger = f"{prefix}.101"  # an address that is no workload's
        self.kernel = Kernel(self.node)
        self.limits = limits
        self.records = []
        self.manifests = {
            "services": bookstore.SERVICES,
            "routes": bookstore.ROUTES,
            "mesh": self.strict,
            "access": self.http("bookbuyer", "bookstore"),
            "access_v2": self.http("bookbuyer", "bookstore-v2"),
        }
        self.built = None
        self.built = self._build()
        self.proxy = Proxy(self.built.snapshot, self.kernel, limits, Ports(), self.records.append, fast=lane)
        self.outbound, self.inbound, self.dns = {}, {}, {}  # name of a workload -> address of its door
        self._opened = []

    async def start(self):
        await self.nursery.start(self.proxy.run)
        for name in WORKLOADS:
            self.attach(name)

    def close(self):
        self.proxy.context.pool.close()
        for sock in self._opened:
            sock.close()

    # policy

    strict, permissive, no_egress = bookstore.STRICT, bookstore.PERMISSIVE, bookstore.NO_EGRESS
    http, tcp, split, service = map(staticmethod, (bookstore.http, bookstore.tcp, bookstore.split, bookstore.service))

    def publish(self, **manifests):
        """Put manifests (name=text, "" takes one away) in force beside those that are. Answers how many connections were cut."""
        self.manifests.update(manifests)
        self.built = self._build()
        return self.proxy.publish(self.built.snapshot)

    def _build(self):
        manifests = {**self.manifests, "workloads": "".join(map(self._workload, WORKLOADS))}
        change = manifest.read("".join(manifests.values()).encode(), "bookstore.yaml")
        built = build(
            change.objects, self.built and self.built.accepted, self.built and self.built.snapshot.addresses, "here"
        )
        assert not [problem for problem in (*change.problems, *built.problems) if problem.severity == "error"]
        return built

    def _workload(self, name):
        namespace, _, labels, template = WORKLOADS[name]
        return bookstore.workload(name, namespace, self.accounts[name], labels, self.addresses[name], template)

    def limit(self, **limits):
        self.limits = msgspec.structs.replace(self.limits, **limits)
        self.proxy.configure(self.limits, log_requests=False)

    def attach(self, name):
        address = self.addresses[name]
        tcp = [bound(address, socket.SOCK_STREAM, backlog=100) for _ in range(3)]
        doors = Doors([tcp[0]], [tcp[1]], [bound(address, socket.SOCK_DGRAM)], [tcp[2]])
        self.proxy.attach(self.proxy.context.snapshot.workload(f"{WORKLOADS[name][0]}/{name}"), doors)
        self.outbound[name] = doors.outbound[0].getsockname()
        self.inbound[name] = doors.inbound[0].getsockname()
        self.dns[name] = doors.dns_udp[0].getsockname()

    # the world around

    def serve(self, workload, handler, port=PORT):
        return Server(self.nursery, self.addresses[workload], port, handler)

    def serve_at(self, address, port, handler):
        return Server(self.nursery, address, port, handler)

    def web(self, workload, port=PORT):
        return Web(self.nursery, self.addresses[workload], port, workload)

    def web_at(self, address, port):
        return Web(self.nursery, address, port, "outside")

    async def call(self, caller, host, port=PORT):
        """A connection of a workload to a service (by name) or an address, through its outbound door."""
        address = host
        if host[0] not in "0123456789:":
            address = self.proxy.context.snapshot.named(host, WORKLOADS[caller][0]).addresses[0]
        return await self._dial(self.addresses[caller], self.outbound[caller], (address, port), host)

    async def call_in(self, source, workload, port=PORT):
        """A connection from anywhere to a workload's address, through its inbound door."""
        address = self.addresses[workload]
        return await self._dial(source, self.inbound[workload], (address, port))

    async def _dial(self, source, door, aimed, host=""):
        sock = trio.socket.from_stdlib_socket(bound(source, socket.SOCK_STREAM))
        self._opened.append(sock)
        self.kernel.aimed[sock.getsockname()[:2]] = aimed
        name = host or aimed[0]
        caller = Caller(trio.SocketStream(sock), f"[{name}]:{aimed[1]}" if ":" in name else f"{name}:{aimed[1]}")
        try:
            await sock.connect(door)
        except ConnectionResetError:  # refused so fast that connect() hears of it
            caller.end = "reset"
        return caller

    # what came of it

    async def settled(self):
        """Wait until everything that was begun has run as far as it goes by itself."""
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def until(self, condition):
        """Wait for what must come, beside tasks that never rest."""
        with trio.fail_after(30):
            while not condition():
                await trio.sleep(0.001)

    def at_rest(self):
        """Nothing is left of any connection."""
        context = self.proxy.context
        return not context.conns and not context.live.in_flight and not context.shares.under_way


LANES = [False, pytest.param(True, marks=needs_lane)]


@pytest.fixture(params=LANES, ids=["slow lane", "native lane"])
async def mesh(monkeypatch, request):
    """A running mesh, with and without the native lane. The test publishes policy, starts servers, and calls."""
    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery, Limits(), request.param)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        monkeypatch.setattr(resolver, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        yield mesh
        nursery.cancel_scope.cancel()
    mesh.close()


@pytest.fixture
def quick_clock():
    """A day's sleep is free. The threshold (real seconds) lets bytes pass through the kernel's loopback before time jumps."""
    return MockClock(autojump_threshold=0.02)
