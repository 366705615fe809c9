"""From the content of a Secret to a certificate with its key, or why it cannot be used. Keys are in no message.

The certificate library is loaded when the first listener names a Secret, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.gateway.content import CERTIFICATE, KEY, MOST_ROOTS, ROOTS
from agent.identity import csr
from nodeproxy.tls.certificates import ServerCertificate
from nodeproxy.tls.gateway import check

Unusable = csr.Unusable


def certificate_of(name: str, content: Mapping[str, bytes]) -> ServerCertificate:
    """Return the certificate of a Secret of type kubernetes.io/tls. Raise Unusable.

    `name`: as listeners name it.
    """
    chain, key = content.get(CERTIFICATE, b""), content.get(KEY, b"")
    lacking = " and ".join(part for part, there in ((CERTIFICATE, chain), (KEY, key)) if not there.strip())
    if lacking:
        raise Unusable(f"it has no {lacking}")
    first = csr.read(chain)[0]
    begin, end = csr.validity(first)
    found = ServerCertificate(name, csr.hosts_of(first), chain, key, begin, end)
    if why := check(found):
        raise Unusable(why)
    return found


def roots_of(content: Mapping[str, bytes]) -> bytes:
    """Return the roots of a ConfigMap or Secret, PEM. Raise Unusable."""
    roots = content.get(ROOTS, b"")
    if not roots.strip():
        raise Unusable(f"it has no {ROOTS}")
    if len(roots) > MOST_ROOTS:
        raise Unusable(f"{ROOTS} has more than {MOST_ROOTS >> 10} KiB")
    csr.read(roots)
    return roots
