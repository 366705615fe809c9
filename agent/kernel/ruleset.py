"""The nftables rulesets as data (sans-IO): what is captured, what is our own, what is left alone.

`str()` reads like nft.

There are two meanings, and each has its own sign. *Our own* sockets, which are not captured again, are recognised by
our cgroup, which a workload cannot enter; only where no cgroup can be made, by the mark BYPASS. The mark LOCAL belongs
to sockets that dial a workload in its own namespace with the caller's source address. Only that mark has a routing
rule, and its packets are not tracked, so that they cannot collide with a connection of the caller from the same source
port.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct, structs

from agent.system.cgroup import Cgroup
from nodeproxy.capture import Marks, Ports
from policy.model import Exclusions

TABLE = "edgemesh"


class Match(Struct, frozen=True):
    """One condition: `key` names what is compared, `value` what it must be, `differs` negates it."""

    # cgroup level mark bit listener anybody oif iif oif-in proto nfproto dport port-in net4-in net6-in probe4-in
    # probe6-in saddr daddr local loopback reply dnat new syn ether frame-saddr arp-saddr vlan0 iif-in frame-saddr4-in
    # frame-saddr6-in frame-daddr4-in frame-daddr6-in
    key: str
    value: int | str | Cgroup = 0
    differs: bool = False

    def __str__(self) -> str:
        no = "!= " if self.differs else ""
        value = (
            hex(self.value)
            if self.key in ("mark", "bit", "listener", "ether") and isinstance(self.value, int)
            else self.value
        )
        return {
            "cgroup": f"{value}",
            "level": f"socket cgroupv2 level {value} exists",
            "mark": f"meta mark {no}{value}",
            "bit": f"meta mark & {value} {'==' if self.differs else '!='} 0",
            "oif-in": f"oif {no}@{value}",
            "iif-in": f"iif {no}@{value}",
            **{f"frame-{key}4-in": f"ip {key} @{value}" for key in ("saddr", "daddr")},
            **{f"frame-{key}6-in": f"ip6 {key} @{value}" for key in ("saddr", "daddr")},
            "nfproto": f"meta nfproto {value}",
            "probe4-in": f"ip daddr . tcp dport @{value}",
            "probe6-in": f"ip6 daddr . tcp dport @{value}",
            "saddr": f"{'ip6' if ':' in str(value) else 'ip'} saddr {value}",
            "daddr": f"{'ip6' if ':' in str(value) else 'ip'} daddr {value}",
            "ether": f"ether type {value}",
            "frame-saddr": f"{'ip6' if ':' in str(value) else 'ip'} saddr {value}",
            "arp-saddr": f"arp saddr ip {value}",
            "vlan0": "vlan id 0",
            "listener": f"socket mark {value}",
            "anybody": "socket mark & 0x0 == 0x0",
            "oif": f"oifname {no}{value}",
            "iif": f"iifname {no}{value}",
            "proto": f"meta l4proto {no}{value}",
            "dport": f"th dport {no}{value}",
            "port-in": f"th dport @{value}",
            "net4-in": f"ip daddr {no}@{value}",
            "net6-in": f"ip6 daddr {no}@{value}",
            "local": f"fib daddr type {no}local",
            "loopback": "ip daddr 127.0.0.0/8",
            "reply": "ct direction reply",
            "dnat": f"ct status {no}dnat",
            "new": "ct state new",
            "syn": f"tcp flags & (syn | ack) {'!=' if self.differs else '=='} syn",
        }[self.key]


class Rule(Struct, frozen=True):
    chain: str
    matches: tuple[Match, ...]
    verdict: str  # accept notrack reject unreachable drop count redirect return goto snat set-bit clear-bit
    port: int = 0  # port of a redirect
    to: str = ""  # the chain of a goto, or the address of an snat
    bit: int = 0  # bit of the mark

    def __str__(self) -> str:
        words = {
            "redirect": f"redirect to :{self.port}",
            "count": "counter",
            "unreachable": "reject with icmpx port-unreachable",
        }
        words |= {"goto": f"goto {self.to}", "snat": f"snat to {self.to}"}
        words |= {
            "set-bit": f"meta mark set meta mark | {self.bit:#x}",
            "clear-bit": f"meta mark set meta mark & {self.bit ^ 0xFFFFFFFF:#x}",
        }
        verdict = words.get(self.verdict, self.verdict)
        return " ".join([*map(str, self.matches), verdict])


class Chain(Struct, frozen=True):
    name: str
    type: str = ""  # "": reached by goto only
    hook: str = ""  # prerouting input forward output postrouting
    priority: int = 0


class Set(Struct, frozen=True):
    name: str
    kind: str  # port net4 net6 probe4 probe6 iface
    elements: tuple[str, ...]  # of a probe: ADDRESS PORT; of an interface: the index


class Name(Struct, frozen=True):
    """Family and name of a table."""

    family: Literal["inet", "bridge"] = "inet"
    table: str = TABLE

    def __str__(self) -> str:
        return f"table {self.family} {self.table}"


OURS, NODE, NODE_BRIDGE = Name(), Name("inet", "edgemesh_node"), Name("bridge", "edgemesh_node")
GATE = Name("bridge", "edgemesh_gate")


class Ruleset(Struct, frozen=True):
    chains: tuple[Chain, ...]
    sets: tuple[Set, ...]
    rules: tuple[Rule, ...]
    name: Name = OURS

    def __str__(self) -> str:
        lines = [f"{self.name} {{"]
        for s in self.sets:
            lines.append(f"  set {s.name} {{ {', '.join(s.elements)} }}")
        for chain in self.chains:
            hook = f" type {chain.type} hook {chain.hook} priority {chain.priority}" if chain.type else ""
            lines.append(f"  chain {chain.name} {{{hook}")
            lines += [f"    {rule}" for rule in self.rules if rule.chain == chain.name]
            lines.append("  }")
        return "\n".join([*lines, "}"])


TCP, UDP, SYN = Match("proto", "tcp"), Match("proto", "udp"), Match("syn")
# Some socket listens. Not matched by a connection that is half open or in TIME_WAIT, which has no cgroup and no mark.
ANYBODY = Match("anybody")
LO_OUT, LO_IN = Match("oif", "lo"), Match("iif", "lo")
# The kernel drops packets from outside to 127.0.0.0/8, but checks the address only after prerouting, where a redirect
# has replaced it (ip_route_input; RFC 1122 3.2.1.3). It drops ::1 before that (ip6_rcv), and checks source addresses as
# they arrived.
FROM_OUTSIDE_TO_LOOPBACK = Rule("raw_in", (Match("iif", "lo", True), Match("loopback")), "drop")
# The chains of every captured namespace; both rulesets add one of their own at the input hook.
_CHAINS = (
    Chain("raw_out", "filter", "output", -300),
    Chain("raw_in", "filter", "prerouting", -300),
    Chain("out", "nat", "output", -100),
    Chain("in", "nat", "prerouting", -100),
    Chain("guard", "filter", "output", 300),
)
# In the node's own namespace others translate too: kube-proxy, at -100, would have a call to a Service's address before
# us. A connection is translated once, by the first that does.
_HOST_CHAINS = tuple(structs.replace(chain, priority=-110) if chain.type == "nat" else chain for chain in _CHAINS)


# DNS questions have a route even where the workload has none (agent/kernel/routing.py): over lo, so that they can be
# redirected. One that was not redirected gets an immediate refusal, as it would without that route.
_NO_WAY = tuple(
    Rule("guard", (LO_OUT, proto, Match("dport", 53), Match("local", differs=True)), verdict)
    for proto, verdict in ((UDP, "unreachable"), (TCP, "reject"))
)


def ours(cgroup: Cgroup | None, marks: Marks) -> Match:
    return Match("cgroup", cgroup) if cgroup else Match("mark", marks.bypass)


def our_doors(cgroup: Cgroup | None, earlier: tuple[Cgroup, ...], marks: Marks) -> list[Match]:
    """Return matches for a listening socket of ours.

    Another program may hold a listener's port, since before we started or while we do not run.
    """
    return [Match("cgroup", found) for found in (cgroup, *earlier)] if cgroup else [Match("listener", marks.bypass)]


def workload_ruleset(
    ports: Ports,
    marks: Marks,
    cgroup: Cgroup | None,
    exclusions: Exclusions,
    ranges: tuple[str, ...],
    dns: bool,
    earlier: tuple[Cgroup, ...] = (),
    probing: Probing | None = None,
) -> Ruleset:
    """Return the ruleset of a workload's own network namespace.

    `probing`: how the node's prober reaches the workload; None: it does not. `earlier`: cgroups that were ours and are
    gone, so that no process can enter them; listeners that were made there are still in use.
    """
    us = ours(cgroup, marks)
    local_mark = Match("mark", marks.local)
    to_door = (TCP, Match("port-in", "doors"), SYN)
    sets = (
        Set("out_ports", "port", tuple(map(str, exclusions.outbound_ports))),
        Set("in_ports", "port", tuple(map(str, exclusions.inbound_ports))),
        Set("doors", "port", tuple(map(str, (ports.outbound, ports.inbound, ports.tunnel, ports.dns)))),
        *_networks("out_nets", exclusions.outbound_cidrs),
        *_networks("only_nets", exclusions.outbound_only_cidrs),
        *_networks("range", ranges),
        *([Set("probe_ports", "port", tuple(map(str, probing.ports)))] if probing and probing.direct else ()),
    )
    admitted = (
        [(Match("saddr", prober), TCP, Match("port-in", "probe_ports")) for prober in PROBER]
        if probing and probing.direct
        else []
    )
    excluded = [
        (TCP, Match("port-in", "out_ports")),
        (Match("net4-in", "out_nets4"),),
        (Match("net6-in", "out_nets6"),),
        *[(Match("oif", name),) for name in exclusions.interfaces],
    ]
    left_alone = [Match("iif", name) for name in exclusions.interfaces]
    rules = [
        # The agent's connections with a caller's source address stay out of conntrack.
        Rule("raw_out", (us, local_mark), "notrack"),
        Rule("raw_out", (LO_OUT, local_mark), "notrack"),
        Rule("raw_in", (LO_IN, local_mark), "notrack"),
        FROM_OUTSIDE_TO_LOOPBACK,
        # Only the node assigns the prober's address: it is valid where the node is at the other end of the interface.
        *[
            Rule("raw_in", (Match("iif", name), Match("saddr", p)), "accept")
            for name in (probing.interfaces if probing else ())
            for p in PROBER
        ],
        *[Rule("raw_in", (Match("iif", "lo", True), Match("saddr", p)), "drop") for p in PROBER],
        Rule("out", (us,), "accept"),
    ]
    if dns:
        # Before the rule that accepts lo: resolvers such as systemd's listen on 127.0.0.53.
        rules += [Rule("out", (proto, Match("dport", 53)), "redirect", ports.dns) for proto in (UDP, TCP)]
    # The range of service addresses is routed to lo, so that it works without a default route. It is captured before
    # the rule that accepts lo.
    rules += [Rule("out", (TCP, Match(f"net{v}-in", f"range{v}")), "redirect", ports.outbound) for v in (4, 6)]
    rules.append(Rule("out", (LO_OUT,), "accept"))
    rules += [Rule("out", e, "accept") for e in excluded]
    if exclusions.outbound_only_cidrs:
        rules += [Rule("out", (TCP, Match(f"net{v}-in", f"only_nets{v}")), "redirect", ports.outbound) for v in (4, 6)]
    else:
        rules.append(Rule("out", (TCP,), "redirect", ports.outbound))
    rules += [
        Rule("in", (LO_IN,), "accept"),
        *[Rule("in", e, "accept") for e in admitted],
        Rule("in", (TCP, Match("port-in", "in_ports")), "accept"),
        # Other nodes dial the tunnel listener directly. Connections to the ports of our other listeners are redirected
        # too, and refused there.
        Rule("in", (TCP, Match("dport", ports.tunnel)), "accept"),
        # By an interface that is left alone our listeners are not reached either.
        *[Rule("in", (there, TCP, Match("port-in", "doors")), "redirect", ports.inbound) for there in left_alone],
        *[Rule("in", (there,), "accept") for there in left_alone],
        Rule("in", (TCP, Match("local")), "redirect", ports.inbound),
        *(_NO_WAY if dns else ()),
        # A connection that should have been redirected and reached the end of output without: a rule of another program
        # came first.
        Rule("guard", (LO_OUT,), "accept"),
        Rule("guard", (us,), "accept"),
        Rule("guard", (Match("reply"),), "accept"),
        Rule("guard", (Match("dnat"),), "accept"),
        Rule("guard", (UDP,), "count"),
        *[Rule("guard", e, "accept") for e in excluded],
    ]
    if exclusions.outbound_only_cidrs:
        rules += [Rule("guard", (TCP, Match(f"net{v}-in", f"only_nets{v}")), "reject") for v in (4, 6)]
    else:
        rules.append(Rule("guard", (TCP,), "reject"))
    rules += [
        # The same for incoming connections: conntrack translates a connection once, so a foreign redirect that came
        # first led it past our listener. Another program that listens at a listener's port receives nothing of what is
        # redirected there, nor anything from outside.
        *[Rule("guard_in", (*to_door, door), "accept") for door in our_doors(cgroup, earlier, marks)],
        Rule("guard_in", (*to_door, Match("dnat"), ANYBODY), "reject"),
        Rule("guard_in", (LO_IN,), "accept"),
        *[Rule("guard_in", e, "accept") for e in admitted],
        Rule("guard_in", (TCP, Match("port-in", "in_ports")), "accept"),
        Rule("guard_in", (*to_door, ANYBODY), "reject"),
        Rule("guard_in", to_door, "accept"),
        *[Rule("guard_in", (there,), "accept") for there in left_alone],
        Rule("guard_in", (TCP, SYN), "reject"),
    ]
    chains = (*_CHAINS, Chain("guard_in", "filter", "input", 0))
    return Ruleset(chains, sets, tuple(rules))


# Link-local and ULA addresses of no interface, by which a workload recognises the node's prober. They are those of
# Istio ambient, so that existing network policies that admit them admit our probes.
PROBER = ("169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
_LEVELS = 9  # levels of nested cgroups; systemd's services are at level two or three


class Probing(Struct, frozen=True):
    """How the node's prober reaches a workload."""

    interfaces: tuple[str, ...]  # interfaces of its namespace whose other end is the node's
    ports: tuple[int, ...]  # ports of declared probes
    # bypass the listeners, so that probes work while none are served: only where one cgroup alone may probe
    direct: bool


