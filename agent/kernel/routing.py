"""Routing for transparent sockets, the range of service addresses, and DNS questions (rtnetlink, linux/rtnetlink.h)."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable

from agent.kernel import netns
from agent.kernel.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
)
from nodeproxy.capture import Marks

# With these, the server's replies to a SYN of our transparent sockets carry the SYN's mark (tcp_fwmark_accept), and so
# does the reset of a server that does not listen (fwmark_reflect). Without the latter a closed port looks like one that
# never replies.
SYSCTLS = ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect")
_GROUPS = sum(
    1 << (group - 1) for group in (1, 7, 8, 11, 19)
)  # RTNLGRP_LINK, IPV4_ROUTE, IPV4_RULE, IPV6_ROUTE, IPV6_RULE
_NEWLINK, _IFF_UP = 16, 1
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 26, 32, 33, 34
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_LOCAL, _UNICAST = 2, 1
_MAIN, _PROTOCOL = 254, 0xED  # our own protocol number, by which cleanup recognises our routes
_RULE_PROTOCOL = 21  # FRA_PROTOCOL (linux/fib_rules.h)
# Without a route to the resolver (no default route: the first thing that happens when a site is cut off) the kernel
# would refuse a DNS question before it could be redirected to us. So a last table, after all others, routes port 53
# alone over lo.
_NAMES, _LAST, _DNS = 15053, 32800, 53
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # there is no IPv6 here, so nothing to route


class Routes:
    """Keeps what `install` makes. The kernel removes routes with a link that goes down, also lo.

    It is made while the calling thread is in the namespace. A fault here leaves workloads closed, not open.
    """

    def __init__(self, marks: Marks, ranges: Iterable[str], dns: bool) -> None:
        """`dns`: DNS questions are redirected here too."""
        self.marks = marks
        self.dns = dns
        self.ranges = tuple(ranges)
        self.fault = ""
        self._laid = False
        self._events = Netlink(NETLINK_ROUTE, _GROUPS)

    def due(self) -> bool:
        """Return whether `lay` has work: the first time, after a fault, or because links, routes or rules changed."""
        return self._events.heard() or not self._laid or bool(self.fault)

    def lay(self) -> None:
        """Install the routes, inside the namespace. `fault` reports what fails, and the next call tries again."""
        self._laid = True
        try:
            up_loopback()
            install(self.marks, self.ranges, self.dns)
            prepare_sysctls()
            self.fault = ""
        except OSError as error:
            self.fault = f"calls to it fail: {error}"

    def close(self) -> None:
        """Stop watching; routes stay."""
        self._events.close()


def prepare_sysctls() -> None:
    """Set the sysctls in the calling thread's namespace. Raise OSError."""
    for name in SYSCTLS:
        with contextlib.suppress(FileNotFoundError):  # no IPv6 here
            if netns.sysctl(name) != "1":  # in containers it may be set already while /proc/sys is not writable
                netns.sysctl(name, "1")


def up_loopback() -> None:
    """Bring lo up. Everything between us and a workload goes over lo, which is down in a new namespace."""
    with Netlink(NETLINK_ROUTE) as netlink:
        netlink.ask(
            "ip link set lo up",
            _NEWLINK,
            0,
            struct.pack("=BBHiII", 0, 0, 0, socket.if_nametoindex("lo"), _IFF_UP, _IFF_UP),
        )


def install(marks: Marks, ranges: Iterable[str], dns: bool = True) -> None:
    """Install rules and routes in the calling thread's namespace. What exists already stays.

    Raise NetlinkError for the first that failed, after trying all.
    """
    failed: NetlinkError | None = None
    with Netlink(NETLINK_ROUTE) as netlink:
        for what, kind, body in _messages(marks, ranges, dns):
            try:
                netlink.ask(what, kind, NLM_F_CREATE | NLM_F_EXCL, body)
            except NetlinkError as error:
                # EACCES: IPv6 is turned off for lo by sysctl.
                if error.errno not in (errno.EEXIST, errno.EACCES, *_NO_SUCH_FAMILY):
                    failed = failed or error
    if failed is not None:
        raise failed


