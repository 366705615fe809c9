"""One table in one namespace: owned where the kernel lets us, repaired where it does not; routes; what is counted."""

import socket
import time

import pytest

from agent.kernel import capabilities, conntrack, netns, nft, routing, sockets
from agent.kernel.netlink import NETLINK_NETFILTER, Netlink, NetlinkError
from agent.kernel.ruleset import Rule, Ruleset, workload_ruleset
from agent.kernel.table import Table
from nodeproxy.capture import Marks, Ports
from policy.model import Exclusions
from tests.netns.conftest import sh

NAME = "emkt-table"
RULES = workload_ruleset(
    Ports(), Marks(), None, Exclusions((22,), (25,), ("10.0.0.0/8", "fd00::/8")), ("240.240.0.0/16",), dns=True
)
OTHER = workload_ruleset(Ports(), Marks(), None, Exclusions(), (), dns=False)


@pytest.fixture
def namespace():
    sh("ip", "netns", "del", NAME, check=False)
    sh("ip", "netns", "add", NAME)
    sh("ip", "-n", NAME, "link", "set", "lo", "up")
    found = netns.Namespace(netns.path_of(NAME))
    yield found
    found.close()
    sh("ip", "netns", "del", NAME)


def nft_run(*words, check=False):
    return sh("ip", "netns", "exec", NAME, "nft", *words, check=check)


def made(namespace, **options):
    with namespace.entered():
        table = Table(NAME, **options)
        try:
            table.put(RULES)
        except NetlinkError:
            table.close()
            raise
    return table


def test_an_owned_table_refuses_foreign_changes_and_outlives_its_socket(namespace):
    table = made(namespace)
    assert table.owned
    nft_run("flush", "ruleset")
    assert nft_run("delete", "table", "inet", "edgemesh").returncode != 0
    assert "redirect to :15001" in nft_run("list", "ruleset").stdout
    table.close()
    assert "redirect to :15001" in nft_run("list", "ruleset").stdout
    again = made(namespace)
    with namespace.entered():
        again.put(OTHER)
    assert ":15053" not in nft_run("list", "ruleset").stdout
    again.remove()
    assert not nft_run("list", "ruleset").stdout
    again.close()


def test_two_daemons_do_not_share_a_table(namespace):
    table = made(namespace)
    with pytest.raises(NetlinkError, match="another edgemesh"):
        made(namespace)
    table.close()


def test_where_it_cannot_be_owned_it_is_repaired_and_the_gap_counted(namespace):
    table = made(namespace, allow_owned=False)
    assert not table.repair(), "our own changes are none"
    for number, words in enumerate(
        (("flush", "ruleset"), ("delete", "table", "inet", "edgemesh"), ("flush", "chain", "inet", "edgemesh", "out")),
        1,
    ):
        assert nft_run(*words).returncode == 0
        time.sleep(0.05)
        assert table.repair()
        assert table.gaps == number
        assert not table.repair()
        assert "redirect to :15001" in nft_run("list", "ruleset").stdout
    nft_run("add", "table", "inet", "foreign")
    assert not table.repair(), "what others do with their own tables is their business"
    table.close()


def test_a_ruleset_that_the_kernel_refuses_changes_nothing_and_is_named(namespace):
    table = made(namespace)
    before = nft_run("list", "ruleset").stdout
    broken = Ruleset(RULES.chains, RULES.sets, (*RULES.rules, Rule("no-such-chain", (), "accept")))
    with namespace.entered(), pytest.raises(NetlinkError, match="rule accept"):
        table.put(broken)
    assert nft_run("list", "ruleset").stdout == before
    table.close()


def test_the_kernel_has_what_the_text_says(namespace):
    table = made(namespace)
    said = nft_run("list", "ruleset").stdout
    for words in (
        "elements = { 25 }",
        "10.0.0.0/8",
        "fd00::/8",
        "fib daddr type local",
        "meta mark 0x6d6e0001 accept",
        "ct status dnat accept",
    ):
        assert words in said, words
    table.close()


def test_routes_come_twice_without_harm_and_go(namespace):
    marks, ranges = Marks(), ("240.240.0.0/16", "fdce:ed6e:5e55::/64")
    with namespace.entered():
        routing.install(marks, ranges)
        routing.install(marks, ranges)
    assert sh("ip", "-n", NAME, "rule").stdout.count("0x6d6e0002") == 1
    assert "240.240.0.0/16" in sh("ip", "-n", NAME, "route").stdout
    assert "fdce:ed6e:5e55::/64" in sh("ip", "-n", NAME, "-6", "route").stdout
    with namespace.entered():
        assert routing.remove() == 12
        assert routing.remove() == 0
    assert "0x6d6e0002" not in sh("ip", "-n", NAME, "rule").stdout


