"""The node's own address is no identity, and NAT lends it: declared probes are admitted from the node's own prober, known by its socket.

The daemon runs in the namespace that holds the bridge, which stands for the host.
"""

import os
import signal
import sys
import textwrap

import pytest

from agent.admin.client import get
from agent.kernel.ruleset import PROBER
from policy.translate.mtls import ANNOTATION
from tests.netns.conftest import GET, Host, Lab, mesh_config, named, own, routes, sh

CONNECT = """
    import socket, sys
    try:
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)
        if sys.argv[3]: s.sendall(sys.argv[3].encode())
        s.settimeout(0.5)
        print("closed" if s.recv(100) == b"" else "answered")
    except TimeoutError:
        print("open")
    except OSError as error:
        print(type(error).__name__)
"""


class Node(Host):
    """The namespace of the bridge, on which all others are."""

    def make(self):
        self.name = self.lab.switch
        sh("ip", "-n", self.name, "link", "set", "lo", "up")
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")


FORGED = """
    import socket, sys
    source, address, port, mark = sys.argv[1:5]
    six = ":" in address
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    s.setsockopt(*((41, 75, 1) if six else (0, 19, 1)))  # IP_TRANSPARENT
    s.settimeout(0.8)
    if int(mark): s.setsockopt(1, 36, int(mark))
    try:
        if source: s.bind((source, 0))
        s.connect((address, int(port)))
        s.sendall(b"GET /health HTTP/1.0\\r\\nHost: h\\r\\n\\r\\n")
        print(s.recv(300).split()[1].decode())
    except OSError as error:
        print(type(error).__name__)
"""


def up(folder, prefix, octet, **settings):
    lab = Lab(folder, prefix, octet)
    lab.settings = settings
    try:
        lab.home = Node(lab, "switch", 254)
        store = lab.host("store")
        lab.http(store, 80)
        lab.tcp(store, 7)
        lab.tcp(store, 9)
        probes = {
            "livenessProbe": {"httpGet": {"path": "/health", "port": 80}},
            "readinessProbe": {"tcpSocket": {"port": 7}},
        }
        template = {
            "metadata": {"labels": {"app": "store"}},
            "spec": {"containers": [{"name": "store", "image": "store", **probes}]},
        }
        spec = {"selector": {"matchLabels": {"app": "store"}}, "template": template}
        lab.write(
            "deployment", {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named("store"), "spec": spec}
        )
        lab.workload(store, template="store")
        lab.workload(lab.host("buyer"))
        lab.service("store", [{"name": "http", "port": 80}])
        lab.write("routes", routes("get", {"name": "get", "methods": ["GET"]}))
        lab.allow("buyer", "store", GET)
        lab.write("mesh", mesh_config(enableEgress=True))
        lab.host("outsider")
        return lab.up()
    except BaseException:
        lab.close()
        raise


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = up(tmp_path_factory.mktemp("home"), "emkh-", 87)
    yield lab
    lab.close()


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_declared_probe_is_admitted_and_nothing_else(lab, family):
    address = lab.host("store").v4 if family == "v4" else f"[{lab.host('store').v6}]"
    probe = lab.home.curl(f"http://{address}/health")
    assert probe.status == 200
    assert (f":{PROBER[0]} " if family == "v4" else f" {PROBER[1]} ") in probe.body, "under the prober's own address"
    for path, words in (("/", ()), ("/healthz", ()), ("/health/../", ()), ("/health", ("-X", "DELETE"))):
        assert lab.home.curl(f"http://{address}{path}", *words).status in (400, 403), (path, words)
    assert lab.home.curl(f"http://{address}/").reason == "no-identity"


def test_only_the_node_is_asked_no_identity_for_its_probe(lab):
    outsider = lab.host("outsider")
    assert outsider.curl(f"http://{lab.host('store').v4}/health").reason == "no-identity"


def test_a_tcp_probe_finds_the_port_open_and_carries_nothing(lab):
    store = lab.host("store")
    assert lab.home.python(CONNECT, store.v4, 7, "") == "open"
    assert lab.home.python(CONNECT, store.v4, 7, "hello\n") in ("open", "closed", "ConnectionResetError"), (
        "this server echoes"
    )
    assert lab.home.python(CONNECT, store.v4, 9, "hello\n") in ("open", "closed", "ConnectionResetError")


