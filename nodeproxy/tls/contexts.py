"""TLS contexts, made from credentials once for each identity and role, and kept while the credentials are valid.

TLS 1.3 only. OpenSSL verifies the chain without looking at the clock: handshake.py compares the dates with our clock.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from nodeproxy.errors import Refused
from nodeproxy.tls.credentials import Credentials, Trust
from nodeproxy.tls.stream import in_words

ALPN_TUNNEL = ("h2",)  # HBONE as others speak it
ALPN_MESH = ("edgemesh-h2", "h2")  # with the first, this end also accepts requests other than CONNECT
MESH = ALPN_MESH[0]

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h
# Exactly these flags, whatever a newer Python sets by itself. STRICT would refuse roots from elsewhere that have no key
# identifier. PARTIAL_CHAIN would make a root of every certificate in the bundle.
VERIFY = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST | _NO_CHECK_TIME


class Context:
    """A context for Python's TLS, opaque to all other modules: made by Contexts, passed to `accept` and `connect`."""

    __slots__ = ("alpn", "made_of", "proves", "ssl")

    def __init__(
        self, server: bool, credentials: Credentials | None, trust: Trust | None, alpn: Sequence[str], proves: bool
    ) -> None:
        self.alpn = tuple(alpn)
        self.proves = proves  # the peer must show a certificate
        self.made_of = (credentials, trust)
        self.ssl = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the SPIFFE ID is the identity; names and addresses prove nothing here
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
        # Never resume a session: that would skip the check of a certificate that has expired or was revoked meanwhile.
        context.options |= ssl.OP_NO_TICKET
        if server:
            context.num_tickets = 0
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if trust is None:
            context.verify_mode = ssl.CERT_NONE
        else:
            context.verify_mode = ssl.CERT_REQUIRED if proves else ssl.CERT_OPTIONAL
            context.verify_flags = VERIFY
            _load_roots(context, trust)
        if credentials is not None:
            _load_key(context, credentials)

    def __repr__(self) -> str:
        return f"<Context of {self.made_of[0]!r}>"


class Made(Protocol):
    """A context of either TLS implementation."""

    @property
    def made_of(self) -> tuple[Credentials | None, Trust | None]: ...


C = TypeVar("C", bound=Made)


class ContextCache(Generic[C]):
    """Contexts, one for each identity and role. A renewed certificate or a changed root replaces the old one."""

    def __init__(self, make: Callable[[bool, Credentials | None, Trust | None, Sequence[str], bool], C]) -> None:
        self._make = make
        self._made: dict[tuple[bool, str, tuple[str, ...], bool], C] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._made)} made>"

    def server(self, credentials: Credentials, trust: Trust, alpn: Sequence[str], client_certificate: bool = True) -> C:
        """Return the server's context. Raise Refused("no-certificate").

        `client_certificate` False: a certificate is requested, and verified when one comes.
        """
        return self._get(True, credentials, trust, alpn, client_certificate)

    def client(self, credentials: Credentials | None, trust: Trust | None, alpn: Sequence[str]) -> C:
        """Return the client's context. Raise Refused("no-certificate").

        `trust` None: encrypted, without proof of the server; only for a client that has no credentials either.
        """
        if trust is None and credentials is not None:
            raise ValueError("credentials are not shown to who need not prove anything")
        return self._get(False, credentials, trust, alpn, trust is not None)

    def retain(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        """Drop contexts of other credentials or roots than these."""
        kept = {None, *credentials}
        self._made = {
            key: one for key, one in self._made.items() if one.made_of[0] in kept and one.made_of[1] in (trust, None)
        }

    def _get(
        self, server: bool, credentials: Credentials | None, trust: Trust | None, alpn: Sequence[str], proves: bool
    ) -> C:
        key = (server, credentials.spiffe if credentials else "", tuple(alpn), proves)
        found = self._made.get(key)
        if found is None or found.made_of != (credentials, trust):
            found = self._made[key] = self._make(server, credentials, trust, alpn, proves)
        return found


class Contexts(ContextCache[Context]):
    """Contexts for Python's TLS."""

    def __init__(self) -> None:
        super().__init__(Context)


def _load_roots(context: ssl.SSLContext, trust: Trust) -> None:
    try:
        context.load_verify_locations(cadata=trust.roots.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise Refused(
            "no-certificate", f"the roots of {trust.trust_domain} cannot be read: {in_words(error)}"
        ) from error


def _load_key(context: ssl.SSLContext, credentials: Credentials) -> None:
    try:
        load_key(context, credentials.chain + b"\n" + credentials.key)
    except (ssl.SSLError, ValueError) as error:
        raise Refused(
            "no-certificate", f"the certificate and key of {credentials.spiffe} cannot be used: {in_words(error)}"
        ) from error


def load_key(context: ssl.SSLContext, pem: bytes) -> None:
    """Load a certificate with its chain and its key. Raise ssl.SSLError or ValueError.

    The library takes only a path: that of a nameless file in memory, which closing removes.
    """
    descriptor = os.memfd_create("edgemesh-key", os.MFD_CLOEXEC)
    with open(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        # with a password, an encrypted key is an error, no question at a terminal
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
