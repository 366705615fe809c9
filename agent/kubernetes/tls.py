"""A TLS connection to an API server. It proves itself by the name or address that was dialled, as on the web.

Connections between nodes are another matter: nodeproxy/tls proves SPIFFE identities.
"""

from __future__ import annotations

import ssl

import trio

from agent.kubernetes.access import Access, AccessError
from nodeproxy.tls.contexts import load_key
from nodeproxy.tls.stream import in_words

Context = ssl.SSLContext


def context_of(access: Access) -> Context:
    """Return a context with the roots and client certificate that are in the files now. Raise AccessError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks the chain and the name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As in Go: a certificate that is named as trusted is, also if another one has signed it.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        if access.roots:
            context.load_verify_locations(cadata=access.roots.read().decode("ascii"))
        else:
            context.load_default_certs()
    except (ssl.SSLError, ValueError) as error:
        raise AccessError(f"{access.where}: the roots of the API server cannot be read: {in_words(error)}") from error
    if access.certificate:
        try:
            load_key(context, access.certificate.read() + b"\n" + access.key.read())
        except (ssl.SSLError, ValueError) as error:
            raise AccessError(f"{access.where}: the client certificate cannot be used: {in_words(error)}") from error
    return context


async def secured(stream: trio.SocketStream, context: Context, name: str) -> trio.abc.Stream:
    """Run the handshake. Raise BrokenResourceError; `why` has the words for it."""
    made = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
    await made.do_handshake()
    return made


def why(error: BaseException) -> str:
    """Return what broke a connection, in words; "" if TLS had no part in it."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {cause.verify_message}"
    return in_words(cause) if isinstance(cause, ssl.SSLError) else ""