class ProbedBy(Struct, frozen=True):
    """The sockets that may probe.

    `group`: sockets of exactly that cgroup, not of one inside it; None: any process of the node's own namespace.
    """

    group: int | None = None


def node_ruleset(marks: Marks, prober: ProbedBy | None, probes: tuple[tuple[str, int], ...]) -> Ruleset:
    """Return the node's ruleset, by which its prober is recognised by more than the node's address.

    NAT gives the node's address to everything that the node forwards. A connection that begins in this namespace (hook
    output), at a socket of the prober, to a declared probe of a captured workload, and that went through no Service,
    gets a bit of its mark. By that bit it gets an address of its own on its way out. Nothing else has that address:
    packets from outside with it, and those forged by a process of the node, are dropped. `prober` None: no process may
    probe.
    """
    bit = Match("bit", marks.probe)
    # before conntrack: the prober's own packets begin here and never pass this hook
    # before other programs' masquerading: the first translation of a connection stands
    chains = (
        Chain("in_forged", "filter", "prerouting", -310),
        Chain("out_forged", "filter", "output", -310),  # where the prober's packets still have the node's address
        Chain("fwd_forged", "filter", "forward", -310),  # where replies to it have been translated back
        # after nat output, where connections that went through a Service are known
        Chain("out", "filter", "output", -90),
        Chain("who"),
        *(Chain(f"at{level}") for level in range(_LEVELS) if prober and prober.group is not None),
        Chain("post", "nat", "postrouting", 90),
        Chain("unmark", "filter", "postrouting", 110),  # nat chains all run at 100, whatever priority they state
    )
    begins = (TCP, SYN, Match("new"), Match("dnat", differs=True))
    rules = [
        *[Rule("in_forged", (Match("saddr", p),), "drop") for p in PROBER],
        *[Rule("out_forged", (Match(key, p),), "drop") for p in PROBER for key in ("saddr", "daddr")],
        *[Rule("fwd_forged", (Match("daddr", p),), "drop") for p in PROBER],
        # No packet may bring the bit along: SO_MARK needs no more than NET_RAW.
        Rule("fwd_forged", (bit,), "clear-bit", bit=marks.probe),
        Rule("out", (bit,), "clear-bit", bit=marks.probe),
        *[Rule("out", (*begins, Match(f"probe{v}-in", f"probes{v}")), "goto", to="who") for v in (4, 6)],
    ]
    if prober is not None and prober.group is None:
        rules.append(Rule("who", (), "set-bit", bit=marks.probe))
    elif prober is not None and prober.group is not None:
        rules += _of_exactly(prober.group, marks.probe)
    rules += [
        *[Rule("post", (bit, Match("nfproto", f"ipv{v}")), "snat", to=p) for v, p in zip((4, 6), PROBER, strict=True)],
        Rule("unmark", (bit,), "clear-bit", bit=marks.probe),
    ]
    elements = {v: tuple(f"{a} {port}" for a, port in probes if (":" in a) == (v == 6)) for v in (4, 6)}
    sets = tuple(Set(f"probes{v}", f"probe{v}", elements[v]) for v in (4, 6))
    return Ruleset(chains, sets, tuple(rules), NODE)


