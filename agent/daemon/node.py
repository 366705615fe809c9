"""Assembly: one Node, whose parts run in one nursery, and the one list of what gets a new snapshot (`_follow`)."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from msgspec import structs

import agent
from agent.admin.daemon import Readiness
from agent.admin.listener import AdminSocket
from agent.config.schema import NodeConfig
from agent.config.settings import Settings
from agent.daemon import readiness
from agent.daemon.boot_gate import BootGate
from agent.daemon.enrolled import Current, enrols
from agent.daemon.handover import Predecessor
from agent.daemon.leader import Leadership
from agent.daemon.listeners import LISTENERS, Listener
from agent.daemon.problem_log import ProblemLog
from agent.daemon.retention import Retention
from agent.gateway.content import Holder
from agent.gateway.keeper import Keeper
from agent.gateway.lacking import lacking, problems
from agent.gateway.shown import listeners
from agent.identity.membership import Membership
from agent.identity.node.manager import CertificateManager
from agent.kernel import netns
from agent.kernel.capture import CaptureManager
from agent.kernel.condition import Condition
from agent.nri.plugin import Plugin
from agent.sources.source import Remote, Source, owner
from agent.store.disk import State
from agent.store.problems import count, told
from agent.store.store import Published, Store
from agent.system import memory
from agent.system.fd_store import FdStore
from agent.system.resolvers import TrustedResolvers
from agent.telemetry.access_log import AccessLog
from agent.telemetry.metrics import Metrics, Rising
from agent.telemetry.recent_denials import RecentDenials
from agent.telemetry.sink import Figures
from agent.telemetry.sinks import Sinks
from nodeproxy.capture import Doors
from nodeproxy.context import Conn, Front
from nodeproxy.downstream.listeners import NODE_DOOR
from nodeproxy.h2.limits import Bounds
from nodeproxy.interfaces import FastPath
from nodeproxy.proxy import Proxy
from nodeproxy.user_filters import UserFilters
from policy.gateway import Condition as GatewayCondition
from policy.gateway import Listener as GatewayListener
from policy.model import Mesh, Problem, Where
from policy.resources import RawObject
from policy.snapshot import Snapshot

if TYPE_CHECKING:  # a node without a cluster should not load its client, nor prometheus-client before it is scraped
    from prometheus_client.metrics_core import Metric

    from agent.cluster.leader import ClusterLeader
    from agent.kubernetes.api import ApiServer

log = logging.getLogger("edgemesh")


class Node:
    """The running daemon, as agent.admin.daemon.Daemon shows it."""

    def __init__(
        self,
        sources: Sequence[Source],
        settings: Settings,
        hold_authority: bool = False,
        kept: FdStore | None = None,
        before: Predecessor | None = None,
        state: State | None = None,
        api: ApiServer | None = None,
    ) -> None:
        """`kept`: descriptors that outlive this process. `before`: the daemon that hands over to us.

        `state`: the state directory, when it was already read. `api`: the API server of the cluster that this node is
        of; then `hold_authority` means that it takes part in signing there.
        """
        config = settings.config
        self.kept = kept or FdStore()
        self._before = before
        self.unwanted = False  # see retire
        self._started = False  # everything that the first snapshot wants has been looked at
        self._followed = False  # capture knows a snapshot: before, it counts as settled with nothing
        self.version = agent.__version__
        self._sources = sources
        self.api = api
        self.directory = ", ".join(source.place for source in sources)
        self.started = time.time()
        self.running = config  # settings that cannot change while we run come from here
        self._gaps = Rising()
        self.sinks = Sinks(config, Figures(self._gauges, self._collect))
        self.metrics, self.access_log = self.sinks.one(Metrics), self.sinks.one(AccessLog)
        self.refusals = self.sinks.one(RecentDenials)
        self.listeners: Sequence[Listener] = ()  # set by `run`
        if state is None or state.path != Path(config.state_dir):
            state = State(Path(config.state_dir), mine=before is None)
        self.state_directory = state
        self.ground = CaptureManager(
            config,
            kept=self.kept,
            predecessor=before.pid if before else 0,
            places=state.places(),
            met=state.met(netns.boot()),
            kubernetes=api is not None,
        )
        # Until the first build there is no policy, so nothing is admitted.
        nothing = Snapshot(config.node, Mesh(egress=False))
        self.membership = Membership(
            config, hold_authority, lambda: self.published.snapshot if self.published else None, self.kept, api
        )
        self.cluster_leader = self._make_cluster_leader(api) if hold_authority and api is not None else None
        http2 = config.http2
        # At least the configured bound: so a head that passes one node passes two. The request handlers enforce a
        # smaller bound.
        most = max(config.limits.head_bytes, Bounds().head_bytes)
        bounds = Bounds(
            http2.stream_window, http2.connection_window, http2.streams, head_bytes=most, native=config.native_lane
        )
        self.keeper: CertificateManager | None = None if self.membership.alone else self.membership.keeper
        identities = self.membership.keeper
        self.proxy = Proxy(
            nothing,
            self.ground,
            config.limits,
            config.ports,
            self.sinks.take,
            identities,
            bounds,
            config.peers,
            fast=config.native_lane,
            counted=self.metrics.counted,
            shut=before is not None,
            log_requests=self.sinks.every,
            dns_ttl=config.dns.ttl,
            refuse_other_hosts=config.refuse_other_hosts,
            filter_keys=config.filter_keys,
            user_filters=UserFilters(config.filters, config.filter_code),
            dns_ask_unknown=config.dns.ask_unknown,
            dns_trusted=TrustedResolvers(
                config.dns.resolvers, lambda: self.published.snapshot if self.published else None
            ),
            dns_bytes=config.dns.cache_bytes,
            front=Front(config.gateway.trusted_networks, config.gateway.proxy_protocol),
        )
        self.gateway_keeper = Keeper(
            _holder_of_certificates(config, api, state), self.proxy.context.front.certificates, identities.now
        )
        self.housekeeping = self.proxy.context.housekeeping
        self.membership.observe(self._certificates_changed)
        self.ground.serve(self.proxy.attach, self.proxy.detach)
        self.store = Store(settings, state, trust_domain=self.membership.trust_domain)
        for remote in self._remotes:
            self.store.mark = remote.mark
        self._plugin: Plugin | None = None
        self._boot_gate: BootGate | None = None
        if self.ground.pods is not None:
            self.ground.pods.enrols = partial(enrols, self.store, Current(self._remotes))
            self._plugin = Plugin(self.ground.beginnings)
            access = api.access if api is not None else None
            self._boot_gate = BootGate(self.store, self.ground.pods.gate, self._wants_boot_gate, access)
            self.ground.beside = self._follow_runtime
        self.retention = Retention(self.store, self.ground, state)
        self._problem_log = ProblemLog()
        self._own_problems: list[Problem] = []
        self._door: tuple[str, ...] = ()  # addresses of this node's own listener

    async def run(self, admin: AdminSocket) -> None:
        """Serve until a signal asks us to stop; a second one stops at once."""
        try:
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    self.listeners = [kind(self.running, self.kept, admin) for kind in LISTENERS]
                    self.leadership = Leadership(self, self.listeners, admin, nursery, self._before)
                    await nursery.start(self.proxy.run)
                    self._open_node_door(self.running.addresses)
                    nursery.start_soon(self.leadership.take)
                    keep = self.housekeeping.keep
                    for sink in self.sinks:
                        if sink.name:
                            nursery.start_soon(keep, sink.name, sink.run)
                    nursery.start_soon(keep, "giving memory back", memory.after_floods)
                    nursery.start_soon(keep, "following certificates of Gateways", self.gateway_keeper.run)
                    nursery.start_soon(keep, "putting the policy in force", self._build)
                    for source in self._sources:
                        nursery.start_soon(keep, f"watching {source.place}", partial(self._watch, source))
                    log.info("edgemesh %s, node %s, manifests in %s", self.version, self.running.node, self.directory)
                    async for number in signals:
                        name = signal.Signals(number).name
                        break
                    nursery.start_soon(self._stop, nursery.cancel_scope, name)
                    async for _ in signals:
                        nursery.cancel_scope.cancel()
        finally:
            self.kept.close()

    async def _follow_runtime(self) -> None:
        """While we keep the rules: hear of pods that begin, and keep what the container runtime starts at boot."""
        assert self._plugin is not None and self._boot_gate is not None
        keep = self.housekeeping.keep
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, "following the container runtime", self._plugin.run)
            nursery.start_soon(keep, "keeping the program for the boot", self._boot_gate.run)

    def _wants_boot_gate(self) -> bool | None:
        """Return whether the container runtime is to start our program; None while it is not known if it can."""
        wish = self.running.kubernetes.boot_gate
        if wish == "off" or self.ground.pods is None or not self.ground.pods.gate.enabled:
            return False
        return True if wish == "on" or (self._plugin is not None and self._plugin.connected) else None

    async def _build(self) -> None:
        try:
            await self.store.run(self._follow, self.running)
        except Exception:
            self.store.apply(())  # the interrupted build is repeated
            raise

    async def _watch(self, source: Source) -> None:
        owned = partial(self._owns, source)
        if isinstance(source, Remote):
            self.store.resume(owned)
        await source.run(lambda changes, whole: self.store.apply(changes, whole, owned), lambda: self.config)

    def _owns(self, source: Source, origin: str) -> bool:
        return owner(self._sources, origin) is source

    def unit(self, name: str, cgroup: int) -> tuple[bool, bool, str]:
        return self.ground.unit(name, cgroup)

    async def save(self) -> None:
        """Write all that a restart is to know: another daemon may have written the state directory."""
        self.state_directory.claim()
        await self.store.save()
        await self.retention.remember(anew=True)

    def retire(self) -> None:
        """Note that this daemon was started to take over and must end instead."""
        self.unwanted = True

    async def release(self, name: str) -> tuple[str, ...]:
        return await self.retention.release(name)

    async def hand_over(self, command: Sequence[str], commit: Callable[[str], None]) -> str:
        """Let `command` take over from us; see agent/daemon/leader.py."""
        return await self.leadership.hand_over(command, commit)

    async def update(self, name: str) -> str:
        """Hand over to the staged release of that name; see agent/daemon/update.py."""
        from agent.daemon.update import take_up

        return await take_up(self, name)

    def _open_node_door(self, addresses: Sequence[str]) -> None:
        """Open the listener on this node's own addresses, for all of its workloads. Once: they do not change."""
        if self.membership.alone or not addresses or self._door:
            return
        self._door = tuple(addresses)
        sockets, fault = self.ground.node_doors(addresses)
        if fault:
            self._own_problems.append(Problem("error", Where(), "NodeConfig addresses", fault))
        self.proxy.attach(NODE_DOOR, Doors([], [], [], [], sockets))

    def _make_cluster_leader(self, api: ApiServer) -> ClusterLeader:
        from agent.cluster.leader import ClusterLeader  # cryptography is for servers

        membership, config = self.membership, self.running
        return ClusterLeader(
            api,
            config.node,
            membership.keeper.now,
            config.identity.lifetime,
            membership.refused,
            config.ports.tunnel,
            self._is_current,
            self._policy_of_cluster,
            lacking=self._lacking_of_gateways,
        )

    def _policy_of_cluster(self) -> tuple[int, Sequence[RawObject], Sequence[Problem], Snapshot | None]:
        published = self.published
        if published is None:
            return 0, (), (), None
        return published.number, self.store.built, published.problems, published.snapshot

    @property
    def _gateway_listeners(self) -> Sequence[GatewayListener]:
        return self.published.snapshot.listeners if self.published is not None else ()

    def _lacking_of_gateways(self) -> Mapping[str, GatewayCondition]:
        return lacking(self._gateway_listeners, self.proxy.gateway.faults, self.gateway_keeper)

    def _is_current(self) -> bool:
        """Return whether policy is what the API server says: until then nothing is signed, as nothing is known revoked."""
        return self.published is not None and all(remote.report()["synced"] for remote in self._remotes)

    async def _stop(self, everything: trio.CancelScope, why: str) -> None:
        if await self.leadership.stop():
            log.info("%s: the daemon of the next pod serves, our last connections end", why)
            return
        log.info("%s: draining for at most %g s", why, self.config.limits.drain_timeout)
        await self.proxy.drain()
        if self.leadership.held:
            self.ground.release(open_node=self.config.on_stop == "open")
        log.info(
            "stopped; %s",
            "rules removed"
            if self.config.on_stop == "open"
            else "rules stay, and refuse every call until the next start",
        )
        everything.cancel()

    async def _follow(self, published: Published) -> None:
        """Pass a new snapshot to everything that it concerns, in this order."""
        self.sinks.follow(published.config, [workload.key for workload in published.snapshot.workloads])
        self.proxy.configure(published.config.limits, log_requests=self.sinks.every)
        self.membership.want(published.snapshot.workloads)
        self.gateway_keeper.follow(published.snapshot.listeners)
        cut = self.proxy.publish(published.snapshot)
        if not self.leadership.given:
            self.ground.want(published.snapshot.workloads)
        if self.membership.cluster is not None:  # the MeshNode of this node says where the others reach it
            known = (node for node in published.snapshot.nodes if node.name == self.running.node)
            self._open_node_door(next((node.addresses for node in known), ()))
        self._followed = True
        self._tell(published, cut)

    def _certificates_changed(self) -> None:
        """Drop the TLS contexts of certificates that were renewed; take up the trust domain of a mesh just found."""
        keeper = self.membership.keeper
        self.proxy.peers.retain(keeper.credentials(), keeper.trust())
        domain = self.membership.trust_domain
        if domain and domain != self.store.trust_domain:
            self.store.trust_domain = domain
            if self.published is not None and self.published.snapshot.mesh.trust_domain != domain:
                self.store.apply(())  # a node of a cluster learns it only now, with the first roots

    def tell_problems(self) -> int:
        """Log new problems. Return how many problems are gone."""
        return self._problem_log.tell(self._said)

    def _tell(self, published: Published, cut: int) -> None:
        """Log what changed."""
        gone = self.tell_problems()
        snapshot = published.snapshot
        log.info(
            "snapshot %d in %.0f ms: %s, %s, %s%s%s",
            published.number,
            published.took * 1000,
            count(len(snapshot.workloads), "workload"),
            count(len(snapshot.services), "service"),
            count(len(snapshot.grants), "rule"),
            f"; {count(cut, 'connection')} cut" if cut else "",
            f"; {count(gone, 'problem')} gone" if gone else "",
        )

    def _gauges(self) -> Iterator[Metric]:
        from agent.daemon.gauges import gauges

        return gauges(self, self.ground.conditions(), self._gaps)

    def _collect(self) -> None:
        """Add what the fast path has counted to the metrics."""
        self.proxy.fast.count()

    # what agent.admin.daemon.Daemon shows

    @property
    def config(self) -> NodeConfig:
        return self.store.published.config if self.store.published else self.running

    @property
    def published(self) -> Published | None:
        return self.store.published

    @property
    def problems(self) -> Sequence[Problem]:
        closed = readiness.closed(self.ground.closed(), self.ground.unclosed(), self.store.where)
        probed = self.ground.node_problems()
        return told((*self._said, *readiness.problems(self._conditions(), self.store.where), *closed, *probed))

    @property
    def _said(self) -> Sequence[Problem]:
        """Return the problems, without those that capture has logged itself."""
        return (
            *self.store.problems,
            *self._own_problems,
            *(problem for listener in self.listeners for problem in listener.problems()),
            *(problem for remote in self._remotes for problem in remote.problems),
            *self.retention.problems,
            *self.gateway_keeper.problems,
            *problems(self._gateway_listeners, self.proxy.gateway.faults),
            *self.membership.problems,
            *(self.cluster_leader.problems() if self.cluster_leader is not None else ()),
            *self.housekeeping.problems,
            *(self._boot_gate.problems if self._boot_gate else ()),
        )

    @property
    def conns(self) -> Mapping[int, Conn]:
        return self.proxy.context.conns

    @property
    def fast(self) -> FastPath[Conn]:
        return self.proxy.fast

    @property
    def settled(self) -> bool:
        return self._followed and self.ground.settled

    @property
    def state(self) -> Readiness:
        return readiness.state(self._settled_once, self._conditions())

    @property
    def state_in_words(self) -> str:
        return readiness.in_words(self.state, self.running.node, self._conditions())

    def _conditions(self) -> Mapping[str, Condition]:
        """Return the conditions of all workloads; none before the first look."""
        return self.ground.conditions() if self._settled_once else {}

    @property
    def _settled_once(self) -> bool:
        """Return whether the node has ever been settled: a later snapshot does not make it a starting one again."""
        self._started = self._started or self.settled
        return self._started

    def nodes(self) -> list[dict[str, Any]]:
        return self.proxy.peers.nodes()

    @property
    def copies_dropped(self) -> int:
        return self.proxy.asides.dropped

    def gateway_listeners(self) -> list[dict[str, Any]]:
        here = self.ground.node_addresses()
        return listeners(self._gateway_listeners, self.proxy.gateway.places, here, self._lacking_of_gateways())

    def circuits(self) -> list[dict[str, Any]]:
        return [
            {"caller": caller, "service": service, "port": port, "by": name, "state": state}
            for (caller, service, port), name, state in sorted(self.proxy.context.shares.circuits())
        ]

    def names(self) -> dict[str, Any]:
        usage = self.proxy.names.usage()
        to_epoch = time.time() - trio.current_time()
        return {
            "questions": structs.asdict(self.proxy.asked()),
            "kept_answers": usage.entries,
            "kept_bytes": usage.bytes,
            "down": [
                {"resolver": resolver, "since": round(since + to_epoch, 3), "workloads": workloads}
                for resolver, (since, workloads) in self.proxy.resolvers_down().items()
            ],
        }

    def conditions(self) -> Mapping[str, Condition]:
        return self.ground.report()

    @property
    def _remotes(self) -> list[Remote]:
        return [source for source in self._sources if isinstance(source, Remote)]

    def clusters(self) -> list[dict[str, Any]]:
        lead = self.cluster_leader.requests if self.cluster_leader is not None else 0
        return [{**remote.report(), "lead_requests": lead} for remote in self._remotes]


def _holder_of_certificates(config: NodeConfig, api: ApiServer | None, state: State) -> Holder | None:
    """Return where the certificates of Gateways come from."""
    if api is not None:
        from agent.gateway.kept import Kept
        from agent.gateway.secrets import Secrets

        return Secrets(api, kept=Kept(state.path), leads=lambda: state.mine)
    if config.gateway.certificates:
        from agent.gateway.files import Files

        return Files(Path(config.gateway.certificates), lambda: config.poll_interval)
    return None
