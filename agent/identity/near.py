"""The authority from inside its own process: as a Signer for this node's keeper, and what its own door presents."""

from __future__ import annotations

from collections.abc import Callable

import trio

from agent.identity import csr
from agent.identity.authority import Authority
from agent.identity.folder import FolderError
from agent.identity.protocol import AuthorityUnreachable, Bundle, Issued, SignRequest
from nodeproxy.credentials import Credentials


class NearSigner:
    """Signs for this node without a network. It proves nothing: who runs in this process could read the keys anyway."""

    def __init__(self, authority: Authority, node: str) -> None:
        self._authority = authority
        self._node = node

    def __repr__(self) -> str:
        return f"<NearSigner for {self._node}>"

    async def sign(self, spiffe: str, csr: str) -> Issued:
        """Raises AuthorityRefused or AuthorityUnreachable."""
        try:
            return await trio.to_thread.run_sync(self._authority.sign, self._node, SignRequest(spiffe, csr))
        except FolderError as error:
            raise AuthorityUnreachable(str(error)) from error

    async def bundle(self) -> Bundle:
        """Raises AuthorityUnreachable."""
        try:
            return await trio.to_thread.run_sync(self._authority.bundle, self._node)
        except FolderError as error:
            raise AuthorityUnreachable(str(error)) from error


class DoorCredentials:
    """What the authority's door presents: a certificate that it gives itself, with a key that is never on a disk."""

    def __init__(self, authority: Authority, clock: Callable[[], float]) -> None:
        self._authority = authority
        self._clock = clock
        self._held: Credentials | None = None
        self._issuer = ""

    def __repr__(self) -> str:
        return f"<DoorCredentials {self._held!r}>"

    def __call__(self) -> Credentials:
        """Made anew after half of its life, and when another root signs. Blocks on the disk. Raises FolderError."""
        now = self._clock()
        held = self._held
        if (
            held is None
            or not held.not_before <= now < (held.not_before + held.not_after) / 2
            or self._issuer != self._authority.bundle().issuer
        ):
            key = csr.new_key()
            issued = self._authority.certify(csr.request(key, "spiffe://authority"))
            said = csr.facts(issued.chain)
            held = Credentials(said.spiffe, issued.chain.encode(), key, said.serial, said.not_before, said.not_after)
            self._held, self._issuer = held, issued.bundle.issuer
        return held