def node_bridge_ruleset(interfaces: tuple[int, ...]) -> Ruleset:
    """Return the same for frames between ports of one bridge, which need not pass the IP hooks.

    `interfaces`: indexes of the node's ends of captured workloads' interfaces. A frame with the tag of VLAN 0 does not
    look like IP here, and the kernel that receives it removes the tag.
    """
    four, six = PROBER
    chains = (Chain("in_forged", "filter", "prerouting", -310), Chain("fwd_forged", "filter", "forward", -310))
    rules = (
        Rule("in_forged", (Match("ether", 0x0800), Match("frame-saddr", four)), "drop"),
        Rule("in_forged", (Match("ether", 0x86DD), Match("frame-saddr", six)), "drop"),
        Rule("in_forged", (Match("ether", 0x0806), Match("arp-saddr", four)), "drop"),
        *[
            Rule("fwd_forged", (Match("oif-in", "workloads"), Match("ether", tag), Match("vlan0")), "drop")
            for tag in (0x8100, 0x88A8)
        ],
    )
    return Ruleset(chains, (Set("workloads", "iface", tuple(map(str, interfaces))),), rules, NODE_BRIDGE)


def gate_ruleset(known: tuple[int, ...], ranges: tuple[str, ...]) -> Ruleset:
    """Return the gate: an interface of a pod that is not `known` sends and receives nothing.

    `known`: indexes of the node's ends of pods' interfaces. The kernel uses an index once. `ranges`: those of which the
    pods of this node get their addresses; they tell pods' interfaces from those of other bridges (docker's), which are
    named alike. A pod that forges a source of none of them gets no answer. The link-local addresses that each interface has are no pod's in particular: between them only the
    discovery of neighbours passes. A frame with the tag of VLAN 0 does not look like IP here.
    """
    chains = (
        Chain("from_pod", "filter", "prerouting", -320),
        Chain("to_pod", "filter", "postrouting", 320),
    )
    rules: list[Rule] = []
    for chain, side, own in (("from_pod", "iif", "saddr"), ("to_pod", "oif", "daddr")):
        unknown = (Match(side, "veth*"), Match(f"{side}-in", "known", differs=True))
        v4, v6 = (Match("ether", 0x0800),), (Match("ether", 0x86DD),)
        rules += [
            Rule(chain, (*unknown, *v4, Match(f"frame-{own}4-in", "range4")), "drop"),
            Rule(chain, (*unknown, *v6, Match(f"frame-{own}6-in", "range6")), "drop"),
        ]
        # Either end: until its own link-local address is checked (RFC 4862), a pod speaks from any other that it has.
        for end in ("saddr", "daddr"):
            local = (Match(f"frame-{end}6-in", "link6"), Match("proto", "icmpv6", differs=True))
            rules.append(Rule(chain, (*unknown, *v6, *local), "drop"))
        rules += [Rule(chain, (*unknown, Match("ether", tag), Match("vlan0")), "drop") for tag in (0x8100, 0x88A8)]
    sets = (
        Set("known", "iface", tuple(map(str, known))),
        *_networks("range", ranges),
        Set("link6", "net6", ("fe80::/10",)),
    )
    return Ruleset(chains, sets, tuple(rules), GATE)


