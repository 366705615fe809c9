"""The identity that a verified chain of certificates proves, and whether it is valid now (sans-IO).

SPIFFE IDs have three shapes here:

spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT     a workload
spiffe://DOMAIN/node/NAME                   a node
spiffe://DOMAIN/authority                   the signer of certificates
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct

from nodeproxy.errors import Refused
from nodeproxy.tls.credentials import Peer, Trust
from policy.model import Identity, canonical_serial

# No capitals, escapes, ports, queries or empty segments: each name has one spelling, so names are compared byte by
# byte.
_LABEL = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"
_ID = re.compile(rf"spiffe://([a-z0-9._-]{{1,253}})/(?:ns/({_LABEL})/sa/({_LABEL})|node/({_LABEL})|authority)")


class Named(Struct, frozen=True):
    """The subject of a SPIFFE ID: a workload (`identity`), a node (`node`), or the authority (neither)."""

    spiffe: str
    trust_domain: str
    identity: Identity | None
    node: str


class Shown(Struct, frozen=True):
    """The parts of one certificate that are read."""

    uris: tuple[str, ...]  # subject alternative names
    units: tuple[str, ...]  # subject OU
    name: str  # subject CN, for people
    not_before: float  # seconds since the epoch
    not_after: float
    serial: str = ""  # in any spelling


def read_spiffe(text: str) -> Named | None:
    """Return the subject of a SPIFFE ID; None when it has none of the three shapes."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    domain, namespace, account, node = match.groups()
    return Named(text, domain, Identity(namespace, account) if namespace else None, node or "")


def prove(chain: Sequence[Shown], trust: Trust, now: float) -> tuple[Named, str]:
    """Return the proved subject, and the node to which the certificate was issued ("" when it does not say).

    `chain`: the peer's own certificate, ..., the root. The caller has verified that each is signed by the next, and
    that the last is in `trust`. Raise Refused.
    """
    own = chain[0]
    named = read_spiffe(own.uris[0]) if len(own.uris) == 1 else None  # X509-SVID section 2: exactly one
    if named is None:
        raise Refused(
            "peer-no-identity",
            f"its URI names are {ascii(', '.join(own.uris))[:200]}" if own.uris else "it has no URI name",
        )
    if named.trust_domain != trust.trust_domain:
        raise Refused("peer-wrong-domain", f"{named.spiffe}; ours is {trust.trust_domain}")
    for one in chain:
        check_dates(one, named.spiffe if one is own else one.name, trust.tolerance, now)
    issued_to = own.units[0] if len(own.units) == 1 else ""
    if named.node and issued_to not in ("", named.node):
        raise Refused("peer-no-identity", f"{named.spiffe} was issued to node {ascii(issued_to)[:100]}")
    return named, named.node or issued_to


def peer_of(
    chain: Sequence[Shown], proves: bool, trust: Trust, now: float, *, version: str, cipher: str, alpn: str
) -> Peer | None:
    """Return the identity that a verified chain proves, with what was agreed in the handshake. Raise Refused.

    None: the peer showed no certificate. `proves`: then it is refused.
    """
    if not chain:
        if proves:
            raise Refused("tls-failed", "the peer showed no certificate")
        return None
    named, node = prove(chain, trust, now)
    return Peer(
        named.spiffe,
        named.identity,
        node,
        canonical_serial(chain[0].serial),
        min(one.not_after for one in chain),
        version,
        cipher,
        alpn,
        max(one.not_before for one in chain),
    )


def check_dates(one: Shown, whose: str, tolerance: float, now: float) -> None:
    """Raise Refused("peer-expired") if a certificate is not valid now."""
    early, late = one.not_before - now, now - one.not_after
    if early > tolerance:
        when = f"from {_date(one.not_before)}, {early:.0f} s ahead of our clock"
    elif late > tolerance:
        when = f"until {_date(one.not_after)}, {late:.0f} s ago by our clock"
    else:
        return
    raise Refused("peer-expired", f"the certificate of {ascii(whose)[1:-1][:200]} holds {when}")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
