"""TLS between nodes by the compiled lane, which owns the connection afterwards: the same handshake, the same refusals as tls.py.

The bytes are OpenSSL's on the descriptor (native/tls.c); who the peer is, is said here, by the same words (proof.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence

import trio
from msgspec import Struct

from nodeproxy.credentials import Credentials, Peer, Trust
from nodeproxy.errors import Refused
from nodeproxy.greeting import greet
from nodeproxy.native import AVAILABLE
from nodeproxy.proof import Shown, prove
from nodeproxy.stream import Peeked
from nodeproxy.tls import Now
from policy.model import canonical_serial

if AVAILABLE:
    from nodeproxy.native import Secured, TlsContext

_DONE, _READS, _WRITES, _FAILED, _UNTRUSTED = range(5)  # native/tls.h


class NativeContext(Struct):
    """As tls.Context."""

    made: TlsContext
    made_of: tuple[Credentials | None, Trust | None]
    alpn: tuple[str, ...]
    proves: bool


class NativeSecured(Struct):
    """As tls.Secured. `stream`: its socket, of which nobody but `secured` reads or writes."""

    stream: trio.SocketStream
    secured: Secured
    peer: Peer | None
    alpn: str


def make(server: bool, credentials: Credentials | None, trust: Trust | None, alpn: Sequence[str], proves: bool) -> NativeContext:
    """Raises Refused("no-certificate")."""
    wire = b"".join(bytes([len(name)]) + name.encode() for name in alpn)
    chain, key = (credentials.chain, credentials.key) if credentials is not None else (b"", b"")
    try:
        made = TlsContext(server, chain, key, trust.roots if trust is not None else b"", wire, proves)
    except ValueError as error:
        whose = credentials.spiffe if credentials is not None else "the roots"
        raise Refused("no-certificate", f"the certificate and key of {whose} cannot be used: {error}") from error
    return NativeContext(made, (credentials, trust), tuple(alpn), proves)


async def accept(
    stream: Peeked | trio.SocketStream, context: NativeContext, trust: Trust, deadline_seconds: float, now: Now = time.time
) -> NativeSecured:
    """Be the server. Raises Refused; then the caller closes `stream`."""
    with trio.move_on_after(deadline_seconds):
        held = bytes(await greet(stream, context.alpn))
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
    stream: trio.SocketStream, context: NativeContext, trust: Trust, expects: Collection[str], deadline_seconds: float, now: Now = time.time
) -> NativeSecured:
    """Be the client. `expects`: SPIFFE IDs of which the server must prove one. Raises Refused; then the caller closes `stream`."""
    with trio.move_on_after(deadline_seconds):
        secured = context.made.secure(stream.socket.fileno(), b"")
        await _shake(stream, secured, context)
        peer = _peer(secured, context, trust, now())
        if peer is None or peer.spiffe not in expects:
            raise Refused("peer-unexpected", f"{peer.spiffe if peer else 'nobody'}; expected {' or '.join(sorted(expects))}")
        return NativeSecured(stream, secured, peer, secured.alpn)
    raise Refused("tls-failed", f"no handshake in {deadline_seconds:g} s")


async def _shake(stream: trio.SocketStream, secured: Secured, context: NativeContext) -> None:
    while True:
        state = secured.handshake()
        if state == _DONE:
            break
        if state == _READS:
            await trio.lowlevel.wait_readable(stream.socket)
        elif state == _WRITES:
            await trio.lowlevel.wait_writable(stream.socket)
        elif state == _UNTRUSTED:
            raise Refused("peer-untrusted", secured.why)
        else:
            words = in_words(secured.why)
            raise Refused("tls-no-alpn" if "no application protocol" in words else "tls-failed", words)
    await trio.lowlevel.checkpoint()
    if context.alpn and secured.alpn not in context.alpn:
        raise Refused("tls-no-alpn", "the peer chose no protocol")


def _peer(secured: Secured, context: NativeContext, trust: Trust, now: float) -> Peer | None:
    """As tls._peer."""
    try:
        chain = secured.chain()
    except ValueError as error:  # a name that is no text
        raise Refused("peer-no-identity", f"the certificate cannot be read: {error}") from error
    if not chain:
        if context.proves:
            raise Refused("tls-failed", "the peer showed no certificate")
        return None
    shown = [Shown(tuple(uris), tuple(units), ", ".join(names), start, end) for uris, units, names, start, end, _ in chain]
    named, node = prove(shown, trust, now)
    serial = canonical_serial(chain[0][5])
    return Peer(named.spiffe, named.identity, node, serial, min(s.not_after for s in shown), secured.version, secured.cipher, secured.alpn)


def in_words(why: str) -> str:
    """What OpenSSL says of a failure, in the words of tls._words."""
    if why == "unexpected eof while reading":
        return "the stream was cut off: it ended without close_notify"
    if why == "wrong version number":
        return "the peer answered something that is no TLS"
    return re.sub(r"^(?:tls|ssl)v\d+ (?:alert )?", "the peer sent alert ", why)
