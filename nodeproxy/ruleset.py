"""The nftables ruleset as data (sans-IO): what is captured, what is ours, what is left alone. `str()` of it reads like nft.

Two meanings, never one mark. *Ours* (not captured again) is our cgroup, which a workload cannot enter; only where no cgroup can
be made it is the mark BYPASS. The mark LOCAL belongs to sockets that dial a workload in its own namespace with the caller's
source address: it alone has a routing rule, and its packets are not tracked, so that a source port that the caller uses too
cannot clash.
"""

from __future__ import annotations

from msgspec import Struct

from nodeproxy.capture import Ports
from policy.model import Exclusions

TABLE = "edgemesh"


class Marks(Struct, frozen=True):
    """Packet marks and the routing table of transparent sockets; our own values, so that other tools' do not meet ours."""

    local: int = 0x6D6E0002
    bypass: int = 0x6D6E0001
    table: int = 15006
    preference: int = 15006


class Cgroup(Struct, frozen=True, order=True):
    """A cgroup2 as nftables knows it: the depth of its path and its inode number."""

    level: int
    id: int

    def __str__(self) -> str:
        return f"socket cgroupv2 level {self.level} {self.id}"


class Match(Struct, frozen=True):
    """One condition. `key` names what is looked at, `value` what it must be, `differs` turns it around."""

    key: str  # cgroup mark listener anybody oif iif proto dport port-in net4-in net6-in local reply dnat new syn
    value: int | str | Cgroup = 0
    differs: bool = False

    def __str__(self) -> str:
        no = "!= " if self.differs else ""
        value = hex(self.value) if self.key in ("mark", "listener") and isinstance(self.value, int) else self.value
        return {
            "cgroup": f"{value}",
            "mark": f"meta mark {no}{value}",
            "listener": f"socket mark {value}",
            "anybody": "socket mark & 0x0 == 0x0",
            "oif": f"oifname {no}{value}",
            "iif": f"iifname {no}{value}",
            "proto": f"meta l4proto {value}",
            "dport": f"th dport {no}{value}",
            "port-in": f"th dport @{value}",
            "net4-in": f"ip daddr {no}@{value}",
            "net6-in": f"ip6 daddr {no}@{value}",
            "local": "fib daddr type local",
            "reply": "ct direction reply",
            "dnat": f"ct status {no}dnat",
            "new": "ct state new",
            "syn": f"tcp flags & (syn | ack) {'!=' if self.differs else '=='} syn",
        }[self.key]


class Rule(Struct, frozen=True):
    chain: str
    matches: tuple[Match, ...]
    verdict: str  # accept notrack reject drop count redirect
    port: int = 0  # of a redirect

    def __str__(self) -> str:
        verdict = f"redirect to :{self.port}" if self.verdict == "redirect" else "counter" if self.verdict == "count" else self.verdict
        return " ".join([*map(str, self.matches), verdict])


class Chain(Struct, frozen=True):
    name: str
    type: str  # nat filter
    hook: str  # prerouting input output
    priority: int


class Set(Struct, frozen=True):
    name: str
    kind: str  # port net4 net6
    elements: tuple[str, ...]


class Ruleset(Struct, frozen=True):
    chains: tuple[Chain, ...]
    sets: tuple[Set, ...]
    rules: tuple[Rule, ...]

    def __str__(self) -> str:
        lines = [f"table inet {TABLE} {{"]
        for s in self.sets:
            lines.append(f"  set {s.name} {{ {', '.join(s.elements)} }}")
        for chain in self.chains:
            lines.append(f"  chain {chain.name} {{ type {chain.type} hook {chain.hook} priority {chain.priority}")
            lines += [f"    {rule}" for rule in self.rules if rule.chain == chain.name]
            lines.append("  }")
        return "\n".join([*lines, "}"])


TCP, UDP, SYN = Match("proto", "tcp"), Match("proto", "udp"), Match("syn")
# Somebody listens: not matched by a connection that is half open or in TIME_WAIT, which belongs to no cgroup and has no mark.
ANYBODY = Match("anybody")
LO_OUT, LO_IN = Match("oif", "lo"), Match("iif", "lo")
# In every namespace that we capture: both rulesets add one of their own at the input.
_CHAINS = (
    Chain("raw_out", "filter", "output", -300),
    Chain("raw_in", "filter", "prerouting", -300),
    Chain("out", "nat", "output", -100),
    Chain("in", "nat", "prerouting", -100),
    Chain("guard", "filter", "output", 300),
)


