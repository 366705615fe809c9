"""The ruleset as messages for the kernel: read back by structure. What the kernel makes of them is in tests/netns/test_table.py."""

import errno
import ipaddress
import struct

import pytest

from agent.kernel import nft
from agent.kernel.netlink import NetlinkError, attribute, attributes, be32, nested, text
from agent.kernel.ruleset import GATE, Chain, Match, Rule, Ruleset, Set, workload_ruleset
from agent.system.cgroup import Cgroup
from nodeproxy.capture import Marks, Ports
from policy.model import Exclusions


class Kernel:
    """Takes batches, and tells the rules, and whatever else there is by kind of message, that it was given to tell."""

    def __init__(self, rules=(), **others):
        self.messages, self.rules = [], list(rules)
        self.others = {getattr(nft, kind): found for kind, found in others.items()}

    def batch(self, subsystem, messages):
        assert subsystem == 10
        self.messages = messages

    def ask(self, what, kind, flags, body):
        if kind & 0xFF != nft.GETRULE:
            return self.others.get(kind & 0xFF, [])
        if isinstance(self.rules[0], OSError):
            raise self.rules[0]
        return self.rules


def sent(ruleset, owned=False):
    kernel = Kernel()
    nft.install(kernel, ruleset, owned)
    return kernel.messages


def expressions(*matches, verdict="accept", port=0):
    """The expressions of one rule: (name, {attribute: bytes})."""
    messages = sent(Ruleset((), (), (Rule("c", matches, verdict, port),)))
    body = dict(attributes(messages[-1][3][4:]))
    found = []
    for _, expression in attributes(body[4]):
        parts = dict(attributes(expression))
        found.append((parts[1].rstrip(b"\0").decode(), dict(attributes(parts.get(2, b"")))))
    return found


def compared(expression):
    """(operator, bytes) of a comparison."""
    name, data = expression
    assert name == "cmp"
    return int.from_bytes(data[2], "big"), dict(attributes(data[3]))[1]


def test_a_table_is_replaced_and_never_missing():
    messages = sent(Ruleset((Chain("out", "nat", "output", -100),), (), ()), owned=True)
    assert [(what, kind & 0xFF) for what, kind, _, _ in messages] == [
        ("table", 0),
        ("table (delete)", 2),
        ("table (new)", 0),
        ("chain out", 3),
    ]
    plain = struct.pack(">BBH", 1, 0, 0) + text(1, "edgemesh")
    assert messages[0][3] == plain, "whatever table is there is met, also one that cannot become owned"
    assert messages[2][3] == plain + be32(2, 6), "OWNER and PERSIST, never OWNER alone"
    chain = dict(attributes(messages[3][3][4:]))
    assert chain[3] == b"out\0"
    assert dict(attributes(chain[4])) == {1: struct.pack(">I", 3), 2: struct.pack(">i", -100)}
    assert chain[5] == struct.pack(">I", 1), "what no rule decides passes"


def test_a_table_that_is_not_owned_has_no_flags():
    assert sent(Ruleset((), (), ()))[2][3] == struct.pack(">BBH", 1, 0, 0) + text(1, "edgemesh")
    assert [what for what, *_ in sent(None)] == ["table", "table (delete)"]


@pytest.mark.parametrize(("differs", "operator"), [(False, 0), (True, 1)])
def test_comparisons(differs, operator):
    for key, value, expected in (
        ("mark", 0x6D6E0001, struct.pack("=I", 0x6D6E0001)),
        ("dport", 53, b"\0\x35"),
        ("oif", "lo", b"lo" + bytes(14)),
        ("iif", "veth*", b"veth"),
        ("proto", "icmpv6", b"\x3a"),
    ):
        _, compare, _ = expressions(Match(key, value, differs))
        assert compared(compare) == (operator, expected)
    _, (name, lookup), _ = expressions(Match("iif-in", "known", differs))
    assert (name, lookup.get(5)) == ("lookup", struct.pack(">I", 1) if differs else None)


def test_a_cgroup():
    found, compare, _ = expressions(Match("cgroup", Cgroup(2, 0x1234)))
    assert found == ("socket", {1: b"\0\0\0\3", 2: b"\0\0\0\1", 3: b"\0\0\0\2"})
    assert compared(compare) == (0, struct.pack("=Q", 0x1234))


