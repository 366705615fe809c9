"""This node's part in a mesh of several nodes: its certificates, and the authority and its listener when it is here.

A node that has neither joined nor holds the authority stands alone: it has no certificates, and neither opens nor
accepts tunnels. A node of a Kubernetes cluster need not join: its pod's token proves it, and the cluster's own authority
(agent/identity/kubernetes) takes the place of one in this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from agent.config.checks import parse_address
from agent.config.schema import NodeConfig
from agent.identity.folder import FolderError
from agent.identity.node.clock import Clock
from agent.identity.node.manager import CertificateManager
from agent.identity.node.store import IdentityStore, IdentityStoreError
from agent.identity.signers import Position, signer
from agent.system.fd_store import FdStore
from nodeproxy.housekeeping import PASSING
from policy.model import Identity, Problem, Where, Workload
from policy.snapshot import Snapshot

if TYPE_CHECKING:  # cryptography, and the client of a cluster, are for nodes that need them
    from agent.identity.authority.authority import Authority
    from agent.kubernetes.api import ApiServer

log = logging.getLogger("edgemesh.membership")

AUTHORITY = "authority"  # folder in the state directory
_METERED = 6  # times longer between requests for the bundle


class Membership:
    """The membership of this node. `keeper`: the data plane's look-ups (nodeproxy.tls.credentials.Identities).

    `snapshot` returns the newest snapshot, None before the first. Damaged files never keep the node from enforcing
    policy: what cannot be read becomes a Problem, and only what it held is lost.
    """

    def __init__(
        self,
        config: NodeConfig,
        hold_authority: bool,
        snapshot: Callable[[], Snapshot | None],
        kept: FdStore | None = None,
        cluster: ApiServer | None = None,
    ) -> None:
        """Read what is on the disk.

        `kept`: descriptors that outlive this process. `cluster`: the API server of the cluster that the node is of; then there is no authority in this process, whatever `hold_authority` says.
        """
        hold_authority = hold_authority and cluster is None
        self.cluster = cluster
        self._kept = kept or FdStore()
        self.config = config
        self._own_problems: list[Problem] = []
        self._snapshot = snapshot
        vault = IdentityStore(Path(config.state_dir))
        self.keeper = CertificateManager(vault, config.node, Clock(config.identity.tolerance, leads=hold_authority))
        self.keeper.refresh = config.identity.refresh * (_METERED if config.metered else 1)
        self.joined = ""  # HOST:PORT of the authority
        if hold_authority or cluster is not None or os.path.lexists(vault.folder.path):
            try:
                vault.open()
                joined, _, _ = vault.load()
                self.joined = config.identity.authority or (joined.authority if joined else "")
                self.keeper.load()
            except IdentityStoreError as error:
                self._own_problems.append(Problem("error", Where(), "identity", str(error), error.hint))
        self.authority = self._open_authority() if hold_authority else None

    def __repr__(self) -> str:
        return f"<Membership of {self.config.node}, {'authority' if self.authority else self.joined or 'alone'}>"

    @property
    def alone(self) -> bool:
        lone = self.authority is None and not self.joined and self.cluster is None
        return lone and self.keeper.roots.bundle is None

    @property
    def trust_domain(self) -> str:
        """Return the trust domain of this node's mesh; "" while it belongs to none."""
        if self.authority is not None:
            with contextlib.suppress(FolderError):
                return self.authority.trust().trust_domain
        bundle = self.keeper.roots.bundle
        return bundle.trust_domain if bundle else ""

    @property
    def problems(self) -> list[Problem]:
        if self.alone:
            return [*self._own_problems, *self.keeper.vault.problems, *self._lacked()]
        from agent.identity.node import report

        found = [*self._own_problems, *report.problems(self.keeper)]
        if self.authority is not None:
            try:
                found += report.of_authority(self.authority.ends(), self.keeper.clock.now())
            except FolderError as error:
                found.append(Problem("error", Where(), "authority", f"the signing door is shut: {error}", error.hint))
        return found

    def _lacked(self) -> Iterable[Problem]:
        """Report a node without a mesh whose manifests name other nodes: every call between them is refused."""
        snapshot = self._snapshot()
        if snapshot is None:
            return
        others = {
            w.node for w in snapshot.workloads if w.enrolled and w.node and snapshot.mtls(w.namespace) != "disabled"
        }
        others.discard(self.config.node)
        if others:
            shown = ", ".join(sorted(others)[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            message = f"this node has no identity: it has joined no mesh, and the manifests place workloads on {shown}; calls to and from there are refused"
            yield Problem(
                "error",
                Where(),
                "identity",
                message,
                "edgemesh join enrols it; edgemesh ca token --node NAME, on the authority's node, makes the token",
            )

    def observe(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after every change of certificates or roots."""
        self.keeper.changed = changed

    def want(self, workloads: Iterable[Workload]) -> None:
        """Keep a certificate for every identity that runs here."""
        if not self.alone:
            self.keeper.want({w.identity for w in workloads if w.enrolled and self._is_here(w, self.config.node)})

    async def run(self) -> None:
        """Keep certificates fresh, and run the authority's listener where the authority is, until cancelled."""
        if self.alone:
            return
        async with trio.open_nursery() as nursery:
            if self.authority is not None and (listeners := self._listen()):
                from agent.identity.authority import server
                from agent.identity.authority.local import ServerCredentials

                own, now = ServerCredentials(self.authority, self.keeper.now), self.keeper.now
                nursery.start_soon(server.serve, listeners, self.authority, own, self.authority.trust, now, self._knows)
            await self.keeper.run(signer(Position(self.config, self.keeper, self.authority, self.joined, self.cluster)))

    def _open_authority(self) -> Authority:
        from agent.identity.authority.authority import Authority
        from agent.identity.authority.local import BEGINS

        folder, lifetime = Path(self.config.state_dir) / AUTHORITY, self.config.identity.lifetime
        authority = Authority(folder, self.keeper.now, lifetime, self._placed, self._revoked, box=time.time)
        try:
            authority.trust()  # raises when there is none
            self.keeper.clock.at_least(authority.begins(), BEGINS, surely=True)
        except FolderError as error:
            log.error("the signing door is shut: %s\n  %s", error, error.hint)
        return authority

    def _listen(self) -> list[trio.SocketListener]:
        address = parse_address(self.config.authority.listen)
        if address is None:
            return []
        try:
            return [self._kept.listener("authority", address, 64)]
        except OSError as error:
            if error.errno in PASSING:
                raise  # the caller retries it, with all that runs beside it
            message = (
                f"no signing door on {self.config.authority.listen}: {error.strerror}; no other node gets a certificate"
            )
            problem = Problem(
                "error", Where(), "NodeConfig authority.listen", message, "set another address and restart"
            )
            if problem not in self._own_problems:
                self._own_problems.append(problem)
            log.error("%s", message)
            return []

    # what the authority asks; in a thread, about a frozen snapshot

    def _placed(self, node: str, spiffe: str) -> str:
        """ "" when the manifests place that identity on that node, else why it may not have it."""
        snapshot = self._snapshot()
        if snapshot is None:
            return "no manifests have been read yet"
        for workload in snapshot.workloads:
            if (
                workload.enrolled
                and self._is_here(workload, node)
                and workload.identity.spiffe(snapshot.mesh.trust_domain) == spiffe
            ):
                return ""
        return f"the manifests place no workload with that identity on node {node}"

    def _knows(self, address: str) -> bool:
        snapshot = self._snapshot()
        return snapshot is not None and snapshot.knows(address)

    def _revoked(self, node: str, identity: Identity | None, serial: str) -> str:
        snapshot = self._snapshot()
        return snapshot.refuses(identity, node, serial) if snapshot else ""

    def refused(self, node: str, identity: Identity | None, serial: str) -> str:
        """Return why policy refuses this, for the authority of a cluster; "" if it does not."""
        return self._revoked(node, identity, serial) if self._snapshot() else "no policy has been read yet"

    def _is_here(self, workload: Workload, node: str) -> bool:
        if workload.node:
            return workload.node == node
        return node == self.config.node and bool(workload.netns or workload.unit)
