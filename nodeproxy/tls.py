"""TLS between nodes: credentials become contexts, a stream becomes a peer who proved who it is. The only file that imports ssl.

Theory of operation. Two memory buffers with OpenSSL between them, since the bytes may come over any stream. TLS 1.3 alone, where a write
never waits for a read: one task may read while another writes. OpenSSL verifies the chain without looking at the clock, then we hold the
dates of all its certificates against ours with the tolerance that is configured: a box whose clock is a little off is no stranger.
The ClientHello is looked at before OpenSSL gets it, which would go on without a protocol (ALPN) where we answer with an alert.

Ends. Who closes says so (close_notify), if that needs no wait. An end that was not said is an error here (RFC 8446 section 6.1): a part
must not pass for the whole. The layer above may know better, when it had ended by its own rules before.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from operator import index
from typing import Any, Generic, Protocol, TypeVar

import trio
from msgspec import Struct

from nodeproxy.credentials import Credentials, Peer, Trust
from nodeproxy.errors import Refused
from nodeproxy.greeting import greet
from nodeproxy.proof import Shown, prove
from nodeproxy.stream import Peeked, abort, close_now
from policy.model import canonical_serial

ALPN_TUNNEL = ("h2",)  # HBONE as others speak it
ALPN_MESH = ("edgemesh-h2", "h2")  # the first: this end also takes requests that are not CONNECT
MESH = ALPN_MESH[0]

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h
# Exactly these, whatever a newer Python sets by itself: STRICT would refuse roots made elsewhere for want of a key identifier, and
# PARTIAL_CHAIN would make a root of everything that is in the bundle.
_VERIFY = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST | _NO_CHECK_TIME
_CHUNK = 32768  # bytes: two records. OpenSSL's buffers in memory never shrink, so what passes at once is what a connection keeps
_CLOSING = 1.0  # seconds for the last words on a stream that can only be written with a wait

Now = Callable[[], float]


class Context:
    """Opaque to everybody else: made by Contexts, taken by `accept` and `connect`."""

    __slots__ = ("alpn", "made_of", "proves", "ssl")

    def __init__(self, server: bool, credentials: Credentials | None, trust: Trust | None, alpn: Sequence[str], proves: bool) -> None:
        self.alpn = tuple(alpn)
        self.proves = proves  # the peer must show a certificate
        self.made_of = (credentials, trust)
        self.ssl = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the SPIFFE ID says who it is; names and addresses prove nothing here
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
        # No session is ever resumed: that would skip the look at a certificate that has expired or was revoked meanwhile.
        context.options |= ssl.OP_NO_TICKET
        if server:
            context.num_tickets = 0
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if trust is None:
            context.verify_mode = ssl.CERT_NONE
        else:
            context.verify_mode = ssl.CERT_REQUIRED if proves else ssl.CERT_OPTIONAL
            context.verify_flags = _VERIFY
            _load_roots(context, trust)
        if credentials is not None:
            _load_key(context, credentials)

    def __repr__(self) -> str:
        return f"<Context of {self.made_of[0]!r}>"


class Made(Protocol):
    """A context, whoever made it."""

    @property
    def made_of(self) -> tuple[Credentials | None, Trust | None]: ...


C = TypeVar("C", bound=Made)


class ContextCache(Generic[C]):
    """One for each identity and role. A renewed certificate or a changed root takes the place of the old one."""

    def __init__(self, make: Callable[[bool, Credentials | None, Trust | None, Sequence[str], bool], C]) -> None:
        self._make = make
        self._made: dict[tuple[bool, str, tuple[str, ...], bool], C] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._made)} made>"

    def server(self, credentials: Credentials, trust: Trust, alpn: Sequence[str], client_certificate: bool = True) -> C:
        """`client_certificate` False: asked for, and verified when one comes. Raises Refused("no-certificate")."""
        return self._get(True, credentials, trust, alpn, client_certificate)

    def client(self, credentials: Credentials | None, trust: Trust | None, alpn: Sequence[str]) -> C:
        """`trust` None: encrypted, and nobody proved; only for who has no credentials either. Raises Refused("no-certificate")."""
        if trust is None and credentials is not None:
            raise ValueError("credentials are not shown to who need not prove anything")
        return self._get(False, credentials, trust, alpn, trust is not None)

    def retain(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        """Forget what was made of other credentials or roots than these."""
        kept = {None, *credentials}
        self._made = {key: one for key, one in self._made.items() if one.made_of[0] in kept and one.made_of[1] in (trust, None)}

    def _get(self, server: bool, credentials: Credentials | None, trust: Trust | None, alpn: Sequence[str], proves: bool) -> C:
        key = (server, credentials.spiffe if credentials else "", tuple(alpn), proves)
        found = self._made.get(key)
        if found is None or found.made_of != (credentials, trust):
            found = self._made[key] = self._make(server, credentials, trust, alpn, proves)
        return found


class Contexts(ContextCache[Context]):
    """Of Python's TLS."""

    def __init__(self) -> None:
        super().__init__(Context)


