"""What an identity presents and which roots are trusted: plain values from the certificate manager to the data plane.

Nothing here is an ssl object: those are made and kept in contexts.py only.
"""

from __future__ import annotations

import time
from typing import Protocol

from msgspec import Struct

from policy.model import Identity


class Credentials(Struct, frozen=True):
    """A certificate with its private key. `repr` never shows the key."""

    spiffe: str  # spiffe://<trust domain>/ns/<ns>/sa/<sa>, or spiffe://<trust domain>/node/<name>
    chain: bytes  # PEM: the certificate, then its intermediates; no root
    key: bytes  # PEM, PKCS #8, not encrypted; in memory and in a 0600 file of this node only
    serial: str  # hexadecimal, lower case
    not_before: float  # seconds since the epoch
    not_after: float

    def __repr__(self) -> str:
        return f"<Credentials {self.spiffe} serial {self.serial}>"


class Trust(Struct, frozen=True):
    """The trusted roots: every root of the bundle at once, so that root rotation fails no request."""

    trust_domain: str
    roots: bytes  # PEM, one or several
    # Seconds that clocks may differ: certificates count as valid that long before and after their dates.
    tolerance: float = 300.0


class Peer(Struct, frozen=True):
    """The identity that the other end of a TLS connection has proved, by its certificate only."""

    spiffe: str
    identity: Identity | None  # None: the node itself, not a workload
    node: str  # node to which the certificate was issued (subject OU); "" when it does not say
    serial: str
    not_after: float
    version: str  # "TLSv1.3"
    cipher: str
    alpn: str  # agreed protocol; "" for none
    not_before: float = 0.0  # this and `not_after` hold for the whole chain


class AnySecured(Protocol):
    """A connection whose other end was proved, by either TLS implementation."""

    @property
    def stream(self) -> object: ...
    @property
    def peer(self) -> Peer | None: ...
    @property
    def alpn(self) -> str: ...


class Identities(Protocol):
    """The data plane's source of certificates. Each call is a lookup: it never waits and never makes a certificate."""

    def trust(self) -> Trust | None:
        """Return the trusted roots; None while this node belongs to no mesh of several nodes."""
        ...

    def of(self, identity: Identity) -> Credentials | None:
        """Return what a local workload's identity presents; None when it has no certificate or an expired one."""
        ...

    def node(self) -> Credentials | None:
        """Return what the node itself presents, at the listener on its own address."""
        ...

    def now(self) -> float:
        """Return the time in seconds since the epoch. Only this clock is compared with dates of certificates."""
        ...

    def doubt(self) -> None:
        """Check the clock: a certificate under our roots is not valid now, so its date or our clock is wrong."""
        ...


class NoIdentities:
    """The certificates of a node that stands alone: none, so it has no tunnels."""

    def trust(self) -> Trust | None:
        return None

    def of(self, identity: Identity) -> Credentials | None:
        return None

    def node(self) -> Credentials | None:
        return None

    def now(self) -> float:
        return time.time()

    def doubt(self) -> None:
        pass
