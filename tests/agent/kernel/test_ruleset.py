"""The ruleset, as text that reads like nft."""

from textwrap import dedent

from agent.kernel.ruleset import (
    Match,
    ProbedBy,
    Probing,
    Unit,
    gate_ruleset,
    host_ruleset,
    node_bridge_ruleset,
    node_ruleset,
    workload_ruleset,
)
from agent.system.cgroup import Cgroup
from nodeproxy.capture import Marks, Ports
from policy.model import Exclusions

RANGES = ("240.240.0.0/16", "fdce:ed6e:5e55::/64")


def test_a_workload():
    exclusions = Exclusions((22,), (25, 53), ("10.0.0.0/8", "fd00::/8"))
    found = workload_ruleset(Ports(), Marks(), Cgroup(1, 42), exclusions, RANGES, dns=True)
    assert (
        str(found)
        == dedent("""
        table inet edgemesh {
          set out_ports { 25, 53 }
          set in_ports { 22 }
          set doors { 15001, 15006, 15008, 15053 }
          set out_nets4 { 10.0.0.0/8 }
          set out_nets6 { fd00::/8 }
          set only_nets4 {  }
          set only_nets6 {  }
          set range4 { 240.240.0.0/16 }
          set range6 { fdce:ed6e:5e55::/64 }
          chain raw_out { type filter hook output priority -300
            socket cgroupv2 level 1 42 meta mark 0x6d6e0002 notrack
            oifname lo meta mark 0x6d6e0002 notrack
          }
          chain raw_in { type filter hook prerouting priority -300
            iifname lo meta mark 0x6d6e0002 notrack
            iifname != lo ip daddr 127.0.0.0/8 drop
            iifname != lo ip saddr 169.254.7.127 drop
            iifname != lo ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff drop
          }
          chain out { type nat hook output priority -100
            socket cgroupv2 level 1 42 accept
            meta l4proto udp th dport 53 redirect to :15053
            meta l4proto tcp th dport 53 redirect to :15053
            meta l4proto tcp ip daddr @range4 redirect to :15001
            meta l4proto tcp ip6 daddr @range6 redirect to :15001
            oifname lo accept
            meta l4proto tcp th dport @out_ports accept
            ip daddr @out_nets4 accept
            ip6 daddr @out_nets6 accept
            meta l4proto tcp redirect to :15001
          }
          chain in { type nat hook prerouting priority -100
            iifname lo accept
            meta l4proto tcp th dport @in_ports accept
            meta l4proto tcp th dport 15008 accept
            meta l4proto tcp fib daddr type local redirect to :15006
          }
          chain guard { type filter hook output priority 300
            oifname lo meta l4proto udp th dport 53 fib daddr type != local reject with icmpx port-unreachable
            oifname lo meta l4proto tcp th dport 53 fib daddr type != local reject
            oifname lo accept
            socket cgroupv2 level 1 42 accept
            ct direction reply accept
            ct status dnat accept
            meta l4proto udp counter
            meta l4proto tcp th dport @out_ports accept
            ip daddr @out_nets4 accept
            ip6 daddr @out_nets6 accept
            meta l4proto tcp reject
          }
          chain guard_in { type filter hook input priority 0
            meta l4proto tcp th dport @doors tcp flags & (syn | ack) == syn socket cgroupv2 level 1 42 accept
            meta l4proto tcp th dport @doors tcp flags & (syn | ack) == syn ct status dnat socket mark & 0x0 == 0x0 reject
            iifname lo accept
            meta l4proto tcp th dport @in_ports accept
            meta l4proto tcp th dport @doors tcp flags & (syn | ack) == syn socket mark & 0x0 == 0x0 reject
            meta l4proto tcp th dport @doors tcp flags & (syn | ack) == syn accept
            meta l4proto tcp tcp flags & (syn | ack) == syn reject
          }
        }""").strip()
    )