def _networks(name: str, cidrs: tuple[str, ...]) -> tuple[Set, Set]:
    return (
        Set(f"{name}4", "net4", tuple(c for c in cidrs if ":" not in c)),
        Set(f"{name}6", "net6", tuple(c for c in cidrs if ":" in c)),
    )


class Unit(Struct, frozen=True):
    """A systemd unit on the host, or a hostNetwork pod.

    `cgroups`: its own, and its .socket's. `ports`: those of its own listeners. `probes`: those of its declared probes.
    """

    key: str
    cgroups: tuple[Cgroup, ...]
    ports: Ports
    exclusions: Exclusions
    probes: tuple[int, ...] = ()


def host_ruleset(
    marks: Marks,
    cgroup: Cgroup,
    units: tuple[Unit, ...],
    ranges: tuple[str, ...],
    dns: bool,
    earlier: tuple[Cgroup, ...] = (),
    prober: int | None = None,
) -> Ruleset:
    """Return the ruleset of the host, for workloads that are systemd units or hostNetwork pods.

    Units are told apart by cgroup, so our own sockets must be too. Loopback is not exempt here, since units call each
    other over it. A new connection that reaches a unit directly, other than from our own transparent sockets, is
    refused: units' calls were redirected before, and anything else has no identity. Nothing may dial a unit's listener
    directly either: the listener would take the caller for that unit, and a listener that is told to dial itself would
    do so without end.

    `prober`: the cgroup of the kubelet, which probes hostNetwork pods from the same namespace. Its connection has no
    address of its own, and where it arrives its socket cannot be seen: a bit of its mark, which all other packets lose
    on their way out, tells it apart.
    """
    us = Match("cgroup", cgroup)
    local_mark = Match("mark", marks.local)
    doors = sorted({port for unit in units for port in (unit.ports.outbound, unit.ports.inbound, unit.ports.dns)})
    sets: list[Set] = [Set("doors", "port", tuple(map(str, doors))), *_networks("range", ranges)]
    out: list[Rule] = [Rule("out", (us,), "accept")]
    into: list[Rule] = []
    guard: list[Rule] = [
        *(_NO_WAY if dns else ()),
        Rule("guard", (us,), "accept"),
        Rule("guard", (LO_OUT, local_mark), "accept"),
    ]
    input_: list[Rule] = [
        Rule(
            "input",
            (proto, Match("port-in", "doors"), Match("new"), Match("dnat", differs=True)),
            "reject" if proto is TCP else "drop",
        )
        for proto in (TCP, UDP)
    ]
    input_ += [
        *[
            Rule("input", (TCP, Match("port-in", "doors"), Match("new"), door), "accept")
            for door in our_doors(cgroup, earlier, marks)
        ],
        # Another program that listens at a port that we redirect to receives none of it.
        Rule("input", (TCP, Match("port-in", "doors"), Match("new"), ANYBODY), "reject"),
    ]
    bit = Match("bit", marks.probe_here)
    probed = tuple(sorted({port for unit in units for port in unit.probes})) if prober is not None else ()
    for number, unit in enumerate(units):
        exclusions = unit.exclusions
        if probed:
            sets.append(Set(f"probes_{number}", "port", tuple(map(str, unit.probes))))
        sets += [
            Set(f"out_ports_{number}", "port", tuple(map(str, exclusions.outbound_ports))),
            Set(f"in_ports_{number}", "port", tuple(map(str, exclusions.inbound_ports))),
            *_networks(f"out_nets_{number}_", exclusions.outbound_cidrs),
            *_networks(f"only_nets_{number}_", exclusions.outbound_only_cidrs),
        ]
        excluded = [
            (TCP, Match("port-in", f"out_ports_{number}")),
            (Match("net4-in", f"out_nets_{number}_4"),),
            (Match("net6-in", f"out_nets_{number}_6"),),
        ]
        for member in unit.cgroups:
            it = Match("cgroup", member)
            if dns:
                out += [
                    Rule("out", (it, proto, Match("dport", 53)), "redirect", unit.ports.dns) for proto in (UDP, TCP)
                ]
            out += [
                Rule("out", (it, TCP, Match(f"net{v}-in", f"range{v}")), "redirect", unit.ports.outbound)
                for v in (4, 6)
            ]
            out += [Rule("out", (it, *e), "accept") for e in excluded]
            only = (
                [(Match(f"net{v}-in", f"only_nets_{number}_{v}"),) for v in (4, 6)]
                if exclusions.outbound_only_cidrs
                else [()]
            )
            out += [Rule("out", (it, TCP, *o), "redirect", unit.ports.outbound) for o in only]
            into += [
                Rule(
                    "in",
                    (Match("iif", "lo", True), Match("local"), TCP, it, Match("port-in", f"in_ports_{number}")),
                    "accept",
                ),
                Rule("in", (Match("iif", "lo", True), Match("local"), TCP, it), "redirect", unit.ports.inbound),
            ]
            guard += [Rule("guard", (it, *e), "accept") for e in (*excluded, (Match("reply"),), (Match("dnat"),))]
            guard.append(Rule("guard", (UDP, it), "count"))
            guard += [Rule("guard", (it, TCP, *o), "reject") for o in only]
            if probed:
                input_.append(
                    Rule("input", (LO_IN, bit, TCP, Match("new"), it, Match("port-in", f"probes_{number}")), "accept")
                )
            input_ += [
                # Over lo it was not redirected. From elsewhere it was, unless a foreign redirect came first.
                Rule("input", (TCP, it, Match("port-in", f"in_ports_{number}")), "accept"),
                Rule("input", (TCP, it, Match("new")), "reject"),
            ]
    rules = (
        # A unit that may set marks could otherwise have its own connections untracked, and so not redirected. A SYN
        # must be ours.
        Rule("raw_out", (us, local_mark), "notrack"),
        Rule("raw_out", (LO_OUT, local_mark, Match("syn", differs=True)), "notrack"),
        Rule("raw_in", (LO_IN, local_mark), "notrack"),
        FROM_OUTSIDE_TO_LOOPBACK,
        *out,
        *into,
        *guard,
        *input_,
        *(_probe_over_lo(marks.probe_here, prober) if prober is not None and probed else ()),
    )
    chains = [*_HOST_CHAINS, Chain("input", "filter", "input", 0)]
    if probed:
        sets.append(Set("probes", "port", tuple(map(str, probed))))
        chains += [Chain("probe", "filter", "output", 310), Chain("who")]
        chains += [Chain(f"at{level}") for level in range(_LEVELS)]
    return Ruleset(tuple(chains), tuple(sets), rules)


def _probe_over_lo(bit: int, prober: int) -> Iterator[Rule]:
    yield Rule("probe", (Match("bit", bit),), "clear-bit", bit=bit)
    yield Rule("probe", (LO_OUT, TCP, SYN, Match("port-in", "probes")), "goto", to="who")
    yield from _of_exactly(prober, bit)


def _of_exactly(group: int, bit: int) -> Iterator[Rule]:
    """Yield rules that set the bit where the socket is of exactly that cgroup, not of one inside it."""
    # An id belongs to one cgroup only, so a match at any level is enough, and the level need not be known.
    for level in range(_LEVELS):
        yield Rule("who", (Match("cgroup", Cgroup(level, group)),), "goto", to=f"at{level}")
        # a cgroup inside it; if there is none, this rule ends
        yield Rule(f"at{level}", (Match("level", level + 1),), "return")
        yield Rule(f"at{level}", (), "set-bit", bit=bit)
