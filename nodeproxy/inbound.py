"""Door: someone calls a local workload in plain. The address it comes from is not an identity, so it has none."""

from __future__ import annotations

import trio

from nodeproxy.context import Conn, Pick
from nodeproxy.outbound import refuse_own_ports
from nodeproxy.serve import serve
from nodeproxy.upstream.connect import dial
from nodeproxy.upstream.route import Inward, Probed, tcp_probe
from policy.model import Endpoint


async def inbound(conn: Conn) -> None:
    """Admit what the receiving side admits; that side is the boundary. Raises Refused."""
    refuse_own_ports(conn)
    context = conn.context
    address, port = conn.dialled
    if conn.peer[0] in context.sockets.node_addresses():
        if tcp_probe(conn.workload, port) and not await _answer_tcp_probe(conn):
            return
        conn.route = Probed(conn)
    else:
        conn.route = Inward(conn)
    await serve(conn, conn.route, context.snapshot.destination(address, port).protocol)


async def _answer_tcp_probe(conn: Conn) -> bool:
    """A tcpSocket probe asks only whether the port accepts: dial the server, and carry no byte either way.

    The prober's own connection was accepted by us before we could ask, so what a dead server changes is that it is reset.
    Answers whether bytes came all the same: then this is not that probe, but perhaps an httpGet probe of the same port.
    """
    address, port = conn.dialled
    record = conn.report.record
    pick = Pick(Endpoint(address, port, conn.workload.key), conn.workload, "", "declared probe", True)
    record.rule = pick.rule
    record.protocol = "tcp"
    async with await dial(conn, pick):
        with trio.move_on_after(conn.context.limits.detect_timeout):
            if await conn.stream.peek(1):
                record.rule = ""
                return True
    return False
