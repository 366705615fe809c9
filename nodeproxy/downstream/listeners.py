"""LISTENERS: every kind of TCP listening socket of a workload, one row each: its name, and the handler of its
connections.

`Doors` (capture.py) has the sockets and `Ports` the port under the row's name. To add a listener, add a field in both,
a file that serves it, and a row.
"""

from __future__ import annotations

import socket

from msgspec import Struct

from nodeproxy.capture import Doors
from nodeproxy.context import Conn, Context
from nodeproxy.downstream.accept import Door, Way
from nodeproxy.downstream.hbone import node_tunnels, workload_tunnels
from nodeproxy.downstream.inbound import inbound
from nodeproxy.downstream.outbound import outbound
from nodeproxy.limits import PROBES, Gate
from policy.model import Workload

# Stands for the owner of the node's own listener: no workload of the mesh has an empty namespace.
NODE_DOOR = Workload("", "node", "")


class Listener(Struct, frozen=True):
    """One kind of listening socket. `serve` gets each connection, and raises Refused."""

    name: Way
    serve: Door
    probed: bool = False  # the node's prober has its own gate, which other callers cannot fill

    def sockets(self, doors: Doors) -> list[socket.socket]:
        """Return the sockets of this kind."""
        found: list[socket.socket] = getattr(doors, self.name)
        return found

    def gate(self, context: Context) -> Gate:
        """Return the gate that counts its connections apart from those of other kinds.

        So a caller that floods one listener does not block another.
        """
        gate = context.gate()
        if self.probed:
            gate.reserve = Gate(PROBES)
        return gate


async def tunnels(conn: Conn) -> None:
    """Serve another node's connection, to one workload or to all of this node. Raise Refused."""
    await (node_tunnels if conn.workload.key == NODE_DOOR.key else workload_tunnels)(conn)


LISTENERS = (
    Listener("outbound", outbound),
    Listener("inbound", inbound, probed=True),
    Listener("tunnel", tunnels),
)
