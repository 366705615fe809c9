"""What a resolver replied, sans-IO: which of its records may be kept, and for how long; a reply made from those.

Kept are the records that answer the question: the chain of CNAMEs from its name, and the records at its end; or the SOA
above the name, which says how long there is nothing (RFC 2308). Nothing else of a reply is kept, so no reply says
anything about another name than the one that was asked for. Names in records are written out, so that they can be sent
in another message.
"""

from __future__ import annotations

import ipaddress

from msgspec import Struct

from nodeproxy.codec.dns import (
    AD,
    CNAME,
    DO,
    HEADER,
    IN,
    NOERROR,
    NXDOMAIN,
    OPT,
    OWNER,
    RCODE,
    RECORD,
    SOA,
    TC,
    FormatError,
    Question,
    answer_of,
    name_of,
    record_of,
)

LONGEST = 86400  # seconds for which an answer counts as fresh, whatever it says; as in unbound
LONGEST_NEGATIVE = 900  # the same when it says that there is nothing; RFC 2308 section 5 asks for hours at most
MAX_BYTES = 8192  # of records that are kept of one reply
_MAX_RECORDS = 200  # in a reply that is read
_MAX_CHAIN = 16  # CNAMEs; CoreDNS and unbound follow about as many
_MAX_POINTERS = 16  # in one name

_RRSIG, _NSEC, _NSEC3, _DNAME, _TSIG, _SIG = 46, 47, 50, 39, 250, 24
# Where names are in the data of a type: bytes before the first one, and how many there are. Only these may be
# compressed, or were by somebody (RFC 3597 section 4).
_NAMES = {2: (0, 1), CNAME: (0, 1), SOA: (0, 2), 12: (0, 1), 15: (2, 1), 33: (6, 1), _DNAME: (0, 1)}
# Types of addresses, and how many bytes they have
_ADDRESSES = frozenset(((1, 4), (28, 16)))
# Types of the past whose names may be compressed too, and which nobody needs: MD, MF, MB, MG, MR, MINFO, RP, AFSDB, RT,
# SIG, PX, NXT, NAPTR, KX.
_NOT_READ = frozenset((3, 4, 7, 8, 9, 14, 17, 18, 21, _SIG, 26, 30, 35, 36))


class Kept(Struct, frozen=True):
    """The records of a reply that answer its question. Each is its bytes before the TTL, and those after it."""

    rcode: int
    answers: tuple[tuple[bytes, bytes], ...]
    authority: tuple[tuple[bytes, bytes], ...]
    ttl: int  # seconds; the shortest of its records
    verified: bool = False  # AD: the resolver checked signatures

    @property
    def size(self) -> int:
        """Bytes of its records."""
        return sum(len(head) + len(tail) for head, tail in (*self.answers, *self.authority))


class _Record(Struct):
    owner: bytes  # in wire form, without compression, in lower case
    rdtype: int
    ttl: int
    start: int  # of its data
    end: int
    target: bytes = b""  # of a CNAME: the name that it leads to, in the same form


def read(question: Question, reply: bytes) -> Kept | None:
    """Return what may be kept of a reply that belongs to a question; None for nothing.

    Nothing is kept of an error, of half a reply, and of one that says neither what there is nor how long there is
    nothing.
    """
    try:
        return _read(question, reply)
    except FormatError:
        return None


def replay(question: Question, kept: Kept, ttl: int, *, tcp: bool = False, options: bytes = b"") -> bytes:
    """Return what was kept as the answer to a question with the same key. `ttl`: seconds for which it is good."""
    stamp = ttl.to_bytes(4)
    answers = [b"".join((head, stamp, tail)) for head, tail in kept.answers]
    authority = [b"".join((head, stamp, tail)) for head, tail in kept.authority]
    flags = AD if kept.verified else 0
    return answer_of(question, answers, tcp=tcp, authority=authority, flags=flags, rcode=kept.rcode, options=options)


def addresses(kept: Kept) -> list[str]:
    """Return the addresses in what was kept of an answer."""
    found = []
    for head, tail in kept.answers:
        if (int.from_bytes(head[-4:-2]), len(tail) - 2) in _ADDRESSES:
            found.append(str(ipaddress.ip_address(tail[2:])))
    return found


def behind_alias(
    question: Question, host: str, kept: Kept | None, ttl: int, time: int, *, tcp: bool = False, options: bytes = b""
) -> bytes:
    """Return the answer to a question for a name that is an alias of `host`, of which `kept` was said.

    `kept` None: nothing was asked of it. `ttl`: seconds for the alias, `time` for what was kept.
    """
    target = name_of(host)
    alias = record_of(CNAME, ttl, target)
    if kept is None:
        return answer_of(question, [alias], tcp=tcp)
    stamp = time.to_bytes(4)
    answers, authority = (
        [b"".join((target + head[2:] if head.startswith(OWNER) else head, stamp, tail)) for head, tail in section]
        for section in (kept.answers, kept.authority)
    )
    return answer_of(question, [alias, *answers], tcp=tcp, authority=authority, rcode=kept.rcode, options=options)


