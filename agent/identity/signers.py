"""The table of signers: one row for each way in which this node gets its certificates.

The first row that returns a signer is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from agent.config.schema import NodeConfig
from agent.identity.node.manager import CertificateManager
from agent.identity.node.store import JOINED, IdentityStore
from agent.identity.protocol import AuthorityUnreachable, Bundle, Issued, Signer

if TYPE_CHECKING:  # cryptography, and the client of a cluster, are for nodes that need them
    from agent.identity.authority.authority import Authority
    from agent.kubernetes.api import ApiServer


class Position(Struct, frozen=True):
    """The facts about this node that a row decides by."""

    config: NodeConfig
    keeper: CertificateManager  # keeps the certificates that the signer is for
    authority: Authority | None  # the authority in this process
    joined: str  # HOST:PORT of the authority that was joined, or that NodeConfig names; "" for none
    cluster: ApiServer | None = None  # of the cluster that this node is of


def kubernetes(position: Position) -> Signer | None:
    """Return the authority of the cluster as the signer, if this node is of one: what was joined before counts no more."""
    if position.cluster is None:
        return None
    from agent.identity.kubernetes.objects import NAMESPACE
    from agent.identity.kubernetes.signer import KubernetesSigner

    made = KubernetesSigner(position.cluster, NAMESPACE, position.config.identity.lifetime, position.keeper.clock.wall)
    position.keeper.awaited = made.awaited
    return made


def local(position: Position) -> Signer | None:
    """Return the authority in this process as the signer, if there is one."""
    if position.authority is None:
        return None
    from agent.identity.authority.local import LocalSigner

    return LocalSigner(position.authority, position.config.node, position.keeper.clock)


def remote(position: Position) -> Signer | None:
    """Return the authority of another node as the signer, over HTTPS, if one is known."""
    if not position.joined:
        return None
    from agent.identity.node.client import RemoteSigner, read_address

    return RemoteSigner(read_address(position.joined), position.keeper, position.keeper.clock)


def lost(position: Position) -> Signer:
    """Return a signer that never signs: the file that names the authority is damaged or gone."""
    return LostSigner(position.keeper.vault)


class LostSigner:
    """Stands in for an authority whose address is lost."""

    def __init__(self, vault: IdentityStore) -> None:
        self._why = f"{vault.folder.path / JOINED}, which says where it is, cannot be read"

    async def sign(self, spiffe: str, csr: str) -> Issued:
        """Raise AuthorityUnreachable."""
        raise AuthorityUnreachable(self._why)

    async def bundle(self) -> Bundle:
        """Raise AuthorityUnreachable."""
        raise AuthorityUnreachable(self._why)


SIGNERS: Mapping[str, Callable[[Position], Signer | None]] = {
    "kubernetes": kubernetes,
    "local": local,
    "remote": remote,
    "lost": lost,
}


def signer(position: Position) -> Signer:
    """Return the signer of a node in this position."""
    return next(found for row in SIGNERS.values() if (found := row(position)) is not None)