def ours(cgroup: Cgroup | None, marks: Marks) -> Match:
    return Match("cgroup", cgroup) if cgroup else Match("mark", marks.bypass)


def our_doors(cgroup: Cgroup | None, earlier: tuple[Cgroup, ...], marks: Marks) -> list[Match]:
    """Who listens is us: another program may hold a door's port, since before we started or while we do not run."""
    return [Match("cgroup", found) for found in (cgroup, *earlier)] if cgroup else [Match("listener", marks.bypass)]


def workload_ruleset(
    ports: Ports,
    marks: Marks,
    cgroup: Cgroup | None,
    exclusions: Exclusions,
    ranges: tuple[str, ...],
    dns: bool,
    earlier: tuple[Cgroup, ...] = (),
) -> Ruleset:
    """What is put in a workload's own network namespace.

    `earlier`: cgroups that were ours, and are gone, so that nobody can enter them; doors that were made there are still used.
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
    )
    excluded = [(TCP, Match("port-in", "out_ports")), (Match("net4-in", "out_nets4"),), (Match("net6-in", "out_nets6"),)]
    rules = [
        # The agent's spoofed connections stay out of conntrack.
        Rule("raw_out", (us, local_mark), "notrack"),
        Rule("raw_out", (LO_OUT, local_mark), "notrack"),
        Rule("raw_in", (LO_IN, local_mark), "notrack"),
        Rule("out", (us,), "accept"),
    ]
    if dns:
        # Before lo is let pass: resolvers such as systemd's listen on 127.0.0.53.
        rules += [Rule("out", (proto, Match("dport", 53)), "redirect", ports.dns) for proto in (UDP, TCP)]
    # The range of service addresses is routed to lo, so that it works with no default route: it is captured before lo is let pass.
    rules += [Rule("out", (TCP, Match(f"net{v}-in", f"range{v}")), "redirect", ports.outbound) for v in (4, 6)]
    rules.append(Rule("out", (LO_OUT,), "accept"))
    rules += [Rule("out", e, "accept") for e in excluded]
    if exclusions.outbound_only_cidrs:
        rules += [Rule("out", (TCP, Match(f"net{v}-in", f"only_nets{v}")), "redirect", ports.outbound) for v in (4, 6)]
    else:
        rules.append(Rule("out", (TCP,), "redirect", ports.outbound))
    rules += [
        Rule("in", (LO_IN,), "accept"),
        Rule("in", (TCP, Match("port-in", "in_ports")), "accept"),
        # Tunnels come to a door that is dialled itself. The ports of the others are redirected too, and refused there.
        Rule("in", (TCP, Match("dport", ports.tunnel)), "accept"),
        Rule("in", (TCP, Match("local")), "redirect", ports.inbound),
        # What reached the end of output without being redirected, though it should have been: a foreign rule was first.
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
        # The same the other way: a connection is translated once, and a foreign redirect that was first led it past our door.
        # Whoever else listens at a door's port gets nothing of what is redirected there, nor anything from outside.
        *[Rule("guard_in", (*to_door, door), "accept") for door in our_doors(cgroup, earlier, marks)],
        Rule("guard_in", (*to_door, Match("dnat"), ANYBODY), "reject"),
        Rule("guard_in", (LO_IN,), "accept"),
        Rule("guard_in", (TCP, Match("port-in", "in_ports")), "accept"),
        Rule("guard_in", (*to_door, ANYBODY), "reject"),
        Rule("guard_in", to_door, "accept"),
        Rule("guard_in", (TCP, SYN), "reject"),
    ]
    chains = (*_CHAINS, Chain("guard_in", "filter", "input", 0))
    return Ruleset(chains, sets, tuple(rules))


def _networks(name: str, cidrs: tuple[str, ...]) -> tuple[Set, Set]:
    return (
        Set(f"{name}4", "net4", tuple(c for c in cidrs if ":" not in c)),
        Set(f"{name}6", "net6", tuple(c for c in cidrs if ":" in c)),
    )


class Unit(Struct, frozen=True):
    """A systemd unit on the host: its cgroups (its own, and its .socket's), and the ports of its own doors."""

    key: str
    cgroups: tuple[Cgroup, ...]
    ports: Ports
    exclusions: Exclusions


def host_ruleset(
    marks: Marks, cgroup: Cgroup, units: tuple[Unit, ...], ranges: tuple[str, ...], dns: bool, earlier: tuple[Cgroup, ...] = ()
) -> Ruleset:
    """What is put on the host for workloads that are systemd units. Units are told apart by cgroup, so ours must be one too.

    Loopback is not exempt here: it is how units call each other. A new connection that reaches a unit itself, from anybody but our
    own transparent sockets, is refused: those of units were redirected before, and what is no unit has no identity. Nor may anybody
    dial a unit's door itself: it would take him for that unit, and a door that is told to dial itself does so without end.
    """
    us = Match("cgroup", cgroup)
    local_mark = Match("mark", marks.local)
    doors = sorted({port for unit in units for port in (unit.ports.outbound, unit.ports.inbound, unit.ports.dns)})
    sets: list[Set] = [Set("doors", "port", tuple(map(str, doors))), *_networks("range", ranges)]
    out: list[Rule] = [Rule("out", (us,), "accept")]
    into: list[Rule] = []
    guard: list[Rule] = [Rule("guard", (us,), "accept"), Rule("guard", (LO_OUT, local_mark), "accept")]
    input_: list[Rule] = [
        Rule("input", (proto, Match("port-in", "doors"), Match("new"), Match("dnat", differs=True)), "reject" if proto is TCP else "drop")
        for proto in (TCP, UDP)
    ]
    input_ += [
        *[Rule("input", (TCP, Match("port-in", "doors"), Match("new"), door), "accept") for door in our_doors(cgroup, earlier, marks)],
        # Whoever else listens where we redirect to gets nothing of it.
        Rule("input", (TCP, Match("port-in", "doors"), Match("new"), ANYBODY), "reject"),
    ]
    for number, unit in enumerate(units):
        exclusions = unit.exclusions
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
                out += [Rule("out", (it, proto, Match("dport", 53)), "redirect", unit.ports.dns) for proto in (UDP, TCP)]
            out += [Rule("out", (it, TCP, Match(f"net{v}-in", f"range{v}")), "redirect", unit.ports.outbound) for v in (4, 6)]
            out += [Rule("out", (it, *e), "accept") for e in excluded]
            only = [(Match(f"net{v}-in", f"only_nets_{number}_{v}"),) for v in (4, 6)] if exclusions.outbound_only_cidrs else [()]
            out += [Rule("out", (it, TCP, *o), "redirect", unit.ports.outbound) for o in only]
            into += [
                Rule("in", (Match("iif", "lo", True), Match("local"), TCP, it, Match("port-in", f"in_ports_{number}")), "accept"),
                Rule("in", (Match("iif", "lo", True), Match("local"), TCP, it), "redirect", unit.ports.inbound),
            ]
            guard += [Rule("guard", (it, *e), "accept") for e in (*excluded, (Match("reply"),), (Match("dnat"),))]
            guard.append(Rule("guard", (UDP, it), "count"))
            guard += [Rule("guard", (it, TCP, *o), "reject") for o in only]
            input_ += [
                # Over lo it was not redirected; from elsewhere it was, unless a foreign redirect was first.
                Rule("input", (TCP, it, Match("port-in", f"in_ports_{number}")), "accept"),
                Rule("input", (TCP, it, Match("new")), "reject"),
            ]
    rules = (
        # A unit that may set marks could have its own connections untracked, and so not redirected: a SYN must be ours.
        Rule("raw_out", (us, local_mark), "notrack"),
        Rule("raw_out", (LO_OUT, local_mark, Match("syn", differs=True)), "notrack"),
        Rule("raw_in", (LO_IN, local_mark), "notrack"),
        *out,
        *into,
        *guard,
        *input_,
    )
    chains = (*_CHAINS, Chain("input", "filter", "input", 0))
    return Ruleset(chains, tuple(sets), rules)
