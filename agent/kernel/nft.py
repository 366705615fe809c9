"""Encode a symbolic ruleset as nfnetlink messages (linux/netfilter/nf_tables.h), and install it as one transaction."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable
from functools import lru_cache

from msgspec import structs

from agent.kernel.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    be32,
    nested,
    text,
)
from agent.kernel.ruleset import OURS, Match, Name, Rule, Ruleset, Set
from agent.system.cgroup import Cgroup

_SUBSYSTEM = 10 << 8
(
    NEWTABLE,
    GETTABLE,
    DELTABLE,
    NEWCHAIN,
    GETCHAIN,
    NEWRULE,
    GETRULE,
    NEWSET,
    GETSET,
    NEWSETELEM,
    GETSETELEM,
    DELSETELEM,
) = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    9,
    10,
    12,
    13,
    14,
)
_FAMILIES = {"inet": 1, "bridge": 7}  # NFPROTO_*
OWNER, PERSIST = 2, 4  # NFT_TABLE_F_*
_EXPRESSIONS = 4  # NFTA_RULE_EXPRESSIONS
# elements of a set in one message; an even number. An attribute holds 64 KiB, an IPv6 element takes up to 36 bytes
_ELEMENTS = 1000
_RULES = 256  # rules whose messages are remembered; a workload's table has about forty
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "icmpv6": socket.IPPROTO_ICMPV6}
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
# Type as the nft program shows it, length, flags (interval). An address and a port each take registers of four bytes.
_SET_KINDS = {
    "port": (13, 2, 0),
    "net4": (7, 4, 4),
    "net6": (8, 16, 4),
    "probe4": (7 << 6 | 13, 8, 0),
    "probe6": (8 << 6 | 13, 20, 0),
    "iface": (20, 4, 0),
}


def install(sock: Netlink, ruleset: Ruleset | None, owned: bool, name: Name = OURS) -> None:
    """Replace our table of that name in one transaction; `ruleset` None removes it.

    `owned`: the kernel refuses other programs' changes while `sock` is open. Raise NetlinkError that names the refused
    message; then nothing has changed.
    """
    name = ruleset.name if ruleset is not None else name
    plain = text(1, name.table)
    # Add, delete, add: so the delete never fails, and no packet meets a missing table. The first add does not mention
    # ownership, so it also succeeds on a table that another program made under our name to keep us from owning it, and
    # the delete removes that table.
    messages = [
        ("table", _kind(NEWTABLE), NLM_F_CREATE, _body(name, plain)),
        ("table (delete)", _kind(DELTABLE), 0, _body(name, plain)),
    ]
    if ruleset is not None:
        table = plain + (be32(2, OWNER | PERSIST) if owned else b"")
        messages.append(("table (new)", _kind(NEWTABLE), NLM_F_CREATE, _body(name, table)))
        for number, s in enumerate(ruleset.sets, 1):
            messages += _set(name, number, s)
        for c in ruleset.chains:
            body = plain + text(3, c.name)
            if c.type:
                body += nested(4, be32(1, _HOOKS[c.hook]), be32(2, c.priority)) + be32(5, 1) + text(7, c.type)
            messages.append((f"chain {c.name}", _kind(NEWCHAIN), NLM_F_CREATE, _body(name, body)))
        for r in ruleset.rules:
            what, encoded = _rule(r)
            messages.append((what, _kind(NEWRULE), NLM_F_CREATE | NLM_F_APPEND, _body(name, plain + encoded)))
    sock.batch(_SUBSYSTEM >> 8, messages)


def alter(sock: Netlink, name: Name, before: Iterable[Set], after: Iterable[Set]) -> None:
    """Change elements of sets that are in force, in one transaction; rules are not touched. Raise NetlinkError."""
    was = {s.name: s for s in before}
    messages: list[tuple[str, int, int, bytes]] = []
    for s in after:
        old, new = dict.fromkeys(was[s.name].elements), dict.fromkeys(s.elements)
        gone = structs.replace(s, elements=tuple(e for e in old if e not in new))
        come = structs.replace(s, elements=tuple(e for e in new if e not in old))
        messages += _elements(name, gone, DELSETELEM) + _elements(name, come, NEWSETELEM)
    if messages:
        sock.batch(_SUBSYSTEM >> 8, messages)


def add_interfaces(sock: Netlink, name: Name, set_name: str, indexes: Iterable[int]) -> None:
    """Add interface indexes to a set that is in force. Raise NetlinkError: EPERM where another program owns the table."""
    more = Set(set_name, "iface", tuple(map(str, indexes)))
    if more.elements:
        sock.batch(_SUBSYSTEM >> 8, _elements(name, more, NEWSETELEM))


def differ_in_elements(before: Ruleset | None, after: Ruleset) -> bool:
    """Return whether two rulesets differ only in elements of sets that are no ranges, so that `alter` does."""
    if before is None or [s.name for s in before.sets] != [s.name for s in after.sets]:
        return False
    if any(a != b and a.kind in ("net4", "net6") for a, b in zip(before.sets, after.sets, strict=True)):
        return False
    return structs.replace(before, sets=()) == structs.replace(after, sets=())


def interfaces(sock: Netlink, name: Name, set_name: str) -> list[int]:
    """Return the elements of a set of interface indexes; [] when there is none."""
    body = text(1, name.table) + text(2, set_name)
    found = []
    for answer in _list(sock, name, "list a set", GETSETELEM, NLM_F_DUMP, body):
        for _, element in attributes(dict(attributes(answer)).get(3, b"")):
            key = dict(attributes(dict(attributes(element)).get(1, b""))).get(1, b"")
            if len(key) == 4:
                found.append(int.from_bytes(key, sys.byteorder))
    return found


def exists(sock: Netlink, name: Name = OURS) -> bool:
    """Return whether there is a table of that name, with or without rules."""
    return bool(_list(sock, name, "the table", GETTABLE, 0, text(1, name.table)))


def held(sock: Netlink, name: Name = OURS) -> bool:
    """Return whether a program that runs owns the table of that name. Raise NetlinkError."""
    found = _list(sock, name, "the table", GETTABLE, 0, text(1, name.table))
    flags = dict(attributes(found[0])).get(2, b"") if found else b""
    return bool(int.from_bytes(flags, "big") & OWNER)


def rules(sock: Netlink, chain: str = "", name: Name = OURS) -> list[bytes]:
    """Return our rules as the kernel has them: the attributes of each."""
    return _list(
        sock, name, "list rules", GETRULE, NLM_F_DUMP, text(1, name.table) + (text(2, chain) if chain else b"")
    )


def fingerprint(sock: Netlink, name: Name = OURS) -> list[bytes]:
    """Return what is equal as long as our table is unchanged: flags, chains, set elements, and rules without counts.

    Rules alone would not reveal a table that was made dormant, or an exclusion that was added to a set.
    """
    found = _list(sock, name, "the table", GETTABLE, 0, text(1, name.table))
    wanted = name.table.encode() + b"\0"
    found += [
        chain
        for chain in _list(sock, name, "list chains", GETCHAIN, NLM_F_DUMP, b"")
        if dict(attributes(chain)).get(1) == wanted
    ]
    for rule in rules(sock, name=name):
        parts = [value for kind, value in attributes(rule) if kind != _EXPRESSIONS]
        parts += [expression for expression in _expressions_of(rule) if not _counts(expression)]
        found.append(b"".join(parts))
    for s in _list(sock, name, "list sets", GETSET, NLM_F_DUMP, text(1, name.table)):
        found += _list(
            sock, name, "list a set", GETSETELEM, NLM_F_DUMP, text(1, name.table) + attribute(2, dict(attributes(s))[2])
        )
    return found


def counted(sock: Netlink, chain: str) -> list[int]:
    """Return the packets that each counting rule of a chain has seen, in the order of the rules."""
    return [
        _packets(expression)
        for rule in rules(sock, chain)
        for expression in _expressions_of(rule)
        if _counts(expression)
    ]


def _list(sock: Netlink, name: Name, what: str, kind: int, flags: int, body: bytes) -> list[bytes]:
    """Return the attributes of each reply, without the header (generation number); [] when there is no such table."""
    try:
        return [answer[4:] for answer in sock.ask(what, _kind(kind), flags, _body(name, body))]
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return []
        raise


def _expressions_of(rule: bytes) -> list[bytes]:
    return [
        expression for kind, value in attributes(rule) if kind == _EXPRESSIONS for _, expression in attributes(value)
    ]


def _counts(expression: bytes) -> bool:
    return dict(attributes(expression)).get(1, b"").rstrip(b"\0") == b"counter"


def _packets(expression: bytes) -> int:
    data = dict(attributes(dict(attributes(expression)).get(2, b"")))
    return int.from_bytes(data.get(2, b"\0"), "big")  # NFTA_COUNTER_PACKETS


def _kind(number: int) -> int:
    return _SUBSYSTEM | number


def _body(name: Name, data: bytes) -> bytes:
    return struct.pack(">BBH", _FAMILIES[name.family], 0, 0) + data


def _set(name: Name, number: int, s: Set) -> list[tuple[str, int, int, bytes]]:
    kind, length, flags = _SET_KINDS[s.kind]
    body = text(1, name.table) + text(2, s.name) + be32(3, flags) + be32(4, kind) + be32(5, length) + be32(10, number)
    return [(f"set {s.name}", _kind(NEWSET), NLM_F_CREATE, _body(name, body)), *_elements(name, s, NEWSETELEM)]


def _elements(name: Name, s: Set, what: int) -> list[tuple[str, int, int, bytes]]:
    """Return the messages that put the elements of a set in force (NEWSETELEM), or take them away (DELSETELEM)."""
    messages = []
    keys: list[tuple[bytes, bool]] = []
    if s.kind == "port":
        keys = [(struct.pack(">H", int(e)), False) for e in s.elements]
    elif s.kind == "iface":
        keys = [(struct.pack("=I", int(e)), False) for e in s.elements]
    elif s.kind in ("probe4", "probe6"):
        for address, _, port in (e.partition(" ") for e in s.elements):
            keys.append((ipaddress.ip_address(address).packed + struct.pack(">H2x", int(port)), False))
    else:
        for network in ipaddress.collapse_addresses(map(ipaddress.ip_network, s.elements)):  # type: ignore[type-var]
            keys.append((network.network_address.packed, False))
            after = int(network.broadcast_address) + 1
            if after < 1 << network.max_prefixlen:
                keys.append((after.to_bytes(network.max_prefixlen // 8, "big"), True))
    for at in range(0, len(keys), _ELEMENTS):
        elements = [
            nested(1, *([be32(3, 1)] if end else []), nested(1, attribute(1, key)))
            for key, end in keys[at : at + _ELEMENTS]
        ]
        body = text(1, name.table) + text(2, s.name) + nested(3, *elements)
        flags = NLM_F_CREATE if what == NEWSETELEM else 0
        messages.append((f"elements of {s.name}", _kind(what), flags, _body(name, body)))
    return messages


@lru_cache(_RULES)
def _rule(rule: Rule) -> tuple[str, bytes]:
    """Return the rule in words, and its attributes without those of its table.

    They are remembered: the tables of all pods of a node have the same rules, and differ in their sets.
    """
    return f"rule {rule}", text(2, rule.chain) + nested(_EXPRESSIONS, *_expressions(rule))


def _expressions(rule: Rule) -> list[bytes]:
    out: list[bytes] = []
    for match in rule.matches:
        out += _match(match)
    if rule.verdict == "redirect":
        out += [_immediate(struct.pack(">H", rule.port)), _expression("redir", be32(1, 1))]
    elif rule.verdict == "notrack":
        out.append(_expression("notrack"))
    elif rule.verdict == "count":
        out.append(_expression("counter"))
    elif rule.verdict in ("set-bit", "clear-bit"):
        flip = rule.bit if rule.verdict == "set-bit" else 0
        out += [_meta(3), _masked(struct.pack("=I", ~rule.bit & 0xFFFFFFFF), struct.pack("=I", flip))]
        out.append(_expression("meta", be32(2, 3), be32(3, 1)))
    elif rule.verdict == "snat":
        packed = ipaddress.ip_address(rule.to).packed
        out += [_immediate(packed), _expression("nat", be32(1, 0), be32(2, 2 if len(packed) == 4 else 10), be32(3, 1))]
    elif rule.verdict in ("goto", "return"):
        code = be32(1, -4 if rule.verdict == "goto" else -5)
        verdict_data = code + (text(2, rule.to) if rule.to else b"")
        out.append(_expression("immediate", be32(1, 0), nested(2, nested(2, verdict_data))))
    elif rule.verdict == "unreachable":
        out.append(_expression("reject", be32(1, 2), attribute(2, b"\1")))  # NFT_REJECT_ICMPX_UNREACH, its PORT_UNREACH
    elif rule.verdict == "reject":
        out.append(_expression("reject", be32(1, 1), attribute(2, b"\0")))  # a TCP reset
    else:
        verdict = {"accept": 1, "drop": 0}[rule.verdict]
        out.append(_expression("immediate", be32(1, 0), nested(2, nested(2, be32(1, verdict)))))
    return out


def _match(match: Match) -> list[bytes]:
    key, value = match.key, match.value
    if isinstance(value, Cgroup):
        return [
            _expression("socket", be32(1, 3), be32(2, 1), be32(3, value.level)),
            _compare(struct.pack("=Q", value.id), match.differs),
        ]
    if isinstance(value, str):
        if key in ("oif", "iif"):
            whole = value[:-1].encode() if value.endswith("*") else value.encode().ljust(16, b"\0")
            return [_meta(7 if key == "oif" else 6), _compare(whole, match.differs)]
        if key == "proto":
            return [_meta(16), _compare(bytes([_PROTOCOLS[value]]), match.differs)]
        if key == "nfproto":
            return [_meta(15), _compare(b"\x02" if value == "ipv4" else b"\x0a")]
        if key in ("saddr", "daddr", "frame-saddr"):
            packed = ipaddress.ip_address(value).packed
            at, proto = ((12, 16), b"\x02") if len(packed) == 4 else ((8, 24), b"\x0a")
            found = [_payload(1, at[key == "daddr"], len(packed)), _compare(packed)]
            # In a bridge table every packet has the bridge protocol; there the ruleset compares the frame's type
            # instead.
            return found if key == "frame-saddr" else [_meta(15), _compare(proto), *found]
        if key == "arp-saddr":
            return [_payload(1, 14, 4), _compare(ipaddress.ip_address(value).packed)]
        if key in ("probe4-in", "probe6-in"):
            four = key == "probe4-in"
            address = _payload(1, 16, 4) if four else _payload(1, 24, 16)
            port = _payload(2, 2, 2, register=9 if four else 12)  # NFT_REG32_01, or the register sixteen bytes further
            return [
                _meta(15),
                _compare(b"\x02" if four else b"\x0a"),
                address,
                port,
                _expression("lookup", text(1, value), be32(2, 1)),
            ]
        load = {
            "oif-in": [_meta(5)],
            "iif-in": [_meta(4)],
            "frame-saddr4-in": [_payload(1, 12, 4)],
            "frame-daddr4-in": [_payload(1, 16, 4)],
            "frame-saddr6-in": [_payload(1, 8, 16)],
            "frame-daddr6-in": [_payload(1, 24, 16)],
            "port-in": [_payload(2, 2, 2)],
            "net4-in": [_meta(15), _compare(b"\x02"), _payload(1, 16, 4)],
            "net6-in": [_meta(15), _compare(b"\x0a"), _payload(1, 24, 16)],
        }[key]
        inverted = [be32(5, 1)] if match.differs else []  # NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV
        return [*load, _expression("lookup", text(1, value), be32(2, 1), *inverted)]
    if key == "mark":
        return [_meta(3), _compare(struct.pack("=I", value), match.differs)]
    if key == "bit":
        return [_meta(3), _masked(struct.pack("=I", value)), _compare(bytes(4), differs=not match.differs)]
    if key == "level":
        # if there is no such level, the rule ends
        return [_expression("socket", be32(1, 3), be32(2, 1), be32(3, value))]
    if key == "ether":
        return [_payload(0, 12, 2), _compare(struct.pack(">H", value))]
    if key == "vlan0":
        return [_payload(0, 14, 2), _masked(b"\x0f\xff"), _compare(bytes(2))]
    if key == "listener":
        return [_expression("socket", be32(1, 1), be32(2, 1)), _compare(struct.pack("=I", value))]  # NFT_SOCKET_MARK
    if key == "anybody":
        return [_expression("socket", be32(1, 1), be32(2, 1)), _masked(bytes(4)), _compare(bytes(4))]
    if key == "dport":
        return [_payload(2, 2, 2), _compare(struct.pack(">H", value), match.differs)]
    if key == "local":
        return [_expression("fib", be32(1, 1), be32(2, 3), be32(3, 2)), _compare(struct.pack("=I", 2), match.differs)]
    if key == "loopback":
        return [_meta(15), _compare(b"\x02"), _payload(1, 16, 1), _compare(b"\x7f")]
    if key == "reply":
        return [_expression("ct", be32(1, 1), be32(2, 1)), _compare(b"\x01")]
    if key == "syn":  # SYN is 2, ACK is 16
        return [_payload(2, 13, 1), _masked(b"\x12"), _compare(b"\x02", match.differs)]
    which, bits = {"dnat": (2, 0x20), "new": (0, 8)}[key]  # IPS_DST_NAT; NF_CT_STATE_BIT(IP_CT_NEW)
    return [
        _expression("ct", be32(1, 1), be32(2, which)),
        _masked(struct.pack("=I", bits)),
        _compare(bytes(4), differs=not match.differs),
    ]


def _masked(mask: bytes, flip: bytes = b"") -> bytes:
    keep, turn = nested(4, attribute(1, mask)), nested(5, attribute(1, flip or bytes(len(mask))))
    return _expression("bitwise", be32(1, 1), be32(2, 1), be32(3, len(mask)), keep, turn)


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


def _meta(key: int) -> bytes:
    return _expression("meta", be32(1, 1), be32(2, key))


def _compare(value: bytes, differs: bool = False) -> bytes:
    return _expression("cmp", be32(1, 1), be32(2, int(differs)), nested(3, attribute(1, value)))


def _immediate(value: bytes) -> bytes:
    return _expression("immediate", be32(1, 1), nested(2, attribute(1, value)))


def _payload(base: int, offset: int, length: int, register: int = 1) -> bytes:
    return _expression("payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, length))
