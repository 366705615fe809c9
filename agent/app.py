"""Assembly: one Node, whose parts run in one nursery, and the one list of what a new snapshot reaches."""

from __future__ import annotations

import logging
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

import agent
from agent import handover
from agent.accesslog import AccessLog, unblocking
from agent.admin.listener import AdminSocket, AdminSocketError
from agent.charge import Charge
from agent.config import NodeConfig, Settings, parse_address
from agent.handover import HandoverError, Predecessor
from agent.identity.keeper import Keeper
from agent.kept import Kept
from agent.kernel.condition import Condition
from agent.kernel.ground import Ground
from agent.membership import Membership, MembershipError
from agent.metrics import Metrics, certificates
from agent.refusals import Refusals
from agent.sources.directory import read, watch
from agent.state import State
from agent.store import Published, Store
from agent.supervisor import Supervisor
from nodeproxy.capture import Doors
from nodeproxy.context import Conn
from nodeproxy.http.h2_bounds import Bounds
from nodeproxy.native import AVAILABLE
from nodeproxy.proxy import NODE_DOOR, Proxy
from nodeproxy.telemetry.report import Record
from policy.model import Mesh, Problem, Where
from policy.snapshot import Snapshot

if TYPE_CHECKING:  # it is not there where nothing was compiled
    from nodeproxy.lane import FastLane

log = logging.getLogger("edgemesh")


