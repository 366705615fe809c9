"""The gate against the real kernel: a node with a bridge for pods and one as docker has it; nothing passes a mute interface."""

import json
import socket
import struct
import subprocess
import sys
import textwrap
import time

import pytest

from tests.netns.conftest import sh

NODE, RANGE = "emgt-node", "10.44.0.0/24"

# Pods, as the daemon keeps them, for one round in the node's namespace. The table outlives this process.
ROUND = """
    import json, sys
    from agent.kernel import netns
    from agent.kernel.gate import Gate
    from agent.kernel.pods import Pods
    from agent.kernel.sandbox import Sandbox
    from agent.kernel.sandboxes import Placed
    said = json.loads(sys.argv[1])
    class Recorded:
        def read(self, now=None):
            return {n: Sandbox(n, "shop", n, netns=f"/run/netns/emgt-{n}", networks=frozenset(said["ranges"])) for n in said["pods"]}
        def believed(self, now=None):
            return {n: Placed(s, which) for n, s in self.read().items() if (which := netns.identity(s.netns))}
    gate = Gate(enabled=said["enabled"])
    gate.clear()
    pods = Pods(Recorded(), gate)
    pods.enrols = lambda sandbox: said["enrols"].get(sandbox.name)
    pods.settle({netns.identity(f"/run/netns/emgt-{n}") for n in said["captured"]})
    print(json.dumps({"mute": sorted(pods.waiting()), "fault": gate.fault, "known": len(gate.known)}))
"""


def settled(*pods, captured=(), enrols=None, ranges=(RANGE,), enabled=True):
    said = {"pods": pods, "captured": captured, "enrols": enrols or {}, "ranges": ranges, "enabled": enabled}
    code = textwrap.dedent(ROUND)
    found = json.loads(sh("ip", "netns", "exec", NODE, sys.executable, "-c", code, json.dumps(said)).stdout)
    assert found["fault"] == ""
    return found


