"""DNS messages, sans-IO: which questions we answer, what we answer, and whether a reply belongs to a question.

We are no name server and own no zone. A name that is a Service is answered; for every other name, kind of message or thing
we do not understand, the resolver that the workload asked knows better than we do, and `answer` says FORWARD. So nothing
here ever says NXDOMAIN: that a name is no Service does not mean that it does not exist.

The few forms that we read and write are done with `struct` (tests compare them with dnspython): one question and its answer
take 20 us, where a general library takes 500 us and 3 MiB, and libc asks up to eight questions to open one connection.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import Literal

from policy.model import Service

HEADER = struct.Struct("!6H")  # RFC 1035 section 4.1.1: id, flags, and the number of entries in each section
QUESTION = struct.Struct("!2H")  # section 4.1.2: type and class, after the name
RECORD = struct.Struct("!2HIH")  # section 4.1.3: type, class, TTL, length of the data, after the name
OWNER = b"\xc0\x0c"  # section 4.1.4: "the name in the question", which starts right after the header; so its case is kept

# Flags: RFC 1035 section 4.1.1, CD from RFC 4035 section 3.2.2.
QR, OPCODE, AA, TC, RD, RA, CD = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
RCODE = 0x000F
FORMERR, SERVFAIL, BADVERS = 1, 2, 16
A, AAAA, OPT, TSIG, ANY = 1, 28, 41, 250, 255
IN = 1

UDP_PAYLOAD = 1232  # dnsflagday.net 2020: fits an IPv6 packet of the smallest MTU; no client gets more from us over UDP
MAX_ADDRESSES = 64  # of a headless service
MAX_ADDITIONAL = 2  # OPT and TSIG; a longer section costs time to read and says nothing to us

_LABEL = re.compile(rb"[A-Za-z0-9_-]+")


class Next(enum.Enum):
    """What to do with a message that we do not answer ourselves."""

    FORWARD = enum.auto()
    DROP = enum.auto()


class FormatError(ValueError):
    """The message breaks RFC 1035 or 6891."""


def answer(
    message: bytes, lookup: Callable[[str], Service | None], ttl: int, *, tcp: bool = False
) -> bytes | Literal[Next.FORWARD, Next.DROP]:
    """Answer the question in `message`, or say what to do with it.

    `lookup` finds the Service that a name means; `ttl` (seconds) goes into the answers. Over UDP an answer is never larger than
    the client said (RFC 6891 section 6.2.3: 512 bytes when it said nothing); what does not fit is left out and TC is set.
    """
    if len(message) < HEADER.size:
        return Next.DROP
    _, flags, questions, answers, authorities, additional = HEADER.unpack_from(message)
    if flags & QR:
        return Next.DROP  # an answer to nothing that was asked here
    if flags & OPCODE or questions != 1:
        return Next.FORWARD
    try:
        labels, end = _read_name(message, HEADER.size)
        rdtype, rdclass = _unpack(QUESTION, message, end)
        if rdclass != IN or not labels or not all(_LABEL.fullmatch(label) for label in labels):
            return Next.FORWARD
        service = lookup(b".".join(labels).decode())
        if service is None:
            return Next.FORWARD
        if answers or authorities or additional > MAX_ADDITIONAL:
            raise FormatError("a question carries no answers")
        edns, signed = _read_additional(message, end + QUESTION.size, additional)
    except FormatError:
        return failure(message, FORMERR)
    if signed:
        return Next.FORWARD  # for that resolver: we could not sign an answer
    return _write(message, end + QUESTION.size, edns, tcp, _records(rdtype, service, ttl))


def failure(message: bytes, rcode: int) -> bytes:
    """An answer to `message` (at least a header long) that says only that there is none."""
    identifier, flags, questions, *_ = HEADER.unpack_from(message)
    section = _question(message) if questions == 1 else None
    flags = QR | RA | (flags & (OPCODE | RD | CD)) | rcode
    # A question that cannot be read need not be repeated.
    return HEADER.pack(identifier, flags, 1 if section else 0, 0, 0, 0) + (section or b"")


def servfail(message: bytes) -> bytes:
    """The answer to a question that we could not forward: we could not find out."""
    return failure(message, SERVFAIL)


def answers(question: bytes, reply: bytes) -> bool:
    """Does `reply` belong to `question`: same id, operation and question (RFC 5452 section 9.1), whatever the case of the name?

    An error may come back without its question. Where the question is not one question, id and operation must do.
    """
    if len(reply) < HEADER.size or reply[:2] != question[:2]:
        return False
    _, asked_flags, asked, *_ = HEADER.unpack_from(question)
    _, flags, repeated, *_ = HEADER.unpack_from(reply)
    if not flags & QR or flags & OPCODE != asked_flags & OPCODE:
        return False
    if asked != 1 or (repeated == 0 and flags & RCODE):
        return True
    section, other = _question(question), _question(reply)
    # lower() leaves the lengths of labels alone: they are at most 63, and capitals begin at 65.
    return repeated == 1 and section is not None and other is not None and section.lower() == other.lower()


def _read_name(message: bytes, start: int) -> tuple[list[bytes], int]:
    """The labels of the name at `start`, up to its end or to a pointer (which we never follow), and where it ends."""
    labels = []
    end = start
    while True:
        if end >= len(message):
            raise FormatError("a name runs over the end")
        length = message[end]
        end += 1 + length
        if length == 0:
            break
        if length > 63:
            raise FormatError("a question's name is not compressed: there is nothing before it to point to")
        labels.append(message[end - length : end])
    if end - start > 255:
        raise FormatError("a name is longer than 255 bytes")
    return labels, end


def _unpack(form: struct.Struct, message: bytes, start: int) -> tuple[int, ...]:
    if start + form.size > len(message):
        raise FormatError("a section runs over the end")
    return form.unpack_from(message, start)


def _question(message: bytes) -> bytes | None:
    """The bytes of the first question: name, type, class. None when it cannot be read."""
    try:
        _, end = _read_name(message, HEADER.size)
        _unpack(QUESTION, message, end)
    except FormatError:
        return None
    return message[HEADER.size : end + QUESTION.size]


def _read_additional(message: bytes, start: int, count: int) -> tuple[tuple[int, int] | None, bool]:
    """What the client says of EDNS (its largest UDP payload, its version), and whether it signed its question."""
    edns, signed = None, False
    for _ in range(count):
        labels, start = _read_name(message, start)
        rdtype, rdclass, ttl, length = _unpack(RECORD, message, start)
        start += RECORD.size + length
        if rdtype == OPT:
            if edns or labels:
                raise FormatError("one OPT record, of the root")  # RFC 6891 section 6.1.1
            edns = rdclass, ttl >> 16 & 0xFF
        signed = signed or rdtype == TSIG
    if start != len(message):
        raise FormatError("the message does not end where it says")
    return edns, signed


def _write(message: bytes, end: int, edns: tuple[int, int] | None, tcp: bool, records: list[bytes]) -> bytes:
    """The response to the question that ends at `end`.

    No records: no answer and no error (NODATA). There is no SOA beside it, so nobody may keep it (RFC 2308 section 5): the
    service may have such an address a moment later.
    """
    identifier, flags, *_ = HEADER.unpack_from(message)
    flags = QR | AA | RA | (flags & (RD | CD))
    payload, version = edns or (512, 0)
    rcode = BADVERS if version else 0  # RFC 6891 section 6.1.3
    # A response has EDNS exactly when the question has (section 6.1.1); the high bits of its rcode go there.
    extension = b"\0" + RECORD.pack(OPT, UDP_PAYLOAD, rcode >> 4 << 24, 0) if edns else b""
    room = (65535 if tcp else min(max(payload, 512), UDP_PAYLOAD)) - end - len(extension)
    sent: list[bytes] = []
    for record in [] if rcode else records:
        room -= len(record)
        if room < 0:
            flags |= TC  # those that fit are sent: musl before 1.2.4 does not ask again over TCP
            break
        sent.append(record)
    header = HEADER.pack(identifier, flags | rcode & RCODE, 1, len(sent), 0, 1 if edns else 0)
    return b"".join((header, message[HEADER.size : end], *sent, extension))


def _records(rdtype: int, service: Service, ttl: int) -> list[bytes]:
    """The records that answer a question for `rdtype`."""
    packed = [ip_address(address).packed for address in service.addresses or _endpoint_addresses(service)]
    for family, size in ((A, 4), (AAAA, 16)):
        found = [address for address in packed if len(address) == size]
        if found and rdtype in (family, ANY):
            # RFC 8482 section 4.1: ANY is answered with one of the record sets.
            return [OWNER + RECORD.pack(family, IN, ttl, size) + address for address in found]
    return []


def _endpoint_addresses(service: Service) -> tuple[str, ...]:
    """Of a headless service: where its endpoints are, in a steady order."""
    return tuple(sorted({endpoint.address for port in service.ports for endpoint in port.endpoints}))[:MAX_ADDRESSES]
