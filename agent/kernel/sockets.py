"""Sockets in the namespace that the calling thread is in: doors to listen on, and the two kinds that dial."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable

from agent.kernel import netns
from nodeproxy.capture import Doors, Ports

_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75  # linux/in.h, linux/in6.h
_IP_BIND_ADDRESS_NO_PORT, _IP_FREEBIND = 24, 15  # these two are for IPv6 sockets as well
_BACKLOG = 4096  # the kernel takes the smaller of this and net.core.somaxconn
_HERE = ("127.0.0.1", "::1")
_ANY = ("0.0.0.0", "::")


def open_doors(ports: Ports, mark: int, dns: bool, kept: Iterable[socket.socket] = ()) -> tuple[Doors, str]:
    """The doors of one workload, and what is wrong with them: a port that something else holds stays closed, which is safe.

    `mark`: of our own sockets where no cgroup tells them; 0 = none. `kept`: doors that are open already and are opened no second
    time; what comes back shares their sockets, and outlives them.
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
        wanted += [(doors.dns_udp, _HERE, ports.dns, socket.SOCK_DGRAM), (doors.dns_tcp, _HERE, ports.dns, socket.SOCK_STREAM)]
    for found, addresses, port, kind in wanted:
        for address in addresses:
            try:
                old = have.get((kind, (address, port)))
                found.append(old.dup() if old is not None else _door(address, port, kind, mark))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # no IPv6 here
                    faults.append(f"port {port} on {address}: {error.strerror}")
    return doors, f"{'; '.join(faults)}. Stop what listens there, or set other ports in NodeConfig" if faults else ""


def node_doors(addresses: Iterable[str], port: int, mark: int, kept: Iterable[socket.socket] = ()) -> tuple[list[socket.socket], str]:
    """The node's own tunnel door, on each of the addresses that others reach it by; and what is wrong, "" for nothing.

    In the namespace that the calling thread is in. An address that the node gets only later is waited on already.
    """
    doors, faults = [], []
    present = netns.addresses()
    have = {sock.getsockname()[:2]: sock for sock in kept}
    for address in addresses:
        try:
            old = have.get((address, port))
            doors.append(old.dup() if old is not None else _door(address, port, socket.SOCK_STREAM, mark))
        except OSError as error:
            faults.append(f"no tunnel door at port {port} of {address}: {error.strerror}. Stop what listens there, or set ports.tunnel")
        else:
            if address not in present and not ipaddress.ip_address(address).is_loopback:
                faults.append(f"this node does not have its address {address} (yet): no tunnel comes in there. See NodeConfig addresses")
    return doors, "; ".join(faults)


def _door(address: str, port: int, kind: int, mark: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:  # UDP must not share the port with whoever asks for it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in address:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)  # a new namespace has lo down, and so no loopback address yet
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
    """A socket that dials anything on a workload's behalf."""
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    return sock


def towards(caller: str, family: int, mark: int) -> socket.socket:
    """A socket that dials a workload over lo, from the caller's own address."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if caller:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
            else:
                sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
            # The port is chosen at connect, by the whole four-tuple, so that ports do not run out.
            sock.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((caller, 0))
    except OSError:
        sock.close()
        raise
    return sock
