"""The contract with the kernel: ports, marks, where sockets are made, and the original destination of a connection."""

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
    """The ports of the listeners inside a workload's namespace: those of Istio ambient, which tools know."""

    outbound: int = 15001  # calls of the workload, redirected
    inbound: int = 15006  # calls in plain text to the workload, redirected
    tunnel: int = 15008  # tunnels between nodes (HBONE)
    dns: int = 15053  # names of Services

    def __contains__(self, port: object) -> bool:
        return port in (self.outbound, self.inbound, self.tunnel, self.dns)


class Marks(Struct, frozen=True):
    """Packet marks and the routing table of transparent sockets.

    The values are edgemesh's own, to avoid other tools' values.
    """

    local: int = 0x6D6E0002  # sockets that dial a workload of this node with the caller's address
    bypass: int = 0x6D6E0001  # edgemesh's own sockets, where no cgroup identifies them
    table: int = 15006  # routing table of transparent sockets
    preference: int = 15006  # of the rule that selects the table
    probe: int = 0x02000000  # one bit: a connection of the node's prober, between two hooks of one packet's way out
    probe_here: int = 0x10000000  # one bit: the same, to a pod in the node's own network: on its way over lo


class Doors(Struct):
    """Listening sockets of one workload: non-blocking, bound, and (TCP) listening."""

    outbound: list[socket.socket]
    inbound: list[socket.socket]
    dns_udp: list[socket.socket]
    dns_tcp: list[socket.socket]
    tunnel: list[socket.socket] = field(default_factory=list)  # the only listener that other nodes dial directly

    def __iter__(self) -> Iterator[socket.socket]:
        return itertools.chain(self.outbound, self.inbound, self.dns_udp, self.dns_tcp, self.tunnel)

    def close_tcp(self) -> None:
        """Accept no more calls; questions for names are still answered."""
        for sock in (*self.outbound, *self.inbound, *self.tunnel):
            sock.close()

    def close(self) -> None:
        self.close_tcp()
        for sock in (*self.dns_udp, *self.dns_tcp):
            sock.close()


class Sockets(Protocol):
    """Makes sockets in the namespaces of workloads. Each call is synchronous and takes microseconds; the caller owns
    the socket.

    All sockets are non-blocking, and the ruleset recognises them as edgemesh's own, so that they are not captured
    again.
    """

    def towards(self, workload: Workload, caller: str, family: int, reuse: bool = False) -> socket.socket:
        """Return a TCP socket that dials `workload` inside its own namespace with the source address `caller`.

        `caller` "" (or of another family): the source is the server's own address. `reuse`: from a port that may be in
        TIME_WAIT, for use when connect() finds no free port. Raise OSError if the namespace is gone, or another socket
        has the port.
        """
        ...

    def outwards(self, workload: Workload, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Return a TCP or UDP socket in the namespace of `workload` that dials anything else on its behalf."""
        ...

    def from_node(self, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Return a socket in the daemon's own namespace, which dials other nodes, and resolvers."""
        ...

    def gateway_door(self, address: str, port: int) -> socket.socket:
        """Return a listening TCP socket in the daemon's own namespace, for callers outside the mesh.

        Raise OSError if another program has the port, or edgemesh needs it itself.
        """
        ...

    def close_gateway_door(self, address: str, port: int) -> None:
        """Keep that socket no longer for the next daemon: nothing listens there any more."""
        ...

    def resolver_asked(
        self, workload: Workload, client: tuple[str, int], listener: tuple[str, int]
    ) -> tuple[str, int] | None:
        """Return the resolver to which a redirected UDP DNS question was sent; None if the kernel no longer
        knows it.
        """
        ...

    def node_addresses(self) -> frozenset[str]:
        """Return the addresses of the node itself.

        They are no identity: NAT lends them to hosts whose traffic the node forwards.
        """
        ...

    def lent_addresses(self) -> frozenset[str]:
        """Return the addresses that NAT lends: the node's own, and those of neighbours that route for others.

        Who arrives with one of a neighbour's came through that neighbour, and only it knows from where.
        """
        ...

    def before_nat(self, peer: tuple[str, int], dialled: tuple[str, int]) -> tuple[str, int] | None:
        """Return the address of a caller to which NAT of this node lent `peer`; None if the kernel does not know it.

        A caller that is on this node itself has the address from the start.
        """
        ...

    def probers(self) -> frozenset[str]:
        """Return the addresses that only the node's own prober uses: only declared probes are admitted from them."""
        ...


def original_destination(sock: socket.socket) -> tuple[str, int]:
    """Return the original destination of a redirected connection, from conntrack.

    Raise OSError if conntrack does not know it.
    """
    if sock.family == socket.AF_INET6:
        data = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        (port,) = struct.unpack_from("!H", data, 2)
        return socket.inet_ntop(socket.AF_INET6, data[8:24]), port
    data = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    port, packed = struct.unpack_from("!2xH4s", data)
    return socket.inet_ntoa(packed), port
