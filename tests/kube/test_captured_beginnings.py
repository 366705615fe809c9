"""A pod of the mesh begins captured: its first instruction calls out, and what leaves the node's bridge is counted.

The daemon runs from this tree in the first node. A call of the mesh's pods to the outside is refused by a MeshConfig
that only this daemon reads, so every SYN that is seen is one of a pod that was not captured.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.nri.boot_files import INDEX_NAME
from tests.kube.clusters import pod, until

ROOT = Path(__file__).parents[2]
PORT = 9999
COUNTER = f"""
table ip edgemesh_test
delete table ip edgemesh_test
table ip edgemesh_test {{
  chain seen {{ type filter hook prerouting priority -400; tcp dport {PORT} tcp flags & (syn|ack) == syn counter; }}
}}"""
# Calls of the node's own network, as they leave it
OWN = COUNTER.replace("hook prerouting priority -400", "hook postrouting priority 400")
CLOSED = """
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: edgemesh-system}
spec: {traffic: {enableEgress: false}}
"""
SOCKET = "/run/nri/nri.sock"
IN_MESH = {"openservicemesh.io/monitored-by": "osm"}


class Agent:
    """The daemon in a node, from this tree."""

    def __init__(self, cluster, node, folder):
        self.cluster, self.node, self.folder = cluster, node, folder
        self.socket, self.process = str(folder / "admin.sock"), None
        (folder / "config").mkdir()
        (folder / "config" / "mesh.yaml").write_text(CLOSED)

    def start(self):
        words = ["--kubeconfig", f"{self.cluster.folder}/admin-lan.kubeconfig", "--config", f"{self.folder}/config"]
        words += ["--node", self.node, "--state-dir", f"{self.folder}/state", "--socket", self.socket]
        log = open(self.folder / "log", "a")  # noqa: SIM115 - the process's
        self.process = self.cluster.start_inside(
            self.node, "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "agent", "run", *words, stdout=log, stderr=log
        )
        log.close()

    def settle(self):
        until("the daemon has heard of the cluster", lambda: "synced with" in self.log and self.pid)
        until("the runtime is connected", lambda: self.log.count("connected to containerd") > 0)
        self.pid_kept = self.pid

    @property
    def log(self):
        return (self.folder / "log").read_text()

    @property
    def pid(self):
        """Its number in the node; 0 when it does not answer."""
        words = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "agent", "status", "-o", "json"]
        done = self.cluster.inside_tried(self.node, *words, "--socket", self.socket)
        return json.loads(done.stdout)["pid"] if done.stdout.startswith("{") else 0

    def kill(self, how):
        self.cluster.inside(self.node, "kill", f"-{how.value}", str(self.pid_kept))
        if how is signal.SIGCONT:
            self.process.send_signal(how)  # nsenter stops with its child

    def __enter__(self):
        self.start()
        self.settle()
        return self

    def again(self, wait=True):
        self.process.wait(30)
        (self.folder / "log").write_text("")
        self.start()
        if wait:
            self.settle()

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGCONT)
        for how in (signal.SIGCONT, signal.SIGKILL):
            self.cluster.inside_tried(self.node, "kill", f"-{how.value}", str(self.pid_kept))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)


@pytest.fixture
def agent_of(own, tmp_path):
    """agent_of(node): a daemon there. Nothing of it is left."""
    with contextlib.ExitStack() as agents:

        def make(node):
            agents.callback(cleaned, node)
            return agents.enter_context(Agent(own, node, tmp_path))

        def cleaned(node):
            own.inside_tried(node, "rm", "-f", f"/opt/nri/plugins/{INDEX_NAME}", "/opt/nri/edgemesh.json")
            own.restart(node, "containerd")
            own.inside_tried(node, "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "agent", "cleanup")
            until("containerd serves", lambda: own.inside_tried(node, "test", "-S", SOCKET).returncode == 0)

        yield make


@pytest.fixture
def begin(own):
    """begin(namespace, node): what left a node when pods began there whose first instruction calls out."""
    numbers = iter(range(1, 1000))

    def run(namespace, node, count=3, counter=COUNTER, **spec):
        outside = own.address(node).rpartition(".")[0] + ".1"
        own.inside(node, "nft", "-f", "-", given=counter)
        call = f"for i in 1 2 3; do timeout 1 probe talk {outside}:{PORT}; done; true"
        names = [f"p{next(numbers)}" for _ in range(count)]
        own.apply(*(pod(name, namespace, ["sh", "-c", call], node, restartPolicy="Never", **spec) for name in names))

        def ended():
            phases = {one["metadata"]["name"]: one["status"].get("phase") for one in own.list("pods", namespace)}
            return all(phases.get(name) == "Succeeded" for name in names)

        until("the pods have ended", ended, patience=120)
        counted = own.inside(node, "nft", "list", "table", "ip", "edgemesh_test")
        own.inside(node, "nft", "delete", "table", "ip", "edgemesh_test")
        return int(re.search(r"packets (\d+)", counted)[1])

    return run


def has_boot_program(own, node):
    def there():
        return own.inside_tried(node, "test", "-x", f"/opt/nri/plugins/{INDEX_NAME}").returncode == 0

    until("the program for the boot is there", there)


def test_whatever_is_dead_or_slow_no_pod_of_the_mesh_is_open(own, agent_of, begin, namespaces):
    node, mesh, other = own.nodes[0], namespaces("begins", labels=IN_MESH), namespaces("others")
    agent = agent_of(node)
    assert begin(mesh, node) == 0, "the daemon is there"
    assert begin(other, node) >= 3, "others call out, and the count counts"

    agent.kill(signal.SIGSTOP)
    assert begin(mesh, node) == 0, "it is stopped: the runtime gives up, and starts the pods"
    agent.kill(signal.SIGCONT)

    has_boot_program(own, node)
    own.restart(node, "containerd", 1)
    assert begin(mesh, node) == 0, "the runtime began anew"
    assert begin(other, node) >= 3

    agent.kill(signal.SIGKILL)
    assert begin(mesh, node) == 0, "no daemon"
    assert begin(other, node) >= 3, "the program that the runtime started knows that these are not of the mesh"
    assert begin(namespaces("new"), node) >= 3, "and it asks about those of which it has not heard"
    assert begin(namespaces("new", labels=IN_MESH), node) == 0

    joined = other
    own.kubectl("label", "namespace", joined, "openservicemesh.io/monitored-by=osm")
    assert begin(joined, node) == 0, "a namespace that joins the mesh while there is no daemon"

    agent.again(wait=False)
    assert begin(joined, node) == 0, "a new daemon, which knows what the last one knew"
    agent.settle()
    assert begin(joined, node) == 0
    assert begin(mesh, node) == 0
    assert begin(namespaces("others"), node) >= 3


def test_the_first_probe_of_a_pod_is_admitted(own, agent_of, namespaces):
    """The kubelet asks before the API says which addresses the pod has."""
    node, mesh = own.nodes[0], namespaces("probed", labels=IN_MESH)
    agent_of(node)
    names = [f"web{number}" for number in range(5)]
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    serves = {"command": ["probe", "serve"], "readinessProbe": probe}
    own.apply(*(pod(name, mesh, node=node, container=serves) for name in names))
    own.kubectl("-n", mesh, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
    refused = [event["message"] for event in own.list("events", mesh) if "403" in event["message"]]
    assert refused == []


def test_a_pod_of_the_nodes_network_begins_captured(own, agent_of, begin, namespaces):
    node, mesh, other = own.nodes[0], namespaces("begins", labels=IN_MESH), namespaces("others")
    agent_of(node)
    assert begin(other, node, counter=OWN, hostNetwork=True) >= 3, "others call out, and the count counts"
    assert begin(mesh, node, counter=OWN, hostNetwork=True) == 0, "the runtime waited"


def test_after_a_reboot_the_gate_is_there_before_the_first_pod(own, agent_of, begin, namespaces):
    node, mesh, other = own.nodes[-1], namespaces("begins", labels=IN_MESH), namespaces("others")
    agent = agent_of(node)
    assert begin(mesh, node) == 0
    has_boot_program(own, node)
    agent.kill(signal.SIGKILL)
    own.reboot(node)
    until("the gate is there", lambda: "edgemesh_gate" in own.inside_tried(node, "nft", "list", "tables").stdout)
    assert begin(mesh, node) == 0, "no daemon yet"
    assert begin(other, node) >= 3
    agent.again()
    assert begin(mesh, node) == 0
    assert begin(other, node) >= 3


@pytest.mark.long
@pytest.mark.timeout(900)
def test_of_200_pods_none_is_open_whatever_becomes_of_the_daemon(own, agent_of, begin, namespaces):
    node, mesh, other = own.nodes[0], namespaces("begins", labels=IN_MESH), namespaces("others")
    agent = agent_of(node)
    has_boot_program(own, node)
    own.restart(node, "containerd", 1)
    until("the runtime is connected", lambda: agent.log.count("connected to containerd") > 1)
    for _ in range(2):
        killer = threading.Timer(2.0, agent.kill, (signal.SIGKILL,))
        killer.start()
        assert begin(mesh, node, 25) == 0, "it is killed meanwhile"
        killer.join()
        assert begin(mesh, node, 25) == 0, "none"
        agent.again(wait=False)
        assert begin(mesh, node, 25) == 0, "it starts"
        agent.settle()
        assert begin(mesh, node, 25) == 0, "it runs"
    assert begin(other, node, 10) >= 10, "and the count counts"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_how_long_the_runtime_waits_for_a_pod_outside_the_mesh(own, agent_of, begin, namespaces):
    """Printed (-s), with the load of the machine: one pod after the other with a daemon, then without one."""
    node, other = own.nodes[0], namespaces("others")
    agent = agent_of(node)
    has_boot_program(own, node)
    for _ in range(10):
        begin(other, node, 6)
    found = re.findall(rf"pod {other}/p\d+ may speak after ([\d.]+) ms", agent.log)
    with_daemon = spread([float(one) for one in found])
    agent.kill(signal.SIGKILL)
    code = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", WAITED, other]
    own.apply(*(pod(f"stays{number}", other, node=node) for number in range(5)))
    own.kubectl(
        "-n", other, "wait", "--for=condition=Ready", "pod", "-l", "app in (stays0,stays1,stays2,stays3,stays4)"
    )
    without = spread([float(one) for one in own.inside(node, *code).split()])
    print(f"with a daemon: {with_daemon}; without: {without}")


def spread(found):
    found.sort()
    load = Path("/proc/loadavg").read_text().split()[0]
    return f"p50 {found[len(found) // 2]:.1f}, p99 {found[len(found) * 99 // 100]:.1f} ms of {len(found)}, load {load}"


# The program for the boot, as the runtime calls it: how long each of 200 calls takes, in milliseconds.
WAITED = """
import sys, threading, time
from agent.kernel.sandboxes import Sandboxes
from agent.nri.boot import Boot
from agent.nri.boot_files import BootFiles
from agent.nri.inquiry import Inquiry
boxes = Sandboxes()
mine = [box for box in boxes.read().values() if box.namespace == sys.argv[1] and box.netns and box.name.startswith("stays")]
boot = Boot(BootFiles(), boxes, Inquiry())
threading.Thread(target=boot.ask, daemon=True).start()
for number in range(200):
    box, began = mine[number % len(mine)], time.monotonic()
    boot.close()
    boot.judge(box, 0.5)
    print((time.monotonic() - began) * 1000)
    assert box.id not in boot._doubtful, "it was not decided"
    time.sleep(0.05)
"""
