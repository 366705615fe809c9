"""Interfaces of network namespaces: which of a namespace's lead to the node's own, and where they end there."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from msgspec import Struct

from agent.kernel import netns
from agent.kernel.netlink import NETLINK_ROUTE, NLM_F_DUMP, Netlink, attribute, attributes

_GETLINK, _GETNSID = 18, 90
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINK_NETNSID = 3, 5, 37
_NETNSA_NSID, _NETNSA_FD = 1, 3


class Link(Struct, frozen=True):
    """One interface.

    `other`: the index of its other end (of a veth) or of what it is laid on (macvlan). `number`: of the namespace where
    that is, as the interface's own namespace numbers others; -1: the same namespace.
    """

    index: int
    name: str
    other: int
    number: int


def wires(namespace: netns.Namespace) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the interfaces of a namespace whose other end is in the node's, and the indexes of those ends.

    Empty when the namespace cannot be asked. Costs the same whatever the number of interfaces of the node.
    """
    try:
        with namespace.entered(), Netlink(NETLINK_ROUTE) as netlink:
            # listing the links first makes the kernel number the namespaces of their other ends
            there = list(_list(netlink))
            node = _number(netlink, netns.home())
        found = []
        with Netlink(NETLINK_ROUTE) as netlink:
            for link in there:
                if node < 0 or link.number != node:
                    continue
                for here in _one(netlink, link.other):
                    if here.other == link.index and here.number == _number(netlink, namespace.fd) >= 0:
                        found.append((link.name, here.index))
    except (OSError, KeyError, struct.error):
        return (), ()
    return tuple(sorted(name for name, _ in found)), tuple(sorted(end for _, end in found))


def to_other_namespaces(prefix: str) -> list[int]:
    """Return the indexes of the node's interfaces of such names whose other end is elsewhere. Raise OSError."""
    with Netlink(NETLINK_ROUTE) as netlink:
        return [link.index for link in _list(netlink) if link.number >= 0 and link.name.startswith(prefix)]


def existing(indexes: Iterable[int]) -> set[int]:
    """Return those of these indexes that are interfaces of the node."""
    found = set()
    for index in indexes:
        with contextlib.suppress(OSError):
            socket.if_indextoname(index)
            found.add(index)
    return found


def _list(netlink: Netlink) -> Iterator[Link]:
    return map(_link, netlink.ask("list links", _GETLINK, NLM_F_DUMP, bytes(16)))


def _one(netlink: Netlink, index: int) -> Iterator[Link]:
    return map(_link, netlink.ask("a link", _GETLINK, 0, struct.pack("=BxHiII", 0, 0, index, 0, 0)))


def _link(body: bytes) -> Link:
    (index,) = struct.unpack_from("=i", body, 4)
    found = dict(attributes(body[16:]))
    name = os.fsdecode(found.get(_IFLA_IFNAME, b"").rstrip(b"\0"))
    other, number = (
        struct.unpack("=i", found.get(kind, b"\xff\xff\xff\xff"))[0] for kind in (_IFLA_LINK, _IFLA_LINK_NETNSID)
    )
    return Link(index, name, other, number)


def _number(netlink: Netlink, fd: int) -> int:
    """Return by which number the socket's namespace knows another one; -1 for none."""
    asked = struct.pack("=Bxxx", 0) + attribute(_NETNSA_FD, struct.pack("=i", fd))
    for body in netlink.ask("number of a namespace", _GETNSID, 0, asked):
        return int(struct.unpack("=i", dict(attributes(body[4:]))[_NETNSA_NSID])[0])
    return -1
