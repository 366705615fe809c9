"""The authority inside its own process: the Signer of this node, and the credentials of the authority's own server."""

from __future__ import annotations

from collections.abc import Callable

import trio

from agent.identity import csr
from agent.identity.authority.authority import Authority
from agent.identity.folder import FolderError
from agent.identity.node.clock import Clock
from agent.identity.protocol import AuthorityUnreachable, Bundle, Issued, SignRequest
from nodeproxy.tls.credentials import Credentials

BEGINS = "the authority's own certificate begins then"


class LocalSigner:
    """Signs for this node without a network. It checks no proof: code in this process could read the keys anyway."""

    def __init__(self, authority: Authority, node: str, clock: Clock) -> None:
        self._authority = authority
        self._node = node
        self._clock = clock

    def __repr__(self) -> str:
        return f"<LocalSigner for {self._node}>"

    async def sign(self, spiffe: str, csr: str) -> Issued:
        """Raise AuthorityRefused or AuthorityUnreachable."""
        try:
            return await trio.to_thread.run_sync(self._authority.sign, self._node, SignRequest(spiffe, csr))
        except FolderError as error:
            raise AuthorityUnreachable(str(error)) from error

    async def bundle(self) -> Bundle:
        """Raise AuthorityUnreachable."""
        try:
            self._clock.at_least(await trio.to_thread.run_sync(self._authority.begins), BEGINS, surely=True)
            return await trio.to_thread.run_sync(self._authority.bundle, self._node)
        except FolderError as error:
            raise AuthorityUnreachable(str(error)) from error


class ServerCredentials:
    """The credentials of the authority's listener: a certificate that it issues itself. The key is never on disk."""

    def __init__(self, authority: Authority, clock: Callable[[], float]) -> None:
        self._authority = authority
        self._clock = clock
        self._held: Credentials | None = None
        self._issuer = ""

    def __repr__(self) -> str:
        return f"<ServerCredentials {self._held!r}>"

    def __call__(self) -> Credentials:
        """Return the credentials, renewed after half of their life and when another root signs.

        Blocks on the disk. Raise FolderError.
        """
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
