"""The two-node lab: two nodes and an authority, each with a daemon of its own in a namespace of its own, on one link.

    buyer, thief -- n1 ---+            +--- n2 -- store
                          |-- switch --|
    authority: hub -------+            +--- stranger (in no mesh, with a route to the store)

Nothing is stood in for: the installed program, the kernel, and what an operator types. Certificates live for seconds beyond what
the authority dates them back by, so that each is renewed every few seconds: all that happens here happens across renewals.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.admin.client import get
from agent.kernel import cgroup
from tests.netns.conftest import GET, HTTP_SERVER, PATH, TCP, TCP_SERVER, Host, mesh_config, named, own, routes, sh, target, tcp_route

ROOT = Path(__file__).parents[2]
NODES = ("hub", "n1", "n2")
HOMES = {"buyer": "n1", "thief": "n1", "store": "n2"}
LIFETIME = 320.0  # seconds; the authority dates back by 300 of them, and half of 620 is 10 s from now
LINK = "link0"

PORTS = [{"name": "http", "port": 80}, {"name": "tcp-echo", "port": 7}, {"name": "http-none", "port": 81}]

# Calls until it is told to stop; prints what became of them: {"200": 317, "403 no-rule": 2, ...}
CALLER = """
    import collections, http.client, json, signal, sys, time
    host, port, path, pause = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    seen, going = collections.Counter(), [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    print("ready")
    connection = http.client.HTTPConnection(host, port, timeout=8)
    while going:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            word = f"{response.status} {response.getheader('x-edgemesh-reason', '')}".strip()
        except (OSError, http.client.HTTPException) as error:
            word = type(error).__name__
            connection.close()
        seen[word] += 1
        time.sleep(pause)
    print(json.dumps(seen), flush=True)
"""

# One connection to the echo: each line that comes in is sent, and what came back is printed, or how it ended.
TALKER = """
    import socket, sys
    talk = socket.create_connection((sys.argv[1], 7), 8)
    print("ready")
    for line in sys.stdin:
        try:
            talk.sendall(line.encode())
            print(talk.recv(4096).decode().strip() or "closed")
        except OSError as error:
            print(type(error).__name__)
"""


class Leaf(Host):
    """The namespace of one workload behind its node, or one of somebody else."""

    def __init__(self, lab, name, home, number):
        self.lab, self.home, self.number = lab, home, number
        self.name = lab.prefix + name
        net = lab.nodes[home].number
        self.v4, self.gateway = f"10.{lab.octet}.{net}.{number}", f"10.{lab.octet}.{net}.1"
        self.make()

    def make(self):
        sh("ip", "netns", "add", self.name)
        node = self.lab.nodes[self.home].name
        sh("ip", "-n", self.name, "link", "add", "eth0", "type", "veth", "peer", "name", f"leaf{self.number}", "netns", node)
        for words in ("link set lo up", "link set eth0 up", f"addr add {self.v4}/24 dev eth0"):
            sh("ip", "-n", self.name, *words.split())
        sh("ip", "-n", node, "link", "set", f"leaf{self.number}", "master", "leaves", "up")
        sh("ip", "-n", self.name, "route", "add", "default", "via", self.gateway)


class Stranger(Host):
    """A namespace on the link that is in no mesh and knows the way to every workload."""

    def __init__(self, lab):
        self.lab, self.name = lab, f"{lab.prefix}stranger"
        self.v4 = f"10.{lab.octet}.0.99"
        self.make()

    def make(self):
        sh("ip", "netns", "add", self.name)
        sh("ip", "-n", self.name, "link", "add", LINK, "type", "veth", "peer", "name", "stranger", "netns", self.lab.switch)
        for words in ("link set lo up", f"link set {LINK} up", f"addr add {self.v4}/24 dev {LINK}"):
            sh("ip", "-n", self.name, *words.split())
        sh("ip", "-n", self.lab.switch, "link", "set", "stranger", "master", "br0", "up")
        for node in self.lab.nodes.values():
            sh("ip", "-n", self.name, "route", "add", f"10.{self.lab.octet}.{node.number}.0/24", "via", node.v4)


class Node(Host):
    """A namespace with a daemon. `v4` is its address on the link; its workloads are on a bridge behind it."""

    def __init__(self, lab, name, number):
        self.lab, self.number, self.plain = lab, number, name
        self.name = lab.prefix + name
        self.v4 = f"10.{lab.octet}.0.{number}"
        self.home = lab.folder / name
        self.home.mkdir(mode=0o700)
        self.state, self.socket = self.home / "state", str(self.home / "admin.sock")
        self.config = self.home / "config"  # each reads its own, as it does where they are brought to every node
        self.config.mkdir()
        self.daemon = None
        self.make()

    def make(self):
        sh("ip", "netns", "add", self.name)
        sh("ip", "netns", "exec", self.name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        sh("ip", "-n", self.name, "link", "add", LINK, "type", "veth", "peer", "name", self.plain, "netns", self.lab.switch)
        for words in (
            "link set lo up",
            f"link set {LINK} up",
            f"addr add {self.v4}/24 dev {LINK}",
            "link add leaves type bridge",
            "link set leaves up",
            f"addr add 10.{self.lab.octet}.{self.number}.1/24 dev leaves",
        ):
            sh("ip", "-n", self.name, *words.split())
        sh("ip", "-n", self.lab.switch, "link", "set", self.plain, "master", "br0", "up")

    def link(self, up):
        sh("ip", "-n", self.name, "link", "set", LINK, "up" if up else "down")
        if up:
            self.lab.route(self)

    def edgemesh(self, *words, given="", check=True):
        """What an operator types on this node."""
        # Not `ip netns exec`: that hides the cgroup mount.
        command = ["nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-m", "agent", *words]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=30, check=False, env=environment())
        if check and done.returncode:
            raise AssertionError(f"edgemesh {' '.join(words)}: {done.stderr or done.stdout}")
        return done

    def begin(self):
        log = (self.home / "daemon.log").open("ab")
        command = ["nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-m", "agent", "run"]
        command += ["--config", str(self.config), "--node", self.plain, "--access-log", "all"]
        command += ["--authority"] if self.plain == "hub" else []
        self.daemon = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), cwd=self.home)
        log.close()

    def up(self):
        self.begin()
        self.lab.wait(self.ready, f"{self.plain} is ready")
        return self

    def ready(self):
        if self.daemon.poll() is not None:
            raise AssertionError(f"the daemon of {self.plain} ended: {self.log()[-2000:]}")
        try:
            status = get(self.socket, "/status")
        except ConnectionError:
            return False
        local = [w for w in status["workloads"] if w["state"] != "elsewhere"]
        wanted = sum(home == self.plain for home in HOMES.values())
        return status["enforcing"] and len(local) == wanted and all(w["state"] == "captured" for w in local) and self.certified()

    def certified(self):
        """A certificate for itself and for each identity here."""
        held = [one for one in get(self.socket, "/certs")["certificates"] if one.get("not_after")]
        return len(held) > sum(home == self.plain for home in HOMES.values())

    def down(self, number=signal.SIGTERM):
        self.daemon.send_signal(number)
        return self.daemon.wait(20)

    def kill(self):
        return self.down(signal.SIGKILL)

    def log(self):
        return (self.home / "daemon.log").read_text()

    def records(self):
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]


class Talk:
    """A connection of the buyer to the store's echo that stays open."""

    def __init__(self, process):
        self.process = process

    def say(self, word):
        """What came back, or how the connection ended."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def lives(self):
        return self.say("ping") == "echo ping"


class TwoNodes:
    """`enter` makes it; `close` leaves nothing behind."""

    def __init__(self, folder, octet):
        self.folder, self.octet = folder, octet
        self.prefix = f"emt{os.getpid()}-"
        self.switch = f"{self.prefix}switch"
        self.processes = []
        self.nodes, self.leaves = {}, {}
        self.settings = {
            "identity": {"lifetime": LIFETIME, "refresh": 1.0},
            "peers": {"keepalive": 1.0, "answer": 2.0},
            "limits": {"connectTimeout": 2.0},
        }

    def enter(self):
        sh("ip", "netns", "add", self.switch)
        for words in ("link add br0 type bridge", "link set br0 up"):
            sh("ip", "-n", self.switch, *words.split())
        for number, name in enumerate(NODES, 1):
            self.nodes[name] = Node(self, name, number)
        for number, (name, home) in enumerate(HOMES.items(), 2):
            self.leaves[name] = Leaf(self, name, home, number)
        self.leaves["stranger"] = Stranger(self)
        for node in self.nodes.values():
            self.route(node)
        self.serve()
        self.manifests()
        self.enrol()
        return self

    def route(self, node):
        for other in self.nodes.values():
            if other is not node:
                sh("ip", "-n", node.name, "route", "replace", f"10.{self.octet}.{other.number}.0/24", "via", other.v4)

    # what is in the namespaces

    def start(self, command, wait=False):
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, text=True, env=environment())
        self.processes.append(process)
        if wait and not process.stdout.readline():
            raise AssertionError(f"did not start: {command}")
        return process

    def serve(self):
        store = self.leaves["store"]
        store.start(HTTP_SERVER, "store", 80)
        store.start(TCP_SERVER, "store", 7, "")

    @contextlib.contextmanager
    def calling(self, leaf, path="/books", pause=0.01, port=80):
        """Calls of the store one after the other, all the while; what became of them is in the Counter when it ends."""
        seen = Counter()
        process = self.leaves[leaf].start(CALLER, self.leaves["store"].v4, port, path, pause)
        try:
            yield seen
        finally:
            process.terminate()
            seen.update(json.loads(process.stdout.readline()))

    def talk(self):
        return Talk(self.leaves["buyer"].start(TALKER, self.leaves["store"].v4))

    # policy

    def write(self, name, *documents, nodes=NODES):
        for node in nodes:
            folder = self.nodes[node].config
            new = folder / f".{name}.new"
            new.write_text("\n---\n".join(json.dumps(document) for document in documents))
            new.rename(folder / f"{name}.yaml")

    def remove(self, name, nodes=NODES):
        for node in nodes:
            (self.nodes[node].config / f"{name}.yaml").unlink()

    def build(self, nodes=("n1", "n2")):
        """Wait until everything written so far is in force."""
        stamp = f"stamp-{time.monotonic_ns()}"
        self.write("stamp", own("Workload", stamp, {"addresses": []}), nodes=nodes)
        for node in nodes:
            socket = self.nodes[node].socket
            self.wait(lambda socket=socket: any(w["name"] == stamp for w in get(socket, "/snapshot")["workloads"]), "a new snapshot")

    def manifests(self):
        for node in self.nodes.values():
            spec = {"stateDir": str(node.state), "adminSocket": node.socket, "metricsAddress": "", **self.settings}
            spec |= {"addresses": [node.v4]} if node.plain != "hub" else {}
            self.write(f"node-{node.plain}", own("NodeConfig", node.plain, spec))
        for name in HOMES:
            leaf = self.leaves[name]
            spec = {"serviceAccount": name, "labels": {"app": name}, "addresses": [leaf.v4], "netns": leaf.name, "node": HOMES[name]}
            self.write(f"workload-{name}", own("Workload", name, spec))
        spec = {"selector": {"app": "store"}, "ports": PORTS}
        self.write("service", {"apiVersion": "v1", "kind": "Service", "metadata": named("store"), "spec": spec})
        self.write("routes", routes("get", {"name": "get", "methods": ["GET"], "pathRegex": "/books.*"}), tcp_route("any", 7))
        self.write("access", *ACCESS)
        self.write("mesh", mesh_config(enableEgress=True))

    # the daemons

    def enrol(self):
        hub = self.nodes["hub"]
        hub.edgemesh("ca", "init", "--state", str(hub.state))
        hub.up()
        for name in ("n1", "n2"):
            self.join(name, self.token(name))
            self.nodes[name].begin()
        for name in ("n1", "n2"):
            self.wait(self.nodes[name].ready, f"{name} is ready", 20)

    def token(self, node):
        hub = self.nodes["hub"]
        return hub.edgemesh("ca", "token", "--node", node, "--state", str(hub.state)).stdout

    def join(self, name, token, *more, state=None, check=True):
        hub, node = self.nodes["hub"], self.nodes[name]
        words = ("join", "--authority", f"{hub.v4}:15012", "--node", name, "--state", str(state or node.state))
        return node.edgemesh(*words, *more, given=token, check=check)

    def wait(self, condition, what, seconds=10):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if condition():
                return
            time.sleep(0.05)
        logs = "".join(f"\n{node.plain}: {node.log()[-1500:]}" for node in self.nodes.values() if node.daemon)
        raise AssertionError(f"gave up waiting: {what}; {logs}")

    def works(self, path="/books"):
        return self.leaves["buyer"].curl(f"http://{self.leaves['store'].v4}{path}").status == 200

    def close(self):
        for node in self.nodes.values():
            if node.daemon is not None and node.daemon.poll() is None:
                node.kill()
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stdin.close()
        for line in sh("ip", "netns", "list").stdout.splitlines():
            name = line.split()[0]
            if name.startswith(self.prefix):
                sh("ip", "netns", "del", name)
        root = cgroup.mount()
        if root is not None:
            for name in NODES:
                cgroup.leave(cgroup.folder(root, name))


ACCESS = (
    target("buyer", "store", GET),
    target("buyer", "store", TCP) | {"metadata": named("buyer-store-tcp")},
)


def environment():
    found = {name: value for name, value in os.environ.items() if not name.startswith("EDGEMESH_")}
    return {**found, "PATH": PATH, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    mesh = TwoNodes(tmp_path_factory.mktemp("mesh"), 87)
    try:
        yield mesh.enter()
    finally:
        mesh.close()
