"""Proxy: listeners of workloads open and close, a new snapshot takes effect at once, and a stop drains what runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial

import trio

from nodeproxy.capture import Doors, Ports, Sockets
from nodeproxy.context import Context, Front, no_resolvers
from nodeproxy.dns import NODE_BYTES, Budget, Counts, Resolver
from nodeproxy.downstream.accept import accept_forever
from nodeproxy.downstream.gateway import Gateway
from nodeproxy.downstream.listeners import LISTENERS, NODE_DOOR
from nodeproxy.fastpath import fast_path
from nodeproxy.h2.limits import Bounds
from nodeproxy.interfaces import no_fast_path
from nodeproxy.keys import Keys
from nodeproxy.limits import Limits, PeerLimits
from nodeproxy.mesh.pool import Peers
from nodeproxy.protocols.http.aside import Asides
from nodeproxy.telemetry.counts import CountSink
from nodeproxy.telemetry.record import Sink
from nodeproxy.tls.credentials import Identities
from nodeproxy.upstream.balance import Live
from nodeproxy.upstream.http1_pool import Pool
from nodeproxy.user_filters import UserFilters
from policy.model import Workload
from policy.snapshot import Snapshot

log = logging.getLogger("edgemesh.proxy")

_SWEEP = 5.0  # seconds between checks of idle upstream connections


class _House:
    """The open listeners of one workload.

    One scope holds the accepting tasks; another, around it, holds the connections.
    """

    def __init__(self, workload: Workload, doors: Doors, context: Context, names: Budget) -> None:
        self.workload = workload
        self.doors = doors
        self.gates = {row.name: row.gate(context) for row in LISTENERS}
        self.resolver = Resolver(workload.key, context, names.cache())
        self.accepting = trio.CancelScope()
        self.living = trio.CancelScope()
        self.gone = trio.Event()


class Proxy:
    """The data plane of one node.

    `run` first; then `attach`, `detach` and `publish` at any time, all without waiting.
    """

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
        fast: bool = True,
        counted: CountSink | None = None,
        shut: bool = False,
        log_requests: bool = False,
        dns_ttl: int = 5,
        refuse_other_hosts: bool = False,
        dns_ask_unknown: bool = False,
        dns_trusted: Callable[[Workload], Collection[str]] = no_resolvers,
        dns_bytes: int = NODE_BYTES,
        filter_keys: str = "",
        user_filters: UserFilters | None = None,
        front: Front | None = None,
    ) -> None:
        """Build the data plane.

        `fast`: use the fast path, if it was compiled. `counted`: takes its counts, while it need not record each
        request. `shut`: take listeners, but accept nothing before `open`. `log_requests`: record each request,
        whichever path serves it. `dns_ttl`, `refuse_other_hosts`, `dns_ask_unknown`, `dns_trusted`: as in Context.
        `dns_bytes`: memory for what resolvers answer. `front`: as in Context.
        `filter_keys`: folder of the keys of filters. `user_filters`: as in Context.
        """
        self._opened = trio.Event()
        if not shut:
            self._opened.set()
        self.context = Context(
            snapshot,
            sockets,
            Live(),
            Pool(limits),
            limits,
            ports,
            sink,
            identities,
            bounds,
            dns_ttl,
            refuse_other_hosts,
            dns_ask_unknown,
            dns_trusted,
            partial(fast_path, counted=counted, logging=log_requests) if fast else no_fast_path,
            partial(Peers, settings=peer_limits),
            front,
            Asides,
            Keys(filter_keys),
            user_filters,
        )
        self.fast, self.http2_pool, self.peers = self.context.fast, self.context.http2_pool, self.context.peers
        self.asides = self.context.asides
        self._keep = self.context.housekeeping.keep
        self.gateway = Gateway(self.context)
        self.names = Budget(dns_bytes)
        self._asked_before = Counts()  # by workloads whose listeners are closed
        self.houses: dict[str, _House] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.http2_pool.run)
            await nursery.start(self.peers.run)
            await nursery.start(self.fast.run)
            await nursery.start(self.asides.run)
            nursery.start_soon(self._keep, "listeners of Gateways", partial(self.gateway.run, self._opened))
            nursery.start_soon(self._keep, "idle connections", self._sweep)
            task_status.started()

    def open(self) -> None:
        """Accept calls from now on, if the proxy was made `shut`."""
        self._opened.set()

    def attach(self, workload: Workload, doors: Doors) -> None:
        """Serve a workload through these listening sockets, which the proxy owns from now on.

        Close its earlier listeners.
        """
        assert self._nursery is not None, "run() first"
        self.detach(workload.key)
        house = _House(workload, doors, self.context, self.names)
        if self.context.draining:
            house.accepting.cancel()
        self.houses[workload.key] = house
        if workload.key != NODE_DOOR.key:
            self.context.captured.add(workload.key)
        self._nursery.start_soon(self._live, house)

    def detach(self, key: str) -> None:
        """Close a workload's listeners and cut its connections: it is gone, or is captured here no longer."""
        house = self.houses.pop(key, None)
        if house is None:
            return
        self._asked_before.add(house.resolver.counts)
        self.context.captured.discard(key)
        house.accepting.cancel()
        house.living.cancel()
        self.context.pool.forget(house.workload.addresses, key)
        self.http2_pool.forget(frozenset(house.workload.addresses), key)
        self.fast.drop_resting(house.workload.addresses, key)
        self.peers.forget(key)
        self.asides.forget(key)

    def asked(self) -> Counts:
        """Return the outcomes of all DNS questions since the start."""
        found = Counts()
        for counts in (self._asked_before, *(house.resolver.counts for house in self.houses.values())):
            found.add(counts)
        return found

    def resolvers_down(self) -> dict[str, tuple[float, list[str]]]:
        """Return the resolvers that do not answer: since when, by the loop's clock, and the workloads that ask them."""
        found: dict[str, tuple[float, list[str]]] = {}
        for key, house in sorted(self.houses.items()):
            for (address, port), since in house.resolver.down():
                place = address if port == 53 else f"{address} port {port}"
                before, workloads = found.get(place, (since, []))
                found[place] = (min(before, since), [*workloads, key])
        return found

    def publish(self, snapshot: Snapshot) -> int:
        """Put a snapshot in force: it decides new requests at once, and what it forbids is cut.

        Return how many were cut.
        """
        self.context.snapshot = snapshot
        for key in [key for key in self.context.ties if snapshot.workload(key) is None]:
            del self.context.ties[key]
        self.fast.forget()
        cut = self.fast.recheck()
        for conn in list(self.context.conns.values()):
            if conn.active and conn.route and conn.pick and not conn.route.still_allows(conn.pick, conn.request):
                conn.verdict = "cut"
                conn.scope.cancel()
                cut += 1
        self.gateway.follow(snapshot)
        return cut + self.peers.recheck()

    def configure(self, limits: Limits, log_requests: bool) -> None:
        """Put other settings in force, for what begins from now on."""
        self.fast.logging = log_requests
        self.context.limits = limits
        self.context.pool.limits = limits
        self.fast.limit(limits)
        for house in self.houses.values():
            for gate in house.gates.values():
                gate.full = limits.connections
                if gate.owner is not None:
                    gate.owner.most = limits.streams
        self.context.guests.limit(limits)

    async def drain(self, handed: float | None = None) -> None:
        """Stop accepting, let running requests end within limits.drain_timeout, then cut the rest.

        `handed`: another daemon accepts instead, and all connections have that many seconds. A connection that is idle
        between two requests is asked to close with its next response, because closing it now might cross with a
        request.

        The rules stay, so the kernel refuses calls made meanwhile: a node without its daemon is closed, not open.
        """
        self.context.draining = True
        for house in self.houses.values():
            house.accepting.cancel()
        self.gateway.stop_accepting()
        self.peers.drain()
        self.fast.recall()
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
        return self.fast.under_way > 0 or any(conn.active for conn in self.context.conns.values())

    async def _live(self, house: _House) -> None:
        """Run everything behind one workload's listeners. A fault here closes this workload and no other."""
        context = self.context
        try:
            with house.living:
                await self._opened.wait()
                async with trio.open_nursery() as connections:
                    # Names are answered as long as connections live: a draining call may still need one.
                    dns = f"names for {house.workload.key}"
                    for sock in house.doors.dns_udp:
                        connections.start_soon(self._keep, dns, partial(house.resolver.serve_udp, sock))
                    for sock in house.doors.dns_tcp:
                        connections.start_soon(self._keep, dns, partial(house.resolver.serve_tcp, sock))
                    with house.accepting:
                        async with trio.open_nursery() as doors:  # its tasks end before the sockets are closed below
                            for row in LISTENERS:
                                gate = house.gates[row.name]
                                for sock in row.sockets(house.doors):
                                    listener = trio.socket.from_stdlib_socket(sock)
                                    doors.start_soon(
                                        accept_forever,
                                        listener,
                                        context,
                                        house.workload,
                                        row.name,
                                        row.serve,
                                        gate,
                                        connections,
                                    )
                    house.doors.close_tcp()
        except Exception:
            # Connections handle their own exceptions (protocols/lifetime.py); an exception here is a fault of edgemesh.
            # Closed listeners are the safe result.
            log.exception("the doors of %s are closed", house.workload.key)
        finally:
            house.doors.close()
            house.resolver.close()
            house.gone.set()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP)
            self.context.pool.sweep(trio.current_time())
