"""The kubelet's probes reach captured pods, also while no daemon runs, and nothing else gets in as they do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from agent.kernel.ruleset import PROBER
from tests.kube import clusters
from tests.kube.clusters import Cluster, Manifest, Problem, pod, service, until
from tests.kube.daemons import TREE, Daemon
from tests.netns.test_calls_from_the_node import FORGED, FRAME

MESH = {"openservicemesh.io/monitored-by": "osm"}
PROBE_BIT = 0x02000000  # Marks.probe (nodeproxy/capture.py)
OFTEN = {"periodSeconds": 1, "failureThreshold": 2}
PROBE = str(clusters.PROGRAMS / "probe")


def web(namespace: str, node: str) -> Manifest:
    """A pod with a probe of each kind, and a hook at a port that no probe has."""
    made = pod("web", namespace, ["probe", "health"], node)
    (main,) = made["spec"]["containers"]
    main["livenessProbe"] = {"httpGet": {"path": "/live", "port": 8080}} | OFTEN
    main["readinessProbe"] = {"httpGet": {"path": "/", "port": 8443, "scheme": "HTTPS"}} | OFTEN
    hook = main | {"name": "hook", "command": ["probe", "serve", ":8082"]}
    hook["livenessProbe"] = {"tcpSocket": {"port": 7000}} | OFTEN
    hook["readinessProbe"] = {"grpc": {"port": 9000}} | OFTEN
    hook["lifecycle"] = {"preStop": {"httpGet": {"path": "/bye", "port": 8082}}}
    made["spec"] |= {"containers": [main, hook], "terminationGracePeriodSeconds": 5}
    return made


class Scene:
    """A captured pod on the first node, callers of all sorts, and a daemon on that node."""

    def __init__(self, cluster: Cluster, mesh: str, stranger: str) -> None:
        self.cluster, self.mesh, self.strangers = cluster, mesh, stranger
        self.node, self.other_node = cluster.nodes[:2]
        cluster.apply(
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}} for name, labels in ((mesh, MESH), (stranger, {}))),
            web(mesh, self.node),
            pod("stranger", stranger, node=self.node),
            pod("hostnet", stranger, node=self.node, hostNetwork=True),
            service("web", mesh, {"http": 8080}, type="NodePort"),
            service("local", mesh, {"http": 8080}, type="NodePort", externalTrafficPolicy="Local", selector={"app": "web"}),
        )  # fmt: skip
        for namespace in (mesh, stranger):
            cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        self.address = cluster.get("pod", "web", mesh)["status"]["podIP"]
        self.service = cluster.get("service", "web", mesh)["spec"]["clusterIP"]
        self.ports = {
            name: cluster.get("service", name, mesh)["spec"]["ports"][0]["nodePort"] for name in ("web", "local")
        }
        self.nodes = [cluster.address(node) for node in (self.node, self.other_node)]
        self.cgroups = "/sys/fs/cgroup/unified"
        if cluster.inside_tried(self.node, "test", "-d", self.cgroups).returncode:
            self.cgroups = "/sys/fs/cgroup"
        self.netns = {name: self._netns(name, stranger if name == "stranger" else mesh) for name in ("web", "stranger")}
        until("kube-proxy knows the Services", lambda: all(self.outside(f"{self.nodes[0]}:{port}") for port in self.ports.values()))  # fmt: skip
        self.daemon = Daemon(cluster, self.node, mesh)

    def _netns(self, name: str, namespace: str) -> str:
        address = self.cluster.get("pod", name, namespace)["status"]["podIP"]
        for path in self.cluster.inside(self.node, "sh", "-c", "ls -d /run/netns/*").split():
            shown = self.cluster.inside(self.node, "nsenter", f"--net={path}", "ip", "-br", "address", check=False)
            if f" {address}/" in shown:
                return path
        raise AssertionError(f"no namespace has {address}")

    # the kubelet

    def kubelet_in(self, cgroup: str) -> None:
        """Start the kubelet again in a cgroup of its own, as systemd does with k3s."""
        folder = f"{self.cgroups}/system.slice/{cgroup}"
        script = self.cluster.folder / self.node / "svc" / "kubelet.run"
        lines = [line for line in script.read_text().splitlines() if "cgroup.procs" not in line]
        lines.insert(1, f"mkdir -p {folder} && echo $$ >{folder}/cgroup.procs")
        new = script.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.chmod(0o755)
        new.rename(script)
        self.cluster.restart(self.node, "kubelet")
        self.cgroup = folder

    def probes_pass(self, seconds: float) -> None:
        """Each kind of probe, once a second; two that fail are a restart, or no more Ready."""
        before = self.restarts()
        until("all containers are ready", self.ready)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            assert self.ready()
            time.sleep(0.5)
        assert self.restarts() == before

    def restarts(self) -> int:
        return sum(one["restartCount"] for one in self.statuses())

    def ready(self) -> bool:
        return all(one["ready"] for one in self.statuses())

    def statuses(self) -> list[Manifest]:
        return self.cluster.get("pod", "web", self.mesh)["status"]["containerStatuses"]

    # callers; each says whether it was answered with 200

    def outside(self, at: str, path: str = "/live") -> bool:
        return _served(self.cluster.outside(PROBE, "get", f"http://{at}{path}"))

    def process(self, at: str) -> bool:
        return _served(self.cluster.inside_tried(self.node, PROBE, "get", f"http://{at}/live"))

    def kubelets_process(self, at: str) -> bool:
        script = f"echo $$ >{self.cgroup}/cgroup.procs && exec {PROBE} get http://{at}/live"
        return _served(self.cluster.inside_tried(self.node, "sh", "-c", script))

    def pod(self, name: str, namespace: str, at: str) -> bool:
        return _served(
            self.cluster.tried("-n", namespace, "exec", name, "--", "probe", "get", f"http://{at}/live", timeout=30)
        )

    def python(self, code: str, *words: object, netns: str = "") -> str:
        inside = ["nsenter", f"--net={netns}"] if netns else []
        command = [*inside, sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
        return self.cluster.inside_tried(self.node, *command).stdout.strip()

    def forged(self, source: str, mark: int = 0, netns: str = "") -> bool:
        return self.python(FORGED, source, self.address, 8080, mark, netns=netns) == "200"

    def forged_outside(self) -> bool:
        """By a host of the same wire, with a route to the pods."""
        network = f"{self.address.rpartition('.')[0]}.0/24"
        self.cluster.outside("ip", "route", "replace", network, "via", self.nodes[0])
        try:
            code = [sys.executable, "-c", textwrap.dedent(FORGED), PROBER[0], self.address, "8080", "0"]
            return self.cluster.outside(*code).stdout.strip() == "200"
        finally:
            self.cluster.outside("ip", "route", "del", network)

    def frame(self, tags: str, source: str = PROBER[0]) -> bool:
        """Whether the pod answers a SYN in a frame that a neighbour made itself."""
        mac = self.mac()
        command = ["nsenter", f"--net={self.netns['web']}", sys.executable, "-c", textwrap.dedent(SNIFF)]
        sniffer = self.cluster.start_inside(self.node, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert sniffer.stdout is not None
        sniffer.stdout.readline()
        self.python(FRAME_AT, source, self.address, mac, tags, netns=self.netns["stranger"])
        said, _ = sniffer.communicate("", timeout=20)
        return said.strip() == "answered"

    def mac(self) -> str:
        shown = self.cluster.inside(
            self.node, "nsenter", f"--net={self.netns['web']}", "ip", "-br", "link", "show", "eth0"
        )
        return shown.split()[2]


# at the port of a probe here
FRAME_AT = FRAME.replace('"!HHIIBBHHH", 40000, 80,', '"!HHIIBBHHH", 40000, 8080,')
assert FRAME_AT != FRAME
SNIFF = """
    import select, socket, sys, time
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    print("ready", flush=True)
    ends, said, watched = time.monotonic() + 10, "nothing", [wire, sys.stdin]
    while said == "nothing" and (left := ends - time.monotonic()) > 0:
        for heard in select.select(watched, [], [], left)[0]:
            if heard is sys.stdin:  # the frame was sent
                ends, watched = time.monotonic() + 0.7, [wire]
                continue
            packet = wire.recv(200)  # probes pass meanwhile
            if packet[9:10] == b"\\x06" and packet[20:24] == bytes((8080 >> 8, 8080 & 255, 40000 >> 8, 40000 & 255)):
                said = "answered"
    print(said, flush=True)