class Pod:
    """A namespace whose interface is a port of a bridge of the node."""

    def __init__(self, name, address, bridge="cni0"):
        self.name, self.netns, self.address = name, f"emgt-{name}", address
        sh("ip", "netns", "add", self.netns)
        gateway = f"{address.rpartition('.')[0]}.1"
        for words in (
            f"link add eth0 type veth peer name veth{name} netns {NODE}",
            "link set lo up",
            "link set eth0 up",
            f"addr add {address}/24 dev eth0",
            f"addr add fd44::{address.rpartition('.')[2]}/64 dev eth0 nodad",
            f"route add default via {gateway}",
        ):
            sh("ip", "-n", self.netns, *words.split())
        sh("ip", "-n", NODE, "link", "set", f"veth{name}", "master", bridge, "up")

    def python(self, code, *words, **options):
        return sh(
            "ip", "netns", "exec", self.netns, sys.executable, "-c", textwrap.dedent(code), *map(str, words), **options
        ).stdout.strip()

    def reaches(self, address, source="", family=2):
        """Whether a connection gets an answer, be it a refusal."""
        code = """
            import socket, sys
            s = socket.socket(int(sys.argv[3]))
            s.settimeout(0.7)
            if sys.argv[2]: s.setsockopt(0, 19, 1); s.bind((sys.argv[2], 0))  # IP_TRANSPARENT
            try: s.connect((sys.argv[1], 9)) if s.family == 2 else s.connect(socket.getaddrinfo(sys.argv[1], 9)[0][4])
            except ConnectionRefusedError: print("answered")
            except OSError as error: print(error)
        """
        return self.python(code, address, source, family) == "answered"

    def comes_to_reach(self, address, **options):
        """The same within ten seconds: neighbours that did not answer are asked again only after a while."""
        return any(self.reaches(address, **options) for _ in range(15))

    def link_local(self):
        for _ in range(40):
            found = json.loads(sh("ip", "-n", self.netns, "-j", "-6", "addr", "show", "dev", "eth0").stdout)
            for one in found[0]["addr_info"]:
                if one["scope"] == "link" and not one.get("tentative"):
                    return one["local"]
            time.sleep(0.1)
        raise AssertionError("no link-local address")

    def frame_reaches(self, other, header, payload):
        """Whether a raw frame arrives. `header`: what stands after the two addresses."""
        listener = """
            import socket, sys
            s = socket.socket(17, 3, socket.htons(3)); s.bind(("eth0", 0)); s.settimeout(1.0)
            print("ready", flush=True)
            try:
                while b"edgemesh-gate" not in s.recv(4096): pass
                print("arrived")
            except OSError: print("nothing")
        """
        words = ["ip", "netns", "exec", other.netns, sys.executable, "-u", "-c", textwrap.dedent(listener)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            sender = """
                import socket, sys
                s = socket.socket(17, 3); s.bind(("eth0", 0))
                s.send(bytes.fromhex(sys.argv[1]) + s.getsockname()[4] + bytes.fromhex(sys.argv[2]) + b"edgemesh-gate")
            """
            mac = sh("ip", "netns", "exec", other.netns, "cat", "/sys/class/net/eth0/address").stdout.strip()
            self.python(sender, mac.replace(":", ""), (header + payload).hex())
            return process.communicate(timeout=10)[0] == "arrived\n"


def ip_header(source, to):
    """The header of a datagram with our payload; its checksum is right, since bridges drop others."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 33, 1, 0, 64, 253, 0, *map(socket.inet_aton, (source, to)))
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]


@pytest.fixture
def node():
    """A node with cni0 and docker0, and two pods that run."""
    made = []

    def pod(name, address, bridge="cni0"):
        made.append(Pod(name, address, bridge))
        return made[-1]

    sh("ip", "netns", "add", NODE)
    try:
        for bridge, address in (("cni0", "10.44.0.1"), ("docker0", "172.30.0.1")):
            for words in (
                f"link add {bridge} type bridge",
                f"addr add {address}/24 dev {bridge}",
                f"link set {bridge} up",
            ):
                sh("ip", "-n", NODE, *words.split())
        sh("ip", "-n", NODE, "addr", "add", "fd44::1/64", "dev", "cni0", "nodad")
        node.pod = pod
        node.a, node.b = pod("a", "10.44.0.10"), pod("b", "10.44.0.11")
        yield node
    finally:
        for one in made:
            sh("ip", "netns", "del", one.netns, check=False)
        sh("ip", "netns", "del", NODE, check=False)


def test_what_runs_goes_on_and_what_begins_is_mute_until_it_is_known(node):
    assert settled("a", "b") == {"mute": [], "fault": "", "known": 2}
    assert node.a.comes_to_reach("10.44.0.11")
    assert node.b.comes_to_reach("10.44.0.1")
    c = node.pod("c", "10.44.0.12")  # no process of edgemesh lives now
    assert not c.reaches("10.44.0.1"), "its node"
    assert not c.reaches("10.44.0.10"), "a neighbour"
    assert not node.a.reaches("10.44.0.12")
    assert settled("a", "b", "c")["mute"] == ["c"], "it is not known yet what it is"
    assert settled("a", "b", "c", enrols={"c": True})["mute"] == ["c"], "of the mesh, and not captured"
    assert not c.reaches("10.44.0.10")
    assert settled("a", "b", "c", enrols={"c": True}, captured=["c"])["mute"] == []
    assert c.comes_to_reach("10.44.0.10")
    assert c.comes_to_reach("10.44.0.1")
    assert node.a.comes_to_reach("10.44.0.12")
    d = node.pod("d", "10.44.0.13")
    assert settled("a", "b", "c", "d", enrols={"d": False})["mute"] == []
    assert d.comes_to_reach("10.44.0.10")


def test_a_mute_pod_finds_no_way_around(node):
    settled("a", "b")
    c = node.pod("c", "10.44.0.12")
    assert not c.reaches("10.44.0.10", source="192.0.2.7"), "a forged source"
    assert not c.reaches("10.44.0.10", source="10.44.0.11"), "that of another pod"
    assert node.a.comes_to_reach(f"{node.b.link_local()}%eth0", family=10)
    assert not c.reaches(f"{node.a.link_local()}%eth0", family=10), "a link-local address"
    addressed = ip_header("10.44.0.12", "10.44.0.10")
    for header in (b"\x08\x00", b"\x81\x00\x00\x00\x08\x00", b"\x88\xa8\x00\x00\x08\x00"):
        assert not c.frame_reaches(node.a, header, addressed), header.hex()
        assert not node.a.frame_reaches(c, header, ip_header("10.44.0.10", "10.44.0.12")), header.hex()
        assert node.a.frame_reaches(node.b, header, ip_header("10.44.0.10", "10.44.0.11")), "others may"


def test_other_bridges_are_left_alone(node):
    settled("a", "b")
    one = node.pod("d1", "172.30.0.2", "docker0")
    node.pod("d2", "172.30.0.3", "docker0")
    assert one.comes_to_reach("172.30.0.3")
    assert one.comes_to_reach("172.30.0.1")
    assert one.comes_to_reach("10.44.0.1"), "the node, by whichever of its addresses"


def test_both_families(node):
    settled("a", "b", ranges=(RANGE, "fd44::/64"))
    assert node.a.comes_to_reach("fd44::11", family=10)
    c = node.pod("c", "10.44.0.12")
    assert not c.reaches("fd44::1", family=10)
    assert not c.reaches("fd44::10", family=10)
    settled("a", "b", "c", captured=["c"], ranges=(RANGE, "fd44::/64"))
    assert c.comes_to_reach("fd44::10", family=10)


def test_off_takes_it_away(node):
    settled("a", "b")
    c = node.pod("c", "10.44.0.12")
    assert not c.reaches("10.44.0.10")
    settled("a", "b", "c", enabled=False)
    assert c.comes_to_reach("10.44.0.10")
    assert "edgemesh_gate" not in sh("ip", "netns", "exec", NODE, "nft", "list", "tables").stdout


def test_an_interface_that_is_gone_is_forgotten_and_its_name_is_no_pass(node):
    settled("a", "b")
    sh("ip", "netns", "del", "emgt-b")
    sh("ip", "-n", NODE, "link", "del", "vethb", check=False)
    again = node.pod("b", "10.44.0.11")
    assert settled("a", "b")["mute"] == ["b"], "the same names, another interface"
    assert not again.reaches("10.44.0.10")


def test_whether_a_program_that_runs_holds_the_table(node):
    """A daemon that was killed holds it no longer, and it stays in force."""
    code = """
        import os, sys
        from agent.kernel import nft
        from agent.kernel.netlink import NETLINK_NETFILTER, Netlink
        from agent.kernel.ruleset import GATE, gate_ruleset
        def held():
            with Netlink(NETLINK_NETFILTER) as other:
                return nft.held(other, GATE)
        said = [held()]
        with Netlink(NETLINK_NETFILTER) as sock:
            nft.install(sock, gate_ruleset((1,), ("10.44.0.0/24",)), owned=True)
            said.append(held())
        with Netlink(NETLINK_NETFILTER) as other:
            print(*said, held(), nft.exists(other, GATE))
    """
    words = ["ip", "netns", "exec", NODE, sys.executable, "-c", textwrap.dedent(code)]
    assert sh(*words).stdout.split() == ["False", "True", "False", "True"]