def test_interfaces_that_are_left_alone():
    plain = workload_ruleset(Ports(), Marks(), None, Exclusions(), RANGES, dns=True)
    found = workload_ruleset(Ports(), Marks(), None, Exclusions(interfaces=("net1",)), RANGES, dns=True)
    added = [f"{rule.chain}: {rule}" for rule in found.rules if rule not in plain.rules]
    assert added == [
        "out: oifname net1 accept",
        "in: iifname net1 meta l4proto tcp th dport @doors redirect to :15006",
        "in: iifname net1 accept",
        "guard: oifname net1 accept",
        "guard_in: iifname net1 accept",
    ]
    order = [str(rule) for rule in found.rules if rule.chain == "out"]
    assert order.index("meta l4proto tcp ip daddr @range4 redirect to :15001") < order.index("oifname net1 accept"), (
        "addresses of Services are captured whatever the route"
    )


def test_the_nodes_prober_comes_by_the_wires_of_the_node_and_past_the_doors_where_it_is_one_cgroup():
    given = (Ports(), Marks(), Cgroup(1, 42), Exclusions(), RANGES, False)
    through = workload_ruleset(*given, probing=Probing(("eth0",), (80, 9000), direct=False))
    past = workload_ruleset(*given, probing=Probing(("eth0",), (80, 9000), direct=True))
    for found in (through, past):
        raw = [str(rule) for rule in found.rules if rule.chain == "raw_in" and "169.254" in str(rule)]
        assert raw == ["iifname eth0 ip saddr 169.254.7.127 accept", "iifname != lo ip saddr 169.254.7.127 drop"]
    assert not any("probe_ports" in str(rule) for rule in through.rules), (
        "a door judges what any process of the node asks"
    )
    assert [str(rule) for rule in past.rules if "probe_ports" in str(rule) and "ip saddr" in str(rule)] == [
        "ip saddr 169.254.7.127 meta l4proto tcp th dport @probe_ports accept",
    ] * 2
    order = [(rule.chain, rule.verdict) for rule in past.rules]
    assert order.index(("in", "accept")) < order.index(("in", "redirect"))


def test_the_node_knows_its_prober_by_its_socket():
    assert str(node_ruleset(Marks(), ProbedBy(), (("10.0.0.3", 80), ("fd00::3", 80)))) == dedent(NODE_TABLE).strip()
    one = [str(rule) for rule in node_ruleset(Marks(), ProbedBy(4242), ()).rules if rule.chain in ("who", "at2")]
    assert one[2] == "socket cgroupv2 level 2 4242 goto at2"
    assert one[3:5] == ["socket cgroupv2 level 3 exists return", "meta mark set meta mark | 0x2000000"], (
        "in it, and in nothing inside it"
    )
    nobody = node_ruleset(Marks(), None, (("10.0.0.3", 80),))
    assert not any(rule.verdict == "set-bit" for rule in nobody.rules)
    assert not Marks().probe & (Marks().local | Marks().bypass), "taking the bit away takes nothing from marks of ours"


NODE_TABLE = """
    table inet edgemesh_node {
      set probes4 { 10.0.0.3 80 }
      set probes6 { fd00::3 80 }
      chain in_forged { type filter hook prerouting priority -310
        ip saddr 169.254.7.127 drop
        ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff drop
      }
      chain out_forged { type filter hook output priority -310
        ip saddr 169.254.7.127 drop
        ip daddr 169.254.7.127 drop
        ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff drop
        ip6 daddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff drop
      }
      chain fwd_forged { type filter hook forward priority -310
        ip daddr 169.254.7.127 drop
        ip6 daddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff drop
        meta mark & 0x2000000 != 0 meta mark set meta mark & 0xfdffffff
      }
      chain out { type filter hook output priority -90
        meta mark & 0x2000000 != 0 meta mark set meta mark & 0xfdffffff
        meta l4proto tcp tcp flags & (syn | ack) == syn ct state new ct status != dnat ip daddr . tcp dport @probes4 goto who
        meta l4proto tcp tcp flags & (syn | ack) == syn ct state new ct status != dnat ip6 daddr . tcp dport @probes6 goto who
      }
      chain who {
        meta mark set meta mark | 0x2000000
      }
      chain post { type nat hook postrouting priority 90
        meta mark & 0x2000000 != 0 meta nfproto ipv4 snat to 169.254.7.127
        meta mark & 0x2000000 != 0 meta nfproto ipv6 snat to fd16:9254:7127:1337:ffff:ffff:ffff:ffff
      }
      chain unmark { type filter hook postrouting priority 110
        meta mark & 0x2000000 != 0 meta mark set meta mark & 0xfdffffff
      }
    }"""


