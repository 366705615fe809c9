"""Where a redirected datagram was first sent, asked of conntrack (linux/netfilter/nfnetlink_conntrack.h).

SO_ORIGINAL_DST answers only for connected sockets; a DNS server's socket is not.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from agent.kernel.netlink import NETLINK_NETFILTER, Netlink, NetlinkError, attribute, attributes, nested

_GET = (1 << 8) | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*


def first_destination(client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
    """The address that `client` sent to before it was redirected to `listener`, in the namespace that the calling thread is in.

    None when the kernel no longer knows, or has no conntrack over netlink.
    """
    v6 = ":" in client[0]
    family = socket.AF_INET6 if v6 else socket.AF_INET
    source, destination = (3, 4) if v6 else (1, 2)  # CTA_IP_V6_SRC, V6_DST; V4_SRC, V4_DST
    addresses = nested(
        1, attribute(source, socket.inet_pton(family, listener[0])), attribute(destination, socket.inet_pton(family, client[0]))
    )
    ports = nested(
        2,
        attribute(1, bytes([socket.IPPROTO_UDP])),
        attribute(2, struct.pack(">H", listener[1])),
        attribute(3, struct.pack(">H", client[1])),
    )
    body = struct.pack(">BBH", family, 0, 0) + nested(_REPLY, addresses, ports)
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            answers = netlink.ask("look up a connection", _GET, 0, body)
    except NetlinkError:
        return None
    for answer in answers:
        original = dict(attributes(dict(attributes(answer[4:])).get(_ORIGINAL, b"")))
        packed = dict(attributes(original.get(1, b""))).get(destination)
        port = dict(attributes(original.get(2, b""))).get(3)
        if packed and port:
            return str(ipaddress.ip_address(packed)), int.from_bytes(port, "big")
    return None
