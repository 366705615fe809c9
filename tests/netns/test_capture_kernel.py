"""The keeper on the real kernel, without a daemon: what namespaces go through, what others do to our rules, how much fits."""

import contextlib
import functools
import socket
import struct
import subprocess
import sys
import textwrap
import threading

import pytest
import trio

from agent.config.schema import NodeConfig
from agent.kernel import cleanup, netns, nft, rounds
from agent.kernel import namespace as place
from agent.kernel.capture import CaptureManager
from agent.kernel.netlink import NETLINK_NETFILTER, Netlink
from agent.kernel.ruleset import Unit, host_ruleset, workload_ruleset
from agent.kernel.table import Table
from agent.system.cgroup import Cgroup
from nodeproxy.capture import Marks, Ports
from policy.model import Exclusions, Workload
from tests.netns.conftest import ROOTLESS, sh

A, B = "emk-a", "emk-b"  # 10.77.9.1, 10.77.9.2


@contextlib.contextmanager
def inside(name):
    namespace = netns.Namespace(netns.path_of(name))
    try:
        with namespace.entered():
            yield
    finally:
        namespace.close()


def ip(name, *words):
    return sh("ip", "-n", name, *words).stdout


def nft_in(name, command, check=False):
    return sh("ip", "netns", "exec", name, "nft", command, check=check)


def delete(*names):
    for name in names:
        sh("ip", "netns", "del", name, check=False)


@pytest.fixture
def alone():
    """A namespace as `ip netns add` makes it: lo is down."""
    delete(A)
    sh("ip", "netns", "add", A)
    yield A
    delete(A)


