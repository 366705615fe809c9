"""The roots that a node trusts: the authority's bundle, checked, and as the data plane uses it."""

from __future__ import annotations

import binascii
import re
from hashlib import sha256

from agent.identity.protocol import Bundle
from nodeproxy.tls.credentials import Trust

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


class Roots:
    """The bundle of one node. `trust` is the same object until a root comes or goes, since it keys TLS contexts."""

    def __init__(self, tolerance: float) -> None:
        self.bundle: Bundle | None = None
        self.trust: Trust | None = None
        self.foreign = ""  # why the authority's bundle cannot be that of our mesh
        self._tolerance = tolerance

    def __repr__(self) -> str:
        return f"<Roots {len(self.bundle.roots) if self.bundle else 0}>"

    def take(self, bundle: Bundle) -> bool:
        """Trust all of its roots at once. Return False when it cannot be the bundle of our mesh."""
        held = self.bundle
        if held and bundle.trust_domain != held.trust_domain:
            self.foreign = f"the authority is that of the trust domain {bundle.trust_domain}, and this node belongs to {held.trust_domain}"
            return False
        if bundle.issuer not in map(fingerprint, bundle.roots):
            self.foreign = "the bundle of the authority does not hold the root of its issuer"
            return False
        self.foreign = ""
        if held and 0 < held.now - bundle.now < self._tolerance:
            return True  # a newer bundle arrived before this one
        self.bundle = bundle
        roots = "".join(f"{root.strip()}\n" for root in sorted(bundle.roots)).encode()
        if self.trust is None or self.trust.roots != roots:
            self.trust = Trust(bundle.trust_domain, roots, self._tolerance)
        return True


def fingerprint(root: str) -> str:
    """Return the SHA-256 of a certificate (DER), hexadecimal, from its PEM text (RFC 7468); "" if there is none."""
    match = _PEM.search(root)
    try:
        return sha256(binascii.a2b_base64(match[1])).hexdigest() if match else ""
    except binascii.Error:
        return ""