def test_frames_of_a_bridge_that_forge_the_probers_address():
    assert [str(rule) for rule in node_bridge_ruleset((3, 7)).rules] == [
        "ether type 0x800 ip saddr 169.254.7.127 drop",
        "ether type 0x86dd ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff drop",
        "ether type 0x806 arp saddr ip 169.254.7.127 drop",
        "oif @workloads ether type 0x8100 vlan id 0 drop",
        "oif @workloads ether type 0x88a8 vlan id 0 drop",
    ]


def test_an_interface_that_is_not_known_is_mute():
    assert str(gate_ruleset((5, 7), ("10.42.0.0/24", "fd42::/64"))) == dedent(GATE_TABLE).strip()


GATE_TABLE = """
    table bridge edgemesh_gate {
      set known { 5, 7 }
      set range4 { 10.42.0.0/24 }
      set range6 { fd42::/64 }
      set link6 { fe80::/10 }
      chain from_pod { type filter hook prerouting priority -320
        iifname veth* iif != @known ether type 0x800 ip saddr @range4 drop
        iifname veth* iif != @known ether type 0x86dd ip6 saddr @range6 drop
        iifname veth* iif != @known ether type 0x86dd ip6 saddr @link6 meta l4proto != icmpv6 drop
        iifname veth* iif != @known ether type 0x86dd ip6 daddr @link6 meta l4proto != icmpv6 drop
        iifname veth* iif != @known ether type 0x8100 vlan id 0 drop
        iifname veth* iif != @known ether type 0x88a8 vlan id 0 drop
      }
      chain to_pod { type filter hook postrouting priority 320
        oifname veth* oif != @known ether type 0x800 ip daddr @range4 drop
        oifname veth* oif != @known ether type 0x86dd ip6 daddr @range6 drop
        oifname veth* oif != @known ether type 0x86dd ip6 saddr @link6 meta l4proto != icmpv6 drop
        oifname veth* oif != @known ether type 0x86dd ip6 daddr @link6 meta l4proto != icmpv6 drop
        oifname veth* oif != @known ether type 0x8100 vlan id 0 drop
        oifname veth* oif != @known ether type 0x88a8 vlan id 0 drop
      }
    }"""


def test_without_a_cgroup_ours_is_a_mark_and_never_the_one_of_transparent_sockets():
    found = workload_ruleset(Ports(), Marks(), None, Exclusions(), RANGES, dns=False)
    out = [str(rule) for rule in found.rules if rule.chain == "out"]
    assert out[0] == "meta mark 0x6d6e0001 accept"
    assert not any("53" in rule for rule in out), "no DNS of ours, no redirect"
    assert not any("dport 53" in str(rule) for rule in found.rules), "and no refusal of what was not redirected"
    into = [str(rule) for rule in found.rules if rule.chain == "guard_in"]
    assert into[0].endswith("socket mark 0x6d6e0001 accept"), "and so is what listens at a door"
    assert Marks().local != Marks().bypass


def test_a_tunnel_door_of_another_port():
    found = str(workload_ruleset(Ports(tunnel=16000), Marks(), None, Exclusions(), RANGES, dns=True))
    assert "th dport 16000 accept" in found
    assert "15006, 16000, 15053" in found
    assert "15008" not in found