@pytest.fixture
def node_port(lab):
    """What kube-proxy does for a NodePort: the outsider's calls to the node go to the store, with the node's address as their source."""
    store = lab.host("store")
    rules = f"""
        table ip nodeport {{
            chain pre {{ type nat hook prerouting priority -100; tcp dport 30080 dnat to {store.v4}:80; }}
            chain out {{ type nat hook output priority -100; ip daddr {lab.home.v4} tcp dport 30080 dnat to {store.v4}:80; }}
            chain post {{ type nat hook postrouting priority 100; ip daddr {store.v4} masquerade; }}
        }}
        table ip6 nodeport {{
            chain pre {{ type nat hook prerouting priority -100; tcp dport 30080 dnat to [{store.v6}]:80; }}
            chain post {{ type nat hook postrouting priority 100; ip6 daddr {store.v6} masquerade; }}
        }}"""
    lab.home.run("nft", rules)
    yield 30080
    lab.home.run("nft", "delete table ip nodeport; delete table ip6 nodeport")


@pytest.mark.parametrize("path", ["/health", "/health?x=1", "/"])
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_whom_nat_gives_the_nodes_address_is_not_the_node(lab, node_port, family, path):
    address = lab.home.v4 if family == "v4" else f"[{lab.home.v6}]"
    answer = lab.host("outsider").curl(f"http://{address}:{node_port}{path}")
    assert (answer.status, answer.reason) == (403, "no-identity")
    addresses = getattr(lab.host("outsider"), family), getattr(lab.home, family)
    lab.wait(
        lambda: any(
            r["flag"] == "no-identity" and (r["source_address"], r["nat_address"]) == addresses for r in lab.records()
        ),
        "its record",
    )


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_an_access_control_admits_by_the_address_before_nat(lab, node_port, family):
    """And by no address of the node, though it names it."""
    outsider = lab.host("outsider")
    permissive = {"name": "lab", "annotations": {ANNOTATION: "permissive"}}
    lab.write("namespace", {"apiVersion": "v1", "kind": "Namespace", "metadata": permissive})
    spec = {
        "backends": [{"name": "store", "port": {"number": 80, "protocol": "http"}}],
        "sources": [{"kind": "IPRange", "name": getattr(host, family)} for host in (outsider, lab.home)],
    }
    kind = {"apiVersion": "policy.openservicemesh.io/v1alpha1", "kind": "AccessControl"}
    lab.write("access", {**kind, "metadata": named("outside"), "spec": spec})
    at = lab.home.v4 if family == "v4" else f"[{lab.home.v6}]"
    try:
        lab.build()
        answer = outsider.curl(f"http://{at}:{node_port}/")
        assert answer.status == 200
        assert getattr(outsider, family) in answer.body, "the server sees it too"
        assert lab.host("buyer").curl(f"http://{at}:{node_port}/").status == 403
        if family == "v4":
            assert lab.home.curl(f"http://{at}:{node_port}/").status == 403, "a process of the node"
    finally:
        (lab.config / "access.yaml").unlink()
        (lab.config / "namespace.yaml").unlink()
        lab.build()


def test_the_node_itself_is_no_prober_when_it_goes_through_a_service(lab, node_port):
    assert lab.home.curl(f"http://{lab.home.v4}:{node_port}/health").reason == "no-identity"
    assert lab.home.curl(f"http://{lab.host('store').v4}/health").status == 200


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_nobody_wears_the_probers_address(lab, family):
    """A neighbour on the bridge, a process of the node, one that brings the mark; also where bridges do not come to the IP hooks."""
    address = (lab.host("store").v4, lab.host("store").v6)[family]
    assert lab.home.python(FORGED, "", address, 80, 0) == "200"
    assert lab.host("outsider").python(FORGED, PROBER[family], address, 80, 0) == "TimeoutError"
    assert lab.home.python(FORGED, PROBER[family], address, 80, 0) in ("TimeoutError", "PermissionError")
    assert lab.host("outsider").python(FORGED, "", address, 80, 0x02000000) == "403"


