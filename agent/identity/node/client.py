"""The authority over HTTPS, one short connection for each request, and how a node joins a mesh with a token.

The server must prove under the roots that we hold that it is the authority. A node that joins holds none: it accepts
roots from any server, keeps the one whose fingerprint its token names, and asks again under that one.
"""

from __future__ import annotations

import hmac
import math
import os
import re
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec
import trio
from msgspec import Struct
from msgspec.structs import replace

from agent.http.client import Exchange, Response, fetch
from agent.identity.node import certificate
from agent.identity.node.clock import Clock, moment
from agent.identity.node.roots import Roots, fingerprint
from agent.identity.node.store import KeyPair
from agent.identity.protocol import (
    AuthorityRefused,
    AuthorityUnreachable,
    Bundle,
    Issued,
    JoinRequest,
    Refusal,
    SignRequest,
)
from nodeproxy.errors import Refused
from nodeproxy.stream import abort, close_now
from nodeproxy.tls.contexts import Contexts
from nodeproxy.tls.credentials import Credentials, Peer, Trust
from nodeproxy.tls.handshake import connect

_T = TypeVar("_T", Bundle, Issued)

DEADLINE = 15.0  # seconds for one request, from the look-up of a name to the last byte of the response
_AGREE = 3600.0  # seconds: two clocks that were both set to an earlier time differ by less
_ANSWER = 64 * 1024  # bytes: a chain and two roots have about 4 KiB

Dial = Callable[[str, int], Awaitable[trio.abc.Stream]]


class WrongRoots(AuthorityUnreachable):
    """The server does not have the root that the token names."""


