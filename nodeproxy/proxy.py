"""Proxy: doors of workloads open and close, a new snapshot takes effect at once, and a stop drains what runs."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import trio

from nodeproxy.capture import Doors, Ports, Sockets
from nodeproxy.context import Context
from nodeproxy.credentials import Identities
from nodeproxy.dns import Resolver
from nodeproxy.hbone import node_tunnels, workload_tunnels
from nodeproxy.http.h2_bounds import Bounds
from nodeproxy.http.pool import Pool
from nodeproxy.http.shared import Shared
from nodeproxy.inbound import inbound
from nodeproxy.limits import Gate, Limits, PeerLimits
from nodeproxy.listen import Door, Way, accept_forever
from nodeproxy.native import AVAILABLE
from nodeproxy.outbound import outbound
from nodeproxy.telemetry.counts import CountSink
from nodeproxy.telemetry.report import Sink
from nodeproxy.upstream.live import Live
from nodeproxy.upstream.peers import Peers
from policy.model import Workload
from policy.snapshot import Snapshot

if TYPE_CHECKING:
    from nodeproxy.lane import FastLane

log = logging.getLogger("edgemesh.proxy")

_SWEEP = 5.0  # seconds between looks at idle upstream connections


# Who stands behind the door on the node's own address: no workload of the mesh has an empty namespace.
NODE_DOOR = Workload("", "node", "")


class _House:
    """The open doors of one workload: accepting tasks in one scope, running connections in another, around it."""

    def __init__(self, workload: Workload, doors: Doors, context: Context) -> None:
        self.workload = workload
        self.doors = doors
        # Apart, so that strangers who flood its inbound door cannot keep a workload from calling out.
        self.outbound = Gate(context.limits.connections)
        self.inbound = Gate(context.limits.connections)
        self.tunnel = Gate(context.limits.connections)
        self.resolver = Resolver(workload.key, context)
        # (its sockets, how they are come by, what is done with a connection, the bound on it)
        tunnels = node_tunnels if workload.key == NODE_DOOR.key else workload_tunnels
        self.entrances: tuple[tuple[list[socket.socket], Way, Door, Gate], ...] = (
            (doors.outbound, "outbound", outbound, self.outbound),
            (doors.inbound, "inbound", inbound, self.inbound),
            (doors.tunnel, "tunnel", tunnels, self.tunnel),
        )
        self.accepting = trio.CancelScope()
        self.living = trio.CancelScope()
        self.gone = trio.Event()


class Proxy:
    """The data plane of one node. `run` first; then `attach`, `detach` and `publish` at any time, all without waiting."""

    def __init__(
        self,
        snapshot: Snapshot,
        sockets: Sockets,
        limits: Limits,
        ports: Ports,
        sink: Sink,
        identities: Identities | None = None,
        bounds: Bounds | None = None,
        peer_limits: PeerLimits | None = None,
        lane: bool = AVAILABLE,
        counted: CountSink | None = None,
        shut: bool = False,
    ) -> None:
        """`lane`: use the native lane. `counted`: takes what it counts, while it need not say more (FastLane.logging).

        `shut`: take doors, but accept nothing before `open`.
        """
        self._opened = trio.Event()
        if not shut:
            self._opened.set()
        self.context = Context(snapshot, sockets, Live(), Pool(limits), limits, ports, sink, identities, bounds)
        self.context.shared = self.shared = Shared(self.context.h2_bounds, limits.pool_idle_timeout)
        self.houses: dict[str, _House] = {}
        self.lane: FastLane | None = None
        if lane:
            from nodeproxy.lane import FastLane

            self.context.lane = self.shared.lane = self.lane = FastLane(self.context, counted)
            self.context.live.failing = self.lane.forget
        self.context.peers = self.peers = Peers(self.context, peer_limits)
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.shared.run)
            await nursery.start(self.peers.run)
            if self.lane is not None:
                await nursery.start(self.lane.run)
            nursery.start_soon(self._sweep)
            task_status.started()

    def open(self) -> None:
        """Accept calls from now on, where we were made `shut`."""
        self._opened.set()

    def attach(self, workload: Workload, doors: Doors) -> None:
        """Serve a workload through these listening sockets, which are ours from now on. Doors opened before are closed."""
        assert self._nursery is not None, "run() first"
        self.detach(workload.key)
        house = _House(workload, doors, self.context)
        if self.context.draining:
            house.accepting.cancel()
        self.houses[workload.key] = house
        if workload.key != NODE_DOOR.key:
            self.context.captured.add(workload.key)
        self._nursery.start_soon(self._live, house)

    def detach(self, key: str) -> None:
        """Close a workload's doors and cut its connections: it is gone, or no longer ours."""
        house = self.houses.pop(key, None)
        if house is None:
            return
        self.context.captured.discard(key)
        house.accepting.cancel()
        house.living.cancel()
        self.context.pool.forget(house.workload.addresses, key)
        self.shared.forget(frozenset(house.workload.addresses), key)
        if self.lane is not None:
            self.lane.drop_resting(house.workload.addresses, key)
        self.peers.forget(key)

    def publish(self, snapshot: Snapshot) -> int:
        """Put a snapshot in force: new requests are decided by it at once, and what it forbids is cut. Answers how many were cut."""
        self.context.snapshot = snapshot
        cut = 0
        if self.lane is not None:
            self.lane.forget()
            cut += self.lane.recheck()
        for conn in list(self.context.conns.values()):
            if conn.active and conn.route and conn.pick and not conn.route.still_allows(conn.pick, conn.request):
                conn.verdict = "cut"
                conn.scope.cancel()
                cut += 1
        return cut + self.peers.recheck()

    def limit(self, limits: Limits) -> None:
        """Put other limits in force, for what begins from now on."""
        self.context.limits = limits
        self.context.pool.limits = limits
        if self.lane is not None:
            self.lane.limit(limits)
        for house in self.houses.values():
            house.outbound.full = house.inbound.full = house.tunnel.full = limits.connections

    async def drain(self, handed: float | None = None) -> None:
        """Stop accepting, let what is under way end within limits.drain_timeout, then cut the rest.

        `handed`: somebody else accepts in our place, and all connections have so many seconds: one that rests between two requests
        is told with its next answer to come no more, because closing it might cross with that request.

        The rules stay, so who dials meanwhile is refused by the kernel: a node without its daemon is closed, not open.
        """
        self.context.draining = True
        for house in self.houses.values():
            house.accepting.cancel()
        self.peers.drain()
        if self.lane is not None:
            self.lane.recall()
        with trio.move_on_after(self.context.limits.drain_timeout if handed is None else handed):
            while self._is_busy() or (handed is not None and self.context.conns):  # noqa: ASYNC110 - an event would cost every request
                await trio.sleep(0.05)
        houses = list(self.houses.values())
        for house in houses:
            self.detach(house.workload.key)
        for house in houses:
            await house.gone.wait()
        self.context.pool.close()

    def _is_busy(self) -> bool:
        return (self.lane is not None and self.lane.under_way > 0) or any(conn.active for conn in self.context.conns.values())

    async def _live(self, house: _House) -> None:
        """Everything that happens behind one workload's doors. A fault here closes this workload and no other."""
        context = self.context
        try:
            with house.living:
                await self._opened.wait()
                async with trio.open_nursery() as connections:
                    # Names are answered as long as connections live: a call that is draining may still need one.
                    for sock in house.doors.dns_udp:
                        connections.start_soon(house.resolver.serve_udp, sock)
                    for sock in house.doors.dns_tcp:
                        connections.start_soon(house.resolver.serve_tcp, sock)
                    with house.accepting:
                        async with trio.open_nursery() as doors:  # its tasks end before the sockets are closed below
                            for sockets, way, door, gate in house.entrances:
                                for sock in sockets:
                                    listener = trio.socket.from_stdlib_socket(sock)
                                    doors.start_soon(accept_forever, listener, context, house.workload, way, door, gate, connections)
                    house.doors.close_tcp()
        except Exception:
            # Connections catch for themselves (listen.py); what comes here is a fault of ours. Closed doors are the safe end of it.
            log.exception("the doors of %s are closed", house.workload.key)
        finally:
            house.doors.close()
            house.gone.set()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP)
            self.context.pool.sweep(trio.current_time())