def test_an_inclusion_list_captures_nothing_else():
    found = workload_ruleset(
        Ports(), Marks(), None, Exclusions(outbound_only_cidrs=("10.1.0.0/16",)), RANGES, dns=False
    )
    redirects = [str(rule) for rule in found.rules if rule.verdict == "redirect" and rule.chain == "out"]
    assert "meta l4proto tcp redirect to :15001" not in redirects
    assert "meta l4proto tcp ip daddr @only_nets4 redirect to :15001" in redirects
    assert [str(rule) for rule in found.rules if rule.verdict == "reject" and rule.chain == "guard"] == [
        "meta l4proto tcp ip daddr @only_nets4 reject",
        "meta l4proto tcp ip6 daddr @only_nets6 reject",
    ]


def test_two_units_have_doors_of_their_own_and_loopback_is_closed_to_others():
    units = tuple(
        Unit(
            f"n/{name}",
            (Cgroup(2, number),),
            Ports(15100 + number, 15101 + number, 15008, 15102 + number),
            Exclusions(),
        )
        for name, number in (("a", 10), ("b", 20))
    )
    found = host_ruleset(Marks(), Cgroup(1, 42), units, RANGES, dns=True)
    rules = [str(rule) for rule in found.rules]
    assert "socket cgroupv2 level 2 10 meta l4proto tcp redirect to :15110" in rules
    assert "socket cgroupv2 level 2 20 meta l4proto tcp redirect to :15120" in rules
    assert "socket cgroupv2 level 2 20 meta l4proto udp th dport 53 redirect to :15122" in rules
    assert "iifname != lo fib daddr type local meta l4proto tcp socket cgroupv2 level 2 10 redirect to :15111" in rules
    assert "meta l4proto tcp socket cgroupv2 level 2 10 ct state new reject" in rules
    assert rules[1] == "oifname lo meta mark 0x6d6e0002 tcp flags & (syn | ack) != syn notrack", (
        "a unit's own SYN is tracked, so redirected"
    )
    assert not any(rule.startswith("meta l4proto tcp redirect") for rule in rules), "who is no unit is left alone"


def test_the_table_of_two_units():
    units = (
        Unit("n/a", (Cgroup(2, 10),), Ports(15100, 15101, 15008, 15102), Exclusions((22,), (25,), ("10.0.0.0/8",))),
        Unit(
            "n/b", (Cgroup(2, 20),), Ports(15103, 15104, 15008, 15105), Exclusions(outbound_only_cidrs=("10.1.0.0/16",))
        ),
    )
    assert str(host_ruleset(Marks(), Cgroup(1, 42), units, RANGES, dns=True)) == dedent(TWO_UNITS).strip()


