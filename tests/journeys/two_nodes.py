"""Two nodes of one mesh in one process: a proxy each, real certificates, real sockets on loopback, the bookstore spread over both.

As conftest.py: what is not real is the kernel's capture alone. `west` has the buyers, `east` the stores.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket

import msgspec
import trio
import trio.testing

from agent.sources import manifest
from nodeproxy.capture import Doors, Ports
from nodeproxy.downstream import accept
from nodeproxy.downstream.listeners import NODE_DOOR
from nodeproxy.h2.connection import Bounds
from nodeproxy.limits import Limits
from nodeproxy.native import AVAILABLE
from nodeproxy.proxy import Proxy
from nodeproxy.routing import source
from policy.build import build
from policy.model import Node, Revoked
from tests.journeys import bookstore
from tests.journeys.bookstore import WORKLOADS
from tests.journeys.conftest import Mesh
from tests.journeys.stand_ins import PORT, Caller, Server, Web, bound, unbound
from tests.nodeproxy.tunnels import Known

HOMES = {"buyer": "west", "buyer-2": "west", "thief": "west", "store-v1": "east", "store-v2": "east", "mysql": "east"}


class Sockets:
    """nodeproxy.capture.Sockets of one node: a workload's own sockets have its address, as they would in its namespace."""

    def __init__(self, address):
        self.address = address
        self.dialled = []  # (key of the workload dialled, source address wished for)

    def towards(self, workload, caller, family, reuse=False):
        self.dialled.append((workload.key, caller))
        return bound(caller, socket.SOCK_STREAM) if caller else unbound(family, socket.SOCK_STREAM)

    def outwards(self, workload, family, kind=socket.SOCK_STREAM):
        return bound(workload.addresses[0], kind)

    def from_node(self, family):
        return bound(self.address, socket.SOCK_STREAM)

    def gateway_door(self, address, port):
        if address == "::":
            raise OSError(errno.EADDRNOTAVAIL, "no IPv6 here")
        return bound(self.address if address == "0.0.0.0" else address, socket.SOCK_STREAM, port, 100)

    def close_gateway_door(self, address, port):
        pass

    def resolver_asked(self, workload, client, listener):
        return None

    def node_addresses(self):
        return frozenset({self.address})

    def lent_addresses(self):
        return self.node_addresses()

    def before_nat(self, peer, dialled):
        return None

    def probers(self):
        return frozenset({self.address})


class Side:
    """One of the nodes. `records` holds every report of it."""

    def __init__(self, mesh, name, address, mint):
        self.mesh = mesh
        self.name = name
        self.address = address
        self.sockets = Sockets(address)
        self.identities = Known(mint, name)
        self.records = []
        self.outbound = {}  # name of a workload -> address of its door
        self.inbound = {}
        self.built = None
        self.build()
        lane = AVAILABLE and name in mesh.lanes
        bounds = Bounds(native=lane)
        self.proxy = Proxy(
            self.snapshot, self.sockets, mesh.limits, Ports(), self.records.append, self.identities, bounds, fast=lane
        )
        self.scope = trio.CancelScope()

    @property
    def peers(self):
        return self.proxy.peers

    def build(self):
        change = manifest.read("".join(self.mesh.texts()).encode(), "mesh.yaml")
        before = self.built
        self.built = build(
            change.objects,
            before and before.accepted,
            before and before.snapshot.addresses,
            self.name,
            nodes=self.mesh.nodes(),
        )
        assert not [problem for problem in (*change.problems, *self.built.problems) if problem.severity == "error"]
        self.snapshot = msgspec.structs.replace(self.built.snapshot, revoked=self.mesh.revoked)

    def publish(self):
        self.build()
        cut = self.proxy.publish(self.snapshot)
        self.peers.recheck()
        return cut

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        with self.scope:
            await self.proxy.run(task_status)

    def attach(self):
        for name, home in HOMES.items():
            if home == self.name:
                self._attach(name)
        if self.mesh.node_doors:
            door = bound(self.address, socket.SOCK_STREAM, 15008, backlog=100)
            self.proxy.attach(NODE_DOOR, Doors([], [], [], [], [door]))

    def _attach(self, name):
        address = self.mesh.addresses[name]
        out, into, dns = (bound(address, socket.SOCK_STREAM, backlog=100) for _ in range(3))
        tunnel = bound(address, socket.SOCK_STREAM, 15008, backlog=100)
        self.outbound[name], self.inbound[name] = out.getsockname(), into.getsockname()
        doors = Doors([out], [into], [bound(address, socket.SOCK_DGRAM)], [dns], [tunnel])
        self.proxy.attach(self.proxy.context.snapshot.workload(f"{WORKLOADS[name][0]}/{name}"), doors)

    def told(self, kind, **values):
        """The records of this kind with these values."""
        return [
            r
            for r in self.records
            if r.kind == kind and all(getattr(r, name) == value for name, value in values.items())
        ]


