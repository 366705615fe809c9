"""This node's part in a mesh of several nodes: its certificates, the authority when it is here, and the node's own door.

A node that has neither joined nor holds the authority stands alone: it has no certificates, opens no tunnels and takes none.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from agent.config import NodeConfig, parse_address
from agent.identity.clock import Clock
from agent.identity.folder import FolderError
from agent.identity.keeper import Keeper
from agent.identity.vault import Vault, VaultError
from agent.kept import Kept
from policy.model import Identity, Problem, Where, Workload
from policy.snapshot import Snapshot

if TYPE_CHECKING:  # it brings cryptography with it, which a node without the authority seldom needs
    from agent.identity.authority import Authority

log = logging.getLogger("edgemesh.membership")

AUTHORITY = "authority"  # folder in the state directory
_METERED = 6  # times longer between looks at the authority's bundle


class MembershipError(Exception):
    """The daemon cannot start as it was told to; the message says why and what to do."""


class Membership:
    """`keeper` is what the data plane asks (nodeproxy.credentials.Identities). `snapshot` answers the newest one, None before."""

    def __init__(self, config: NodeConfig, hold_authority: bool, snapshot: Callable[[], Snapshot | None], kept: Kept | None = None) -> None:
        """Reads what is on the disk. `kept`: descriptors that outlive us. Raises MembershipError."""
        self._kept = kept or Kept()
        self.config = config
        self._own_problems: list[Problem] = []
        self._snapshot = snapshot
        vault = Vault(Path(config.state_dir))
        self.keeper = Keeper(vault, config.node, Clock(config.identity.tolerance))
        self.keeper.refresh = config.identity.refresh * (_METERED if config.metered else 1)
        self.joined = ""  # HOST:PORT of the authority
        try:
            if hold_authority or vault.folder.path.exists():
                vault.open()
                joined, _, _ = vault.load()
                self.joined = config.identity.authority or (joined.authority if joined else "")
                self.keeper.load()
            self.authority = self._open_authority() if hold_authority else None
        except (VaultError, FolderError) as error:
            raise MembershipError(f"{error}\n  {error.hint}".rstrip()) from error

    def __repr__(self) -> str:
        return f"<Membership of {self.config.node}, {'authority' if self.authority else self.joined or 'alone'}>"

    @property
    def alone(self) -> bool:
        return self.authority is None and not self.joined

    @property
    def trust_domain(self) -> str:
        """Of the mesh that this node belongs to; "" while it belongs to none."""
        if self.authority is not None:
            return self.authority.trust().trust_domain
        bundle = self.keeper.roots.bundle
        return bundle.trust_domain if bundle else ""

    @property
    def problems(self) -> list[Problem]:
        if self.alone:
            return []
        from agent.identity import concerns

        found = [*self._own_problems, *concerns.problems(self.keeper)]
        if self.authority is not None:
            with contextlib.suppress(FolderError):  # whoever asks it for a certificate is told
                found += concerns.of_authority(self.authority.ends(), self.keeper.clock.now())
        return found

    def want(self, workloads: Iterable[Workload]) -> None:
        """A certificate for every identity that runs here."""
        if not self.alone:
            self.keeper.want({w.identity for w in workloads if w.enrolled and self._is_here(w, self.config.node)})

    async def run(self) -> None:
        """Keep certificates fresh, and sign for others where the authority is, until cancelled."""
        if self.alone:
            return
        async with trio.open_nursery() as nursery:
            if self.authority is not None:
                from agent.identity import door
                from agent.identity.near import DoorCredentials, NearSigner

                listeners = self._listen()
                if listeners:
                    own = DoorCredentials(self.authority, time.time)
                    nursery.start_soon(door.serve, listeners, self.authority, own, self.authority.trust)
                await self.keeper.run(NearSigner(self.authority, self.config.node))
            else:
                from agent.identity.client import RemoteSigner, read_address

                await self.keeper.run(RemoteSigner(read_address(self.joined), self.keeper, self.keeper.clock))

    def _open_authority(self) -> Authority:
        from agent.identity.authority import Authority

        authority = Authority(
            Path(self.config.state_dir) / AUTHORITY, time.time, self.config.identity.lifetime, self._placed, self._revoked
        )
        authority.trust()  # is there one?
        return authority

    def _listen(self) -> list[trio.SocketListener]:
        address = parse_address(self.config.authority.listen)
        if address is None:
            return []
        try:
            return [self._kept.listener("authority", address, 64)]
        except OSError as error:
            message = f"no signing door on {self.config.authority.listen}: {error.strerror}; no other node gets a certificate"
            self._own_problems.append(Problem("error", Where(), "NodeConfig authority.listen", message, "set another address and restart"))
            log.error("%s", message)
            return []

    # what the authority asks; in a thread, of a frozen snapshot

    def _placed(self, node: str, spiffe: str) -> str:
        """ "" when the manifests place that identity on that node, else why it may not have it."""
        snapshot = self._snapshot()
        if snapshot is None:
            return "no manifests have been read yet"
        for workload in snapshot.workloads:
            if workload.enrolled and self._is_here(workload, node) and workload.identity.spiffe(snapshot.mesh.trust_domain) == spiffe:
                return ""
        return f"the manifests place no workload with that identity on node {node}"

    def _revoked(self, node: str, identity: Identity | None, serial: str) -> str:
        snapshot = self._snapshot()
        return snapshot.refuses(identity, node, serial) if snapshot else ""

    def _is_here(self, workload: Workload, node: str) -> bool:
        if workload.node:
            return workload.node == node
        return node == self.config.node and bool(workload.netns or workload.unit)
