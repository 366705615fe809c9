"""A symbolic ruleset becomes nfnetlink messages (linux/netfilter/nf_tables.h), put in force as one transaction."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

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
from nodeproxy.ruleset import TABLE, Cgroup, Match, Rule, Ruleset, Set

_SUBSYSTEM = 10 << 8
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, NEWRULE, GETRULE, NEWSET, GETSET, NEWSETELEM, GETSETELEM = (
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
)
_INET = 1
OWNER, PERSIST = 2, 4  # NFT_TABLE_F_*
_EXPRESSIONS = 4  # NFTA_RULE_EXPRESSIONS
_ELEMENTS = 1000  # of a set in one message, even: an attribute holds 64 KiB, and an IPv6 element takes up to 36 bytes
_HOOKS = {"prerouting": 0, "input": 1, "output": 3}
_SET_KINDS = {"port": (13, 2, 0), "net4": (7, 4, 4), "net6": (8, 16, 4)}  # type for the nft program, length, flags (interval)


def install(sock: Netlink, ruleset: Ruleset | None, owned: bool) -> None:
    """Replace our table in one transaction; None takes it away. `owned`: foreign changes are refused while `sock` is open.

    Raises NetlinkError that names what was refused; nothing has changed then.
    """
    plain = text(1, TABLE)
    # Add, delete, add: the delete never fails, and no packet sees the table missing. The first add says nothing of ownership,
    # so that a table that somebody made under our name before us, to keep us from owning it, goes as well.
    messages = [("table", _kind(NEWTABLE), NLM_F_CREATE, _body(plain)), ("table (delete)", _kind(DELTABLE), 0, _body(plain))]
    if ruleset is not None:
        table = plain + (be32(2, OWNER | PERSIST) if owned else b"")
        messages.append(("table (new)", _kind(NEWTABLE), NLM_F_CREATE, _body(table)))
        for number, s in enumerate(ruleset.sets, 1):
            messages += _set(number, s)
        for c in ruleset.chains:
            hook = nested(4, be32(1, _HOOKS[c.hook]), be32(2, c.priority))
            body = plain + text(3, c.name) + hook + be32(5, 1) + text(7, c.type)
            messages.append((f"chain {c.name}", _kind(NEWCHAIN), NLM_F_CREATE, _body(body)))
        for r in ruleset.rules:
            body = plain + text(2, r.chain) + nested(4, *_expressions(r))
            messages.append((f"rule {r}", _kind(NEWRULE), NLM_F_CREATE | NLM_F_APPEND, _body(body)))
    sock.batch(_SUBSYSTEM >> 8, messages)


def exists(sock: Netlink) -> bool:
    """Is there a table of our name, with rules or without?"""
    return bool(_list(sock, "the table", GETTABLE, 0, text(1, TABLE)))


def rules(sock: Netlink, chain: str = "") -> list[bytes]:
    """Our rules as the kernel has them: the attributes of each."""
    return _list(sock, "list rules", GETRULE, NLM_F_DUMP, text(1, TABLE) + (text(2, chain) if chain else b""))


def fingerprint(sock: Netlink) -> list[bytes]:
    """What is equal as long as our table is: its flags, chains, rules and set elements; not what its rules have counted.

    Rules alone would not tell a table that was made dormant, nor an exclusion that was added to a set.
    """
    found = _list(sock, "the table", GETTABLE, 0, text(1, TABLE))
    name = TABLE.encode() + b"\0"
    found += [chain for chain in _list(sock, "list chains", GETCHAIN, NLM_F_DUMP, b"") if dict(attributes(chain)).get(1) == name]
    for rule in rules(sock):
        parts = [value for kind, value in attributes(rule) if kind != _EXPRESSIONS]
        parts += [expression for expression in _expressions_of(rule) if not _counts(expression)]
        found.append(b"".join(parts))
    for s in _list(sock, "list sets", GETSET, NLM_F_DUMP, text(1, TABLE)):
        found += _list(sock, "list a set", GETSETELEM, NLM_F_DUMP, text(1, TABLE) + attribute(2, dict(attributes(s))[2]))
    return found


def counted(sock: Netlink, chain: str) -> list[int]:
    """Packets that each counting rule of a chain has seen, in the order of the rules."""
    return [_packets(expression) for rule in rules(sock, chain) for expression in _expressions_of(rule) if _counts(expression)]


def _list(sock: Netlink, what: str, kind: int, flags: int, body: bytes) -> list[bytes]:
    """The attributes of each answer, without the header with the generation number; nothing when there is no such table."""
    try:
        return [answer[4:] for answer in sock.ask(what, _kind(kind), flags, _body(body))]
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return []
        raise


def _expressions_of(rule: bytes) -> list[bytes]:
    return [expression for kind, value in attributes(rule) if kind == _EXPRESSIONS for _, expression in attributes(value)]


def _counts(expression: bytes) -> bool:
    return dict(attributes(expression)).get(1, b"").rstrip(b"\0") == b"counter"


def _packets(expression: bytes) -> int:
    data = dict(attributes(dict(attributes(expression)).get(2, b"")))
    return int.from_bytes(data.get(2, b"\0"), "big")  # NFTA_COUNTER_PACKETS


def _kind(number: int) -> int:
    return _SUBSYSTEM | number


def _body(data: bytes) -> bytes:
    return struct.pack(">BBH", _INET, 0, 0) + data


def _set(number: int, s: Set) -> list[tuple[str, int, int, bytes]]:
    kind, length, flags = _SET_KINDS[s.kind]
    body = text(1, TABLE) + text(2, s.name) + be32(3, flags) + be32(4, kind) + be32(5, length) + be32(10, number)
    messages = [(f"set {s.name}", _kind(NEWSET), NLM_F_CREATE, _body(body))]
    keys: list[tuple[bytes, bool]] = []
    if s.kind == "port":
        keys = [(struct.pack(">H", int(e)), False) for e in s.elements]
    else:
        for network in ipaddress.collapse_addresses(map(ipaddress.ip_network, s.elements)):  # type: ignore[type-var]
            keys.append((network.network_address.packed, False))
            after = int(network.broadcast_address) + 1
            if after < 1 << network.max_prefixlen:
                keys.append((after.to_bytes(network.max_prefixlen // 8, "big"), True))
    for at in range(0, len(keys), _ELEMENTS):
        elements = [nested(1, *([be32(3, 1)] if end else []), nested(1, attribute(1, key))) for key, end in keys[at : at + _ELEMENTS]]
        body = text(1, TABLE) + text(2, s.name) + nested(3, *elements)
        messages.append((f"elements of {s.name}", _kind(NEWSETELEM), NLM_F_CREATE, _body(body)))
    return messages


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
    elif rule.verdict == "reject":
        out.append(_expression("reject", be32(1, 1), attribute(2, b"\0")))  # a TCP reset
    else:
        verdict = {"accept": 1, "drop": 0}[rule.verdict]
        out.append(_expression("immediate", be32(1, 0), nested(2, nested(2, be32(1, verdict)))))
    return out


def _match(match: Match) -> list[bytes]:
    key, value = match.key, match.value
    if isinstance(value, Cgroup):
        return [_expression("socket", be32(1, 3), be32(2, 1), be32(3, value.level)), _compare(struct.pack("=Q", value.id), match.differs)]
    if isinstance(value, str):
        if key in ("oif", "iif"):
            return [_meta(7 if key == "oif" else 6), _compare(value.encode().ljust(16, b"\0"), match.differs)]
        if key == "proto":
            return [_meta(16), _compare(bytes([{"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}[value]]))]
        load = {
            "port-in": [_payload(2, 2, 2)],
            "net4-in": [_meta(15), _compare(b"\x02"), _payload(1, 16, 4)],
            "net6-in": [_meta(15), _compare(b"\x0a"), _payload(1, 24, 16)],
        }[key]
        return [*load, _expression("lookup", text(1, value), be32(2, 1))]
    if key == "mark":
        return [_meta(3), _compare(struct.pack("=I", value), match.differs)]
    if key == "listener":
        return [_expression("socket", be32(1, 1), be32(2, 1)), _compare(struct.pack("=I", value))]  # NFT_SOCKET_MARK
    if key == "anybody":
        return [_expression("socket", be32(1, 1), be32(2, 1)), _masked(bytes(4)), _compare(bytes(4))]
    if key == "dport":
        return [_payload(2, 2, 2), _compare(struct.pack(">H", value), match.differs)]
    if key == "local":
        return [_expression("fib", be32(1, 1), be32(2, 3), be32(3, 2)), _compare(struct.pack("=I", 2))]
    if key == "reply":
        return [_expression("ct", be32(1, 1), be32(2, 1)), _compare(b"\x01")]
    if key == "syn":  # SYN is 2, ACK is 16
        return [_payload(2, 13, 1), _masked(b"\x12"), _compare(b"\x02", match.differs)]
    which, bits = {"dnat": (2, 0x20), "new": (0, 8)}[key]  # IPS_DST_NAT; NF_CT_STATE_BIT(IP_CT_NEW)
    return [_expression("ct", be32(1, 1), be32(2, which)), _masked(struct.pack("=I", bits)), _compare(bytes(4), differs=not match.differs)]


def _masked(mask: bytes) -> bytes:
    keep, flip = nested(4, attribute(1, mask)), nested(5, attribute(1, bytes(len(mask))))
    return _expression("bitwise", be32(1, 1), be32(2, 1), be32(3, len(mask)), keep, flip)


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


def _meta(key: int) -> bytes:
    return _expression("meta", be32(1, 1), be32(2, key))


def _compare(value: bytes, differs: bool = False) -> bytes:
    return _expression("cmp", be32(1, 1), be32(2, int(differs)), nested(3, attribute(1, value)))


def _immediate(value: bytes) -> bytes:
    return _expression("immediate", be32(1, 1), nested(2, attribute(1, value)))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", be32(1, 1), be32(2, base), be32(3, offset), be32(4, length))
