"""Look up in conntrack how a flow was addressed before NAT (linux/netfilter/nfnetlink_conntrack.h).

SO_ORIGINAL_DST works on connected sockets only (a DNS server's is not connected), and knows the destination alone, and
only what the socket's own namespace translated.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from agent.kernel.netlink import (
    NETLINK_NETFILTER,
    NL_HEADER,
    NLA_F_NESTED,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    message,
    nested,
)

_GET = (1 << 8) | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*
_SEQUENCE, _ERROR, _PORT = struct.Struct("=I"), struct.Struct("=i"), struct.Struct(">H")
_TUPLE = NL_HEADER.size + 4  # where the first attribute is, after nfgenmsg


def first_destination(client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
    """Return the address to which `client` sent a datagram before it was redirected to `listener`.

    The question concerns the calling thread's namespace. Return None when the kernel has forgotten the flow, or offers
    no conntrack over netlink.
    """
    return _first(client, listener, socket.IPPROTO_UDP, source=False)


def first_source(client: tuple[str, int], server: tuple[str, int]) -> tuple[str, int] | None:
    """Return the address from which a TCP connection came before this namespace gave it the source `client`.

    `server`: the destination as the server's side sees it. None: as above.
    """
    return _first(client, server, socket.IPPROTO_TCP, source=True)


class Redirected:
    """What `first_destination` returns, for many datagrams of one namespace: over one socket that stays open.

    Each DNS question is looked up, so that the answer of one resolver is never given as that of another. One message
    made from a template and one fixed place in the reply take 6 us, where the general way takes 75.
    """

    def __init__(self, entered: Callable[[], AbstractContextManager[object]]) -> None:
        """`entered`: what enters the namespace for a moment."""
        self._entered = entered
        self._sock: socket.socket | None = None
        self._sequence = 0

    def __repr__(self) -> str:
        return f"<Redirected {'open' if self._sock else 'closed'}>"

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def destination(self, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        """Raise OSError when the namespace is gone."""
        try:
            return self._ask(client, listener)
        except (OSError, _UnreadError):
            self.close()
        with self._entered():
            return first_destination(client, listener)

    def _ask(self, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        if self._sock is None:
            with self._entered():
                self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
            self._sock.setblocking(False)  # the kernel's reply is there when the question was sent
        form = _FORMS[":" in client[0]]
        self._sequence = sequence = self._sequence % 0x7FFFFFFF + 1
        question = form.question
        _SEQUENCE.pack_into(question, 8, sequence)
        question[form.source : form.source + form.size] = socket.inet_pton(form.family, listener[0])
        question[form.target : form.target + form.size] = socket.inet_pton(form.family, client[0])
        _PORT.pack_into(question, form.source_port, listener[1])
        _PORT.pack_into(question, form.target_port, client[1])
        self._sock.send(question)
        reply = self._sock.recv(4096)
        _, kind, _, answered, _ = NL_HEADER.unpack_from(reply)
        if answered != sequence:
            raise _UnreadError
        if kind == NLMSG_ERROR:
            if -_ERROR.unpack_from(reply, NL_HEADER.size)[0] == errno.ENOENT:
                return None
            raise _UnreadError
        # The kernel writes the tuple of the first packet first, laid out as in the question.
        if reply[_TUPLE : _TUPLE + 4] != form.original or len(reply) < len(question):
            raise _UnreadError
        address = socket.inet_ntop(form.family, reply[form.target : form.target + form.size])
        return address, _PORT.unpack_from(reply, form.target_port)[0]


class _UnreadError(Exception):
    """The reply does not have the form that is read here."""


class _Form:
    """A question for one family, and where its parts are."""

    def __init__(self, family: int, size: int) -> None:
        self.family, self.size = family, size
        body = _body(family, bytes(size), bytes(size), 0, 0, socket.IPPROTO_UDP)
        self.question = bytearray(message(_GET, NLM_F_REQUEST, 0, body))
        self.source = _TUPLE + 12
        self.target = self.source + size + 4
        self.source_port = self.target + size + 16
        self.target_port = self.source_port + 8
        self.original = attribute(_ORIGINAL | NLA_F_NESTED, bytes(len(self.question) - _TUPLE - 4))[:4]


def _first(client: tuple[str, int], server: tuple[str, int], protocol: int, source: bool) -> tuple[str, int] | None:
    """Find the flow by the packets that answer it, and return one end of its first packet."""
    v6 = ":" in client[0]
    family = socket.AF_INET6 if v6 else socket.AF_INET
    ends = (3, 4) if v6 else (1, 2)  # CTA_IP_V6_SRC, V6_DST; V4_SRC, V4_DST
    here, there = socket.inet_pton(family, server[0]), socket.inet_pton(family, client[0])
    body = _body(family, here, there, server[1], client[1], protocol)
    try:
        with Netlink(NETLINK_NETFILTER) as netlink:
            answers = netlink.ask("look up a connection", _GET, 0, body)
    except NetlinkError:
        return None
    for answer in answers:
        original: Mapping[int, bytes] = dict(attributes(dict(attributes(answer[4:])).get(_ORIGINAL, b"")))
        packed = dict(attributes(original.get(1, b""))).get(ends[not source])
        port = dict(attributes(original.get(2, b""))).get(2 if source else 3)
        if packed and port:
            return str(ipaddress.ip_address(packed)), int.from_bytes(port, "big")
    return None


def _body(family: int, source: bytes, target: bytes, source_port: int, target_port: int, protocol: int) -> bytes:
    """Return what asks for the flow whose answering packets go from `source` to `target`."""
    ends = (3, 4) if family == socket.AF_INET6 else (1, 2)  # CTA_IP_V6_SRC, V6_DST; V4_SRC, V4_DST
    addresses = nested(1, attribute(ends[0], source), attribute(ends[1], target))
    ports = nested(
        2,
        attribute(1, bytes([protocol])),
        attribute(2, struct.pack(">H", source_port)),
        attribute(3, struct.pack(">H", target_port)),
    )
    return struct.pack(">BBH", family, 0, 0) + nested(_REPLY, addresses, ports)


_FORMS = (_Form(socket.AF_INET, 4), _Form(socket.AF_INET6, 16))
