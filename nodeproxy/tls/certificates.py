"""Certificates that a gateway presents to clients outside the mesh, and which of them a client gets: plain values.

A client names the host that it means (SNI). Of a listener's certificates the one for exactly that name is presented,
else one with a wildcard for it, else the first: a client that names nothing, or something else, then sees a wrong name
and says so in words that people know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct


class ServerCertificate(Struct, frozen=True):
    """A certificate with its private key. `repr` never shows the key, and nothing encodes it."""

    name: str  # key of the Secret: "shop/tls"
    hosts: tuple[str, ...]  # its DNS names in lower case; "*.shop.example" is one label more
    chain: bytes  # PEM: the certificate, then its intermediates
    key: bytes  # PEM, not encrypted; in memory only
    not_before: float = 0.0  # seconds since the epoch
    not_after: float = float("inf")

    def __repr__(self) -> str:
        return f"<ServerCertificate {self.name} for {', '.join(self.hosts) or 'no host'}>"

    def rank(self, host: str) -> int:
        """Return how well it fits a host name: 2 exactly, 1 by a wildcard, 0 not at all (RFC 9525 section 6.3)."""
        if host in self.hosts:
            return 2
        _, dot, parent = host.partition(".")
        return 1 if dot and f"*.{parent}" in self.hosts else 0


class ClientCas(Struct, frozen=True):
    """Whose clients a listener lets in: those with a certificate under one of these roots."""

    roots: bytes  # PEM, one or several
    required: bool = True  # False: also clients that show none


class Certificates:
    """All certificates of this node's gateways by name. Replaced one by one; live connections keep what they have."""

    def __init__(self) -> None:
        self._by_name: dict[str, ServerCertificate] = {}
        self._roots: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<Certificates {', '.join(sorted(self._by_name))}>"

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def take(self, certificates: Iterable[ServerCertificate], roots: Mapping[str, bytes] | None = None) -> None:
        """Have these, and no others. `roots`: of certificates that clients show, PEM, by the name of what holds them."""
        self._by_name = {one.name: one for one in certificates}
        self._roots = dict(roots or {})

    @property
    def held(self) -> Mapping[str, ServerCertificate]:
        return self._by_name

    def cas(self, names: Sequence[str], required: bool) -> ClientCas | None:
        """Return whose clients are let in. None if one of these is not here: then nobody can be."""
        if not names or not all(name in self._roots for name in names):
            return None
        return ClientCas(b"\n".join(self._roots[name] for name in names), required)

    def choose(self, names: Iterable[str], host: str) -> ServerCertificate | None:
        """Return the certificate of a listener for a client that names this host; None if none of them is here."""
        found = [one for name in names if (one := self._by_name.get(name)) is not None]
        return max(found, key=lambda one: one.rank(host), default=None)  # the first of those that fit alike
