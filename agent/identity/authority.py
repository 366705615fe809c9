"""The authority: decides who gets which certificate, and signs. Each answer is one visit to its folder; nothing here waits on a network.

Theory of operation. What may be signed comes from three places: tokens enrol nodes; policy (`allowed`) says which identities run on
a node; and revocations (`refused`) take precedence over both. A node is who its certificate says, never who its request says.
Every answer is on the disk before it is given: a used token stays used, and what was issued is in the ledger.

The methods block on the disk: the door calls them in a thread. They may be called from several threads and beside other processes.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.identity import ca
from agent.identity.attempts import Attempts
from agent.identity.csr import Unusable, facts
from agent.identity.folder import FolderError
from agent.identity.holdings import Holdings
from agent.identity.ledger import Fetched, Joined, Signed
from agent.identity.protocol import AuthorityRefused, Bundle, Issued, JoinRequest, SignRequest
from nodeproxy.credentials import Trust
from policy.model import Identity

log = logging.getLogger("edgemesh.authority")

Allowed = Callable[[str, str], str]  # (node, SPIFFE ID) -> "" or why this node may not have it
Revocation = Callable[[str, Identity | None, str], str]  # (node, identity, serial) -> "" or why it is refused

_OF_SOURCE = 5  # failing joins a minute
_OF_ALL = 60
# As the other end of a connection reads them (nodeproxy/tls.py): who has another name would be believed by nobody.
_LABEL = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"
_NODE = re.compile(_LABEL)
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,253}")  # SPIFFE-ID section 2.1
_WORKLOAD = re.compile(rf"spiffe://([a-z0-9._-]+)/ns/({_LABEL})/sa/({_LABEL})")


class Malformed(AuthorityRefused):
    """The request makes no sense (400)."""


class Exhausted(AuthorityRefused):
    """Too many failed just now (429)."""


class Authority:
    """One folder's authority. Made once for a process; the folder may change under it, by `edgemesh ca`."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float],
        lifetime: float,
        allowed: Allowed,
        refused: Revocation,
        attempts: Attempts | None = None,
    ) -> None:
        """`lifetime` of what is issued, in seconds. Nothing is read yet."""
        self._holdings = Holdings(folder, clock)
        self._clock = clock
        self._lifetime = lifetime
        self._allowed = allowed
        self._refused = refused
        self._attempts = attempts or Attempts(_OF_SOURCE, _OF_ALL)
        self._trust = Trust("", b"")

    def __repr__(self) -> str:
        return f"<Authority in {self._holdings.folder.path}>"

    def bundle(self, node: str = "") -> Bundle:
        """The roots to believe. `node`: who asks, when he proved it. Raises FolderError."""
        with self._holdings.held():
            if node:
                self._note_fetched(node)
            return self._bundle()

    def trust(self) -> Trust:
        """The same for our own door; the same object as long as nothing changes. Raises FolderError."""
        with self._holdings.held():
            trust = Trust(self._holdings.standing.trust_domain, "".join(self._holdings.roots()).encode())
        if trust != self._trust:
            self._trust = trust
        return self._trust

    def ends(self) -> float:
        """When what signs, or anything above it, ends. Raises FolderError."""
        with self._holdings.held():
            return self._holdings.issuer.not_after

    def join(self, request: JoinRequest, source: str = "") -> Issued:
        """Enrol a node. `source`: the address it came from. Raises AuthorityRefused, FolderError."""
        with self._answering(source, f"a join as node {request.node[:80]!r}"), self._holdings.held():
            return self._join(request)

    def sign(self, node: str, request: SignRequest, serial: str = "", source: str = "") -> Issued:
        """Renew `node`'s certificate, or give it one for a workload. Raises AuthorityRefused, FolderError.

        `node` and `serial` are those of the certificate that the caller proved to hold; "" when he proved none.
        """
        # Who proved to be a node is not bounded: it is known, and a node that starts asks for all of its workloads at once.
        what = f"{request.spiffe[:300]!r} for node {node[:80]!r}"
        with self._answering("" if node else source, what, bounded=not node), self._holdings.held():
            return self._sign(node, request, serial)

    def certify(self, csr: str) -> Issued:
        """A certificate for our own door. Raises FolderError."""
        with self._holdings.held():
            spiffe = f"spiffe://{self._holdings.standing.trust_domain}/authority"
            return Issued(self._made(spiffe, "", ca.read_csr(csr)), self._bundle())

    @contextlib.contextmanager
    def _answering(self, source: str, what: str, bounded: bool = True) -> Iterator[None]:
        """Count and log refusals, as long as they are not so many that the log itself would be the damage."""
        if bounded and self._attempts.too_many_of(source):
            raise Exhausted("too many requests from your address failed", "wait a minute, then try again")
        try:
            yield
        except AuthorityRefused as refusal:
            if bounded:
                flood = self._attempts.too_many()
                self._attempts.failed(source)
                if flood:
                    raise Exhausted("too many requests failed", "wait a minute, then try again") from None
            log.warning("%s%s was refused: %s", what, f" from {source}" if source else "", refusal)
            raise

    # the decisions, with the folder held

    def _join(self, request: JoinRequest) -> Issued:
        now = self._clock()
        secret = request.token.strip().partition(".")[0]  # the rest is for the node: the root's fingerprint
        if not self._holdings.tokens.admits(secret, request.node, now):
            # The same words whatever is wrong: unknown, used, expired, or of another node.
            raise AuthorityRefused(
                "the token is not good for this node",
                "a token is good once, for one node and a while; edgemesh ca token --node NAME makes one",
            )
        if not is_node_name(request.node):
            raise Malformed(f"{request.node[:80]!r} is no name of a node")
        self._check_revoked(request.node, None, "")
        key = _public_key(request.csr)
        spiffe = f"spiffe://{self._holdings.standing.trust_domain}/node/{request.node}"
        chain = self._made(spiffe, request.node, key)
        self._holdings.tokens.use_up(secret)
        self._holdings.ledger.record(now, Joined(request.node, now), self._entry(chain), self._fetched(request.node))
        log.info("node %s has joined", request.node)
        return Issued(chain, self._bundle())

    def _sign(self, node: str, request: SignRequest, serial: str) -> Issued:
        now = self._clock()
        trust_domain = self._holdings.standing.trust_domain
        if not is_node_name(node):
            raise AuthorityRefused("only a node may ask for certificates, with its own", "edgemesh join enrols a node")
        self._check_revoked(node, None, serial)
        if request.spiffe != f"spiffe://{trust_domain}/node/{node}":
            identity = workload_of(request.spiffe, trust_domain)
            if identity is None:
                raise AuthorityRefused(
                    f"{request.spiffe[:300]!r} is neither node {node} itself nor a workload of {trust_domain}",
                    f"a workload is spiffe://{trust_domain}/ns/NAMESPACE/sa/SERVICE-ACCOUNT",
                )
            self._check_revoked(node, identity, serial)
            if why := self._allowed(node, request.spiffe):
                raise AuthorityRefused(why, "do the manifests of the authority's node place that workload on this node?")
        chain = self._made(request.spiffe, node, _public_key(request.csr))
        self._holdings.ledger.record(now, self._entry(chain))
        self._note_fetched(node)
        return Issued(chain, self._bundle())

    def _check_revoked(self, node: str, identity: Identity | None, serial: str) -> None:
        if why := self._refused(node, identity, serial):
            raise AuthorityRefused(why, "it is revoked in the mesh's manifests; nothing is issued until that is lifted")

    def _made(self, spiffe: str, node: str, key: ca.PublicKey) -> str:
        number = ca.serial(secrets.token_bytes(16))
        try:
            return ca.sign(self._holdings.issuer, key, spiffe, node, self._lifetime, self._clock(), number)
        except Unusable as error:
            raise FolderError(f"the authority cannot sign: {error}", "is its clock right? edgemesh ca show tells the dates") from error

    def _entry(self, chain: str) -> Signed:
        said = facts(chain)
        return Signed(said.serial, said.spiffe, said.node, said.not_after, self._holdings.issuer.fingerprint, self._clock())

    def _bundle(self) -> Bundle:
        holdings = self._holdings
        return Bundle(holdings.standing.trust_domain, holdings.roots(), holdings.issuer.fingerprint, self._clock())

    def _fetched(self, node: str) -> Fetched:
        return Fetched(node, self._holdings.fingerprints(), self._clock())

    def _note_fetched(self, node: str) -> None:
        """Once for each node and set of roots, not each time: the flash wears."""
        known = self._holdings.ledger.nodes.get(node)
        if known is None or set(known.roots) != set(self._holdings.fingerprints()):
            self._holdings.ledger.record(self._clock(), self._fetched(node))


def is_node_name(name: str) -> bool:
    return _NODE.fullmatch(name) is not None


def is_trust_domain(name: str) -> bool:
    return _TRUST_DOMAIN.fullmatch(name) is not None


def workload_of(spiffe: str, trust_domain: str) -> Identity | None:
    """The workload's identity that this names in our trust domain; None when it names none."""
    match = _WORKLOAD.fullmatch(spiffe)
    return Identity(match[2], match[3]) if match and match[1] == trust_domain else None


def _public_key(csr: str) -> ca.PublicKey:
    try:
        return ca.read_csr(csr)
    except Unusable as error:
        raise Malformed(str(error)) from error
