"""DNS messages, sans-IO: questions, answers to them, and whether a reply belongs to a question.

Questions are read here, and answers written; `dns_reply.py` reads what a resolver replied.

The few forms that are read and written use `struct` (tests compare them with dnspython). One question and its answer
take 20 us, where a general library takes 500 us and 3 MiB, and libc asks up to eight questions to open one connection.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Literal

from msgspec import Struct

HEADER = struct.Struct("!6H")  # RFC 1035 section 4.1.1: id, flags, and the number of entries in each section
QUESTION = struct.Struct("!2H")  # section 4.1.2: type and class, after the name
RECORD = struct.Struct("!2HIH")  # section 4.1.3: type, class, TTL, length of the data, after the name
OWNER = (
    b"\xc0\x0c"  # section 4.1.4: "the name in the question", which starts right after the header; so its case is kept
)
_OPTION = struct.Struct("!2H")  # RFC 6891 section 6.1.2: code and length

# Flags: RFC 1035 section 4.1.1, AD and CD from RFC 4035 section 3.2; DO is in the TTL of OPT (RFC 3225).
QR, OPCODE, AA, TC, RD, RA, AD, CD = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
DO = 0x8000
RCODE = 0x000F
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, BADVERS = 0, 1, 2, 3, 16
A, CNAME, SOA, PTR, AAAA, SRV, OPT, TSIG, ANY = 1, 5, 6, 12, 28, 33, 41, 250, 255
META = range(128, 256)  # RFC 6895 section 3.1: types of questions, not of data
IN = 1

UDP_PAYLOAD = 1232  # dnsflagday.net 2020: fits an IPv6 packet of the smallest MTU; no client gets more over UDP
MAX_ADDRESSES = 64  # of a headless Service, in each family
MAX_ADDITIONAL = 2  # OPT and TSIG; a longer section takes time to read and contains nothing of use

# EDNS options that concern one client and one resolver, and no answer: cookie, keepalive of TCP, padding.
_BETWEEN_TWO = frozenset((10, 11, 12))
STALE = b"\x00\x0f\x00\x02\x00\x03"  # RFC 8914: extended error 3, "stale answer"

_LABEL = re.compile(rb"[A-Za-z0-9_-]+")


class Next(enum.Enum):
    """What to do with a message that edgemesh does not answer itself."""

    FORWARD = enum.auto()
    LOOK_UP = enum.auto()  # the answer depends on what is found for another name
    DROP = enum.auto()


class FormatError(ValueError):
    """The message violates RFC 1035 or 6891."""


class Question(Struct):
    """One question of class IN, for a name of letters, digits, "-" and "_"."""

    message: bytes
    end: int  # where the question ends, and what is beside it begins
    name: str  # as it was written, without the final dot
    rdtype: int
    edns: tuple[int, int] | None = None  # the client's largest UDP payload, and its version
    bits: int = 0  # what the answer depends on beside name and type: AD, CD, and DO shifted by 8
    malformed: bool = False  # what comes beside the question violates RFC 1035 or 6891
    signed: bool = False  # only the resolver that was asked can sign the answer
    common: bool = False  # whoever asks this gets the same answer, so that it may be kept

    @property
    def key(self) -> tuple[str, int, int]:
        """What two questions have in common that have the same answer."""
        return self.name.lower(), self.rdtype, self.bits

    @property
    def twin(self) -> bytes:
        """What two questions have in common that may get the same bytes as a reply, except for id and case."""
        return self.message[2:12] + self.message[12 : self.end - 4].lower() + self.message[self.end - 4 :]


def read(message: bytes) -> Question | Literal[Next.FORWARD, Next.DROP] | bytes:
    """Return the question in `message`; or what to do with the message, or what to reply to it, when it has none.

    Messages of another kind, and names and classes that no Service has, are for the resolver that was asked: FORWARD.
    """
    if len(message) < HEADER.size:
        return Next.DROP
    _, flags, questions, answers, authorities, additional = HEADER.unpack_from(message)
    if flags & QR:
        return Next.DROP  # an answer to no question of this side
    if flags & OPCODE or questions != 1:
        return Next.FORWARD
    try:
        labels, end = _read_name(message, HEADER.size)
        rdtype, rdclass = _unpack(QUESTION, message, end)
    except FormatError:
        return failure(message, FORMERR)
    for label in labels:
        if not _LABEL.fullmatch(label):
            return Next.FORWARD
    if rdclass != IN or not labels:
        return Next.FORWARD
    end += QUESTION.size
    question = Question(message, end, b".".join(labels).decode(), rdtype, None, flags & (AD | CD))
    if answers or authorities or additional > MAX_ADDITIONAL:
        question.malformed = True  # a question carries no answers
        return question
    plain = True
    if additional or end != len(message):
        try:
            plain = _read_additional(question, end, additional)
        except FormatError:
            question.malformed = True
            return question
    question.common = plain and bool(flags & RD) and rdtype not in META and rdtype != OPT and not question.signed
    return question


def answer_of(
    question: Question,
    records: Sequence[bytes],
    *,
    tcp: bool = False,
    authority: Sequence[bytes] = (),
    flags: int = AA,
    rcode: int = NOERROR,
    options: bytes = b"",
) -> bytes:
    """Return the answer to a question. Over UDP it is never larger than the client's limit (RFC 6891 section 6.2.3: 512
    bytes if it sent none). Records that do not fit are left out, and TC is set.

    `authority`: records that say why there is no answer. `options`: of EDNS, for clients that have it.
    """
    if question.malformed:
        return failure(question.message, FORMERR)
    message, end = question.message, question.end
    identifier, asked, *_ = HEADER.unpack_from(message)
    flags |= QR | RA | (asked & (RD | CD))
    payload, version = question.edns or (512, 0)
    extension = b""
    if question.edns:
        if version:
            rcode, records, authority = BADVERS, (), ()  # RFC 6891 section 6.1.3
        # A response has EDNS exactly if the question has (section 6.1.1). EDNS carries the high bits of the rcode, and
        # DO comes back as it was (RFC 3225 section 3).
        extension = b"\0" + RECORD.pack(OPT, UDP_PAYLOAD, rcode >> 4 << 24 | question.bits >> 8, len(options)) + options
    room = (65535 if tcp else min(max(payload, 512), UDP_PAYLOAD)) - end - len(extension)
    answers, authorities = len(records), len(authority)
    body = b"".join((*records, *authority))
    if len(body) > room:
        flags |= TC  # records that fit are sent: musl before 1.2.4 does not ask again over TCP
        sent: list[bytes] = []
        for record in records:
            room -= len(record)
            if room < 0:
                break
            sent.append(record)
        answers, authorities, body = len(sent), 0, b"".join(sent)
    header = HEADER.pack(identifier, flags | rcode & RCODE, 1, answers, authorities, 1 if question.edns else 0)
    return b"".join((header, message[HEADER.size : end], body, extension))


def addresses_of(rdtype: int, addresses: Iterable[str], ttl: int, owner: bytes = OWNER) -> list[bytes]:
    """Return the address records that answer a question for `rdtype`. `ttl`: seconds."""
    packed = [ip_address(address).packed for address in addresses]
    for family, size in ((A, 4), (AAAA, 16)):
        found = [address for address in packed if len(address) == size][:MAX_ADDRESSES]
        if found and rdtype in (family, ANY):
            # RFC 8482 section 4.1: the answer to ANY is one of the record sets.
            return [owner + RECORD.pack(family, IN, ttl, size) + address for address in found]
    return []


def name_of(host: str) -> bytes:
    """Return a name in wire form."""
    return b"".join(len(label).to_bytes(1) + label.encode() for label in host.rstrip(".").split(".")) + b"\0"


def record_of(rdtype: int, ttl: int, data: bytes, owner: bytes = OWNER) -> bytes:
    return owner + RECORD.pack(rdtype, IN, ttl, len(data)) + data


def service_record(host: str, port: int, ttl: int) -> bytes:
    """Return an SRV record: priority 0, weight 100, as CoreDNS has them."""
    return record_of(SRV, ttl, struct.pack("!3H", 0, 100, port) + name_of(host))


def authority_of(domain: str, ttl: int) -> bytes:
    """Return the SOA record that says for how long there is nothing below `domain`: `ttl` seconds."""
    times = struct.pack("!5I", 1, 7200, 1800, 86400, ttl)  # serial, refresh, retry, expire, minimum
    data = name_of(f"ns.dns.{domain}") + name_of(f"hostmaster.{domain}") + times
    return record_of(SOA, ttl, data, name_of(domain))


def asks_for(host: str, rdtype: int, identifier: int) -> bytes:
    """Return a question of our own for another name."""
    extension = b"\0" + RECORD.pack(OPT, UDP_PAYLOAD, 0, 0)
    return HEADER.pack(identifier, RD, 1, 0, 0, 1) + name_of(host) + QUESTION.pack(rdtype, IN) + extension


def failure(message: bytes, rcode: int) -> bytes:
    """Return an answer to `message` (at least a header long) that contains no records, only `rcode`."""
    identifier, flags, questions, *_ = HEADER.unpack_from(message)
    section = _question(message) if questions == 1 else None
    flags = QR | RA | (flags & (OPCODE | RD | CD)) | rcode
    # The answer need not repeat a question that cannot be read.
    return HEADER.pack(identifier, flags, 1 if section else 0, 0, 0, 0) + (section or b"")


def servfail(message: bytes) -> bytes:
    """Return the answer to a question that could not be forwarded: SERVFAIL."""
    return failure(message, SERVFAIL)


def answers(question: bytes, reply: bytes) -> bool:
    """Return whether `reply` belongs to `question`: same id, operation and question (RFC 5452 section 9.1), ignoring
    the case of the name.

    An error may come back without its question. Then, and if `question` does not contain exactly one question, id and
    operation must suffice.
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
    if repeated != 1 or section is None or other is None:
        return False
    # lower() does not change the lengths of labels: they are at most 63, and capitals begin at 65.
    return section[-4:] == other[-4:] and section[:-4].lower() == other[:-4].lower()


