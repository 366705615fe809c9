"""The authority decides who gets which certificate, and signs it. No method here waits on a network.

Theory of operation. What may be signed comes from three places: tokens enrol nodes; policy (`allowed`) says which
identities run on a node; and revocations (`refused`) take precedence over both. The authority identifies a node by its
certificate, never by its request. Every answer is on the disk before it is given: a used token stays used, and the
ledger names every certificate that was issued.

Every answer locks and reads the folder once. The methods block on the disk, so the listener calls them in a thread.
Several threads may call them at once, beside other processes.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from agent.identity import lineage
from agent.identity.authority import ca
from agent.identity.authority.journal import Fetched, Joined, Signed
from agent.identity.authority.rate_limit import FailureLimit
from agent.identity.authority.state import AuthorityState
from agent.identity.csr import Unusable, facts
from agent.identity.folder import Folder, FolderError
from agent.identity.protocol import AuthorityRefused, Bundle, Issued, JoinRequest, SignRequest
from nodeproxy.tls.credentials import Trust
from policy.model import Identity

log = logging.getLogger("edgemesh.authority")

Allowed = Callable[[str, str], str]  # (node, SPIFFE ID) -> "" or why this node may not have it
Revocation = Callable[[str, Identity | None, str], str]  # (node, identity, serial) -> "" or why it is refused

_OF_SOURCE = 5  # failing joins a minute
_OF_ALL = 60
# As the other end of a connection reads them (nodeproxy/tls/handshake.py): peers reject a certificate with any other
# name.
_LABEL = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"
_NODE = re.compile(_LABEL)
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,253}")  # SPIFFE-ID section 2.1
_WORKLOAD = re.compile(rf"spiffe://([a-z0-9._-]+)/ns/({_LABEL})/sa/({_LABEL})")


class Malformed(AuthorityRefused):
    """The request makes no sense (400)."""


class Exhausted(AuthorityRefused):
    """Too many failed just now (429)."""


class Client(Struct, frozen=True):
    """A certificate for a client outside the mesh, with its key. `repr` never shows the key."""

    chain: str  # PEM, without the root
    key: bytes  # PEM
    bundle: Bundle
    serial: str
    not_before: float
    not_after: float

    def __repr__(self) -> str:
        return f"<Client {self.serial}>"


class Authority:
    """The authority of one folder. A process makes it once; `edgemesh ca` may change the folder at any time."""

    def __init__(
        self,
        folder: Path | Folder,
        clock: Callable[[], float],
        lifetime: float,
        allowed: Allowed,
        refused: Revocation,
        attempts: FailureLimit | None = None,
        box: Callable[[], float] | None = None,
    ) -> None:
        """`clock`: the mesh's time, which certificates and answers bear. `lifetime`: of a certificate, in seconds.

        `box`: this machine's clock, by which `edgemesh ca token` dates tokens; None: the same. Nothing is read yet.
        """
        self._holdings = AuthorityState(folder, clock)
        self._clock = clock
        self._box = box or clock
        self._lifetime = lifetime
        self._allowed = allowed
        self._refused = refused
        self._attempts = attempts or FailureLimit(_OF_SOURCE, _OF_ALL)
        self._trust = Trust("", b"")

    def __repr__(self) -> str:
        return f"<Authority in {self._holdings.folder.path}>"

    def bundle(self, node: str = "", serial: str = "") -> Bundle:
        """Return the roots to trust. Raise FolderError.

        `node`: the node that asks, if it proved its identity, with the certificate `serial`.
        """
        with self._holdings.held():
            now = self._clock()
            if node:
                self._note_fetched(now, node, serial)
            return self._bundle(now)

    def trust(self) -> Trust:
        """Return the roots for our own listener: the same object as long as nothing changes. Raise FolderError."""
        with self._holdings.held():
            trust = Trust(self._holdings.standing.trust_domain, "".join(self._holdings.roots()).encode())
        if trust != self._trust:
            self._trust = trust
        return self._trust

    def ends(self) -> float:
        """Return when the first of the issuing certificate and those above it expires. Raise FolderError."""
        with self._holdings.held():
            return self._holdings.issuer.not_after

    def begins(self) -> float:
        """Return when the issuing certificate becomes valid: before, nothing can be signed. Raise FolderError."""
        with self._holdings.held():
            return self._holdings.issuer.not_before

    def change(self, step: Callable[[AuthorityState], None]) -> None:
        """Run a step of a rotation (rotation.py) with the folder locked. Raise what it raises, and FolderError."""
        with self._holdings.held():
            step(self._holdings)

    def join(self, request: JoinRequest, source: str = "") -> Issued:
        """Enrol a node. `source`: the address it came from. Raise AuthorityRefused, FolderError."""
        with self._answering(source, f"a join as node {request.node[:80]!r}", source), self._holdings.held():
            return self._join(request)

    def sign(
        self,
        node: str,
        request: SignRequest,
        serial: str = "",
        source: str = "",
        holds: bool = True,
        lifetime: float | None = None,
    ) -> Issued:
        """Renew `node`'s certificate, or issue one for a workload. Raise AuthorityRefused, FolderError.

        `node` and `serial` are those of the certificate whose key the caller proved to hold; "" when it proved none.
        `holds`: that certificate is valid now. An expired or not yet valid one is good only for the node's own next
        certificate, unless the node has already used a newer one (lineage.py).
        `lifetime`: the certificate ends after so many seconds, if it does not end before by itself.
        """
        # A proved node has no limit: it is known, and a node that starts asks for all of its workloads at once. A
        # certificate that is not valid now has its own count: nodes share addresses, and a copied certificate must not
        # use up the tries of the node.
        known = bool(node) and holds
        what = f"{request.spiffe[:300]!r} for node {node[:80]!r}"
        counted = f"{node[:80]} {serial}" if node else source
        with self._answering("" if known else source, what, counted, bounded=not known), self._holdings.held():
            return self._sign(node, request, serial, holds, lifetime)

    def elsewhere(self) -> bytes:
        """Return who signs, if that is somebody else: a JSON object; b"": we do. Raise FolderError."""
        with self._holdings.held():
            return self._holdings.issuer.elsewhere

    def check(self, node: str, request: SignRequest) -> None:
        """Raise AuthorityRefused where `sign` would. For a request that somebody else is to sign."""
        what = f"{request.spiffe[:300]!r} for node {node[:80]!r}"
        with self._answering("", what, node, bounded=False), self._holdings.held():
            self._check(node, request, "", True)
            _public_key(request.csr)

    def certify_client(self, title: str, identity: Identity | None, hosts: Sequence[str]) -> Client:
        """Make a certificate for a client outside the mesh. `title`: what asks for it, as the ledger has it.

        Raise AuthorityRefused: it is revoked, or somebody else signs; FolderError.
        """
        with self._holdings.held():
            now, issuer = self._clock(), self._holdings.issuer
            if issuer.elsewhere:
                raise AuthorityRefused(
                    "cert-manager signs for this mesh", "make a Certificate of cert-manager for it, of the same issuer"
                )
            if identity is not None:
                self._check_revoked("", identity, "")
            spiffe = identity.spiffe(self._holdings.standing.trust_domain) if identity is not None else ""
            order = self._holdings.ledger.next_order(now)
            number = lineage.serial(issuer.own_fingerprint, order, secrets.token_bytes(lineage.RANDOM))
            try:
                chain, key = ca.make_client(issuer, spiffe, hosts, self._lifetime, now, number)
            except Unusable as error:
                raise AuthorityRefused(str(error)) from error
            said = facts(chain)
            self._holdings.ledger.record(now, Signed(said.serial, title, "", said.not_after, issuer.fingerprint, now))
            log.info("a certificate for %s was made", title)
            return Client(chain, key, self._bundle(now), said.serial, said.not_before, said.not_after)

    def take_over(self, node: str, request: SignRequest, who: bytes, chain: str, lifetime: float | None) -> Issued:
        """Give out what somebody else (`who`) signed, if it says what we would have signed. Checks again as `check`.

        Raise AuthorityRefused, FolderError; Unusable: it is something else than what was asked for.
        """
        with self._holdings.held():
            now = self._clock()
            self._check(node, request, "", True)
            issuer = self._holdings.issuer
            if issuer.elsewhere != who:
                raise Unusable("somebody else signs for this mesh by now")
            longest = min(self._lifetime, lifetime or self._lifetime)
            key = _public_key(request.csr)
            taken, said = ca.take_over(issuer, chain, key, request.spiffe, node, longest, now)
            self._holdings.ledger.record(
                now, Signed(said.serial, said.spiffe, said.node, said.not_after, issuer.fingerprint, now)
            )
            self._note_fetched(now, node, "")
            return Issued(taken, self._bundle(now))

    def certify(self, csr: str) -> Issued:
        """Return a certificate for our own listener. Raise FolderError."""
        with self._holdings.held():
            now = self._clock()
            spiffe = f"spiffe://{self._holdings.standing.trust_domain}/authority"
            return Issued(self._made(now, spiffe, "", ca.read_csr(csr)), self._bundle(now))

    @contextlib.contextmanager
    def _answering(self, source: str, what: str, counted: str, bounded: bool = True) -> Iterator[None]:
        """Count and log refusals, unless there are so many that the log itself would do the damage.

        `counted`: the source or certificate that the failures are counted for.
        """
        if bounded and self._attempts.too_many_of(counted):
            whose = "from your address" if counted == source else "with your certificate"
            raise Exhausted(f"too many requests {whose} failed", "wait a minute, then try again")
        try:
            yield
        except AuthorityRefused as refusal:
            if bounded:
                flood = self._attempts.too_many()
                self._attempts.failed(counted)
                if flood:
                    raise Exhausted("too many requests failed", "wait a minute, then try again") from None
            log.warning("%s%s was refused: %s", what, f" from {source}" if source else "", refusal)
            raise

    # The decisions, with the folder locked. Each reads the clock once: a node refuses a certificate that begins after
    # the time in the answer that carries it, and the clock may be set between two reads.

    def _join(self, request: JoinRequest) -> Issued:
        now = self._clock()
        secret = request.token.strip().partition(".")[0]  # the rest, the root's fingerprint, is for the node
        if not self._holdings.tokens.admits(secret, request.node, self._box()):
            # One message for every fault: unknown, used, expired, or made for another node.
            raise AuthorityRefused(
                "the token is not good for this node",
                "a token is good once, for one node and a while; edgemesh ca token --node NAME makes one",
            )
        if not is_node_name(request.node):
            raise Malformed(f"{request.node[:80]!r} is no name of a node")
        self._check_revoked(request.node, None, "")
        key = _public_key(request.csr)
        spiffe = f"spiffe://{self._holdings.standing.trust_domain}/node/{request.node}"
        chain = self._made(now, spiffe, request.node, key)
        self._holdings.tokens.use_up(secret)
        self._holdings.ledger.record(
            now, Joined(request.node, now), self._entry(now, chain), self._fetched(now, request.node)
        )
        log.info("node %s has joined", request.node)
        return Issued(chain, self._bundle(now))

    def _sign(self, node: str, request: SignRequest, serial: str, holds: bool, lifetime: float | None = None) -> Issued:
        now = self._clock()
        own = self._check(node, request, serial, holds)
        chain = self._made(now, request.spiffe, node, _public_key(request.csr), serial, lifetime)
        self._holdings.ledger.record(now, self._entry(now, chain, serial if request.spiffe == own else ""))
        self._note_fetched(now, node, serial)
        return Issued(chain, self._bundle(now))

    def _check(self, node: str, request: SignRequest, serial: str, holds: bool) -> str:
        """Return the node's own SPIFFE ID. Raise AuthorityRefused when `node` may not have what it asks for."""
        trust_domain = self._holdings.standing.trust_domain
        if not is_node_name(node):
            raise AuthorityRefused("only a node may ask for certificates, with its own", "edgemesh join enrols a node")
        self._check_revoked(node, None, serial)
        own = f"spiffe://{trust_domain}/node/{node}"
        if not holds and request.spiffe != own:
            raise AuthorityRefused(
                "the node's own certificate does not hold now", "it is renewed first, and then the others"
            )
        if not holds and not self._holdings.ledger.may_renew(node, serial, self._holdings.issuers()):
            raise AuthorityRefused(
                "the node's certificate does not hold now, and is older than one that the node has shown here, or was not issued here",
                "edgemesh join --again enrols the node, with a new token",
            )
        if request.spiffe != own:
            identity = workload_of(request.spiffe, trust_domain)
            if identity is None:
                raise AuthorityRefused(
                    f"{request.spiffe[:300]!r} is neither node {node} itself nor a workload of {trust_domain}",
                    f"a workload is spiffe://{trust_domain}/ns/NAMESPACE/sa/SERVICE-ACCOUNT",
                )
            self._check_revoked(node, identity, serial)
            if why := self._allowed(node, request.spiffe):
                raise AuthorityRefused(
                    why, "do the manifests of the authority's node place that workload on this node?"
                )
        return own

    def _check_revoked(self, node: str, identity: Identity | None, serial: str) -> None:
        if why := self._refused(node, identity, serial):
            raise AuthorityRefused(why, "it is revoked in the mesh's manifests; nothing is issued until that is lifted")

    def _made(
        self, now: float, spiffe: str, node: str, key: ca.PublicKey, asked_with: str = "", lifetime: float | None = None
    ) -> str:
        issuer = self._holdings.issuer
        order = self._holdings.ledger.next_order(now, asked_with)
        number = lineage.serial(issuer.own_fingerprint, order, secrets.token_bytes(lineage.RANDOM))
        try:
            return ca.sign(issuer, key, spiffe, node, min(self._lifetime, lifetime or self._lifetime), now, number)
        except Unusable as error:
            raise FolderError(
                f"the authority cannot sign: {error}", "is its clock right? edgemesh ca show tells the dates"
            ) from error

    def _entry(self, now: float, chain: str, before: str = "") -> Signed:
        said = facts(chain)
        return Signed(
            said.serial, said.spiffe, said.node, said.not_after, self._holdings.issuer.fingerprint, now, before
        )

    def _bundle(self, now: float) -> Bundle:
        holdings = self._holdings
        return Bundle(holdings.standing.trust_domain, holdings.roots(), holdings.issuer.fingerprint, now)

    def _fetched(self, now: float, node: str, serial: str = "") -> Fetched:
        return Fetched(node, self._holdings.fingerprints(), now, serial)

    def _note_fetched(self, now: float, node: str, serial: str) -> None:
        """Record a fetch, once for each node, set of roots and certificate of the node's own.

        Not each time: each write wears the flash.
        """
        ledger = self._holdings.ledger
        known = ledger.nodes.get(node)
        if known is None or set(known.roots) != set(self._holdings.fingerprints()) or ledger.is_news(node, serial):
            ledger.record(now, self._fetched(now, node, serial))


def is_node_name(name: str) -> bool:
    return _NODE.fullmatch(name) is not None


def is_trust_domain(name: str) -> bool:
    return _TRUST_DOMAIN.fullmatch(name) is not None


def workload_of(spiffe: str, trust_domain: str) -> Identity | None:
    """Return the identity of a workload in our trust domain that `spiffe` names; None when it names none."""
    match = _WORKLOAD.fullmatch(spiffe)
    return Identity(match[2], match[3]) if match and match[1] == trust_domain else None


def _public_key(csr: str) -> ca.PublicKey:
    try:
        return ca.read_csr(csr)
    except Unusable as error:
        raise Malformed(str(error)) from error