class Address(Struct, frozen=True):
    """The address of an authority."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(text: str) -> Address:
    """Read HOST:PORT or [ADDRESS]:PORT. Raise ValueError."""
    match = re.fullmatch(r"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ValueError(f"{text!r} is no HOST:PORT")
    return Address(match[1] or match[2], int(match[3]))


class Proving(Protocol):
    """The roots that a node trusts and the certificate that it shows to the authority: its CertificateManager."""

    def trust(self) -> Trust | None: ...

    def proof(self) -> Credentials | None: ...


class RemoteSigner:
    """A Signer over the network. `keeper`: the certificates and roots of this node."""

    def __init__(self, address: Address, keeper: Proving, clock: Clock, dial: Dial = trio.open_tcp_stream) -> None:
        self._address = address
        self._keeper = keeper
        self._clock = clock
        self._dial = dial

    def __repr__(self) -> str:
        return f"<RemoteSigner {self._address}>"

    async def sign(self, spiffe: str, csr: str) -> Issued:
        """Raise AuthorityRefused or AuthorityUnreachable."""
        if self._keeper.proof() is None:
            raise AuthorityRefused(
                "this node has no certificate of its own to ask with", "edgemesh join enrols it, with a new token"
            )
        return await self._ask("POST /v1/sign", SignRequest(spiffe, csr), Issued)

    async def bundle(self) -> Bundle:
        """Raise AuthorityUnreachable."""
        try:
            return await self._ask("GET /v1/bundle", None, Bundle)
        except AuthorityRefused as refusal:
            raise AuthorityUnreachable(f"the authority at {self._address} gave no bundle: {refusal.error}") from refusal

    async def _ask(self, what: str, document: Struct | None, kind: type[_T]) -> _T:
        trust = self._keeper.trust()
        if trust is None:
            raise AuthorityUnreachable("this node holds no roots to know the authority by; edgemesh join enrols it")
        return await _exchange(
            self._address, self._dial, self._keeper.proof(), trust, self._clock, what, document, kind
        )


async def join(
    address: Address, node: str, token: str, clock: Clock, dial: Dial = trio.open_tcp_stream
) -> tuple[KeyPair, Bundle]:
    """Enrol this node. `token`: `SECRET.FINGERPRINT`. Raise AuthorityRefused, AuthorityUnreachable, WrongRoots."""
    secret, _, pinned = token.strip().rpartition(".")
    if not secret or len(pinned) != 64:
        raise AuthorityRefused(
            "this is no token: one is SECRET.FINGERPRINT", "edgemesh ca token --node NAME, on the authority's node"
        )
    offered = await _exchange(address, dial, None, None, clock, "GET /v1/bundle", None, Bundle)
    # Roots are public: an attacker in between could offer the real one beside another. So only the pinned one is
    # trusted.
    root = next((root for root in offered.roots if hmac.compare_digest(fingerprint(root), pinned.lower())), None)
    if root is None:
        raise WrongRoots(
            f"who answers at {address} has not the root that the token names ({pinned[:16]}...): it is another authority, or somebody between"
        )
    trust = Trust(offered.trust_domain, f"{root.strip()}\n".encode(), clock.tolerance)
    spiffe = f"spiffe://{offered.trust_domain}/node/{node}"
    key, csr = await trio.to_thread.run_sync(certificate.ask, spiffe)
    request = JoinRequest(node, secret, csr)
    issued = await _exchange(address, dial, None, trust, clock, "POST /v1/join", request, Issued)
    roots = Roots(clock.tolerance)
    clock.heard(issued.bundle.now)
    if not roots.take(issued.bundle):
        raise WrongRoots(roots.foreign)
    return await trio.to_thread.run_sync(certificate.accept, issued, key, spiffe, clock.tolerance), issued.bundle


async def _exchange(
    address: Address,
    dial: Dial,
    credentials: Credentials | None,
    trust: Trust | None,
    clock: Clock,
    what: str,
    document: Struct | None,
    kind: type[_T],
) -> _T:
    """Make one request over one connection. Raise AuthorityRefused, AuthorityUnreachable.

    `trust` None: any server is accepted. The dates of the authority's certificate are checked together with its
    response, which says what time the authority takes it to be.
    """
    context = Contexts().client(credentials, trust, ())
    expects = (f"spiffe://{trust.trust_domain}/authority",) if trust else ()
    try:
        with trio.fail_after(DEADLINE):
            stream = await dial(address.host, address.port)
            try:
                dateless = replace(trust, tolerance=math.inf) if trust else None
                secured = await connect(stream, context, dateless, expects, DEADLINE, clock.now)
                method, path = what.split(" ")
                content = msgspec.json.encode(document) if document is not None else b""
                response = await fetch(secured.stream, Exchange(method, path, str(address), content, _ANSWER))
                close_now(secured.stream)
            finally:
                abort(stream)
    except trio.TooSlowError as error:
        raise AuthorityUnreachable(f"the authority at {address} did not answer within {DEADLINE:.0f} s") from error
    except Refused as refused:
        why = refused.detail if refused.flag == "upstream-broken" else str(refused)
        raise AuthorityUnreachable(f"the authority at {address} cannot be reached: {why}") from refused
    except (OSError, trio.BrokenResourceError) as error:
        raise AuthorityUnreachable(f"the authority at {address} cannot be reached: {_why(error)}") from error
    try:
        answer = _read(address, response, kind)
    except AuthorityRefused:
        _check_dates(address, secured.peer, clock, None)
        raise
    _check_dates(address, secured.peer, clock, answer.bundle.now if isinstance(answer, Issued) else answer.now)
    return answer


def _check_dates(address: Address, peer: Peer | None, clock: Clock, said: float | None) -> None:
    """Check that the certificate of the authority is valid now. Raise AuthorityUnreachable.

    "Now" is our idea of the time, or the authority's (`said`) where that cannot be an attacker turning our clock back.

    All clocks of a site may have been set while we slept or talked. A certificate that begins later than our now proves
    that it is later: only the authority could have made it. Nothing proves that it is earlier, since anyone with an old
    key could say so; that is accepted only where this machine's own clock, which its owner sets, says the same.
    """
    if peer is None:
        return
    now, tolerance = clock.now(), clock.tolerance
    begins, ends = peer.not_before - tolerance, peer.not_after + tolerance
    if begins <= now <= ends:
        return
    if said is not None and begins <= said <= ends and (now < begins or abs(clock.wall() - said) <= _AGREE):
        return
    raise AuthorityUnreachable(
        f"the certificate of the authority at {address} is valid from {moment(peer.not_before)} to {moment(peer.not_after)}, "
        f"and it is {moment(now)} by what this node knows, {moment(clock.wall())} by its own clock: set the clock that is wrong"
    )


def _read(address: Address, response: Response, kind: type[_T]) -> _T:
    status, body = response.status, response.body
    try:
        if status == 200:
            return msgspec.json.decode(body, type=kind)
        refusal = msgspec.json.decode(body, type=Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AuthorityUnreachable(
            f"what {address} answers ({status}) makes no sense: is it edgemesh's authority?"
        ) from error
    if status >= 500:
        raise AuthorityUnreachable(f"the authority at {address} is in trouble: {refusal.error}")
    raise AuthorityRefused(refusal.error, refusal.hint)


def _why(error: BaseException) -> str:
    """Return, for several addresses that were tried, each error once."""
    if isinstance(error.__cause__, BaseExceptionGroup):
        return ", ".join(dict.fromkeys(_why(one) for one in error.__cause__.exceptions))
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error) or "the connection broke"