def readdressed(reply: bytes, question: Question) -> bytes:
    """Return a reply to the twin of `question` as a reply to it: with its id, and its name in its case."""
    body = reply[2:]
    if reply[4:6] == b"\0\1":
        body = reply[2:12] + question.message[12 : question.end] + reply[question.end :]
    return question.message[:2] + body


def _read_name(message: bytes, start: int) -> tuple[list[bytes], int]:
    """Return the labels of the name at `start`, and where it ends: at its end, or at a pointer (never followed)."""
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
    """Return the bytes of the first question: name, type, class; None if it cannot be read."""
    try:
        _, end = _read_name(message, HEADER.size)
        _unpack(QUESTION, message, end)
    except FormatError:
        return None
    return message[HEADER.size : end + QUESTION.size]


def _read_additional(question: Question, start: int, count: int) -> bool:
    """Read what comes after the question into it. Return whether it is nothing that an answer might depend on."""
    plain, message = True, question.message
    for _ in range(count):
        labels, start = _read_name(message, start)
        rdtype, rdclass, ttl, length = _unpack(RECORD, message, start)
        start += RECORD.size
        if rdtype == OPT:
            if question.edns or labels:
                raise FormatError("one OPT record, of the root")  # RFC 6891 section 6.1.1
            question.edns = rdclass, ttl >> 16 & 0xFF
            question.bits |= (ttl & DO) << 8
            plain = plain and not question.edns[1] and (not length or _between_two(message[start : start + length]))
        else:
            plain = False
            question.signed = question.signed or rdtype == TSIG
        start += length
    if start != len(message):
        raise FormatError("the message does not end where it says")
    return plain


def _between_two(options: bytes) -> bool:
    """Return whether no option of EDNS can have an influence on the answer."""
    at = 0
    while at + _OPTION.size <= len(options):
        code, length = _OPTION.unpack_from(options, at)
        if code not in _BETWEEN_TWO:
            return False
        at += _OPTION.size + length
    return at == len(options)