TWO_UNITS = """
    table inet edgemesh {
      set doors { 15100, 15101, 15102, 15103, 15104, 15105 }
      set range4 { 240.240.0.0/16 }
      set range6 { fdce:ed6e:5e55::/64 }
      set out_ports_0 { 25 }
      set in_ports_0 { 22 }
      set out_nets_0_4 { 10.0.0.0/8 }
      set out_nets_0_6 {  }
      set only_nets_0_4 {  }
      set only_nets_0_6 {  }
      set out_ports_1 {  }
      set in_ports_1 {  }
      set out_nets_1_4 {  }
      set out_nets_1_6 {  }
      set only_nets_1_4 { 10.1.0.0/16 }
      set only_nets_1_6 {  }
      chain raw_out { type filter hook output priority -300
        socket cgroupv2 level 1 42 meta mark 0x6d6e0002 notrack
        oifname lo meta mark 0x6d6e0002 tcp flags & (syn | ack) != syn notrack
      }
      chain raw_in { type filter hook prerouting priority -300
        iifname lo meta mark 0x6d6e0002 notrack
        iifname != lo ip daddr 127.0.0.0/8 drop
      }
      chain out { type nat hook output priority -110
        socket cgroupv2 level 1 42 accept
        socket cgroupv2 level 2 10 meta l4proto udp th dport 53 redirect to :15102
        socket cgroupv2 level 2 10 meta l4proto tcp th dport 53 redirect to :15102
        socket cgroupv2 level 2 10 meta l4proto tcp ip daddr @range4 redirect to :15100
        socket cgroupv2 level 2 10 meta l4proto tcp ip6 daddr @range6 redirect to :15100
        socket cgroupv2 level 2 10 meta l4proto tcp th dport @out_ports_0 accept
        socket cgroupv2 level 2 10 ip daddr @out_nets_0_4 accept
        socket cgroupv2 level 2 10 ip6 daddr @out_nets_0_6 accept
        socket cgroupv2 level 2 10 meta l4proto tcp redirect to :15100
        socket cgroupv2 level 2 20 meta l4proto udp th dport 53 redirect to :15105
        socket cgroupv2 level 2 20 meta l4proto tcp th dport 53 redirect to :15105
        socket cgroupv2 level 2 20 meta l4proto tcp ip daddr @range4 redirect to :15103
        socket cgroupv2 level 2 20 meta l4proto tcp ip6 daddr @range6 redirect to :15103
        socket cgroupv2 level 2 20 meta l4proto tcp th dport @out_ports_1 accept
        socket cgroupv2 level 2 20 ip daddr @out_nets_1_4 accept
        socket cgroupv2 level 2 20 ip6 daddr @out_nets_1_6 accept
        socket cgroupv2 level 2 20 meta l4proto tcp ip daddr @only_nets_1_4 redirect to :15103
        socket cgroupv2 level 2 20 meta l4proto tcp ip6 daddr @only_nets_1_6 redirect to :15103
      }
      chain in { type nat hook prerouting priority -110
        iifname != lo fib daddr type local meta l4proto tcp socket cgroupv2 level 2 10 th dport @in_ports_0 accept
        iifname != lo fib daddr type local meta l4proto tcp socket cgroupv2 level 2 10 redirect to :15101
        iifname != lo fib daddr type local meta l4proto tcp socket cgroupv2 level 2 20 th dport @in_ports_1 accept
        iifname != lo fib daddr type local meta l4proto tcp socket cgroupv2 level 2 20 redirect to :15104
      }
      chain guard { type filter hook output priority 300
        oifname lo meta l4proto udp th dport 53 fib daddr type != local reject with icmpx port-unreachable
        oifname lo meta l4proto tcp th dport 53 fib daddr type != local reject
        socket cgroupv2 level 1 42 accept
        oifname lo meta mark 0x6d6e0002 accept
        socket cgroupv2 level 2 10 meta l4proto tcp th dport @out_ports_0 accept
        socket cgroupv2 level 2 10 ip daddr @out_nets_0_4 accept
        socket cgroupv2 level 2 10 ip6 daddr @out_nets_0_6 accept
        socket cgroupv2 level 2 10 ct direction reply accept
        socket cgroupv2 level 2 10 ct status dnat accept
        meta l4proto udp socket cgroupv2 level 2 10 counter
        socket cgroupv2 level 2 10 meta l4proto tcp reject
        socket cgroupv2 level 2 20 meta l4proto tcp th dport @out_ports_1 accept
        socket cgroupv2 level 2 20 ip daddr @out_nets_1_4 accept
        socket cgroupv2 level 2 20 ip6 daddr @out_nets_1_6 accept
        socket cgroupv2 level 2 20 ct direction reply accept
        socket cgroupv2 level 2 20 ct status dnat accept
        meta l4proto udp socket cgroupv2 level 2 20 counter
        socket cgroupv2 level 2 20 meta l4proto tcp ip daddr @only_nets_1_4 reject
        socket cgroupv2 level 2 20 meta l4proto tcp ip6 daddr @only_nets_1_6 reject
      }
      chain input { type filter hook input priority 0
        meta l4proto tcp th dport @doors ct state new ct status != dnat reject
        meta l4proto udp th dport @doors ct state new ct status != dnat drop
        meta l4proto tcp th dport @doors ct state new socket cgroupv2 level 1 42 accept
        meta l4proto tcp th dport @doors ct state new socket mark & 0x0 == 0x0 reject
        meta l4proto tcp socket cgroupv2 level 2 10 th dport @in_ports_0 accept
        meta l4proto tcp socket cgroupv2 level 2 10 ct state new reject
        meta l4proto tcp socket cgroupv2 level 2 20 th dport @in_ports_1 accept
        meta l4proto tcp socket cgroupv2 level 2 20 ct state new reject
      }
    }
"""


