"""What an identity presents and what we believe: plain values that cross from the keeper of certificates to the data plane.

Nothing here is an ssl object: those are made and kept in tls.py alone.
"""

from __future__ import annotations

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
    """Whom we believe: every root of the bundle at once, so that a root is rotated without a failed request."""

    trust_domain: str
    roots: bytes  # PEM, one or several
    tolerance: float = 300.0  # seconds that clocks may differ: certificates are believed that long before and after their time


class Peer(Struct, frozen=True):
    """Who proved to be at the other end of a TLS connection, by certificate and nothing else."""

    spiffe: str
    identity: Identity | None  # None: a node itself, not a workload
    node: str  # the node that the certificate was issued to (subject OU); "" when it does not say
    serial: str
    not_after: float
    version: str  # "TLSv1.3"
    cipher: str
    alpn: str  # what was agreed on; "" for nothing


class Identities(Protocol):
    """Where the data plane gets certificates. Each call is a lookup: nothing waits, nothing is made."""

    def trust(self) -> Trust | None:
        """None while this node belongs to no mesh of several nodes."""
        ...

    def of(self, identity: Identity) -> Credentials | None:
        """What a local workload's identity presents; None when there is no certificate, or it has expired."""
        ...

    def node(self) -> Credentials | None:
        """What the node itself presents, at the door on its own address."""
        ...


class NoIdentities:
    """A node that stands alone: no certificates, no tunnels."""

    def trust(self) -> Trust | None:
        return None

    def of(self, identity: Identity) -> Credentials | None:
        return None

    def node(self) -> Credentials | None:
        return None
