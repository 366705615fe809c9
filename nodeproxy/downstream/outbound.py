"""Listener for the calls of a local workload.

The listening socket identifies the caller, and the kernel reports the destination.
"""

from __future__ import annotations

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.protocols.serve import serve
from nodeproxy.routing.outside import protocol_outside
from nodeproxy.routing.route import Outward


async def outbound(conn: Conn) -> None:
    """Look up the dialled destination and serve the connection. Raise Refused."""
    context = conn.context
    refuse_own_ports(conn)
    destination = context.snapshot.destination(*conn.dialled)
    record = conn.report.record
    record.service = destination.service.key if destination.service else ""
    record.destination = destination.workload
    conn.route = route = Outward(conn)
    await serve(conn, route, protocol_outside(conn) if destination.kind == "external" else destination.protocol)


def refuse_own_ports(conn: Conn) -> None:
    """Raise Refused if a listener of edgemesh was dialled: the proxy would dial itself without end."""
    address, port = conn.dialled
    context = conn.context
    if port not in context.ports:
        return
    loopback = address.startswith("127.") or address in ("::1", "0.0.0.0", "::")
    if (
        loopback
        or address in context.sockets.node_addresses()
        or context.snapshot.destination(address, port).kind == "workload"
    ):
        raise Refused("own-port", f"{address}:{port}")