"""


def _served(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 0 and done.stdout.startswith("200 ")


@pytest.fixture(scope="module")
def scene(cluster: Cluster) -> Iterator[Scene]:
    if cluster.folder is None or len(cluster.nodes) < 2:
        pytest.skip("it works on two nodes themselves, and this cluster is reached by its API only")
    number = int(time.time()) % 100000
    made = Scene(cluster, f"probed-{number}", f"strangers-{number}")
    try:
        made.kubelet_in("k3s.service")
        made.daemon.read()
        made.daemon.start(probes={"listener": 10250})
        yield made
    finally:
        made.daemon.close()
        cluster.kubectl("delete", "namespace", made.mesh, made.strangers, "--wait=false", check=False)


@pytest.fixture(scope="module", params=["alive", "dead"])
def state(scene: Scene, request: pytest.FixtureRequest) -> str:
    """The daemon runs; then it is killed, and all that follows happens without one."""
    if request.param == "dead":
        scene.daemon.kill()
    return str(request.param)


OTHERS: dict[str, Callable[[Scene], bool]] = {
    "outside, node port": lambda s: s.outside(f"{s.nodes[0]}:{s.ports['web']}"),
    "outside, node port, with a query": lambda s: s.outside(f"{s.nodes[0]}:{s.ports['web']}", "/live?x=1"),
    "outside, node port of another node": lambda s: s.outside(f"{s.nodes[1]}:{s.ports['web']}"),
    "outside, externalTrafficPolicy Local": lambda s: s.outside(f"{s.nodes[0]}:{s.ports['local']}"),
    "outside, forged address, routed": lambda s: s.forged_outside(),
    "process of the node": lambda s: s.process(f"{s.address}:8080"),
    "process of the node, Service": lambda s: s.process(f"{s.service}:8080"),
    "process of the node, node port": lambda s: s.process(f"{s.nodes[0]}:{s.ports['web']}"),
    "process of the node, forged address": lambda s: s.forged(PROBER[0]),
    "process of the node, forged mark": lambda s: s.forged("", PROBE_BIT),
    "hostNetwork pod": lambda s: s.pod("hostnet", s.strangers, f"{s.address}:8080"),
    "hostNetwork pod, Service": lambda s: s.pod("hostnet", s.strangers, f"{s.service}:8080"),
    "another pod": lambda s: s.pod("stranger", s.strangers, f"{s.address}:8080"),
    "another pod, node port": lambda s: s.pod("stranger", s.strangers, f"{s.nodes[0]}:{s.ports['web']}"),
    "another pod, forged address": lambda s: s.forged(PROBER[0], netns=s.netns["stranger"]),
    "another pod, forged mark": lambda s: s.forged("", PROBE_BIT, netns=s.netns["stranger"]),
    "itself, Service": lambda s: s.pod("web", s.mesh, f"{s.service}:8080"),
    "itself, node port": lambda s: s.pod("web", s.mesh, f"{s.nodes[0]}:{s.ports['web']}"),
    "the kubelet's cgroup, Service": lambda s: s.kubelets_process(f"{s.service}:8080"),
    "the kubelet's cgroup, node port": lambda s: s.kubelets_process(f"{s.nodes[0]}:{s.ports['web']}"),
    "the kubelet's cgroup, a port that no probe names": lambda s: s.kubelets_process(f"{s.address}:8081"),
}  # fmt: skip


def test_probes_of_each_kind_pass(scene: Scene, state: str) -> None:
    scene.probes_pass(6)
    assert scene.kubelets_process(f"{scene.address}:8080")


@pytest.mark.parametrize("who", OTHERS)
def test_nobody_else_gets_in(scene: Scene, state: str, who: str) -> None:
    assert not OTHERS[who](scene)


@pytest.mark.parametrize("through", ["1", "0"])
def test_nobody_forges_on_the_bridge(scene: Scene, state: str, through: str) -> None:
    """Whether the bridge's packets come to the IP hooks or not; with the tag of VLAN 0 once and twice."""
    name = "net.bridge.bridge-nf-call-iptables"
    before = scene.cluster.inside(scene.node, "sysctl", "-n", name).strip()
    scene.cluster.inside(scene.node, "sysctl", "-qw", f"{name}={through}")
    try:
        assert not scene.forged(PROBER[0], netns=scene.netns["stranger"])
        for tags in ("", "81000000", "8100000081000000", "88a8000081000000"):
            assert not scene.frame(tags), tags
        stranger = scene.cluster.get("pod", "stranger", scene.strangers)["status"]["podIP"]
        assert scene.frame("", stranger), "and this is how an answer looks"
    finally:
        scene.cluster.inside(scene.node, "sysctl", "-qw", f"{name}={before}")


