"""Raw netlink with the standard library only: attributes, batches with a reply for each message, dumps."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND, NLM_F_DUMP = (
    1,
    4,
    0x10,
    0x200,
    0x400,
    0x800,
    0x300,
)
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
NL_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_WAIT = 5.0  # seconds to wait for the kernel's reply
_TRIES = 5  # tries of a dump, when what is listed changes meanwhile
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10  # linux/netlink.h: an error reply does not repeat the whole message
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # linux/netfilter/nfnetlink.h
# asm-generic/socket.h: exceeds net.core.wmem_max, which would hold the rules of about thirty units
_SO_SNDBUFFORCE = 32


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
    return NL_HEADER.pack(NL_HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Yield (type, flags, sequence, port, body) of every message in one datagram."""
    at = 0
    while at + NL_HEADER.size <= len(data):
        length, kind, flags, sequence, port = NL_HEADER.unpack_from(data, at)
        if length < NL_HEADER.size:
            return
        yield kind, flags, sequence, port, data[at + NL_HEADER.size : at + length]
        at += (length + 3) & ~3


class Netlink:
    """One netlink socket, in the network namespace that the calling thread is in when it is made."""

    def __init__(self, protocol: int, groups: int = 0, kept: socket.socket | None = None) -> None:
        """`kept`: a netlink socket of an earlier daemon, ours from now on with all that it owns."""
        # A late reply to the earlier owner's request must not be taken for a reply to ours.
        self._sequence = 0 if kept is None else time.time_ns() >> 10 & 0x7FFFFFFF
        if kept is not None:
            self.sock = kept
            self.sock.settimeout(_WAIT)
            self.port: int = self.sock.getsockname()[0]
            return
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self._open(groups)
        except OSError:
            self.sock.close()
            raise

    def _open(self, groups: int) -> None:
        self.sock.settimeout(0 if groups else _WAIT)  # a socket that only receives notifications never blocks
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        # the kernel grants up to twice net.core.wmem_max
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 20)
        with contextlib.suppress(OSError):  # without root, that limit stays in force
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 16 << 20)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self.sock.bind((0, groups))
        self.port = self.sock.getsockname()[0]

    def _numbers(self, count: int) -> int:
        """Reserve `count` new sequence numbers and return the first.

        No earlier message had one of them, so late replies to earlier messages are ignored.
        """
        first = self._sequence + 1 if self._sequence + count < 1 << 32 else 1
        self._sequence = first + count - 1
        return first

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def heard(self, own: int = -1) -> bool:
        """Return whether a socket other than that of port `own` caused a notification since the last call.

        Never blocks.

        For sockets that are members of multicast groups.
        """
        found = False
        while True:
            try:
                data = self.sock.recv(1 << 16)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True  # there were more notifications than the buffer holds
                continue
            found = found or any(port != own for _, _, _, port, _ in messages(data))

    def ask(self, what: str, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send one message and wait for its replies. Raise NetlinkError."""
        for _ in range(_TRIES):
            found, whole = self._ask(what, kind, flags, body)
            if whole:
                return found
        raise NetlinkError(errno.EINTR, what)

    def _ask(self, what: str, kind: int, flags: int, body: bytes) -> tuple[list[bytes], bool]:
        """Return the replies, and whether nothing changed while they were listed."""
        number = self._numbers(1)
        self.sock.sendto(message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, number, body), (0, 0))
        found: list[bytes] = []
        whole = True
        while True:
            for got, got_flags, sequence, _, payload in messages(self.sock.recv(1 << 18)):
                if sequence != number:
                    continue
                whole = whole and not got_flags & NLM_F_DUMP_INTR
                if got == NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", payload)
                    if error:
                        raise NetlinkError(-error, what)
                    return found, whole
                if got == NLMSG_DONE:
                    return found, whole
                found.append(payload)

    def batch(self, subsystem: int, wanted: list[tuple[str, int, int, bytes]]) -> None:
        """Send (what, type, flags, body) messages as one transaction: all take effect or none.

        Raise NetlinkError for the first that the kernel refused. The kernel always reports refusals. An acknowledgement
        is requested for the last message only, because the replies to a thousand messages would not fit into the
        socket's buffer.
        """
        edge = struct.pack(">BBH", 0, 0, subsystem)
        begin = self._numbers(len(wanted) + 2)
        last = begin + len(wanted)
        out = [message(_BATCH_BEGIN, NLM_F_REQUEST, begin, edge)]
        for number, (_, kind, flags, body) in enumerate(wanted, begin + 1):
            out.append(message(kind, NLM_F_REQUEST | flags | (NLM_F_ACK if number == last else 0), number, body))
        out.append(message(_BATCH_END, NLM_F_REQUEST, last + 1, edge))
        self.sock.sendto(b"".join(out), (0, 0))
        refused: NetlinkError | None = None
        while True:
            try:
                answers = self.sock.recv(1 << 18)
            except OSError as error:
                if error.errno == errno.ENOBUFS and refused is not None:
                    raise refused from error  # there were more refusals than the buffer holds
                raise
            for got, _, sequence, _, payload in messages(answers):
                if got != NLMSG_ERROR or not begin <= sequence <= last + 1:
                    continue
                (number,) = struct.unpack_from("=i", payload)
                if number and refused is None:
                    refused = NetlinkError(
                        -number, wanted[sequence - begin - 1][0] if begin < sequence <= last else "the batch"
                    )
                if refused is not None and sequence in (begin, last + 1):
                    raise refused
                if sequence == last:
                    if refused is not None:
                        raise refused
                    return
