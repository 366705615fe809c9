"""Door: a local workload calls out. Who calls is known from the socket that it came through, whither from the kernel."""

from __future__ import annotations

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.serve import serve
from nodeproxy.upstream.route import Outward


async def outbound(conn: Conn) -> None:
    """Decide what was dialled and let the hall find the room. Raises Refused."""
    context = conn.context
    refuse_own_ports(conn)
    destination = context.snapshot.destination(*conn.dialled)
    record = conn.report.record
    record.service = destination.service.key if destination.service else ""
    record.destination = destination.workload
    conn.route = route = Outward(conn)
    # What the mesh does not own is relayed as it is: nobody asked us to look into it.
    await serve(conn, route, "tcp" if destination.kind == "external" else destination.protocol)


def refuse_own_ports(conn: Conn) -> None:
    """A proxy that dials a door of its own would dial itself without end."""
    address, port = conn.dialled
    context = conn.context
    if port not in context.ports:
        return
    loopback = address.startswith("127.") or address in ("::1", "0.0.0.0", "::")
    if loopback or address in context.sockets.node_addresses() or context.snapshot.destination(address, port).kind == "workload":
        raise Refused("own-port", f"{address}:{port}")