@pytest.fixture
def pair():
    """Two namespaces that reach each other."""
    delete(A, B)
    for name in (A, B):
        sh("ip", "netns", "add", name)
        ip(name, "link", "set", "lo", "up")
    ip(A, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", B)
    for number, name in enumerate((A, B), 1):
        ip(name, "addr", "add", f"10.77.9.{number}/24", "dev", "eth0")
        ip(name, "link", "set", "eth0", "up")
    yield
    delete(A, B)


@pytest.fixture
def ground():
    """Its sockets are known by a mark: the tests themselves must not be taken for the daemon."""
    found = CaptureManager(NodeConfig(node="emk"), own_cgroup=False)
    found.doors = {}

    def attach(w, doors):
        if w.key in found.doors:
            found.doors[w.key].close()
        found.doors[w.key] = doors

    found.serve(attach, lambda key: found.doors.pop(key).close())
    yield found
    found.release(open_node=True)


def workload(name=A, **more):
    return Workload("n", name, name, **{"netns": name, **more})


def settle(ground, *workloads):
    ground.want(workloads)
    ground.settle()
    return {key: condition.error for key, condition in ground.conditions().items()}


class Echo:
    """A server, and how many it has accepted."""

    def __init__(self, name, port, address="0.0.0.0"):
        self.accepted = 0
        with inside(name):
            both = {"family": socket.AF_INET6, "dualstack_ipv6": True} if address == "::" else {}
            self.sock = socket.create_server((address, port), **both)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        with connection:
            try:
                while data := connection.recv(100):
                    connection.sendall(data)
            except OSError:
                pass

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


@pytest.fixture
def echo():
    made = []

    def start(*words):
        made.append(Echo(*words))
        return made[-1]

    yield start
    for server in made:
        server.close()


def dial(name, address, port):
    with inside(name):
        sock = socket.socket()
    sock.settimeout(3)
    try:
        sock.connect((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def lives(sock):
    try:
        sock.sendall(b"x")
        return sock.recv(10) == b"x"
    except ConnectionError:
        return False


# namespaces


def test_a_namespace_with_lo_down_is_captured_and_has_all_its_doors(alone, ground):
    assert settle(ground, workload()) == {f"n/{A}": ""}
    doors = ground.doors[f"n/{A}"]
    assert sorted(s.getsockname()[0] for s in doors.outbound) == ["127.0.0.1", "::1"]
    dial(A, "127.0.0.1", Ports().outbound).close()


def test_routes_come_back_after_lo_went_down(alone, ground):
    settle(ground, workload())

    def routes():
        return [
            ip(A, *words.split())
            for words in ("route", "-6 route", "route show table 15006", "-6 route show table 15006", "rule")
        ]

    before = routes()
    assert "240.240.0.0/16" in before[0]
    ip(A, "link", "set", "lo", "down")
    ip(A, "link", "set", "lo", "up")
    ip(A, "rule", "del", "pref", "15006")
    assert routes() != before
    ground.settle()
    assert routes() == before


def test_what_cannot_be_routed_is_told_and_the_workload_is_closed(alone, ground, monkeypatch):
    monkeypatch.setattr(
        place.routing, "install", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
    )
    assert "calls to it fail" in settle(ground, workload())[f"n/{A}"]
    assert "redirect to :15001" in nft_in(A, "list ruleset").stdout
    monkeypatch.undo()
    ground.settle()
    assert ground.conditions()[f"n/{A}"].error == ""


def test_a_workload_renamed_in_place_calls_out_at_no_moment(pair, ground, echo):
    server = echo(B, 99)
    settle(ground, workload())
    knocking = """
        import socket
        while True:
            try: socket.create_connection(("10.77.9.2", 99), timeout=1).close()
            except OSError: pass
            print("knocked", flush=True)
    """
    words = ["ip", "netns", "exec", A, sys.executable, "-c", textwrap.dedent(knocking)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as caller:
        for number in range(10):
            caller.stdout.readline()
            settle(ground, workload(name=f"w{number}", netns=A))
        caller.kill()
    assert server.accepted == 0
    assert ground.conditions()["n/w9"].captured


def test_a_workload_that_moves_leaves_the_namespace_closed_behind_it_until_a_person_opens_it(pair, ground):
    settle(ground, workload("w", netns=A))
    settle(ground, workload("w", netns=B))
    for name in (A, B):
        assert "edgemesh" in nft_in(name, "list tables").stdout
    ground.let_go("n/w")
    ground.settle()
    assert "edgemesh" not in nft_in(A, "list tables").stdout
    assert "15006" not in ip(A, "rule")
    assert "edgemesh" in nft_in(B, "list tables").stdout


def test_a_namespace_that_has_lost_its_name_is_found_by_cleanup(alone, ground, tmp_path):
    settle(ground, workload())
    kept = tmp_path / "kept"
    kept.touch()
    sh("mount", "--bind", f"/run/netns/{A}", str(kept))
    try:
        delete(A)
        ground.settle()  # it is let go, and its rules stay
        assert str(kept) in cleanup.namespaces()
        assert cleanup.remove(str(kept)) == ["table inet edgemesh", "12 rules and routes"]
        assert cleanup.remove(str(kept)) == []
    finally:
        sh("umount", str(kept))


# ports


def test_a_port_that_was_taken_is_opened_once_it_is_free(pair, ground):
    squatter = Echo(A, Ports().inbound)
    assert "port 15006 on 0.0.0.0: Address already in use" in settle(ground, workload())[f"n/{A}"]
    assert "redirect to :15006" in nft_in(A, "list ruleset").stdout
    squatter.close()
    ground.settle()
    assert ground.conditions()[f"n/{A}"].error == ""
    dial(B, "10.77.9.1", 99).close()


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_workload_cannot_share_a_door(alone, ground, address, option):
    """Neither with a socket that it bound before us, nor with one that it makes afterwards."""
    with inside(A):
        early, late = socket.socket(), socket.socket()
    for sock in (early, late):
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    early.bind((address, Ports().inbound))
    taken = settle(ground, workload())[f"n/{A}"]
    if not taken:  # bound is not listening: the door is ours now
        with pytest.raises(OSError, match="in use"):
            early.listen()
        with pytest.raises(OSError, match="in use"):
            late.bind((address, Ports().inbound))
            late.listen()
    early.close()
    late.close()


# other people's changes


CHANGES = (
    "flush ruleset",
    "delete table inet edgemesh",
    "flush chain inet edgemesh guard",
    "insert rule inet edgemesh out accept",
    "add table inet edgemesh { flags dormant; }",
    "add element inet edgemesh out_ports { 80 }",
    "add chain inet edgemesh early { type filter hook output priority -400; }",
)


async def test_where_the_table_cannot_be_owned_every_change_is_put_back_at_once(alone, ground, monkeypatch):
    monkeypatch.setattr(place, "Table", functools.partial(Table, allow_owned=False))
    monkeypatch.setattr(rounds, "POLL", 60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ground.run)
        ground.want([workload()])
        while not ground.settled:
            await trio.sleep(0.01)
        table = ground.places.served[f"n/{A}"].table
        with inside(A), Netlink(NETLINK_NETFILTER) as reader:
            written = nft.counted(reader, "guard"), len(nft.rules(reader))
        for number, change in enumerate(CHANGES, 1):
            assert (await trio.to_thread.run_sync(nft_in, A, change)).returncode == 0, change
            with trio.fail_after(2):
                while table.gaps < number:
                    await trio.sleep(0.001)
            assert not table.repair(), f"{change}: it is whole again"
        with inside(A), Netlink(NETLINK_NETFILTER) as reader:
            assert (nft.counted(reader, "guard"), len(nft.rules(reader))) == written
        condition = ground.conditions()[f"n/{A}"]
        assert (condition.gaps, condition.owned, condition.mode) == (len(CHANGES), False, "mark")
        nft_in(A, "add table inet foreign")
        assert not table.repair(), "what others do with their own tables is their business"
        nursery.cancel_scope.cancel()


def test_an_owned_table_refuses_every_change(alone, ground):
    settle(ground, workload())
    if not ground.places.served[f"n/{A}"].table.owned:
        pytest.skip("this kernel has no persistent owned tables")
    before = nft_in(A, "list ruleset").stdout
    for change in CHANGES:
        nft_in(A, change)
    assert nft_in(A, "list ruleset").stdout == before


def test_a_table_that_somebody_made_under_our_name_is_replaced_by_an_owned_one(alone, ground):
    nft_in(A, "add table inet edgemesh; add chain inet edgemesh out", check=True)
    assert settle(ground, workload()) == {f"n/{A}": ""}
    table = ground.places.served[f"n/{A}"].table
    nft_in(A, "flush ruleset")
    assert "redirect to :15001" in nft_in(A, "list ruleset").stdout or not table.owned


# what the kernel would have dropped

OUTSIDE = """
    import os, socket, struct, sys
    source, destination, port, address = sys.argv[1:5]
    def checksum(data):
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        total = (total >> 16) + (total & 0xFFFF)
        return ~(total + (total >> 16)) & 0xFFFF
    six = ":" in destination
    family = socket.AF_INET6 if six else socket.AF_INET
    a, b = socket.inet_pton(family, source), socket.inet_pton(family, destination)
    tcp = struct.pack("!HHIIBBHHH", 40000, int(port), 1, 0, 5 << 4, 2, 1000, 0, 0)
    length = struct.pack("!I3xB" if six else "!xBH", *((20, 6) if six else (6, 20)))
    tcp = tcp[:16] + struct.pack("!H", checksum(a + b + length + tcp)) + tcp[18:]
    if six:
        head = struct.pack("!IHBB", 6 << 28, 20, 6, 64) + a + b
    else:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, a, b)
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind(("eth0", 0))
    ether = bytes.fromhex(address.replace(":", "")) + wire.getsockname()[4]
    wire.send(ether + (b"\\x86\\xdd" if six else b"\\x08\\x00") + head + tcp)
"""


def answered(source, destination):
    """Does a SYN that B puts on the wire for A, with these addresses, get an answer?"""
    address = sh("ip", "netns", "exec", A, "cat", "/sys/class/net/eth0/address").stdout.strip()
    with inside(A):
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL
    with sniffer:
        sniffer.settimeout(0.3)
        sh("ip", "netns", "exec", B, sys.executable, "-c", textwrap.dedent(OUTSIDE), source, destination, "99", address)
        with contextlib.suppress(TimeoutError):
            while True:
                packet = sniffer.recv(200)
                begin, protocol = (40, packet[6]) if packet[0] >> 4 == 6 else (20, packet[9])
                if protocol == socket.IPPROTO_TCP and packet[begin : begin + 4] == struct.pack("!HH", 99, 40000):
                    return True
    return False


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("10.77.9.2", "127.0.0.1"),
        ("10.77.9.2", "127.9.9.9"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "10.77.9.1"),
        ("10.77.9.1", "10.77.9.1"),
        ("10.77.9.2", "10.77.9.255"),
        ("10.77.9.2", "255.255.255.255"),
        ("10.77.9.2", "224.0.0.1"),
        ("224.0.0.1", "10.77.9.1"),
        ("10.77.9.2", "0.0.0.0"),
        ("0.0.0.0", "10.77.9.1"),
        ("fd77::2", "::1"),
        ("::1", "fd77::1"),
        ("fd77::2", "ff02::1"),
        ("ff02::1", "fd77::1"),
        ("fd77::2", "::ffff:127.0.0.1"),
    ],
)
def test_what_the_kernel_drops_is_not_let_in_by_a_redirect(pair, ground, echo, source, destination):
    """Packets that say they come from, or go to, what cannot be on a wire: the redirect takes place before the kernel looks."""
    for number, name in enumerate((A, B), 1):
        ip(name, "addr", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")
    echo(A, 99, "::")
    settle(ground, workload())
    assert not answered(source, destination)
    assert answered("10.77.9.2", "10.77.9.1"), "and this is how an answer looks"
    assert answered("fd77::2", "fd77::1")


def test_loopback_stays_the_workloads_own_where_its_interface_would_let_it_in(pair, ground, echo):
    """`route_localnet`, as kube-proxy sets it, is for a program's own rules."""
    echo(A, 99)
    settle(ground, workload())
    sh("ip", "netns", "exec", A, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    assert not answered("10.77.9.2", "127.0.0.1")
    with dial(A, "127.0.0.1", 99) as own:
        assert lives(own)


# what fits


def put(name, ruleset):
    with inside(name):
        table = Table(name)
        try:
            table.put(ruleset)
        finally:
            table.close()
    return nft_in(name, "list ruleset").stdout


def test_thousands_of_exclusions(alone):
    """Without root a transaction may not be larger than twice net.core.wmem_max."""
    many, ports = (2000, 5000) if ROOTLESS else (6000, 60000)
    networks = tuple(f"10.{n // 250}.{n % 250}.0/25" for n in range(many)) + tuple(
        f"fd00:{n:x}::/32" for n in range(0, many, 2)
    )
    exclusions = Exclusions(outbound_ports=tuple(range(1, ports)), outbound_cidrs=networks)
    said = put(A, workload_ruleset(Ports(), Marks(), None, exclusions, (), dns=True))
    assert networks[many - 1] in said
    assert networks[-1] in said
    assert f" {ports - 1} " in said


def test_the_rules_of_as_many_units_as_a_node_may_have(alone, needs_cgroup):
    units = tuple(
        Unit(
            f"n/{n}",
            (Cgroup(2, 10_000 + n), Cgroup(2, 20_000 + n)),
            Ports(15100 + 3 * n, 15101 + 3 * n, 15008, 15102 + 3 * n),
            Exclusions((22,), (25,)),
        )
        for n in range(256)
    )
    with inside(A):
        table = Table(A)
        table.put(host_ruleset(Marks(), Cgroup(1, 42), units, ("240.240.0.0/16",), dns=True))
        assert len(table.counts()) == 512, "one for each cgroup"
        table.close()


# connections


def test_calls_go_on_while_rules_are_replaced(pair, ground, echo):
    door, server = echo(A, 15001, "127.0.0.1"), echo(B, 99)
    door.sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, Marks().bypass)
    with inside(A):
        table = Table(A)
        rulesets = [
            workload_ruleset(Ports(), Marks(), None, Exclusions(outbound_ports=ports), (), dns=True)
            for ports in ((), (98,))
        ]
        table.put(rulesets[0])
    calls = [dial(A, "10.77.9.2", 99) for _ in range(3)]
    for number in range(20):
        table.put(rulesets[number % 2])
        assert all(map(lives, calls))
    assert (door.accepted, server.accepted) == (3, 0)
    for call in calls:
        call.close()
    table.close()


def test_connections_older_than_the_capture_are_counted_and_reset(pair, ground, echo):
    echo(A, 99)
    echo(B, 99)
    outgoing, incoming = dial(A, "10.77.9.2", 99), dial(B, "10.77.9.1", 99)
    assert lives(outgoing)
    assert lives(incoming)
    settle(ground, workload())
    assert ground.conditions()[f"n/{A}"].older_connections == 2
    assert not lives(outgoing)
    assert not lives(incoming)
    outgoing.close()
    incoming.close()
