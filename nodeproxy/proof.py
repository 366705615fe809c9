"""Who a verified chain of certificates says that a peer is, and whether it says so now (sans-IO). SPIFFE IDs have three shapes here:

spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT     a workload
spiffe://DOMAIN/node/NAME                   a node
spiffe://DOMAIN/authority                   who signs certificates
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct

from nodeproxy.credentials import Trust
from nodeproxy.errors import Refused
from policy.model import Identity

# No capitals, escapes, ports, queries or empty segments: one name is written in one way, so it can be compared byte by byte.
_LABEL = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"
_ID = re.compile(rf"spiffe://([a-z0-9._-]{{1,253}})/(?:ns/({_LABEL})/sa/({_LABEL})|node/({_LABEL})|authority)")


class Named(Struct, frozen=True):
    """Whom a SPIFFE ID names: a workload (`identity`), a node (`node`), or the authority (neither)."""

    spiffe: str
    trust_domain: str
    identity: Identity | None
    node: str


class Shown(Struct, frozen=True):
    """What is read of one certificate."""

    uris: tuple[str, ...]  # of the subject's alternative names
    units: tuple[str, ...]  # subject OU
    name: str  # subject CN, for people
    not_before: float  # seconds since the epoch
    not_after: float


def read_spiffe(text: str) -> Named | None:
    """None when it is of none of the three shapes."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    domain, namespace, account, node = match.groups()
    return Named(text, domain, Identity(namespace, account) if namespace else None, node or "")


def prove(chain: Sequence[Shown], trust: Trust, now: float) -> tuple[Named, str]:
    """Who it is, and the node that the certificate was issued to, "" when it does not say. `chain`: the peer's own, ..., the root.

    That each is signed by the next, and the last is of `trust`, was verified before. Raises Refused.
    """
    own = chain[0]
    named = read_spiffe(own.uris[0]) if len(own.uris) == 1 else None  # X509-SVID section 2: exactly one
    if named is None:
        raise Refused("peer-no-identity", f"its URI names are {ascii(', '.join(own.uris))[:200]}" if own.uris else "it has no URI name")
    if named.trust_domain != trust.trust_domain:
        raise Refused("peer-wrong-domain", f"{named.spiffe}; ours is {trust.trust_domain}")
    for one in chain:
        _check_dates(one, named.spiffe if one is own else one.name, trust.tolerance, now)
    issued_to = own.units[0] if len(own.units) == 1 else ""
    if named.node and issued_to not in ("", named.node):
        raise Refused("peer-no-identity", f"{named.spiffe} was issued to node {ascii(issued_to)[:100]}")
    return named, named.node or issued_to


def _check_dates(one: Shown, whose: str, tolerance: float, now: float) -> None:
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