FRAME = """
    import socket, struct, sys
    source, destination, mac, tags = sys.argv[1:5]
    def checksum(data):
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        total = (total >> 16) + (total & 0xFFFF)
        return ~(total + (total >> 16)) & 0xFFFF
    a, b = socket.inet_aton(source), socket.inet_aton(destination)
    tcp = struct.pack("!HHIIBBHHH", 40000, 80, 1, 0, 5 << 4, 2, 1000, 0, 0)
    tcp = tcp[:16] + struct.pack("!H", checksum(a + b + struct.pack("!xBH", 6, 20) + tcp)) + tcp[18:]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, a, b)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind(("eth0", 0))
    wire.send(bytes.fromhex(mac.replace(":", "")) + wire.getsockname()[4] + bytes.fromhex(tags) + b"\\x08\\x00" + head + tcp)
"""
SNIFF = """
    import socket, sys
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    wire.settimeout(1.0)
    print("ready", flush=True)
    try:
        while True:
            packet, (_, _, kind, *_) = wire.recvfrom(200)
            if packet[9] == 6 and packet[20:24] == bytes((0, 80, 40000 >> 8, 40000 & 255)):
                break
        print("answered", flush=True)
    except TimeoutError:
        print("nothing", flush=True)
"""


@pytest.mark.parametrize("tags", ["", "81000000", "8100000081000000", "88a80000", "88a8000081000000"])
@pytest.mark.parametrize("nf_call", [0, 1])
def test_no_frame_of_a_neighbour_is_the_probers(lab, tags, nf_call):
    """Plain, and with the tag of VLAN 0 once or twice: a bridge sees no IP there, and the kernel that receives it takes the tags off."""
    store, outsider = lab.host("store"), lab.host("outsider")
    if os.path.exists("/proc/sys/net/bridge/bridge-nf-call-iptables"):
        lab.home.run("sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={nf_call}")
    mac = store.run("cat", "/sys/class/net/eth0/address").stdout.strip()

    def answered(source, tags):
        sniffer = store.start(SNIFF)
        outsider.python(FRAME, source, store.v4, mac, tags)
        return sniffer.stdout.readline().strip() == b"answered"

    assert not answered(PROBER[0], tags)
    assert answered(outsider.v4, ""), "and this is how an answer looks"


def test_a_workload_without_a_default_route_answers_the_prober(lab):
    store = lab.host("store")
    sh("ip", "-n", store.name, "route", "del", "default")
    try:
        lab.wait(lambda: lab.home.curl(f"http://{store.v4}/health").status == 200, "the way back was laid")
    finally:
        sh("ip", "-n", store.name, "route", "add", "default", "via", lab.home.v4)


def test_where_the_other_end_of_the_wire_is_not_the_nodes_nobody_is_the_prober(lab):
    """A second interface, to a namespace that is nobody's: the address counts by the wires of the node alone."""
    store, name = lab.host("store"), f"{lab.prefix}far"
    sh("ip", "netns", "add", name)
    try:
        sh("ip", "-n", store.name, "link", "add", "eth9", "type", "veth", "peer", "name", "eth0", "netns", name)
        for where, device, address in ((store.name, "eth9", "10.99.0.1/24"), (name, "eth0", "10.99.0.2/24")):
            sh("ip", "-n", where, "addr", "add", address, "dev", device)
            sh("ip", "-n", where, "link", "set", device, "up")
        sh("ip", "-n", name, "addr", "add", f"{PROBER[0]}/32", "dev", "eth0")
        sh("ip", "-n", store.name, "route", "replace", PROBER[0], "via", "10.99.0.2", "dev", "eth9")
        forged = [
            "ip",
            "netns",
            "exec",
            name,
            sys.executable,
            "-c",
            textwrap.dedent(FORGED),
            PROBER[0],
            "10.99.0.1",
            "80",
            "0",
        ]
        assert sh(*forged).stdout.strip() == "TimeoutError"
    finally:
        sh("ip", "-n", store.name, "link", "del", "eth9", check=False)
        sh("ip", "netns", "del", name)


# one cgroup alone

