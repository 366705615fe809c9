"""The authority from afar: HTTPS, one short connection for each question, and how a node joins a mesh with a token.

Who answers must prove to be the authority under the roots that we hold. A node that joins holds none: it takes the roots that anybody
offers, keeps them when one has the fingerprint that its token names, and asks again under these.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio
from msgspec import Struct
from msgspec.structs import replace

from agent.identity import renewal
from agent.identity.clock import Clock
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle, Issued, JoinRequest, Refusal, SignRequest
from agent.identity.roots import Roots, fingerprint
from agent.identity.vault import Pair
from nodeproxy.credentials import Credentials, Identities, Trust
from nodeproxy.errors import Refused
from nodeproxy.http.h1 import Incoming
from nodeproxy.limits import Limits
from nodeproxy.stream import abort, close_now
from nodeproxy.tls import Contexts, Secured, connect

_T = TypeVar("_T")

DEADLINE = 15.0  # seconds for one question, from the look-up of a name to the last byte of the answer
_ANSWER = 64 * 1024  # bytes: a chain and two roots have about 4 KiB
_LIMITS = Limits(head_bytes=8192, header_count=64)
_PATIENT = 30 * 86400.0  # seconds of tolerance for the authority's certificate while our own clock is known to be wrong

Dial = Callable[[str, int], Awaitable[trio.abc.Stream]]


class WrongRoots(AuthorityUnreachable):
    """Who answers has not the root that the token names."""


class Address(Struct, frozen=True):
    """Where an authority is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(text: str) -> Address:
    """HOST:PORT or [ADDRESS]:PORT. Raises ValueError."""
    match = re.fullmatch(r"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ValueError(f"{text!r} is no HOST:PORT")
    return Address(match[1] or match[2], int(match[3]))


class RemoteSigner:
    """A Signer over the network. `identities`: what this node proves and believes (its keeper)."""

    def __init__(self, address: Address, identities: Identities, clock: Clock, dial: Dial = trio.open_tcp_stream) -> None:
        self._address = address
        self._identities = identities
        self._clock = clock
        self._dial = dial

    def __repr__(self) -> str:
        return f"<RemoteSigner {self._address}>"

    async def sign(self, spiffe: str, csr: str) -> Issued:
        """Raises AuthorityRefused or AuthorityUnreachable."""
        if self._identities.node() is None:
            raise AuthorityRefused("this node has no certificate of its own to ask with", "edgemesh join enrols it, with a new token")
        return await self._ask("POST /v1/sign", SignRequest(spiffe, csr), Issued)

    async def bundle(self) -> Bundle:
        """Raises AuthorityUnreachable."""
        try:
            return await self._ask("GET /v1/bundle", None, Bundle)
        except AuthorityRefused as refusal:
            raise AuthorityUnreachable(f"the authority at {self._address} gave no bundle: {refusal.error}") from refusal

    async def _ask(self, what: str, document: Struct | None, kind: type[_T]) -> _T:
        trust = self._identities.trust()
        if trust is None:
            raise AuthorityUnreachable("this node holds no roots to know the authority by; edgemesh join enrols it")
        if self._clock.wrong:
            # It may have been issued after all that we know to be past. Its word is how we learn the time.
            trust = replace(trust, tolerance=_PATIENT)
        return await _exchange(self._address, self._dial, self._identities.node(), trust, self._clock.now, what, document, kind)


async def join(address: Address, node: str, token: str, clock: Clock, dial: Dial = trio.open_tcp_stream) -> tuple[Pair, Bundle]:
    """Enrol this node. `token`: `SECRET.FINGERPRINT`. Raises AuthorityRefused, AuthorityUnreachable, WrongRoots."""
    secret, _, pinned = token.strip().rpartition(".")
    if not secret or len(pinned) != 64:
        raise AuthorityRefused("this is no token: one is SECRET.FINGERPRINT", "edgemesh ca token --node NAME, on the authority's node")
    offered = await _exchange(address, dial, None, None, clock.now, "GET /v1/bundle", None, Bundle)
    # Roots are public: whoever is in between could offer the real one beside his own. So the pinned one alone is believed.
    root = next((root for root in offered.roots if hmac.compare_digest(fingerprint(root), pinned.lower())), None)
    if root is None:
        raise WrongRoots(
            f"who answers at {address} has not the root that the token names ({pinned[:16]}...): it is another authority, or somebody between"
        )
    trust = Trust(offered.trust_domain, f"{root.strip()}\n".encode(), clock.tolerance)
    spiffe = f"spiffe://{offered.trust_domain}/node/{node}"
    key, csr = await trio.to_thread.run_sync(renewal.ask, spiffe)
    request = JoinRequest(node, secret, csr)
    issued = await _exchange(address, dial, None, trust, clock.now, "POST /v1/join", request, Issued)
    roots = Roots(clock.tolerance)
    clock.heard(issued.bundle.now)
    if not roots.take(issued.bundle):
        raise WrongRoots(roots.foreign)
    return await trio.to_thread.run_sync(renewal.accept, issued, key, spiffe, clock.tolerance), issued.bundle


async def _exchange(
    address: Address,
    dial: Dial,
    credentials: Credentials | None,
    trust: Trust | None,
    now: Callable[[], float],
    what: str,
    document: Struct | None,
    kind: type[_T],
) -> _T:
    """One question over one connection. `trust` None: whoever answers is heard. Raises AuthorityRefused, AuthorityUnreachable."""
    context = Contexts().client(credentials, trust, ())
    expects = (f"spiffe://{trust.trust_domain}/authority",) if trust else ()
    try:
        with trio.fail_after(DEADLINE):
            stream = await dial(address.host, address.port)
            try:
                secured = await connect(stream, context, trust, expects, DEADLINE, now)
                status, body = await _converse(secured, address, what, document)
            finally:
                abort(stream)
    except trio.TooSlowError as error:
        raise AuthorityUnreachable(f"the authority at {address} did not answer within {DEADLINE:.0f} s") from error
    except Refused as refused:
        why = refused.detail if refused.flag == "upstream-broken" else str(refused)
        raise AuthorityUnreachable(f"the authority at {address} cannot be reached: {why}") from refused
    except (OSError, trio.BrokenResourceError) as error:
        raise AuthorityUnreachable(f"the authority at {address} cannot be reached: {_why(error)}") from error
    return _read(address, status, body, kind)


async def _converse(secured: Secured, address: Address, what: str, document: Struct | None) -> tuple[int, bytes]:
    """RFC 9112: the answer's status and body. Raises Refused for what is no HTTP, BrokenResourceError."""
    content = msgspec.json.encode(document) if document is not None else b""
    method, path = what.encode().split(b" ")
    head = b"%b %b HTTP/1.1\r\nhost: %b\r\nconnection: close\r\naccept: application/json\r\n" % (method, path, str(address).encode())
    if content:
        head += b"content-type: application/json\r\ncontent-length: %d\r\n" % len(content)
    await secured.stream.send_all(head + b"\r\n" + content)
    incoming = Incoming("upstream-broken")
    while (answer := incoming.response_head(method, _LIMITS)) is None or answer.status < 200:
        if answer is None:
            await _feed(secured, incoming)
    body = b""
    while not incoming.complete:
        piece = incoming.body()
        if piece is None:
            await _feed(secured, incoming)
            continue
        body += piece
        if len(body) > _ANSWER:
            raise Refused("upstream-broken", f"the answer is larger than {_ANSWER // 1024} KiB")
    close_now(secured.stream)
    return answer.status, body


async def _feed(secured: Secured, incoming: Incoming) -> None:
    data = await secured.stream.receive_some(_ANSWER)
    if data:
        incoming.feed(data)
    else:
        incoming.feed_end()


def _read(address: Address, status: int, body: bytes, kind: type[_T]) -> _T:
    try:
        if status == 200:
            return msgspec.json.decode(body, type=kind)
        refusal = msgspec.json.decode(body, type=Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AuthorityUnreachable(f"what {address} answers ({status}) makes no sense: is it edgemesh's authority?") from error
    if status >= 500:
        raise AuthorityUnreachable(f"the authority at {address} is in trouble: {refusal.error}")
    raise AuthorityRefused(refusal.error, refusal.hint)


def _why(error: BaseException) -> str:
    """Of several addresses that were tried, what came of them, each once."""
    if isinstance(error.__cause__, BaseExceptionGroup):
        return ", ".join(dict.fromkeys(_why(one) for one in error.__cause__.exceptions))
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error) or "the connection broke"