def test_they_go_on_while_conntrack_is_flushed(scene: Scene, state: str) -> None:
    flush = """
        import struct
        from agent.kernel.netlink import NETLINK_NETFILTER, Netlink
        with Netlink(NETLINK_NETFILTER) as netlink:
            netlink.ask("flush", 1 << 8 | 2, 0, struct.pack(">BBH", 0, 0, 0))
        print("flushed")
    """
    for _ in range(3):
        command = ["env", f"PYTHONPATH={TREE}", sys.executable, "-c", textwrap.dedent(flush)]
        assert scene.cluster.inside(scene.node, *command).strip() == "flushed"
        scene.probes_pass(1)


def test_they_go_on_when_containerd_is_started_again(scene: Scene, state: str) -> None:
    scene.cluster.restart(scene.node, "containerd")
    scene.probes_pass(5)
    assert not scene.process(f"{scene.address}:8080")


def test_a_hook_comes_in_with_no_daemon(scene: Scene) -> None:
    """After those that are tried in both states: the daemon was killed."""
    with pytest.raises(ConnectionError):
        scene.daemon.status()
    log = scene.cluster.folder / "hook.log"
    with log.open("w") as file:
        follower = subprocess.Popen(
            [f"{scene.cluster.folder}/kubectl", "-n", scene.mesh, "logs", "-f", "web", "-c", "hook"], stdout=file, stderr=file
        )  # fmt: skip
        time.sleep(1)
        scene.cluster.kubectl("-n", scene.mesh, "delete", "pod", "web")
        follower.wait(20)
    assert f"GET /bye from {PROBER[0]}" in log.read_text()