def _load_roots(context: ssl.SSLContext, trust: Trust) -> None:
    try:
        context.load_verify_locations(cadata=trust.roots.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise Refused("no-certificate", f"the roots of {trust.trust_domain} cannot be read: {_words(error)}") from error


def _load_key(context: ssl.SSLContext, credentials: Credentials) -> None:
    """The library takes a path only: that of a nameless file in memory, which is gone when it is closed."""
    descriptor = os.memfd_create("edgemesh-key", os.MFD_CLOEXEC)
    with open(descriptor, "wb") as file:
        file.write(credentials.chain + b"\n" + credentials.key)
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")  # an encrypted key is an error, no question at a terminal
        except (ssl.SSLError, ValueError) as error:
            raise Refused("no-certificate", f"the certificate and key of {credentials.spiffe} cannot be used: {_words(error)}") from error


class TlsStream(trio.abc.Stream):
    """One TLS connection over any stream. One task may read while another writes."""

    def __init__(self, stream: Any, context: ssl.SSLContext, server: bool) -> None:
        self._stream = stream
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server)
        self._reading = self._writing = self._closed = False
        self._ended = False  # the peer has said that it ends
        self._broken = ""  # why nothing moves any more
        self._torn = False  # a send was cut off: nothing can follow half a record, but the peer may still be heard

    def __repr__(self) -> str:
        state = "closed" if self._closed else "broken" if self._broken else "open"
        return f"<TlsStream {state} over {self._stream!r}>"

    @property
    def object(self) -> ssl.SSLObject:
        return self._tls

    async def handshake(self, held: bytes | bytearray = b"") -> None:
        """`held` was received before. Raises ssl.SSLError, BrokenResourceError."""
        self._in.write(held)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._flush()  # the alert that says why
                raise
            else:
                await self._flush()
                return

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """b"" at the end that the peer said. An end that it did not say raises BrokenResourceError, and so does an alert."""
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._reading:
            raise trio.BusyResourceError("another task is receiving")
        self._reading = True
        try:
            # What has arrived is given away only after the checkpoint, so that a cancelled reader loses nothing.
            if self._closed or self._ended or self._broken or self._in.pending or self._tls.pending():
                await trio.lowlevel.checkpoint()
            while True:
                self._check()
                data = b"" if self._ended else self._take(max_bytes or _CHUNK)
                if data or self._ended:
                    return data
                self._check()
                # Nothing to send: OpenSSL keeps the answer to a KeyUpdate for the next write, as RFC 8446 section 4.6.3 allows.
                await self._fill()
        finally:
            self._reading = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._writing:
            raise trio.BusyResourceError("another task is sending")
        self._writing = True
        try:
            self._check()
            if self._torn:
                raise trio.BrokenResourceError("an earlier send was cut off")
            if not len(data):
                await trio.lowlevel.checkpoint()
            with memoryview(data) as whole:
                at = 0
                while at < len(whole):
                    try:
                        at += self._tls.write(whole[at : at + _CHUNK])
                    except ssl.SSLError as error:
                        raise self._breaks(error) from error
                    await self._flush()
        finally:
            self._writing = False

    async def wait_send_all_might_not_block(self) -> None:
        self._check()
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Say the end, and close the stream below."""
        try:
            if last := self._last_words():
                with trio.move_on_after(_CLOSING), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_all(last)
        finally:
            await self._stream.aclose()

    def close(self) -> None:
        """Say the end where that needs no wait, and close the stream below. Not a checkpoint."""
        below = self._stream
        while isinstance(below, Peeked):
            below = below.stream
        last = self._last_words()
        if last and isinstance(below, trio.SocketStream):
            with contextlib.suppress(OSError):
                os.write(below.socket.fileno(), last)
        close_now(below)

    def abort(self) -> None:
        """Over TCP the peer sees a reset. Not a checkpoint."""
        self._closed = True
        abort(self._stream)

    def _last_words(self) -> bytes:
        """The close_notify, or the alert of what broke: nothing when something else is half sent, or it was closed before."""
        if self._closed or self._torn:
            self._closed = True
            return b""
        self._closed = True
        with contextlib.suppress(ssl.SSLError, ValueError, OSError):
            self._tls.unwrap()  # raises always but when the peer has ended too: it would wait for that
        return self._out.read()

    def _take(self, most: int) -> bytes:
        """What has arrived already, up to `most` bytes; b"" for nothing, and then `_ended` and `_broken` say why."""
        found = []
        try:
            while most and (self._in.pending or self._in.eof or self._tls.pending()):
                piece = self._tls.read(most)
                if not piece:
                    self._ended = True
                    break
                found.append(piece)
                most -= len(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._breaks(error)
        return found[0] if len(found) == 1 else b"".join(found)

    async def _fill(self) -> None:
        data = await self._stream.receive_some(_CHUNK + 64)  # and what encryption adds to two records (RFC 8446 section 5.2)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def _flush(self) -> None:
        """Send what OpenSSL has written."""
        if self._out.pending:
            self._torn = True  # unless all of it goes out
            await self._stream.send_all(self._out.read())
            self._torn = False

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._broken:
            raise trio.BrokenResourceError(self._broken)

    def _breaks(self, error: ssl.SSLError) -> trio.BrokenResourceError:
        self._broken = _words(error)
        return trio.BrokenResourceError(self._broken)


class Secured(Struct):
    """A connection whose other end was proved. `peer` None: it showed no certificate, and did not have to."""

    stream: TlsStream
    peer: Peer | None

    @property
    def alpn(self) -> str:
        return self.stream.object.selected_alpn_protocol() or ""


async def accept(stream: Any, context: Context, trust: Trust, deadline_seconds: float, now: Now = time.time) -> Secured:
    """Be the server. Raises Refused; then the caller closes `stream`."""
    with trio.move_on_after(deadline_seconds):
        held = await greet(stream, context.alpn)
        tls = TlsStream(stream, context.ssl, server=True)
        await _shake(tls, context, held)
        return Secured(tls, _peer(tls, context, trust, now()))
    raise Refused("tls-failed", f"no handshake in {deadline_seconds:g} s")


async def connect(
    stream: Any, context: Context, trust: Trust | None, expects: Collection[str], deadline_seconds: float, now: Now = time.time
) -> Secured:
    """Be the client. `expects`: SPIFFE IDs of which the server must prove one. Raises Refused; then the caller closes `stream`.

    That the server believes us is known with the first bytes that it sends: before, reading may still raise BrokenResourceError.
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
            raise Refused("peer-unexpected", f"{peer.spiffe if peer else 'nobody'}; expected {' or '.join(sorted(expects))}")
        return Secured(tls, peer)
    raise Refused("tls-failed", f"no handshake in {deadline_seconds:g} s")


