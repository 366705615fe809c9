"""TLS between nodes by native code, with the same handshake and the same refusals as tls/handshake.py.

The fast path owns the connection afterwards. OpenSSL reads and writes the descriptor itself (native/tls.c). This module
decides which identity the peer has proved, with the same rules (tls/spiffe.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import trio
from msgspec import Struct

from nodeproxy.errors import Refused
from nodeproxy.native import SECURED_DONE, SECURED_READS, SECURED_UNTRUSTED, SECURED_WRITES, Secured, TlsContext
from nodeproxy.stream import Peeked
from nodeproxy.tls.credentials import Credentials, Peer, Trust
from nodeproxy.tls.handshake import Now, receive_client_hello
from nodeproxy.tls.spiffe import Shown, peer_of


class NativeContext(Struct):
    """Same as tls.contexts.Context."""

    made: TlsContext
    made_of: tuple[Credentials | None, Trust | None]
    alpn: tuple[str, ...]
    proves: bool


class NativeSecured(Struct):
    """Same as tls.handshake.Secured. `stream`: its socket, which only `secured` reads and writes."""

    stream: trio.SocketStream
    secured: Secured
    peer: Peer | None
    alpn: str


def make(
    server: bool, credentials: Credentials | None, trust: Trust | None, alpn: Sequence[str], proves: bool
) -> NativeContext:
    """Raise Refused("no-certificate")."""
    wire = b"".join(bytes([len(name)]) + name.encode() for name in alpn)
    chain, key = (credentials.chain, credentials.key) if credentials is not None else (b"", b"")
    try:
        made = TlsContext(server, chain, key, trust.roots if trust is not None else b"", wire, proves)
    except ValueError as error:
        whose = credentials.spiffe if credentials is not None else "the roots"
        raise Refused("no-certificate", f"the certificate and key of {whose} cannot be used: {error}") from error
    return NativeContext(made, (credentials, trust), tuple(alpn), proves)


async def accept(
    stream: Peeked | trio.SocketStream, context: NativeContext, trust: Trust, deadline_seconds: float, now: Now
) -> NativeSecured:
    """Run the handshake as server. Raise Refused; then the caller closes `stream`."""
    with trio.move_on_after(deadline_seconds):
        held = bytes(await receive_client_hello(stream, context.alpn))
        below = stream
        if isinstance(below, Peeked):
            held += below.take_held()
            assert isinstance(below.stream, trio.SocketStream)
            below = below.stream
        secured = context.made.secure(below.socket.fileno(), held)
        await _shake(below, secured, context)
        return NativeSecured(below, secured, _peer(secured, context, trust, now()), secured.alpn)
    raise Refused("tls-failed", f"no handshake in {deadline_seconds:g} s")


async def connect(
    stream: trio.SocketStream,
    context: NativeContext,
    trust: Trust,
    expects: Collection[str],
    deadline_seconds: float,
    now: Now,
) -> NativeSecured:
    """Run the handshake as client. `expects`: SPIFFE IDs of which the server must prove one.

    Raise Refused; then the caller closes `stream`.
    """
    with trio.move_on_after(deadline_seconds):
        secured = context.made.secure(stream.socket.fileno(), b"")
        await _shake(stream, secured, context)
        peer = _peer(secured, context, trust, now())
        if peer is None or peer.spiffe not in expects:
            raise Refused(
                "peer-unexpected", f"{peer.spiffe if peer else 'nobody'}; expected {' or '.join(sorted(expects))}"
            )
        return NativeSecured(stream, secured, peer, secured.alpn)
    raise Refused("tls-failed", f"no handshake in {deadline_seconds:g} s")


async def _shake(stream: trio.SocketStream, secured: Secured, context: NativeContext) -> None:
    while True:
        state = secured.handshake()
        if state == SECURED_DONE:
            break
        if state == SECURED_READS:
            await trio.lowlevel.wait_readable(stream.socket)
        elif state == SECURED_WRITES:
            await trio.lowlevel.wait_writable(stream.socket)
        elif state == SECURED_UNTRUSTED:
            raise Refused("peer-untrusted", secured.why)
        else:
            words = in_words(secured.why)
            raise Refused("tls-no-alpn" if "no application protocol" in words else "tls-failed", words)
    await trio.lowlevel.checkpoint()
    if context.alpn and secured.alpn not in context.alpn:
        raise Refused("tls-no-alpn", "the peer chose no protocol")


def _peer(secured: Secured, context: NativeContext, trust: Trust, now: float) -> Peer | None:
    """Same as tls.handshake._peer."""
    try:
        chain = secured.chain()
    except ValueError as error:  # a name that is not text
        raise Refused("peer-no-identity", f"the certificate cannot be read: {error}") from error
    shown = [
        Shown(tuple(one.uris), tuple(one.units), ", ".join(one.names), one.not_before, one.not_after, one.serial)
        for one in chain
    ]
    return peer_of(shown, context.proves, trust, now, version=secured.version, cipher=secured.cipher, alpn=secured.alpn)


def in_words(why: str) -> str:
    """Return what OpenSSL reports of a failure, in the words of tls.stream.in_words."""
    if why == "unexpected eof while reading":
        return "the stream was cut off: it ended without close_notify"
    if why == "wrong version number":
        return "the peer answered something that is no TLS"
    return re.sub(r"^(?:tls|ssl)v\d+ (?:alert )?", "the peer sent alert ", why)