def _read(question: Question, reply: bytes) -> Kept | None:
    _, flags, questions, answers, authorities, additional = HEADER.unpack_from(reply)
    rcode = flags & RCODE
    if flags & TC or rcode not in (NOERROR, NXDOMAIN) or questions != 1:
        return None
    if answers + authorities + additional > _MAX_RECORDS:
        return None
    at = question.end  # it repeats the question, which takes as many bytes
    said, at = _records(reply, at, answers)
    above, at = _records(reply, at, authorities)
    beside, _ = _records(reply, at, additional, any_class=True)
    # The high bits of an rcode are in OPT; a reply that is signed is signed for one client.
    if any(record.rdtype in (_TSIG, _SIG) or (record.rdtype == OPT and record.ttl >> 24) for record in beside):
        return None
    signatures = bool(question.bits >> 8 & DO)
    asked = reply[HEADER.size : question.end - 4].lower()
    chain, found, last = _follow(said, asked, question.rdtype, signatures)
    if found and rcode == NXDOMAIN:
        return None  # that it is there and that it is not
    kept = chain
    proof: list[_Record] = []
    most = LONGEST
    if not found:
        soa = next((r for r in above if r.rdtype == SOA and _is_above(r.owner, last)), None)
        if soa is None or soa.end - soa.start < 22:
            return None  # RFC 2308 section 5: without it, "there is nothing" must not be kept
        proof = [soa]
        if signatures:
            proof += [r for r in above if r.rdtype in (_RRSIG, _NSEC, _NSEC3) and _is_above(soa.owner, r.owner)]
        most = min(LONGEST_NEGATIVE, int.from_bytes(reply[soa.end - 4 : soa.end]))
    ttl = min(most, *(record.ttl for record in (*kept, *proof)))
    result = Kept(
        rcode,
        tuple(_written(reply, record, asked) for record in kept),
        tuple(_written(reply, record, asked) for record in proof),
        ttl,
        bool(flags & AD),
    )
    return result if result.size <= MAX_BYTES else None


def _follow(said: list[_Record], name: bytes, rdtype: int, signatures: bool) -> tuple[list[_Record], bool, bytes]:
    """Return the records that lead from `name` to what was asked for; whether they end there; and the last name."""
    chain: list[_Record] = []
    for _ in range(_MAX_CHAIN):
        here = [record for record in said if record.owner == name]
        if signatures:
            chain += [r for r in said if r.rdtype == _DNAME and r.owner != name and _is_above(r.owner, name)]
            chain += [r for r in here if r.rdtype == _RRSIG and rdtype != _RRSIG]
        found = [record for record in here if record.rdtype == rdtype]
        if found:
            return chain + found, True, name
        links = [record for record in here if record.rdtype == CNAME]
        if not links:
            return chain, False, name
        if len(links) > 1:
            raise FormatError("two CNAMEs for one name")  # RFC 1034 section 3.6.2
        chain += links
        name = links[0].target
    raise FormatError("a chain of CNAMEs without an end")


def _is_above(zone: bytes, name: bytes) -> bool:
    """Return whether `name` is `zone` or below it, both in wire form and lower case."""
    at = 0
    while len(name) - at > len(zone):
        at += 1 + name[at]
    return name[at:] == zone


def _records(reply: bytes, at: int, count: int, any_class: bool = False) -> tuple[list[_Record], int]:
    """Return the records of class IN of one section, and where it ends."""
    found = []
    for _ in range(count):
        owner, at = _name(reply, at)
        if at + RECORD.size > len(reply):
            raise FormatError("a record runs over the end")
        rdtype, rdclass, ttl, length = RECORD.unpack_from(reply, at)
        start = at + RECORD.size
        at = start + length
        if at > len(reply):
            raise FormatError("a record runs over the end")
        if rdclass != IN and not any_class:
            continue
        # RFC 2181 section 8: a TTL with the highest bit counts as 0. In OPT these bits mean something else.
        record = _Record(owner.lower(), rdtype, 0 if ttl >> 31 and rdtype != OPT else ttl, start, at)
        if rdtype == CNAME:
            record.target = _name(reply, start)[0].lower()
        found.append(record)
    return found, at


def _name(reply: bytes, at: int) -> tuple[bytes, int]:
    """Return the name at a place in wire form without compression, and where it ends there."""
    parts: list[bytes] = []
    size, end, pointers = 0, -1, 0
    while True:
        if at >= len(reply):
            raise FormatError("a name runs over the end")
        length = reply[at]
        if length >= 0xC0:
            if at + 2 > len(reply):
                raise FormatError("a name runs over the end")
            to = int.from_bytes(reply[at : at + 2]) & 0x3FFF
            pointers += 1
            if to >= at or pointers > _MAX_POINTERS:
                raise FormatError("a pointer that leads nowhere")  # RFC 1035 section 4.1.4: to a prior name
            end = at + 2 if end < 0 else end
            at = to
            continue
        if length > 63:
            raise FormatError("a label of an unknown kind")
        part = reply[at : at + 1 + length]
        if len(part) != 1 + length:
            raise FormatError("a name runs over the end")
        parts.append(part)
        size += len(part)
        at += len(part)
        if size > 255:
            raise FormatError("a name is longer than 255 bytes")
        if length == 0:
            return b"".join(parts), at if end < 0 else end


def _written(reply: bytes, record: _Record, asked: bytes) -> tuple[bytes, bytes]:
    """Return a record as it can be sent in another message: its bytes before the TTL, and those after it."""
    if record.rdtype in _NOT_READ:
        raise FormatError("its names may be compressed in a way that is not read")
    data = reply[record.start : record.end]
    if record.rdtype in _NAMES:
        before, names = _NAMES[record.rdtype]
        at = record.start + before
        parts = [reply[record.start : at]]
        for _ in range(names):
            name, at = _name(reply, at)
            parts.append(name)
        if at > record.end:
            raise FormatError("a name runs over the end of its record")
        parts.append(reply[at : record.end])
        data = b"".join(parts)
    owner = OWNER if record.owner == asked else record.owner
    return owner + record.rdtype.to_bytes(2) + b"\0\1", len(data).to_bytes(2) + data
