"""Routing for transparent sockets and for the range of service addresses, over rtnetlink (linux/rtnetlink.h)."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable

from agent.kernel.netlink import NETLINK_ROUTE, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Netlink, NetlinkError, attribute, attributes
from nodeproxy.ruleset import Marks

_NEWLINK, _IFF_UP = 16, 1
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 26, 32, 33, 34
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_LOCAL, _UNICAST = 2, 1
_MAIN, _PROTOCOL = 254, 0xED  # a protocol number of our own, so that cleanup finds what is ours
_RULE_PROTOCOL = 21  # FRA_PROTOCOL (linux/fib_rules.h)
_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # no IPv6 here, so nothing to route there


def up_loopback() -> None:
    """Everything between us and a workload goes over lo, which a new namespace has down."""
    with Netlink(NETLINK_ROUTE) as netlink:
        netlink.ask("ip link set lo up", _NEWLINK, 0, struct.pack("=BBHiII", 0, 0, 0, socket.if_nametoindex("lo"), _IFF_UP, _IFF_UP))


def install(marks: Marks, ranges: Iterable[str]) -> None:
    """In the namespace that the calling thread is in. What is there already stays. Raises NetlinkError."""
    with Netlink(NETLINK_ROUTE) as netlink:
        for what, kind, body in _messages(marks, ranges):
            try:
                netlink.ask(what, kind, NLM_F_CREATE | NLM_F_EXCL, body)
            except NetlinkError as error:
                # EACCES: IPv6 is turned off for lo by sysctl.
                if error.errno not in (errno.EEXIST, errno.EACCES, *_NO_SUCH_FAMILY):
                    raise


def remove() -> int:
    """Take away what `install` made, whatever marks and ranges it was given; answers how much there was. Raises NetlinkError."""
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


def _messages(marks: Marks, ranges: Iterable[str]) -> Iterable[tuple[str, int, bytes]]:
    lo = socket.if_nametoindex("lo")
    for family in _FAMILIES:
        version = 4 if family == socket.AF_INET else 6
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 1, 0)  # FR_ACT_TO_TBL
        body += _u32(6, marks.preference) + _u32(10, marks.local) + _u32(15, marks.table)
        body += attribute(_RULE_PROTOCOL, bytes([_PROTOCOL]))
        yield f"ip -{version} rule fwmark {marks.local:#x}", _NEWRULE, body
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, _PROTOCOL, 254, _LOCAL, 0) + _u32(4, lo) + _u32(15, marks.table)
        yield f"ip -{version} route local default", _NEWROUTE, body
    for cidr in ranges:
        network = ipaddress.ip_network(cidr)
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        body = struct.pack("=BBBBBBBBI", family, network.prefixlen, 0, 0, _MAIN, _PROTOCOL, 0, _UNICAST, 0)
        body += attribute(1, network.network_address.packed) + _u32(4, lo)
        yield f"ip route {cidr} dev lo", _NEWROUTE, body


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))