class TwoNodes:
    """`node_doors`: each node says where it is reached. Otherwise each workload is dialled at its own tunnel door."""

    port = PORT
    strict, permissive = bookstore.STRICT, bookstore.PERMISSIVE
    http, tcp, service = map(staticmethod, (bookstore.http, bookstore.tcp, bookstore.service))

    def __init__(self, nursery, mint, node_doors=True, lanes=("west", "east"), limits=None):
        """`lanes`: the nodes that have the native lane."""
        self.lanes = lanes
        prefix = f"127.{random.randrange(64, 250)}.{random.randrange(256)}"
        self.nursery = nursery
        self.node_doors = node_doors
        self.limits = limits or Limits()
        self.addresses = {name: f"{prefix}.{number}" for number, name in enumerate(HOMES, 1)}
        self.addressed = {"west": f"{prefix}.100", "east": f"{prefix}.200"}
        self.stranger = f"{prefix}.101"  # an address that is no workload's and no node's
        self.revoked = Revoked()
        self.metered = False
        self.aimed = {}  # address of the caller's socket -> what it dialled
        self.manifests = {
            "services": bookstore.SERVICES,
            "routes": bookstore.ROUTES,
            "mesh": self.strict,
            "access": self.http("bookbuyer", "bookstore"),
        }
        self._opened = []
        self.west = Side(self, "west", self.addressed["west"], mint)
        self.east = Side(self, "east", self.addressed["east"], mint)

    async def start(self):
        for side in (self.west, self.east):
            await self.nursery.start(side.run)
            side.attach()

    def close(self):
        for side in (self.west, self.east):
            side.proxy.context.pool.close()
        for sock in self._opened:
            sock.close()

    def original_destination(self, sock):
        try:
            return self.aimed[sock.getpeername()[:2]]
        except (KeyError, OSError):
            raise FileNotFoundError("not in conntrack") from None

    # policy

    def texts(self):
        for name, home in HOMES.items():
            namespace, account, labels, template = WORKLOADS[name]
            text = bookstore.workload(name, namespace, account, labels, self.addresses[name], template)
            yield text.replace(f"netns: {name}", f"netns: {name}, node: {home}")
        yield from self.manifests.values()

    def nodes(self):
        return tuple(
            Node(name, (address,) if self.node_doors else (), 15008, self.metered)
            for name, address in self.addressed.items()
        )

    def publish(self, revoked=None, **manifests):
        """Put manifests in force on both nodes. Answers how many connections were cut."""
        self.manifests.update(manifests)
        self.revoked = revoked if revoked is not None else self.revoked
        cut = 0
        for side in (self.west, self.east):
            cut += side.publish()
        return cut

    # the world around

    def serve(self, workload, handler, port=PORT):
        return Server(self.nursery, self.addresses[workload], port, handler)

    def web(self, workload, port=PORT):
        return Web(self.nursery, self.addresses[workload], port, workload)

    async def call(self, caller, host, port=PORT):
        """A connection of a workload of west to a service (by name) or an address, through its outbound door."""
        address = host
        if host[0] not in "0123456789:":
            address = self.west.proxy.context.snapshot.named(host, WORKLOADS[caller][0]).addresses[0]
        sock = trio.socket.from_stdlib_socket(bound(self.addresses[caller], socket.SOCK_STREAM))
        self._opened.append(sock)
        self.aimed[sock.getsockname()[:2]] = (address, port)
        made = Caller(trio.SocketStream(sock), f"{host}:{port}")
        await sock.connect(self.west.outbound[caller])
        return made

    async def settled(self):
        """Wait until everything that was begun has run as far as it goes by itself."""
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def until(self, condition):
        with trio.fail_after(30):
            while not condition():
                await trio.sleep(0.001)

    def at_rest(self):
        """Nothing is left but the connections between the nodes."""
        for side in (self.west, self.east):
            context = side.proxy.context
            if (
                context.live.in_flight
                or context.shares.under_way
                or any(conn.pick for conn in context.conns.values())
                or len(context.conns) > len(side.peers.accepted)
            ):
                return False
        return True


@contextlib.asynccontextmanager
async def running(monkeypatch, mint, nodes, path):
    """The mesh of `nodes` nodes, 1 or 2, whose calls go by the native lane (`path` "lane") or without it."""
    monkeypatch.setattr(source, "_is_loopback", lambda address: nodes == 1 and address.startswith("127."))
    async with trio.open_nursery() as nursery:
        if nodes == 1:
            mesh = Mesh(nursery, Limits(), path == "lane")
            monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        else:
            mesh = TwoNodes(nursery, mint, True, ("west", "east") if path == "lane" else ())
            monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        await mesh.start()
        with contextlib.closing(mesh), trio.fail_after(30):
            yield mesh
        nursery.cancel_scope.cancel()
