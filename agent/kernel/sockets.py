"""Sockets in the calling thread's namespace: listeners, and the two kinds that dial."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterable

from agent.kernel import netns
from nodeproxy.capture import Doors, Ports

_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75  # linux/in.h, linux/in6.h
_IP_BIND_ADDRESS_NO_PORT, _IP_FREEBIND = 24, 15  # these two apply to IPv6 sockets as well
_BACKLOG = 4096  # the kernel takes the smaller of this and net.core.somaxconn
_DRAWS = 64  # tries to find a port that is not reserved
_HERE = ("127.0.0.1", "::1")
_ANY = ("0.0.0.0", "::")


def open_doors(ports: Ports, mark: int, dns: bool, kept: Iterable[socket.socket] = ()) -> tuple[Doors, str]:
    """Open the listeners of one workload. Return them, and what is wrong with them.

    A port that another program holds stays closed, which is safe. `mark`: for our own sockets where no cgroup
    identifies them; 0 = none. `kept`: listeners that are open already and are not opened again. The result has
    duplicates of their sockets, so it stays valid when they are closed.
    """
    doors = Doors([], [], [], [], [])
    have = {}
    for sock in kept:
        if sock.fileno() >= 0 and sock.family in (socket.AF_INET, socket.AF_INET6):
            have[sock.type, sock.getsockname()[:2]] = sock
    faults: list[str] = []
    wanted: list[tuple[list[socket.socket], Iterable[str], int, socket.SocketKind]] = [
        (doors.outbound, _HERE, ports.outbound, socket.SOCK_STREAM),
        (doors.inbound, _ANY, ports.inbound, socket.SOCK_STREAM),
    ]
    if ports.tunnel:
        wanted.append((doors.tunnel, _ANY, ports.tunnel, socket.SOCK_STREAM))
    if dns:
        wanted += [
            (doors.dns_udp, _HERE, ports.dns, socket.SOCK_DGRAM),
            (doors.dns_tcp, _HERE, ports.dns, socket.SOCK_STREAM),
        ]
    for found, addresses, port, kind in wanted:
        for address in addresses:
            try:
                old = have.get((kind, (address, port)))
                found.append(old.dup() if old is not None else _door(address, port, kind, mark))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # there is no IPv6 here
                    faults.append(f"port {port} on {address}: {error.strerror}")
    return doors, f"{'; '.join(faults)}. Stop what listens there, or set other ports in NodeConfig" if faults else ""


def node_doors(
    addresses: Iterable[str], port: int, mark: int, kept: Iterable[socket.socket] = ()
) -> tuple[list[socket.socket], str]:
    """Open the node's own tunnel listener on each address by which others reach it.

    Return it and what is wrong ("": nothing).

    The sockets are made in the calling thread's namespace. A listener also opens at an address that the node gets only
    later.
    """
    doors, faults = [], []
    present = netns.addresses()
    have = {sock.getsockname()[:2]: sock for sock in kept}
    for address in addresses:
        try:
            old = have.get((address, port))
            doors.append(old.dup() if old is not None else _door(address, port, socket.SOCK_STREAM, mark))
        except OSError as error:
            faults.append(
                f"no tunnel listener at port {port} of {address}: {error.strerror}. Stop what listens there, or set ports.tunnel"
            )
        else:
            if address not in present and not ipaddress.ip_address(address).is_loopback:
                faults.append(
                    f"this node does not have its address {address} (yet): no tunnel comes in there. See NodeConfig addresses"
                )
    return doors, "; ".join(faults)


def gateway_door(address: str, port: int, mark: int) -> socket.socket:
    """Open a listener for callers outside the mesh, in the calling thread's namespace.

    Raise OSError: EADDRINUSE if anybody has the port at that address, which stays theirs (SO_REUSEPORT is never set).
    """
    return _door(address, port, socket.SOCK_STREAM, mark)


def _door(address: str, port: int, kind: int, mark: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:  # for UDP, other programs could then share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in address:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # in a new namespace lo is down, so it has no loopback address yet
        sock.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def outwards(family: int, kind: int, mark: int) -> socket.socket:
    """Return a socket that dials any destination on a workload's behalf."""
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except OSError:
        sock.close()
        raise
    return sock


def towards(caller: str, family: int, mark: int, reuse: bool = False) -> socket.socket:
    """Return a socket that dials a workload over lo, from the caller's own address.

    `reuse`: bind it to a random port of the namespace's ephemeral range, which may be in TIME_WAIT.
    """
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        # the option outlives the connection: it lets `reuse` bind while this one is in TIME_WAIT
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if caller:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
            else:
                sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
        if reuse:
            # The kernel, when it chooses a port itself, skips those in TIME_WAIT. From a port that is bound explicitly
            # it connects, where timestamps tell the old connection's segments from the new one's (RFC 6191).
            sock.bind((caller or _ANY[family == socket.AF_INET6], _ephemeral_port()))
        elif caller:
            # The kernel chooses the port at connect, by the whole four-tuple, so that ports do not run out.
            sock.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((caller, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _ephemeral_port() -> int:
    """Return a random port that the kernel might choose in the calling thread's namespace.

    Raise OSError when there is none.
    """
    low, high = map(int, netns.sysctl("ipv4/ip_local_port_range").split())
    reserved = []
    for part in filter(None, netns.sysctl("ipv4/ip_local_reserved_ports").split(",")):
        first, _, last = part.partition("-")
        reserved.append(range(int(first), int(last or first) + 1))
    for _ in range(_DRAWS):
        port = low + secrets.randbelow(high - low + 1)
        if not any(port in kept for kept in reserved):
            return port
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