async def _shake(tls: TlsStream, context: Context, held: bytes | bytearray = b"") -> None:
    try:
        await tls.handshake(held)
    except ssl.SSLCertVerificationError as error:
        raise Refused("peer-untrusted", error.verify_message) from error
    except ssl.SSLError as error:
        words = _words(error)
        raise Refused("tls-no-alpn" if "no application protocol" in words else "tls-failed", words) from error
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise Refused("tls-failed", f"the connection broke during the handshake {error}".rstrip()) from error
    if context.alpn and tls.object.selected_alpn_protocol() not in context.alpn:
        raise Refused("tls-no-alpn", "the peer chose no protocol")


def _peer(tls: TlsStream, context: Context, trust: Trust, now: float) -> Peer | None:
    """Who the verified certificate says that the peer is. Raises Refused."""
    assert context.ssl.verify_mode is not ssl.CERT_NONE, "the chain was not verified"
    try:
        # Every certificate of the verified chain, the peer's first, the root last. The public method of Python 3.13 gives them in a
        # form that nothing else of this library reads; this one has been there since 3.10.
        chain = [one.get_info() for one in tls.object._sslobj.get_verified_chain() or ()]  # type: ignore[attr-defined]
    except ValueError as error:  # a name that is no text
        raise Refused("peer-no-identity", f"the certificate cannot be read: {error}") from error
    if not chain:
        if context.proves:
            raise Refused("tls-failed", "the peer showed no certificate")
        return None
    shown = [_read(one) for one in chain]
    named, node = prove(shown, trust, now)
    cipher = tls.object.cipher()
    return Peer(
        named.spiffe,
        named.identity,
        node,
        canonical_serial(chain[0]["serialNumber"]),
        min(one.not_after for one in shown),
        tls.object.version() or "",
        cipher[0] if cipher else "",
        tls.object.selected_alpn_protocol() or "",
    )


def _read(certificate: dict[str, Any]) -> Shown:
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    return Shown(
        tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"),
        tuple(value for kind, value in subject if kind == "organizationalUnitName"),
        ", ".join(value for kind, value in subject if kind == "commonName"),
        ssl.cert_time_to_seconds(certificate["notBefore"]),
        ssl.cert_time_to_seconds(certificate["notAfter"]),
    )


def _words(error: Exception) -> str:
    """What went wrong, without the library's ornaments: "the peer sent alert unknown ca"."""
    if isinstance(error, ssl.SSLEOFError):
        return "the stream was cut off: it ended without close_notify"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "the peer answered something that is no TLS"
    words = re.sub(r"^\[.*?\] | \(_ssl\.c:\d+\)$", "", str(error.args[-1] if error.args else error))
    return re.sub(r"^(?:tls|ssl)v\d+ (?:alert )?", "the peer sent alert ", words)
