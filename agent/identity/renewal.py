"""One identity's certificate: what is held, how it is asked for, and a look at what came back.

`ask` and `accept` run in a thread, and are what loads cryptography: a node whose certificates are all fresh does without it.
"""

from __future__ import annotations

from agent.identity.protocol import AuthorityRefused, Issued
from agent.identity.standing import Standing
from agent.identity.vault import Pair
from nodeproxy.credentials import Credentials
from policy.model import Identity


class Holding:
    """The certificate of one identity, or of the node (None), and where it stands."""

    __slots__ = ("asking", "credentials", "heeded", "identity", "root", "standing", "unwanted")

    def __init__(self, identity: Identity | None) -> None:
        self.identity = identity
        self.credentials: Credentials | None = None
        self.root = ""  # fingerprint of the root that it leads to
        self.standing = Standing()
        self.asking = False
        self.unwanted: float | None = None  # since when, by the steady clock
        self.heeded = ""  # the issuer because of which it was hurried

    def __repr__(self) -> str:
        return f"<Holding {self.identity or 'node'} {self.standing.state.value}>"


def ask(spiffe: str) -> tuple[bytes, str]:
    """A fresh key, and the request that proves to hold it."""
    from agent.identity import csr

    key = csr.new_key()
    return key, csr.request(key, spiffe)


def accept(issued: Issued, key: bytes, spiffe: str, tolerance: float) -> Pair:
    """What was issued, when it is what was asked for. Raises AuthorityRefused: asking again at once would not help.

    Its dates are held against the authority's clock and not ours, which may be the one that is wrong.
    """
    from agent.identity import csr

    roots = "\n".join(issued.bundle.roots)
    try:
        csr.check(issued.chain, key, spiffe, roots, issued.bundle.now, tolerance)
        said = csr.facts(issued.chain, roots)
    except csr.Unusable as error:
        raise AuthorityRefused(f"what the authority sent cannot be used: {error}", "edgemesh ca show, on the authority's node") from error
    return Pair(Credentials(spiffe, issued.chain.encode(), key, said.serial, said.not_before, said.not_after), said.root)


def workload_of(spiffe: str, trust_domain: str) -> Identity | None:
    """The workload that this names in the trust domain; None when it names none."""
    match spiffe.removeprefix(f"spiffe://{trust_domain}/").split("/"):
        case ["ns", namespace, "sa", account] if spiffe.startswith(f"spiffe://{trust_domain}/"):
            return Identity(namespace, account)
    return None