def test_bits_are_masked_and_turned_around():
    for key, bits in (("new", 8), ("dnat", 0x20)):
        for differs in (False, True):
            _, mask, compare, _ = expressions(Match(key, 0, differs))
            assert dict(attributes(mask[1][4]))[1] == struct.pack("=I", bits)
            assert compared(compare) == (0 if differs else 1, bytes(4))


@pytest.mark.parametrize(
    ("verdict", "names"),
    [("reject", ["reject"]), ("notrack", ["notrack"]), ("count", ["counter"]), ("drop", ["immediate"])],
)
def test_verdicts(verdict, names):
    assert [name for name, _ in expressions(verdict=verdict)] == names


def test_a_redirect_carries_its_port():
    load, redirect = expressions(verdict="redirect", port=15001)
    assert dict(attributes(load[1][2]))[1] == struct.pack(">H", 15001)
    assert redirect[0] == "redir"


def elements(s):
    found = []
    for what, _, _, body in sent(Ruleset((), (s,), ())):
        if what.startswith("elements"):
            assert len(body) < 1 << 16
            for _, element in attributes(dict(attributes(body[4:]))[3]):
                parts = dict(attributes(element))
                found.append((dict(attributes(parts[1]))[1], 3 in parts))
    return found


def test_networks_are_intervals_without_overlap():
    found = elements(Set("nets", "net4", ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32")))
    assert [(str(ipaddress.ip_address(key)), end) for key, end in found] == [
        ("10.0.0.0", False),
        ("11.0.0.0", True),
        ("192.0.2.7", False),
        ("192.0.2.8", True),
    ]
    assert elements(Set("nets", "net4", ("255.0.0.0/8",))) == [(b"\xff\0\0\0", False)], "the last has no end"
    assert elements(Set("nets", "net6", ("::/0",))) == [(bytes(16), False)]


def test_long_lists_are_many_messages():
    """An attribute holds 64 KiB."""
    networks = tuple(f"fd00:{number:x}::/64" for number in range(5000))
    assert len(elements(Set("nets", "net6", networks))) == 10_000
    assert len(elements(Set("ports", "port", tuple(map(str, range(1, 5001)))))) == 5000


def test_every_rule_of_a_workload_has_an_encoding():
    exclusions = Exclusions((22,), (25,), ("10.0.0.0/8", "fd00::/8"), ("10.9.0.0/16",))
    ruleset = workload_ruleset(Ports(), Marks(), Cgroup(1, 42), exclusions, ("240.240.0.0/16",), dns=True)
    assert sum(what.startswith("rule ") for what, *_ in sent(ruleset)) == len(ruleset.rules)


def test_the_rules_that_many_pods_have_are_encoded_once():
    nft._rule.cache_clear()
    for number in range(50):
        excluded = Exclusions((22,), (5432,), (f"10.{number}.0.0/16",))
        sent(workload_ruleset(Ports(), Marks(), Cgroup(1, 42), excluded, ("240.240.0.0/16",), dns=True))
    info = nft._rule.cache_info()
    assert info.misses == info.currsize < 60 < info.hits
    assert info.maxsize == nft._RULES


def sets(*elements, networks=("10.0.0.0/8",), rules=()):
    both = (Set("known", "iface", tuple(map(str, elements))), Set("nets", "net4", networks))
    return Ruleset((), both, rules, GATE)


def test_elements_are_changed_without_a_word_about_rules():
    kernel = Kernel()
    nft.alter(kernel, GATE, sets(1, 2).sets, sets(2, 3, 4).sets)
    assert [(what, kind & 0xFF, flags) for what, kind, flags, _ in kernel.messages] == [
        ("elements of known", nft.DELSETELEM, 0),
        ("elements of known", nft.NEWSETELEM, 0x400),
    ]
    keys = [
        [dict(attributes(dict(attributes(element))[1]))[1] for _, element in attributes(dict(attributes(body[4:]))[3])]
        for *_, body in kernel.messages
    ]
    assert keys == [[struct.pack("=I", 1)], [struct.pack("=I", 3), struct.pack("=I", 4)]]
    assert kernel.messages[0][3][0] == 7, "of a bridge"
    kernel.messages = []
    nft.alter(kernel, GATE, sets(1).sets, sets(1).sets)
    assert kernel.messages == []


def test_only_elements_that_are_no_ranges_can_be_changed_so():
    assert nft.differ_in_elements(sets(1), sets(2))
    assert not nft.differ_in_elements(None, sets(2))
    assert not nft.differ_in_elements(sets(1), sets(2, networks=("10.0.0.0/9",)))
    assert not nft.differ_in_elements(sets(1), sets(2, rules=(Rule("c", (), "drop"),)))
    assert not nft.differ_in_elements(sets(1), Ruleset((), (), (), GATE))


def test_the_interfaces_of_a_set_are_read_back():
    element = nested(1, nested(1, attribute(1, struct.pack("=I", 7))))
    kernel = Kernel(GETSETELEM=[listed(text(1, "edgemesh_gate"), text(2, "known"), nested(3, element, element))])
    assert nft.interfaces(kernel, GATE, "known") == [7, 7]
    assert nft.interfaces(Kernel(), GATE, "known") == []


def rule(*parts):
    return struct.pack(">BBH", 1, 0, 9) + text(1, "edgemesh") + nested(4, *parts)


def counter(packets):
    return nested(
        1, text(1, "counter"), nested(2, attribute(1, struct.pack(">Q", 99)), attribute(2, struct.pack(">Q", packets)))
    )


def test_what_rules_count_does_not_make_them_others():
    other = nested(1, text(1, "notrack"), nested(2))
    first, later = Kernel([rule(counter(1), other)]), Kernel([rule(counter(7), other)])
    assert nft.fingerprint(first) == nft.fingerprint(later)
    assert nft.fingerprint(first) != nft.fingerprint(Kernel([rule(counter(1))]))
    assert (nft.counted(first, "guard"), nft.counted(later, "guard")) == ([1], [7])


def listed(*parts):
    return struct.pack(">BBH", 1, 0, 9) + b"".join(parts)


@pytest.mark.parametrize("attribute_of", [text(2, "guard_in"), attribute(7, b"a comment"), be32(6, 4)])
def test_a_rule_that_lies_elsewhere_or_says_more_is_another(attribute_of):
    """The same expressions in another chain, with other userdata or at another position are somebody's change."""
    ours = struct.pack(">BBH", 1, 0, 9) + text(1, "edgemesh") + text(2, "in") + nested(4, counter(1))
    theirs = (
        struct.pack(">BBH", 1, 0, 9)
        + text(1, "edgemesh")
        + (
            attribute_of + nested(4, counter(1))
            if attribute_of == text(2, "guard_in")
            else text(2, "in") + attribute_of + nested(4, counter(1))
        )
    )
    assert nft.fingerprint(Kernel([ours])) != nft.fingerprint(Kernel([theirs]))


@pytest.mark.parametrize(
    "others",
    [
        {"GETTABLE": [listed(text(1, "edgemesh"), be32(2, 1))]},  # NFT_TABLE_F_DORMANT
        {"GETCHAIN": [listed(text(1, "edgemesh"), text(3, "early"))]},
        {
            "GETSET": [listed(text(1, "edgemesh"), text(2, "out_ports"))],
            "GETSETELEM": [listed(text(1, "edgemesh"), text(2, "80"))],
        },
    ],
)
def test_what_is_changed_beside_the_rules_is_seen(others):
    assert nft.fingerprint(Kernel([rule()], **others)) != nft.fingerprint(Kernel([rule()]))


def test_chains_of_other_tables_are_none_of_ours():
    assert nft.fingerprint(Kernel([rule()], GETCHAIN=[listed(text(1, "foreign"), text(3, "c"))])) == nft.fingerprint(
        Kernel([rule()])
    )


def test_a_table_without_rules_is_there():
    assert nft.exists(Kernel(GETTABLE=[listed(text(1, "edgemesh"))]))
    assert not nft.exists(Kernel())


def test_no_table_has_no_rules():
    assert nft.rules(Kernel([NetlinkError(errno.ENOENT, "list rules")])) == []
    with pytest.raises(NetlinkError):
        nft.rules(Kernel([NetlinkError(errno.EPERM, "list rules")]))
