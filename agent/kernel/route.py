"""Routing for transparent sockets and for the range of service addresses, over rtnetlink (linux/rtnetlink.h)."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable

from agent.kernel.netlink import NETLINK_ROUTE, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Netlink, NetlinkError, attribute
from nodeproxy.ruleset import Marks

_NEWLINK, _IFF_UP = 16, 1
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE = 24, 25, 26, 32, 33
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_LOCAL, _UNICAST = 2, 1
_MAIN, _PROTOCOL = 254, 0xED  # a protocol number of our own, so that cleanup finds what is ours


def up_loopback() -> None:
    """Everything between us and a workload goes over lo, which a new namespace has down."""
    with Netlink(NETLINK_ROUTE) as netlink:
        netlink.ask("ip link set lo up", _NEWLINK, 0, struct.pack("=BBHiII", 0, 0, 0, socket.if_nametoindex("lo"), _IFF_UP, _IFF_UP))


def install(marks: Marks, ranges: Iterable[str]) -> None:
    """In the namespace that the calling thread is in. What is there already stays. Raises NetlinkError."""
    with Netlink(NETLINK_ROUTE) as netlink:
        for what, kind, body in _messages(marks, ranges, add=True):
            try:
                netlink.ask(what, kind, NLM_F_CREATE | NLM_F_EXCL, body)
            except NetlinkError as error:
                # EAFNOSUPPORT, EOPNOTSUPP: no IPv6 here, so nothing to route there.
                if error.errno not in (errno.EEXIST, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES):
                    raise


def remove(marks: Marks) -> int:
    """Take away what `install` made, whatever ranges it was given; answers how much there was."""
    removed = 0
    with Netlink(NETLINK_ROUTE) as netlink:
        for what, kind, body in _messages(marks, (), add=False):
            with contextlib.suppress(NetlinkError):
                netlink.ask(what, kind, 0, body)
                removed += 1
        for family in _FAMILIES:
            for body in netlink.ask("list routes", _GETROUTE, NLM_F_DUMP, struct.pack("=BBBBBBBBI", family, *bytes(7), 0)):
                if body[5] == _PROTOCOL and body[4] == _MAIN:
                    netlink.ask("delete a route", _DELROUTE, 0, body)
                    removed += 1
    return removed


def _messages(marks: Marks, ranges: Iterable[str], add: bool) -> Iterable[tuple[str, int, bytes]]:
    lo = socket.if_nametoindex("lo")
    for family in _FAMILIES:
        version = 4 if family == socket.AF_INET else 6
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 1, 0)  # FR_ACT_TO_TBL
        body += _u32(6, marks.preference) + _u32(10, marks.local) + _u32(15, marks.table)
        yield f"ip -{version} rule fwmark {marks.local:#x}", _NEWRULE if add else _DELRULE, body
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, _PROTOCOL, 254, _LOCAL, 0) + _u32(4, lo) + _u32(15, marks.table)
        yield f"ip -{version} route local default", _NEWROUTE if add else _DELROUTE, body
    for cidr in ranges:
        network = ipaddress.ip_network(cidr)
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        body = struct.pack("=BBBBBBBBI", family, network.prefixlen, 0, 0, _MAIN, _PROTOCOL, 0, _UNICAST, 0)
        body += attribute(1, network.network_address.packed) + _u32(4, lo)
        yield f"ip route {cidr} dev lo", _NEWROUTE if add else _DELROUTE, body


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))
