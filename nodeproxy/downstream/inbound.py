"""Listener for calls in plain text to a local workload. The caller's address is no identity, so the caller has none.

What may be admitted by address (IngressBackend, AccessControl) is decided by the address that the caller had before this node's NAT:
a caller from outside that comes through a Service's node port arrives with an address of the node.
"""

from __future__ import annotations

import trio

from nodeproxy.context import Conn
from nodeproxy.downstream.outbound import refuse_own_ports
from nodeproxy.interfaces import Pick
from nodeproxy.protocols.serve import serve
from nodeproxy.protocols.table import OPAQUE
from nodeproxy.routing.dial import dial
from nodeproxy.routing.route import Forwarded, Inward, Probed, tcp_probe
from policy.model import Endpoint


async def inbound(conn: Conn) -> None:
    """Serve what the receiving side admits; that side is the boundary. Raise Refused."""
    refuse_own_ports(conn)
    context, sockets = conn.context, conn.context.sockets
    address, port = conn.dialled
    if conn.peer[0] in sockets.node_addresses():
        came = sockets.before_nat(conn.peer, conn.dialled)
        if came is not None and came != conn.peer:
            conn.unmask(came)
    if conn.peer[0] in sockets.probers():
        if tcp_probe(conn.workload, port) and not await _answer_tcp_probe(conn):
            return
        conn.route = Probed(conn)
    elif conn.peer[0] in sockets.lent_addresses():
        conn.route = Forwarded(conn)
    else:
        conn.route = Inward(conn)
    await serve(conn, conn.route, context.snapshot.destination(address, port).protocol)


async def _answer_tcp_probe(conn: Conn) -> bool:
    """Answer a tcpSocket probe, which asks only whether the port accepts: dial the server, and relay no bytes.

    edgemesh has accepted the prober's connection before it can dial, so a dead server shows as a reset. Return whether
    bytes arrived anyway: then this is not that probe, but perhaps an httpGet probe of the same port.
    """
    address, port = conn.dialled
    record = conn.report.record
    pick = Pick(Endpoint(address, port, conn.workload.key), conn.workload, "", "declared probe", True)
    record.rule = pick.rule
    record.protocol = OPAQUE.shown
    async with await dial(conn, pick):
        with trio.move_on_after(conn.context.limits.detect_timeout):
            if await conn.stream.peek(1):
                record.rule = ""
                return True
    return False
