"""The caller as servers see it: the source address of a connection, in each family, and the key of pools by caller.

They are determined once for a connection and kept there (`Conn.shown`, `Conn.keys`), unless they depend on the
addresses that others have now.
"""

from __future__ import annotations

import socket

from nodeproxy.context import Conn
from policy.model import Endpoint


def caller_address(conn: Conn, family: int) -> str:
    """Return the source address that the server should see: the caller's own, in the server's family; "" if it has
    none.

    A workload with NET_ADMIN may call from any address, and edgemesh's socket would carry it past every check of the
    network: the server would see another workload, or the node. So an address that the workload does not declare is
    believed only if the workload declares none of that family, and no other workload or node has it.
    """
    return _shown(conn)[family == socket.AF_INET6]


def shown_to(conn: Conn, endpoint: Endpoint) -> str:
    """Return the caller's address as this endpoint sees it."""
    return _shown(conn)[":" in endpoint.address]


def caller_key(conn: Conn, endpoint: Endpoint) -> str:
    """Return the caller's key for connections that are pooled by caller: the address as above and, if proved, the
    identity.

    A workload that calls from many addresses is still one caller.
    """
    keys = conn.keys
    if keys is None:
        four, six = _shown(conn)
        identity = f" {conn.identity}" if conn.direction == "inbound" and conn.identity else ""
        keys = four + identity, six + identity
        if conn.shown is not None:
            conn.keys = keys
    return keys[":" in endpoint.address]


def forwarded_for(conn: Conn) -> str:
    """Return the caller as X-Forwarded-For names it: its address in the family of its call."""
    return _shown(conn)[":" in conn.peer[0]] or conn.peer[0]


def settle(conn: Conn) -> None:
    """Determine the caller now, for the streams of this connection."""
    _shown(conn)


def _shown(conn: Conn) -> tuple[str, str]:
    """Return the caller's IPv4 and IPv6 address."""
    shown = conn.shown
    if shown is None:
        shown = _told(conn, six=False), _told(conn, six=True)
        if not _depends_on_others(conn):
            conn.shown = shown
    return shown


def _told(conn: Conn, six: bool) -> str:
    address = conn.peer[0]
    fits = (":" in address) == six and not _is_loopback(address)
    if conn.direction == "inbound":
        return address if fits else ""
    declared = _declared(conn, six)
    if fits and (address in declared or not (declared or _is_anothers(conn, address))):
        return address
    # A call to an address in NodeConfig serviceRange may leave by lo, and a call may cross families: the workload's own
    # address is used.
    return declared[0] if declared else ""


def _depends_on_others(conn: Conn) -> bool:
    """Return whether the address is believed only as long as no other workload or node has it."""
    address = conn.peer[0]
    return conn.direction == "outbound" and not _is_loopback(address) and not _declared(conn, ":" in address)


def _declared(conn: Conn, six: bool) -> list[str]:
    return [own for own in conn.workload.addresses if (":" in own) == six]


def _is_anothers(conn: Conn, address: str) -> bool:
    if conn.workload.unit:  # shares the node's address, and cannot choose another
        return False
    context = conn.context
    return address in context.sockets.node_addresses() or context.snapshot.has_address(address)


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
