"""Raw netlink in the standard library: attributes, one batch with an answer for each message, dumps."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND, NLM_F_DUMP = 1, 4, 0x200, 0x400, 0x800, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_WAIT = 5.0  # seconds for the kernel's answer


class NetlinkError(OSError):
    """The kernel refused a message; `what` names the message."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, os.strerror(number), what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what}: {self.strerror}"


def attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


class Netlink:
    """One netlink socket in the network namespace that the calling thread is in when it is made."""

    def __init__(self, protocol: int, groups: int = 0) -> None:
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self.sock.settimeout(_WAIT)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind((0, groups))

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def _messages(self) -> Iterator[tuple[int, int, bytes]]:
        """(type, sequence, body) of every message in one datagram."""
        data = self.sock.recv(1 << 18)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size:
                return
            yield kind, sequence, data[at + _HEADER.size : at + length]
            at += (length + 3) & ~3

    def ask(self, what: str, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send one message and wait for its answers. Raises NetlinkError."""
        self.sock.sendto(message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, body), (0, 0))
        found: list[bytes] = []
        while True:
            for got, _, payload in self._messages():
                if got == NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", payload)
                    if error:
                        raise NetlinkError(-error, what)
                    return found
                if got == NLMSG_DONE:
                    return found
                found.append(payload)

    def batch(self, begin: bytes, end: bytes, messages: list[tuple[str, int, int, bytes]]) -> None:
        """Send (what, type, flags, body) messages as one transaction: all take effect or none. Raises NetlinkError for the first refused."""
        out = [begin]
        out += [message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, i, body) for i, (_, kind, flags, body) in enumerate(messages, 1)]
        self.sock.sendto(b"".join([*out, end]), (0, 0))
        answered = 0
        refused: NetlinkError | None = None
        while answered < len(messages):
            for got, sequence, payload in self._messages():
                if got != NLMSG_ERROR:
                    continue
                answered += 1
                (error,) = struct.unpack_from("=i", payload)
                if error and refused is None:
                    what = messages[sequence - 1][0] if 0 < sequence <= len(messages) else "the batch"
                    refused = NetlinkError(-error, what)
                    if not 0 < sequence <= len(messages):
                        raise refused
        if refused is not None:
            raise refused