KUBELET = """
    import os, socket, sys
    with open(sys.argv[1] + "/cgroup.procs", "w") as procs: procs.write(str(os.getpid()))
    s = socket.create_server(("127.0.0.1", 10250))
    print("ready")
    while True: s.accept()[0].close()
"""


@pytest.fixture
def kubelet(tmp_path, needs_cgroup):
    """A lab whose prober is whoever listens at 10250; start(NAME) makes that a process of a cgroup of this name, and enters it to dial."""
    lab = up(tmp_path, "emkl-", 88, probes={"listener": 10250})
    made = []

    def start(name):
        folder = needs_cgroup / name
        folder.mkdir(exist_ok=True)
        # Not `ip netns exec`: that hides the cgroup mount.
        inside = [
            "nsenter",
            f"--net=/run/netns/{lab.home.name}",
            sys.executable,
            "-u",
            "-c",
            textwrap.dedent(KUBELET),
            str(folder),
        ]
        made.append((folder, lab.start(inside, wait=True)))
        return folder

    def stop():
        folder, process = made.pop()
        process.kill()
        process.wait()
        folder.rmdir()

    lab.start_kubelet, lab.stop_kubelet = start, stop
    yield lab
    lab.close()
    while made:
        stop()


def dial(lab, folder, port=80, path="/health"):
    """As a process of that cgroup."""
    script = f'echo $$ >{folder}/cgroup.procs && exec curl -s -m 1 -o /dev/null -w "%{{http_code}}" http://{lab.host("store").v4}:{port}{path}'
    return sh("nsenter", f"--net=/run/netns/{lab.home.name}", "sh", "-c", script, check=False).stdout


def test_one_cgroup_may_probe_also_while_no_daemon_runs(kubelet, needs_cgroup):
    lab = kubelet
    assert any(
        "not one cgroup of root listens at port 10250" in problem["message"] for problem in lab.status()["problems"]
    )
    folder = lab.start_kubelet("emkl-kubelet.service")
    lab.wait(lambda: dial(lab, folder) == "200", "the kubelet is known")
    inside = folder / "inside"
    inside.mkdir()
    try:
        assert dial(lab, inside) in ("403", "000"), "what runs inside its cgroup is not it"
    finally:
        inside.rmdir()
    assert dial(lab, folder, port=9) in ("403", "000"), "only declared ports"
    assert lab.home.curl(f"http://{lab.host('store').v4}/health").status == 403, "another process of the node"
    lab.down(signal.SIGKILL)
    assert dial(lab, folder) == "200", "by the kernel alone"
    assert lab.home.curl(f"http://{lab.host('store').v4}/health").refused
    assert lab.host("outsider").curl(f"http://{lab.host('store').v4}/health").refused
    assert lab.host("outsider").python(FORGED, PROBER[0], lab.host("store").v4, 80, 0) == "TimeoutError"
    lab.up()
    assert dial(lab, folder) == "200"


def test_a_prober_that_is_started_again_is_followed(kubelet):
    lab = kubelet
    first = lab.start_kubelet("emkl-kubelet.service")
    lab.wait(lambda: dial(lab, first) == "200", "the kubelet is known")
    lab.stop_kubelet()
    second = lab.start_kubelet("emkl-kubelet.service")
    assert os.path.samefile(first, second)
    lab.wait(lambda: dial(lab, second) == "200", "its new cgroup is known")
    assert not any("10250" in problem["message"] for problem in lab.status()["problems"])


def test_workloads_are_served_as_ever(lab):
    assert lab.host("buyer").curl(f"http://{lab.host('store').v4}/").status == 200


def test_the_hosts_own_namespace_is_not_taken_for_a_workload(lab):
    """Its rules would capture every program of the host."""
    lab.write("home", own("Workload", "home", {"netns": lab.home.name, "addresses": [lab.home.v4]}))
    try:
        lab.build()
        found = next(w for w in get(lab.socket, "/status")["workloads"] if w["workload"] == "lab/home")
        assert found["state"] == "not captured"
        assert "host's own network namespace" in found["detail"]
        assert "table inet edgemesh\n" not in lab.home.run("nft", "list", "tables").stdout
    finally:
        (lab.config / "home.yaml").unlink()
        lab.build()
