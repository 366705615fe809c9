"""The TLS handshake, in either role: a stream becomes a connection with a proved identity.

The ClientHello is checked before OpenSSL gets it. OpenSSL would go on without a protocol (ALPN) where we answer with an
alert. OpenSSL verifies the chain without looking at the clock. Then we compare the dates of all its certificates with
our clock and the configured tolerance, so that a box whose clock is a little off is not refused.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Any

import trio
from msgspec import Struct

from nodeproxy.codec import client_hello
from nodeproxy.codec.client_hello import Hello, read_hello
from nodeproxy.errors import Refused
from nodeproxy.tls.contexts import Context
from nodeproxy.tls.credentials import Peer, Trust
from nodeproxy.tls.spiffe import Shown, peer_of
from nodeproxy.tls.stream import TlsStream, in_words

Now = Callable[[], float]  # seconds since the epoch


class Secured(Struct):
    """A connection whose other end was proved. `peer` None: it showed no certificate, and none was required."""

    stream: TlsStream
    peer: Peer | None

    @property
    def alpn(self) -> str:
        return self.stream.object.selected_alpn_protocol() or ""


async def accept(stream: Any, context: Context, trust: Trust, deadline_seconds: float, now: Now) -> Secured:
    """Run the handshake as server. Raise Refused; then the caller closes `stream`."""
    with trio.move_on_after(deadline_seconds):
        held = await receive_client_hello(stream, context.alpn)
        tls = TlsStream(stream, context.ssl, server=True)
        await _shake(tls, context, held)
        return Secured(tls, _peer(tls, context, trust, now()))
    raise Refused("tls-failed", f"no handshake in {deadline_seconds:g} s")


async def accept_anyone(stream: Any, context: Context, deadline_seconds: float) -> TlsStream:
    """Run the handshake as server, and ask the peer for no certificate. Raise Refused; then the caller closes `stream`.

    The peer has proved nothing.
    """
    with trio.move_on_after(deadline_seconds):
        held = await receive_client_hello(stream, context.alpn)
        tls = TlsStream(stream, context.ssl, server=True)
        await _shake(tls, context, held)
        return tls
    raise Refused("tls-failed", f"no handshake in {deadline_seconds:g} s")


async def connect(
    stream: Any, context: Context, trust: Trust | None, expects: Collection[str], deadline_seconds: float, now: Now
) -> Secured:
    """Run the handshake as client. `expects`: SPIFFE IDs of which the server must prove one.

    Raise Refused; then the caller closes `stream`. Only the server's first bytes show that it has accepted our
    certificate: before them, reading may still raise BrokenResourceError.
    """
    if trust is None and (expects or context.proves):
        raise ValueError("without roots nobody can be expected")
    with trio.move_on_after(deadline_seconds):
        tls = TlsStream(stream, context.ssl, server=False)
        await _shake(tls, context)
        if trust is None:
            return Secured(tls, None)
        peer = _peer(tls, context, trust, now())
        if peer is None or peer.spiffe not in expects:
            raise Refused(
                "peer-unexpected", f"{peer.spiffe if peer else 'nobody'}; expected {' or '.join(sorted(expects))}"
            )
        return Secured(tls, peer)
    raise Refused("tls-failed", f"no handshake in {deadline_seconds:g} s")


async def _shake(tls: TlsStream, context: Context, held: bytes | bytearray = b"") -> None:
    try:
        await tls.handshake(held)
    except ssl.SSLCertVerificationError as error:
        raise Refused("peer-untrusted", error.verify_message) from error
    except ssl.SSLError as error:
        words = in_words(error)
        raise Refused("tls-no-alpn" if "no application protocol" in words else "tls-failed", words) from error
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise Refused("tls-failed", f"the connection broke during the handshake {error}".rstrip()) from error
    if context.alpn and tls.object.selected_alpn_protocol() not in context.alpn:
        raise Refused("tls-no-alpn", "the peer chose no protocol")


def _peer(tls: TlsStream, context: Context, trust: Trust, now: float) -> Peer | None:
    """Return the identity in the verified certificate. Raise Refused."""
    assert context.ssl.verify_mode is not ssl.CERT_NONE, "the chain was not verified"
    try:
        # Every certificate of the verified chain: the peer's first, the root last. The public method of Python 3.13
        # returns them in a form that nothing else of this library reads; this one exists since 3.10.
        chain = [one.get_info() for one in tls.object._sslobj.get_verified_chain() or ()]  # type: ignore[attr-defined]
    except ValueError as error:  # a name that is not text
        raise Refused("peer-no-identity", f"the certificate cannot be read: {error}") from error
    cipher = tls.object.cipher()
    return peer_of(
        [read_certificate(one) for one in chain],
        context.proves,
        trust,
        now,
        version=tls.object.version() or "",
        cipher=cipher[0] if cipher else "",
        alpn=tls.object.selected_alpn_protocol() or "",
    )


def read_certificate(certificate: dict[str, Any]) -> Shown:
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    return Shown(
        tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"),
        tuple(value for kind, value in subject if kind == "organizationalUnitName"),
        ", ".join(value for kind, value in subject if kind == "commonName"),
        ssl.cert_time_to_seconds(certificate["notBefore"]),
        ssl.cert_time_to_seconds(certificate["notAfter"]),
        certificate["serialNumber"],
    )


async def receive_client_hello(stream: Any, alpn: Sequence[str]) -> bytearray:
    """Receive a ClientHello, and perhaps a little more: the bytes are for OpenSSL. Raise Refused.

    What OpenSSL would let pass, or drop in silence, gets an alert.
    """
    held, said = await hear_client(stream, "plain-to-tunnel")
    if not said.tls13:
        await answer(stream, client_hello.PROTOCOL_VERSION)
        raise Refused("tls-failed", "the peer does not speak TLS 1.3")
    if alpn and not set(alpn).intersection(said.alpn):
        await answer(stream, client_hello.NO_APPLICATION_PROTOCOL)
        raise Refused(
            "tls-no-alpn", f"it offers {ascii(', '.join(said.alpn))[:100]}" if said.alpn else "it offers no protocol"
        )
    return held


async def hear_client(stream: Any, plain: str) -> tuple[bytearray, Hello]:
    """Receive a ClientHello. Return the bytes, perhaps with a few more behind it, and what it says.

    `plain`: the flag of the refusal if it is no TLS. Raise Refused.
    """
    held = bytearray()
    said: Hello | None = None
    while said is None:
        data = await _received(stream)
        if not data:
            raise Refused(
                "tls-failed",
                "the peer left before its ClientHello was whole" if held else "the peer left without a word",
            )
        held += data
        if held[0] != 0x16:
            raise Refused(plain, f"the first byte is 0x{held[0]:02x}; TLS begins with 0x16")
        try:
            said = read_hello(held)
        except ValueError as error:
            await answer(stream, client_hello.DECODE_ERROR)
            raise Refused("tls-failed", str(error)) from error
    return held, said


async def _received(stream: Any) -> bytes:
    try:
        return bytes(await stream.receive_some(client_hello.MOST // 4))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise Refused("tls-failed", "the connection broke before the ClientHello was whole") from error


async def answer(stream: Any, code: int) -> None:
    """Send an alert, if the peer is still there."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the peer left before the alert
        await stream.send_all(client_hello.alert(code))
