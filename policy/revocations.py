"""Which nodes, identities and certificates are refused, whatever the grants say."""

from __future__ import annotations

from policy.model import Identity, Revoked, Workload, canonical_serial


class Revocations:
    """The revocations, indexed for lookup."""

    __slots__ = ("_identities", "_nodes", "_serials")

    def __init__(self, revoked: Revoked) -> None:
        self._nodes = frozenset(revoked.nodes)
        self._identities = frozenset(revoked.identities)
        self._serials = frozenset(map(canonical_serial, revoked.serials))

    def __repr__(self) -> str:
        return f"<Revocations: {len(self._nodes)} nodes, {len(self._identities)} identities, {len(self._serials)} certificates>"

    def refuses(self, identity: Identity | None, node: str, serial: str) -> str:
        """Return why the holder of such a certificate is refused; "" if nothing refuses it."""
        if node and node in self._nodes:
            return f"node {node} is revoked"
        if identity is not None and identity in self._identities:
            return f"identity {identity} is revoked"
        if serial and canonical_serial(serial) in self._serials:
            return f"certificate {canonical_serial(serial)} is revoked"
        return ""

    def bars_identity(self, identity: Identity) -> bool:
        """Return whether this identity may make no calls at all."""
        return identity in self._identities

    def bars(self, workload: Workload) -> bool:
        """Return whether this workload may serve no calls: the key of its identity or of its node is compromised."""
        return workload.identity in self._identities or workload.node in self._nodes