def add(address: str, via: str) -> None:
    """Add a route to one address in the calling thread's namespace. Raise NetlinkError."""
    to, gateway = ipaddress.ip_address(address), ipaddress.ip_address(via)
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBBBBBI", family, to.max_prefixlen, 0, 0, _MAIN, _PROTOCOL, 0, _UNICAST, 0)
    body += attribute(1, to.packed) + attribute(5, gateway.packed)
    with Netlink(NETLINK_ROUTE) as netlink:
        netlink.ask(f"ip route {address} via {via}", _NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def remove() -> int:
    """Remove what `install` made, whatever marks and ranges it was given.

    Return how many there were. Raise NetlinkError.
    """
    removed = 0
    with Netlink(NETLINK_ROUTE) as netlink:
        for family in _FAMILIES:
            asked = struct.pack("=BBBBBBBBI", family, *bytes(7), 0)
            for body in _listed(netlink, "list rules", _GETRULE, asked):
                if body[0] == family and dict(attributes(body[12:])).get(_RULE_PROTOCOL) == bytes([_PROTOCOL]):
                    netlink.ask("delete a rule", _DELRULE, 0, body)
                    removed += 1
            for body in _listed(netlink, "list routes", _GETROUTE, asked):
                if body[0] == family and body[5] == _PROTOCOL:
                    netlink.ask("delete a route", _DELROUTE, 0, body)
                    removed += 1
    return removed


def _listed(netlink: Netlink, what: str, kind: int, body: bytes) -> list[bytes]:
    try:
        return netlink.ask(what, kind, NLM_F_DUMP, body)
    except NetlinkError as error:
        if error.errno in _NO_SUCH_FAMILY:
            return []
        raise


def _messages(marks: Marks, ranges: Iterable[str], dns: bool) -> Iterable[tuple[str, int, bytes]]:
    lo = socket.if_nametoindex("lo")
    for family in _FAMILIES:
        version = 4 if family == socket.AF_INET else 6
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 1, 0)  # FR_ACT_TO_TBL
        body += _u32(6, marks.preference) + _u32(10, marks.local) + _u32(15, marks.table)
        body += attribute(_RULE_PROTOCOL, bytes([_PROTOCOL]))
        yield f"ip -{version} rule fwmark {marks.local:#x}", _NEWRULE, body
        body = (
            struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, _PROTOCOL, 254, _LOCAL, 0)
            + _u32(4, lo)
            + _u32(15, marks.table)
        )
        yield f"ip -{version} route local default", _NEWROUTE, body
        for protocol, name in ((socket.IPPROTO_UDP, "udp"), (socket.IPPROTO_TCP, "tcp")) if dns else ():
            body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 1, 0)
            # FRA_IIFNAME: packets sent from this namespace, not those forwarded through it
            body += _u32(6, _LAST) + _u32(15, _NAMES) + attribute(3, b"lo\0")
            body += attribute(22, bytes([protocol])) + attribute(
                24, struct.pack("=HH", _DNS, _DNS)
            )  # FRA_IP_PROTO, FRA_DPORT_RANGE
            body += attribute(_RULE_PROTOCOL, bytes([_PROTOCOL]))
            yield f"ip -{version} rule {name} port 53", _NEWRULE, body
        if dns:
            body = (
                struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, _PROTOCOL, 0, _UNICAST, 0)
                + _u32(4, lo)
                + _u32(15, _NAMES)
            )
            yield f"ip -{version} route default dev lo", _NEWROUTE, body
    for cidr in ranges:
        network = ipaddress.ip_network(cidr)
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        body = struct.pack("=BBBBBBBBI", family, network.prefixlen, 0, 0, _MAIN, _PROTOCOL, 0, _UNICAST, 0)
        body += attribute(1, network.network_address.packed) + _u32(4, lo)
        yield f"ip route {cidr} dev lo", _NEWROUTE, body


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))
