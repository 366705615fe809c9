"""An endpoint becomes a connected stream: dialled in the server's own namespace when it runs here, else on the caller's behalf."""

from __future__ import annotations

import os
import socket

import trio
from trio.abc import HalfCloseableStream

from nodeproxy.context import Conn, Pick
from nodeproxy.errors import Refused
from policy.model import Endpoint


def caller_address(conn: Conn, family: int) -> str:
    """The source address that the server should see: the caller's own, in the server's address family; "" if it has none.

    A workload with NET_ADMIN may call from any address, and our socket would carry it past every check of the network: the server
    would see another workload, or the node. So an address that the workload does not declare is believed only where it declares
    none of that family, and nobody else has it.
    """
    address = conn.peer[0]
    fits = (":" in address) == (family == socket.AF_INET6) and not _is_loopback(address)
    if conn.direction == "inbound":
        return address if fits else ""
    declared = [own for own in conn.workload.addresses if (":" in own) == (family == socket.AF_INET6)]
    if fits and (address in declared or not (declared or _is_anothers(conn, address))):
        return address
    # A call to an address of our range may leave by lo; a call may also cross families. The workload's own address stands in.
    return declared[0] if declared else ""


def shown_to(conn: Conn, endpoint: Endpoint) -> str:
    """The caller as this endpoint sees it, for what is kept by caller: who calls from many addresses is still one caller."""
    return caller_address(conn, socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET)


def caller_key(conn: Conn, endpoint: Endpoint) -> str:
    """Who calls, for connections that are kept by caller: the address as above and, where one was proved, the identity."""
    shown = shown_to(conn, endpoint)
    return f"{shown} {conn.identity}" if conn.direction == "inbound" and conn.identity else shown


def forwarded_for(conn: Conn) -> str:
    """The caller as X-Forwarded-For names it: the same, in the family that it called in."""
    return caller_address(conn, socket.AF_INET6 if ":" in conn.peer[0] else socket.AF_INET) or conn.peer[0]


def _is_anothers(conn: Conn, address: str) -> bool:
    if conn.workload.unit:  # shares the node's address, and cannot choose another
        return False
    context = conn.context
    return address in context.sockets.node_addresses() or context.snapshot.has_address(address)


async def dial(conn: Conn, pick: Pick) -> HalfCloseableStream:
    """Connect to the picked endpoint: by a tunnel, when it is on another node.

    Raises Refused "connect-failed", "connect-timeout", or what a tunnel ends in; the experience is noted in `live`.
    """
    context = conn.context
    endpoint = pick.endpoint
    if pick.hop is not None:
        assert context.peers is not None, "the proxy runs first"
        try:
            stream = await context.peers.tunnel(conn, pick)
        except Refused as refused:
            if refused.flag in _UNREACHED:
                context.live.failed(endpoint, trio.current_time())
            raise
        context.live.connected(endpoint)
        return stream
    family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
    try:
        if pick.local and pick.workload is not None:
            raw = context.sockets.towards(pick.workload, caller_address(conn, family), family)
        else:
            raw = context.sockets.outwards(conn.workload, family)
    except OSError as error:
        raise Refused("connect-failed", f"{endpoint}: no socket in the workload's namespace: {error.strerror or error}") from error
    sock = trio.socket.from_stdlib_socket(raw)
    try:
        with trio.move_on_after(context.limits.connect_timeout):
            await sock.connect((endpoint.address, endpoint.port))
            context.live.connected(endpoint)
            return trio.SocketStream(sock)
    except OSError as error:
        sock.close()
        context.live.failed(endpoint, trio.current_time())
        # trio's own words name the address once more.
        why = os.strerror(error.errno) if error.errno else str(error)
        raise Refused("connect-failed", f"{endpoint}: {why}") from error
    except BaseException:
        sock.close()
        raise
    sock.close()
    context.live.failed(endpoint, trio.current_time())
    raise Refused("connect-timeout", f"{endpoint}: no answer in {context.limits.connect_timeout:g} s")


# Refusals that tell something about the endpoint, and not about who asked.
_UNREACHED = frozenset(
    ("connect-failed", "connect-timeout", "peer-lost", "tls-failed", "peer-expired", "peer-untrusted", "peer-unexpected")
)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