def test_being_inside_ends_with_the_stretch_whatever_happens(namespace):
    home = netns.identity("/proc/self/ns/net")
    with pytest.raises(ZeroDivisionError), namespace.entered():
        assert netns.identity("/proc/thread-self/ns/net") == namespace.id
        1 / 0  # noqa: B018
    assert netns.identity("/proc/thread-self/ns/net") == home


def test_a_port_that_something_holds_is_a_fault_and_not_a_crash(namespace):
    with namespace.entered():
        squatter = socket.create_server(("127.0.0.1", 15001))
        doors, fault = sockets.open_doors(Ports(), 0, dns=True)
    assert "port 15001 on 127.0.0.1" in fault
    assert len(doors.outbound) == 1, "the other family's door is open"
    assert len(doors.inbound) == 2
    doors.close()
    squatter.close()


def test_what_conntrack_does_not_know_is_none(namespace):
    with namespace.entered():
        assert conntrack.first_destination(("10.0.0.1", 4000), ("127.0.0.1", 15053)) is None
        assert conntrack.first_destination(("fd00::1", 4000), ("::1", 15053)) is None
    redirected = conntrack.Redirected(namespace.entered)
    assert redirected.destination(("10.0.0.1", 4000), ("127.0.0.1", 15053)) is None
    assert redirected.destination(("fd00::1", 4000), ("::1", 15053)) is None
    assert repr(redirected) == "<Redirected open>", "what the kernel said was understood"
    redirected.close()


def test_counts(namespace):
    table = made(namespace)
    with namespace.entered():
        assert capabilities.established(()) == 0
        assert netns.addresses() == frozenset()
        with Netlink(NETLINK_NETFILTER) as netlink:
            assert len(nft.rules(netlink)) == len(RULES.rules)
    assert table.counted() == 0
    table.close()


def test_a_connection_of_before_is_counted_by_both_of_its_ends(namespace):
    sh("ip", "-n", NAME, "addr", "add", "10.66.0.1/32", "dev", "lo")
    with (
        namespace.entered(),
        socket.create_server(("10.66.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        assert capabilities.established(()) == 2


def test_a_namespace_that_takes_the_address_of_one_that_is_gone_is_nobody():
    """Nor for the next daemon, which knows what this one wrote."""
    from agent.config.schema import NodeConfig
    from agent.kernel.capture import CaptureManager
    from policy.model import Workload

    pod, thief = "emkt-pod", "emkt-thief"
    for name, address in ((pod, "10.213.0.9"), (thief, "10.213.0.66")):
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", name, "addr", "add", f"{address}/32", "dev", "lo")
    try:
        taken = {}

        def made(met):
            ground = CaptureManager(NodeConfig(node="emkt-finder"), own_cgroup=False, met=met)
            ground.serve(
                lambda workload, doors: taken.setdefault(workload.key, doors), lambda key: taken.pop(key).close()
            )
            ground.want([Workload("n", "pod", "a", ("10.213.0.9",), node="emkt-finder")])
            ground.settle()
            return ground

        first = made({})
        assert pod in first.conditions()["n/pod"].where
        assert len(first.finder.met) >= 2
        sh("ip", "netns", "del", pod)
        sh("ip", "-n", thief, "addr", "add", "10.213.0.9/32", "dev", "lo")
        first.settle()
        assert not taken
        assert "did not come with it" in first.conditions()["n/pod"].error
        second = made(first.finder.met)
        assert not taken
        assert "did not come with it" in second.conditions()["n/pod"].error
    finally:
        for name in (pod, thief):
            sh("ip", "netns", "del", name, check=False)


def test_an_address_that_two_namespaces_claim_finds_neither(namespace):
    from agent.config.schema import NodeConfig
    from agent.kernel.capture import CaptureManager
    from policy.model import Workload

    other = "emkt-other"
    sh("ip", "netns", "add", other)
    try:
        for name in (NAME, other):
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", NAME, "addr", "add", "10.213.0.9/32", "dev", "lo")
        taken = {}
        ground = CaptureManager(NodeConfig(node="emkt-finder"), own_cgroup=False)
        ground.serve(lambda workload, doors: taken.setdefault(workload.key, doors), lambda key: taken.pop(key).close())
        ground.want([Workload("n", "pod", "a", ("10.213.0.9",), node="emkt-finder")])
        sh("ip", "-n", other, "addr", "add", "10.213.0.9/32", "dev", "lo")
        ground.settle()
        assert not taken
        assert "several network namespaces" in ground.conditions()["n/pod"].error
        sh("ip", "-n", other, "addr", "del", "10.213.0.9/32", "dev", "lo")
        ground.settle()
        assert list(taken) == ["n/pod"]
        assert NAME in ground.conditions()["n/pod"].where
        sh("ip", "-n", other, "addr", "add", "10.213.0.9/32", "dev", "lo")
        ground.settle()
        assert NAME in ground.conditions()["n/pod"].where, "who was found stays"
        ground.release(open_node=True)
    finally:
        sh("ip", "netns", "del", other)
