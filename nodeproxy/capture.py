"""Our contract with the kernel: ports, marks, where sockets are made, and what a captured connection was aimed at."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct, field

from policy.model import Workload

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST has the same number


class Ports(Struct, frozen=True):
    """The ports that doors listen on inside a workload's namespace (the ones of Istio ambient, so that tools know them)."""

    outbound: int = 15001
    inbound: int = 15006
    tunnel: int = 15008  # tunnels between nodes (HBONE)
    dns: int = 15053

    def __contains__(self, port: object) -> bool:
        return port in (self.outbound, self.inbound, self.tunnel, self.dns)


class Doors(Struct):
    """Listening sockets of one workload: non-blocking, bound, and (TCP) listening."""

    outbound: list[socket.socket]
    inbound: list[socket.socket]
    dns_udp: list[socket.socket]
    dns_tcp: list[socket.socket]
    tunnel: list[socket.socket] = field(default_factory=list)  # the only door that is dialled itself, from other nodes

    def __iter__(self) -> Iterator[socket.socket]:
        return itertools.chain(self.outbound, self.inbound, self.dns_udp, self.dns_tcp, self.tunnel)

    def close_tcp(self) -> None:
        """Take no more calls; names are still answered."""
        for sock in (*self.outbound, *self.inbound, *self.tunnel):
            sock.close()

    def close(self) -> None:
        self.close_tcp()
        for sock in (*self.dns_udp, *self.dns_tcp):
            sock.close()


class Sockets(Protocol):
    """Sockets made where workloads live. Each call is synchronous and takes microseconds; the caller owns the socket.

    All are non-blocking and known to the ruleset as ours, so that they are not captured again.
    """

    def towards(self, workload: Workload, caller: str, family: int) -> socket.socket:
        """A TCP socket that dials `workload` inside its own namespace with the source address `caller`.

        `caller` "" (or of another family) = the source is the server's own address. OSError when the namespace is gone.
        """
        ...

    def outwards(self, workload: Workload, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A TCP or UDP socket in the namespace of `workload` that dials anything else on its behalf."""
        ...

    def from_node(self, family: int) -> socket.socket:
        """A TCP socket in the daemon's own namespace: it dials other nodes."""
        ...

    def resolver_asked(self, workload: Workload, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        """The resolver that a redirected UDP DNS question was first sent to; None when the kernel no longer knows."""
        ...

    def node_addresses(self) -> frozenset[str]:
        """The addresses of the node itself (not an identity: only declared probes are admitted from them)."""
        ...


def original_destination(sock: socket.socket) -> tuple[str, int]:
    """What a redirected connection was first aimed at, from conntrack. OSError when conntrack does not know it."""
    if sock.family == socket.AF_INET6:
        data = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        (port,) = struct.unpack_from("!H", data, 2)
        return socket.inet_ntop(socket.AF_INET6, data[8:24]), port
    data = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    port, packed = struct.unpack_from("!2xH4s", data)
    return socket.inet_ntoa(packed), port
