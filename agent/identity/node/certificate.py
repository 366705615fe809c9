"""The certificate of one identity: what is held, how a new one is requested, and the check of what came back.

`ask` and `accept` run in a thread. Only they load cryptography: a node whose certificates are all fresh does without
it.
"""

from __future__ import annotations

from agent.identity.node.lifecycle import Lifecycle
from agent.identity.node.store import KeyPair
from agent.identity.protocol import AuthorityRefused, Issued
from nodeproxy.tls.credentials import Credentials
from policy.model import Identity


class ManagedCertificate:
    """The certificate of one identity, or of the node (None), with its state."""

    __slots__ = ("asking", "credentials", "heeded", "identity", "root", "standing", "unwanted")

    def __init__(self, identity: Identity | None) -> None:
        self.identity = identity
        self.credentials: Credentials | None = None
        self.root = ""  # fingerprint of the root that it leads to
        self.standing = Lifecycle()
        self.asking = False
        self.unwanted: float | None = None  # since when nothing wants it, by the steady clock
        self.heeded = ""  # the issuer whose change last hurried its renewal

    def __repr__(self) -> str:
        return f"<ManagedCertificate {self.identity or 'node'} {self.standing.state.value}>"


def ask(spiffe: str, node: str = "") -> tuple[bytes, str]:
    """Make a fresh key, and the request that proves possession of it."""
    from agent.identity import csr

    key = csr.new_key()
    return key, csr.request(key, spiffe, node)


def accept(issued: Issued, key: bytes, spiffe: str, tolerance: float) -> KeyPair:
    """Return what was issued if it is what was requested. Raise AuthorityRefused: an immediate retry would not help.

    Its dates are compared with the authority's clock, not with ours, which may be the wrong one.
    """
    from agent.identity import csr

    roots = "\n".join(issued.bundle.roots)
    try:
        csr.check(issued.chain, key, spiffe, roots, issued.bundle.now, tolerance)
        said = csr.facts(issued.chain, roots)
    except csr.Unusable as error:
        raise AuthorityRefused(
            f"what the authority sent cannot be used: {error}", "edgemesh ca show, on the authority's node"
        ) from error
    return KeyPair(
        Credentials(spiffe, issued.chain.encode(), key, said.serial, said.not_before, said.not_after), said.root
    )


def workload_of(spiffe: str, trust_domain: str) -> Identity | None:
    """Return the workload that `spiffe` names in the trust domain; None when it names none."""
    match spiffe.removeprefix(f"spiffe://{trust_domain}/").split("/"):
        case ["ns", namespace, "sa", account] if spiffe.startswith(f"spiffe://{trust_domain}/"):
            return Identity(namespace, account)
    return None