def test_every_match_reads_as_text():
    keys = (
        "mark",
        "oif",
        "iif",
        "proto",
        "dport",
        "port-in",
        "net4-in",
        "net6-in",
        "local",
        "reply",
        "dnat",
        "new",
        "anybody",
        "syn",
        "listener",
    )
    assert all(str(Match(key, 1 if key in ("mark", "dport", "listener") else "x")) for key in keys)


def test_doors_that_were_made_in_a_cgroup_of_ours_that_is_gone_are_ours():
    """Only who listens may be from there: nobody is in it any more, so nothing else is."""
    ours, gone = Cgroup(2, 72), Cgroup(2, 71)
    workload = workload_ruleset(Ports(), Marks(), ours, Exclusions(), ("240.240.0.0/16",), True, (gone,))
    unit = Unit("n/a", (Cgroup(2, 5),), Ports(15100, 15101, 0, 15102), Exclusions())
    host = host_ruleset(Marks(), ours, (unit,), ("240.240.0.0/16",), True, (gone,))
    for ruleset, without in (
        (workload, workload_ruleset(Ports(), Marks(), ours, Exclusions(), ("240.240.0.0/16",), True)),
        (host, host_ruleset(Marks(), ours, (unit,), ("240.240.0.0/16",), True)),
    ):
        [more] = [rule for rule in ruleset.rules if rule not in without.rules]
        assert "level 2 71" in str(more)
        assert "doors" in str(more)
        assert str(more).endswith("accept")
        rules = [str(rule) for rule in ruleset.rules if rule.chain == more.chain]
        assert rules.index(str(more)) == rules.index(str(more).replace("71", "72")) + 1


def test_marks_that_are_one_bit_are_in_no_other_mark():
    marks = Marks()
    for bit in (marks.probe, marks.probe_here):
        assert not bit & (marks.local | marks.bypass)
    assert not marks.probe & marks.probe_here


def test_who_may_probe_is_seen_by_a_bit_that_all_others_lose():
    units = (
        Unit("n/a", (Cgroup(2, 10),), Ports(15100, 15101, 0, 15102), Exclusions(), (80,)),
        Unit("n/b", (Cgroup(2, 20),), Ports(15103, 15104, 0, 15105), Exclusions()),
    )
    found = host_ruleset(Marks(), Cgroup(1, 42), units, RANGES, True, prober=7)
    lines = [str(rule) for rule in found.rules if rule.chain in ("input", "probe")]
    accept = lines.index(
        "iifname lo meta mark & 0x10000000 != 0 meta l4proto tcp ct state new socket cgroupv2 level 2 10 th dport @probes_0 accept"
    )
    assert accept < lines.index("meta l4proto tcp socket cgroupv2 level 2 10 ct state new reject")
    assert lines[-2] == "meta mark & 0x10000000 != 0 meta mark set meta mark & 0xefffffff"
    assert {s.name: s.elements for s in found.sets}["probes_1"] == ()
    for none in (
        host_ruleset(Marks(), Cgroup(1, 42), units, RANGES, True),
        host_ruleset(Marks(), Cgroup(1, 42), units[1:], RANGES, True, prober=7),
    ):
        assert not any(chain.name == "probe" for chain in none.chains), "nobody may, or nobody is to be asked"
