"""TLS with clients outside the mesh: a context for each certificate, the handshake, and what a client proved.

TLS 1.2 and 1.3. The ClientHello is read before OpenSSL gets it, so the certificate is chosen by the name in it, and a
client whose protocols do not fit is told so by an alert. A renewed certificate is another context: connections that
began with the old one keep it to their end.

What a client's certificate proves. A listener that asks for one says which roots it accepts. An identity of the mesh is
proved only by a certificate that leads to a root of the mesh and names a SPIFFE ID of its trust domain: any other CA
could write that name, too. Whatever else a certificate says are names of somebody outside (`Client.names`).

Sessions are not resumed with a ticket, as between nodes. A client of TLS 1.2 may resume by session id, and so without
its certificate: listeners that ask for one speak TLS 1.3 only.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import trio
from msgspec import Struct

from nodeproxy.codec import client_hello
from nodeproxy.codec.client_hello import TLS12, TLS13, Hello
from nodeproxy.errors import Refused
from nodeproxy.tls.certificates import ClientCas, ServerCertificate
from nodeproxy.tls.contexts import VERIFY, load_key
from nodeproxy.tls.credentials import Trust
from nodeproxy.tls.handshake import Now, answer, hear_client, read_certificate
from nodeproxy.tls.spiffe import Shown, check_dates, prove
from nodeproxy.tls.stream import TlsStream, in_words
from policy.model import Identity, canonical_serial

ALPN = ("h2", "http/1.1")
MOST = 256  # contexts that are kept; one has some 100 KiB with its certificate. The longest unused is made again
_SESSIONS = 1000  # of TLS 1.2 that OpenSSL keeps in a context, before it is made again: it would keep 20,480


class Client(Struct, frozen=True):
    """What a client proved by its certificate."""

    names: tuple[str, ...]  # URIs and DNS names of its certificate, then its common name
    identity: Identity | None  # of the mesh, and only under the mesh's own roots
    node: str  # of the mesh, to which that was issued
    serial: str
    not_after: float  # of the whole chain, with the tolerance of clocks

    def ended(self, now: float) -> bool:
        """Return whether the certificate has ended since it was shown."""
        return now > self.not_after


class Chosen(Struct, frozen=True):
    """What a client gets at a listener."""

    certificate: ServerCertificate
    clients: ClientCas | None = None  # None: they are not asked
    alpn: tuple[str, ...] = ALPN


class Accepted(Struct):
    """A connection that is encrypted now. `client` None: it showed no certificate."""

    stream: TlsStream
    sni: str
    alpn: str
    client: Client | None


class ServerContexts:
    """Contexts by certificate, made once while they are used."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._made: OrderedDict[Chosen, ssl.SSLContext] = OrderedDict()

    def __repr__(self) -> str:
        return f"<ServerContexts {len(self._made)} made>"

    def __len__(self) -> int:
        return len(self._made)

    def get(self, chosen: Chosen) -> ssl.SSLContext:
        """Return the context. Raise Refused("no-server-certificate")."""
        found = self._made.get(chosen)
        if found is not None and found.session_stats()["number"] < _SESSIONS:
            self._made.move_to_end(chosen)
            return found
        made = self._made[chosen] = _context(chosen)
        self._made.move_to_end(chosen)
        if len(self._made) > self._most:
            self._made.popitem(last=False)
        return made


