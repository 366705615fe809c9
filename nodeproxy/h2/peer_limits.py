"""Connections and streams of each peer at the tunnel listeners of this node.

A peer is the identity and the node that its certificate names. The count outlives its connections: a peer that caused
wasted work too often is still in debt when it comes again.
"""

from __future__ import annotations

import trio

from nodeproxy.h2.limits import Bounds
from nodeproxy.h2.owner import of_all
from nodeproxy.limits import Gate, Limits

CONNECTIONS = 128  # of one peer: twice the maximum of NodeConfig peers.connections, for those that are being replaced
_MANY = 1024  # above so many peers, those whose connections have all ended are dropped

Who = tuple[str, str]  # SPIFFE id, node


class Guests:
    """Limits by peer. A peer without connections and without debt is forgotten."""

    def __init__(self, limits: Limits, bounds: Bounds) -> None:
        self._limits, self._bounds = limits, bounds
        self._gates: dict[Who, Gate] = {}

    def __repr__(self) -> str:
        return f"<Guests {len(self._gates)} peers>"

    def of(self, who: Who, crowd: bool = False) -> Gate:
        """Return the counter of connections and streams of this peer. `crowd`: many from outside the mesh come with it."""
        gate = self._gates.get(who)
        if gate is None:
            self._forget()
            full = min(CONNECTIONS, self._limits.connections)
            bounds = self._bounds.of_crowd() if crowd else self._bounds
            gate = self._gates[who] = Gate(full, of_all(self._limits.streams, bounds, trio.current_time()))
        return gate

    def limit(self, limits: Limits) -> None:
        """Apply other limits to what begins from now on."""
        self._limits = limits
        for gate in self._gates.values():
            gate.full = min(CONNECTIONS, limits.connections)
            if gate.owner is not None:
                gate.owner.most = limits.streams

    def _forget(self) -> None:
        if len(self._gates) < _MANY:
            return
        now = trio.current_time()
        for who, gate in list(self._gates.items()):
            if not gate.open and (gate.owner is None or not (gate.owner.streams or gate.owner.debt(now))):
                del self._gates[who]