def test_a_kubelet_in_a_new_cgroup_is_followed(scene: Scene) -> None:
    """A service that systemd starts again has one. It needs the daemon."""
    scene.cluster.apply(web(scene.mesh, scene.node))
    scene.cluster.kubectl("-n", scene.mesh, "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    scene.address = scene.cluster.get("pod", "web", scene.mesh)["status"]["podIP"]
    scene.daemon.read()
    scene.daemon.start(probes={"listener": 10250})
    scene.probes_pass(2)
    old = scene.cgroup
    scene.kubelet_in("k3s-again.service")
    until("its new cgroup may probe", lambda: scene.kubelets_process(f"{scene.address}:8080"))
    scene.probes_pass(4)
    scene.cgroup, new = old, scene.cgroup
    assert not scene.kubelets_process(f"{scene.address}:8080"), "and the old one no longer"
    scene.cgroup = new
    assert not [message for message in scene.daemon.problems() if "10250" in message]


HELD = """
    import sys, time
    from agent.kernel.nft import install
    from agent.kernel.netlink import NETLINK_NETFILTER, Netlink
    from agent.kernel.ruleset import NODE, Chain, Ruleset
    with Netlink(NETLINK_NETFILTER) as netlink:
        install(netlink, Ruleset((Chain("x"),), (), (), NODE), owned=True)
        print("held", flush=True)
        sys.stdin.read()
"""


def test_where_the_table_cannot_be_put_the_weaker_rule_is_named_and_the_outside_stays_out(scene: Scene) -> None:
    """Another program owns a table of that name."""
    scene.daemon.close()
    command = ["env", f"PYTHONPATH={TREE}", sys.executable, "-c", textwrap.dedent(HELD)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = scene.cluster.start_inside(scene.node, *command, **pipes)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        scene.daemon.start(probes={"listener": 10250})
        (told,) = [message for message in scene.daemon.problems() if "no table can be put on the node" in message]
        assert "whoever has the node's address" in told
        assert scene.process(f"{scene.address}:8080"), "the rule that it names"
        assert not scene.outside(f"{scene.nodes[0]}:{scene.ports['web']}")
        assert not scene.outside(f"{scene.nodes[1]}:{scene.ports['web']}")
        assert not scene.pod("stranger", scene.strangers, f"{scene.nodes[0]}:{scene.ports['web']}")
    finally:
        holder.communicate("")
    until("the strong rule is in force again", lambda: not scene.process(f"{scene.address}:8080"))
    scene.probes_pass(2)


def test_it_is_all_taken_away(scene: Scene) -> None:
    scene.daemon.close()
    assert scene.process(f"{scene.address}:8080"), "nothing is closed any more"
    with pytest.raises(Problem):
        scene.cluster.inside(scene.node, "nft", "list", "table", "inet", "edgemesh_node")