def _context(chosen: Chosen) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if chosen.clients is None else ssl.TLSVersion.TLSv1_3
    # A write never waits for a read (tls/stream.py), which renegotiation in TLS 1.2 would ask for.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    if chosen.alpn:
        context.set_alpn_protocols(list(chosen.alpn))
    context.verify_mode = ssl.CERT_NONE
    certificate = chosen.certificate
    try:
        load_key(context, certificate.chain + b"\n" + certificate.key)
    except (ssl.SSLError, ValueError) as error:
        raise Refused("no-server-certificate", f"{certificate.name} cannot be used: {in_words(error)}") from error
    if chosen.clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED if chosen.clients.required else ssl.CERT_OPTIONAL
        context.verify_flags = VERIFY
        try:
            context.load_verify_locations(cadata=chosen.clients.roots.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            words = f"the CAs of its clients cannot be read: {in_words(error)}"
            raise Refused("no-server-certificate", words) from error
    return context


def check(certificate: ServerCertificate) -> str:
    """Return why such a certificate cannot be presented: its key does not fit, or it is too weak; "" if it can."""
    try:
        _context(Chosen(certificate))
    except Refused as refused:
        return refused.detail
    return ""


async def accept_client(
    stream: Any,
    choose: Callable[[str], Chosen | None],
    contexts: ServerContexts,
    deadline_seconds: float,
    now: Now,
    trust: Trust | None = None,
) -> Accepted:
    """Run the handshake with a client. Raise Refused; then the caller closes `stream`.

    `choose`: returns what a client gets that names this host, "" for none; None: there is nothing under that name.
    `trust`: of the mesh.
    """
    with trio.move_on_after(deadline_seconds):
        held, hello = await hear_client(stream, "plain-to-tls")
        chosen = choose(hello.sni)
        if chosen is None:
            await answer(stream, client_hello.UNRECOGNIZED_NAME)  # RFC 6066 section 3
            named = f"the gateway has no TLS listener for {hello.sni}" if hello.sni else "it names no host (SNI)"
            raise Refused("tls-failed", named)
        await _check_hello(stream, hello, chosen)
        tls = TlsStream(stream, contexts.get(chosen), server=True)
        await _shake(tls, held)
        client = _client(tls, now(), trust) if chosen.clients is not None else None
        return Accepted(tls, hello.sni, tls.object.selected_alpn_protocol() or "", client)
    raise Refused("tls-failed", f"no handshake in {deadline_seconds:g} s")


async def _check_hello(stream: Any, hello: Hello, chosen: Chosen) -> None:
    wanted = TLS12 if chosen.clients is None else TLS13
    if max(hello.versions, default=0) < wanted:
        await answer(stream, client_hello.PROTOCOL_VERSION)
        raise Refused("tls-failed", f"the client speaks nothing from TLS 1.{2 if wanted == TLS12 else 3} on")
    if hello.alpn and chosen.alpn and not set(chosen.alpn).intersection(hello.alpn):
        await answer(stream, client_hello.NO_APPLICATION_PROTOCOL)
        raise Refused("tls-no-alpn", f"it offers {ascii(', '.join(hello.alpn))[:100]}")


async def _shake(tls: TlsStream, held: bytearray) -> None:
    try:
        await tls.handshake(held)
    except ssl.SSLCertVerificationError as error:
        raise Refused("client-untrusted", error.verify_message) from error
    except ssl.SSLError as error:
        words = in_words(error)
        if "did not return a certificate" in words:
            raise Refused("client-untrusted", "it showed none") from error
        raise Refused("tls-failed", words) from error
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise Refused("tls-failed", f"the connection broke during the handshake {error}".rstrip()) from error


def _client(tls: TlsStream, now: float, trust: Trust | None) -> Client | None:
    """Return what the client's verified certificate says. Raise Refused."""
    verified = tls.object._sslobj.get_verified_chain() or ()  # type: ignore[attr-defined]  # as in handshake.py
    if not verified:
        return None
    try:
        described = [one.get_info() for one in verified]
        chain = [read_certificate(one) for one in described]
    except ValueError as error:
        raise Refused("client-untrusted", f"the certificate cannot be read: {error}") from error
    tolerance = trust.tolerance if trust is not None else 300.0
    for one in chain:
        try:
            check_dates(one, one.name or chain[0].name, tolerance, now)
        except Refused as refused:
            raise Refused("client-untrusted", refused.detail) from refused
    names = [value for kind, value in described[0].get("subjectAltName", ()) if kind in ("URI", "DNS") and value]
    if chain[0].name:
        names.append(chain[0].name)
    identity, node = _identity(verified[-1].public_bytes(), chain, trust, now)
    return Client(
        tuple(names), identity, node, canonical_serial(chain[0].serial), min(one.not_after for one in chain) + tolerance
    )


def _identity(root: str, chain: list[Shown], trust: Trust | None, now: float) -> tuple[Identity | None, str]:
    """Return the identity that a chain proves, and the node to which it was issued: only under a root of the mesh."""
    if trust is None or ssl.PEM_cert_to_DER_cert(root) not in _roots(trust):
        return None, ""
    try:
        named, node = prove(chain, trust, now)
    except Refused:  # signed by the mesh, and names nobody in it
        return None, ""
    return named.identity, node


def _roots(trust: Trust) -> set[bytes]:
    end = "-----END CERTIFICATE-----"
    blocks = trust.roots.decode("ascii", "replace").split(end)[:-1]
    return {ssl.PEM_cert_to_DER_cert(block[block.index("-----BEGIN") :].strip() + f"\n{end}\n") for block in blocks}