def run(directory: Path, overrides: Mapping[str, Any], hold_authority: bool = False) -> int:
    """Run the daemon until SIGTERM or SIGINT. Answers the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _raise_descriptor_limit()
    settings = Settings(overrides)
    # Settings are needed before anything else runs; what is wrong with them is told again by the first build.
    objects = [raw for change in read(directory) for raw in change.objects or ()]
    settings.read(objects)
    # What is wrong with them now may have been right before the restart, and stands in for it.
    settings.remember(State(Path(settings.config.state_dir)).load()[0])
    settings.read(objects)
    supervisor = Supervisor()
    try:
        before = handover.predecessor()
        admin = AdminSocket(Path(settings.config.admin_socket), before.given if before else None)
    except (HandoverError, AdminSocketError) as error:
        print(f"edgemesh: {error}", file=sys.stderr)
        return 1
    given = {**supervisor.given, **(before.given if before else {})}
    kept = Kept({name: fds for name, fds in given.items() if not name.startswith("admin ")}, supervisor, silent=before is not None)
    admin.kept = before is not None  # until it is ours
    try:
        node = Node(directory, settings, hold_authority, kept, before)
        trio.run(node.run, admin, strict_exception_groups=True)
    except MembershipError as error:
        print(f"edgemesh: {error}", file=sys.stderr)
        return 1
    finally:
        admin.close()
    return 1 if node.unwanted else 0


def _raise_descriptor_limit() -> None:
    """A captured call takes two descriptors, and a login shell's soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Node:
    """The running daemon, as agent.status.Daemon shows it."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        hold_authority: bool = False,
        kept: Kept | None = None,
        before: Predecessor | None = None,
    ) -> None:
        """`kept`: descriptors that outlive us. `before`: the daemon that hands over to us. Raises MembershipError."""
        config = settings.config
        self.kept = kept or Kept()
        self._before = before
        self.unwanted = False  # we were started to take over, and are not to
        self._followed = False  # the ground knows of a snapshot: before, it is settled with nothing
        self.version = agent.__version__
        self.directory = str(directory)
        self.started = time.time()
        self.running = config  # what cannot change while we run is taken from here
        self.metrics = Metrics(config.metrics_rows, self._gauges)
        self.access_log = AccessLog(config.access_log, unblocking(sys.stdout.fileno()))
        self.refusals = Refusals(config.node)
        self.ground = Ground(config, kept=self.kept, predecessor=before.pid if before else 0)
        # Until the first build nothing is known, so nothing is admitted.
        nothing = Snapshot(config.node, Mesh(egress=False))
        self.membership = Membership(config, hold_authority, lambda: self.published.snapshot if self.published else None, self.kept)
        http2 = config.http2
        bounds = Bounds(http2.stream_window, http2.connection_window, http2.streams, native=config.native_lane)
        self.keeper: Keeper | None = None if self.membership.alone else self.membership.keeper
        identities = self.membership.keeper
        self.proxy = Proxy(
            nothing,
            self.ground,
            config.limits,
            config.ports,
            self._record,
            identities,
            bounds,
            config.peers,
            lane=AVAILABLE and config.native_lane,
            counted=self.metrics.counted,
            shut=before is not None,
        )
        if self.proxy.lane is not None:
            self.proxy.lane.logging = config.access_log == "all"
            self.metrics.before = self.proxy.lane.count
        self.membership.keeper.changed = self._certificates_changed
        self.ground.serve(self.proxy.attach, self.proxy.detach)
        self.proxy.context.dns_ttl = config.dns.ttl
        self.store = Store(settings, State(Path(config.state_dir)))
        self.store.trust_domain = self.membership.trust_domain
        self._own_problems: list[Problem] = []
        self._told: frozenset[Problem] = frozenset()

    async def run(self, admin: AdminSocket) -> None:
        """Serve until a signal asks us to stop; a second one stops at once."""
        try:
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    self.charge = Charge(self, admin, nursery, self._before)
                    await nursery.start(self.proxy.run)
                    self._open_node_door()
                    nursery.start_soon(self.charge.take)
                    nursery.start_soon(self.access_log.run)
                    nursery.start_soon(self.store.run, self._follow, self.running)
                    nursery.start_soon(watch, Path(self.directory), self.store.apply, lambda: self.config.poll_interval)
                    log.info("edgemesh %s, node %s, manifests in %s", self.version, self.running.node, self.directory)
                    async for number in signals:
                        log.info("%s: draining for at most %g s", signal.Signals(number).name, self.config.limits.drain_timeout)
                        break
                    nursery.start_soon(self._stop, nursery.cancel_scope)
                    async for _ in signals:
                        nursery.cancel_scope.cancel()
        finally:
            self.kept.close()

    def unit(self, name: str, cgroup: int) -> tuple[bool, bool, str]:
        return self.ground.unit(name, cgroup)

    async def hand_over(self, command: Sequence[str], commit: Callable[[str], None]) -> str:
        """Let `command` take over from us; see agent.charge.Charge."""
        return await self.charge.hand_over(command, commit)

    def _open_node_door(self) -> None:
        """The door on this node's own addresses, for all of its workloads."""
        if self.membership.alone or not self.running.addresses:
            return
        sockets, fault = self.ground.node_doors(self.running.addresses)
        if fault:
            self._own_problems.append(Problem("error", Where(), "NodeConfig addresses", fault))
        self.proxy.attach(NODE_DOOR, Doors([], [], [], [], sockets))

    async def _stop(self, everything: trio.CancelScope) -> None:
        await self.proxy.drain()
        if self.charge.held:
            self.ground.release(open_node=self.config.on_stop == "open")
        log.info(
            "stopped; %s", "rules removed" if self.config.on_stop == "open" else "rules stay, and refuse every call until the next start"
        )
        everything.cancel()

    async def _follow(self, published: Published) -> None:
        """A new snapshot, to everything that it concerns, in this order."""
        self.proxy.limit(published.config.limits)
        self.membership.want(published.snapshot.workloads)
        cut = self.proxy.publish(published.snapshot)
        if not self.charge.given:
            self.ground.want(published.snapshot.workloads)
        self.access_log.mode = published.config.access_log
        if self.proxy.lane is not None:
            self.proxy.lane.logging = published.config.access_log == "all"
        self._followed = True
        self.metrics.retain([workload.key for workload in published.snapshot.workloads])
        self._tell(published, cut)

    def _certificates_changed(self) -> None:
        """Contexts of certificates that were renewed are not needed any more."""
        keeper = self.membership.keeper
        self.proxy.peers.secures.retain(keeper.credentials(), keeper.trust())

    def _tell(self, published: Published, cut: int) -> None:
        """Say in the log what changed: each problem once."""
        now = frozenset(self.problems)
        for problem in sorted(now - self._told):
            level = {"error": logging.ERROR, "warning": logging.WARNING}.get(problem.severity, logging.INFO)
            log.log(level, "%s", problem)
        gone = len(self._told - now)
        self._told = now
        snapshot = published.snapshot
        log.info(
            "snapshot %d in %.0f ms: %d workloads, %d services, %d rules%s%s",
            published.number,
            published.took * 1000,
            len(snapshot.workloads),
            len(snapshot.services),
            len(snapshot.grants),
            f"; {cut} connections cut" if cut else "",
            f"; {gone} problems gone" if gone else "",
        )

    def _record(self, record: Record) -> None:
        self.metrics(record)
        self.access_log(record)
        self.refusals(record)

    def metrics_listener(self) -> trio.SocketListener | None:
        """Where Prometheus asks; None when nowhere."""
        address = parse_address(self.running.metrics_address)
        if address is None:
            return None
        try:
            return self.kept.listener("metrics", address, 16)
        except OSError as error:
            message = f"no metrics on {self.running.metrics_address}: {error.strerror}"
            self._own_problems.append(Problem("warning", Where(), "NodeConfig metricsAddress", message, "set another metricsAddress"))
            return None

    def _gauges(self) -> Iterator[Metric]:
        """What is true just now, for the exporter."""
        published = self.published
        conditions = self.ground.conditions()
        for name, value, meaning in (
            ("edgemesh_snapshot_number", published.number if published else 0, "Builds of the policy snapshot since the start."),
            ("edgemesh_snapshot_build_seconds", published.took if published else 0.0, "Time that the newest build took."),
            ("edgemesh_connections_open", len(self.conns), "Captured connections that are open."),
            ("edgemesh_workloads_captured", sum(c.captured for c in conditions.values()), "Workloads whose traffic is captured."),
            ("edgemesh_workloads_uncaptured", sum(not c.captured for c in conditions.values()), "Workloads of this node that are not."),
            ("edgemesh_capture_gaps", sum(c.gaps for c in conditions.values()), "Times that our rules were taken away and put back."),
        ):
            family = GaugeMetricFamily(name, meaning)
            family.add_metric([], value)
            yield family
        problems = GaugeMetricFamily("edgemesh_problems", "Problems in the manifests and on the node.", labels=["severity"])
        for severity in ("error", "warning", "notice"):
            problems.add_metric([severity], sum(p.severity == severity for p in self.problems))
        yield problems
        if self.keeper is not None:
            yield from certificates(self.keeper)
        info = GaugeMetricFamily("edgemesh_info", "Version and node.", labels=["version", "node"])
        info.add_metric([self.version, self.running.node], 1)
        yield info

    # what agent.status.Daemon shows

    @property
    def config(self) -> NodeConfig:
        return self.store.published.config if self.store.published else self.running

    @property
    def published(self) -> Published | None:
        return self.store.published

    @property
    def problems(self) -> Sequence[Problem]:
        return (*self.store.problems, *self._own_problems, *self.membership.problems)

    @property
    def conns(self) -> Mapping[int, Conn]:
        return self.proxy.context.conns

    @property
    def lane(self) -> FastLane | None:
        return self.proxy.lane

    @property
    def enforcing(self) -> bool:
        return self._followed and self.ground.settled

    def conditions(self) -> Mapping[str, Condition]:
        return self.ground.report()
