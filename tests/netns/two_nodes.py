"""The two-node lab: two nodes and an authority, each with a daemon of its own in a namespace of its own, on one link.

    buyer, thief -- n1 ---+            +--- n2 -- store
                          |-- switch --|
    authority: hub -------+            +--- stranger (in no mesh, with a route to the store)

Nothing is stood in for: the installed program, the kernel, and what an operator types. Certificates live for seconds beyond what
the authority dates them back by, so that each is renewed every few seconds: all that happens here happens across renewals.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from subprocess import PIPE

import pytest

from agent.admin.client import get
from agent.system import cgroup
from tests.netns.conftest import (
    EDGEMESH,
    GET,
    HTTP_SERVER,
    PATH,
    PATIENCE,
    TCP,
    TCP_SERVER,
    Host,
    mesh_config,
    named,
    own,
    routes,
    sh,
    target,
    tcp_route,
)

NODES = ("hub", "n1", "n2")
HOMES = {"buyer": "n1", "thief": "n1", "store": "n2"}
LIFETIME = 320.0  # seconds; the authority dates back by 300 of them, and half of 620 is 10 s from now
LINK = "link0"

# Head and body leave it in two writes: with Nagle's algorithm the body would wait for 40 ms.
WEB = HTTP_SERVER.replace("protocol_version", "disable_nagle_algorithm = True; protocol_version")

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


class Place(Host):
    """A namespace whose LINK is plugged into a bridge of another one."""

    def __init__(self, lab, name, v4, switch, bridge):
        self.lab, self.plain, self.name, self.v4 = lab, name, lab.prefix + name, v4
        sh("ip", "netns", "add", self.name)
        self.ip("link", "add", LINK, "type", "veth", "peer", "name", name, "netns", switch)
        for words in ("link set lo up", f"link set {LINK} up", f"addr add {v4}/24 dev {LINK}"):
            self.ip(*words.split())
        sh("ip", "-n", switch, "link", "set", name, "master", bridge, "up")

    def ip(self, *words):
        sh("ip", "-n", self.name, *words)


class Node(Place):
    """A place with a daemon, which has its name. Its workloads are on a bridge behind it."""

    def __init__(self, lab, name, number):
        super().__init__(lab, name, f"10.{lab.octet}.0.{number}", lab.switch, "br0")
        self.net = f"10.{lab.octet}.{number}"
        sh("ip", "netns", "exec", self.name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for words in ("link add leaves type bridge", "link set leaves up", f"addr add {self.net}.1/24 dev leaves"):
            self.ip(*words.split())
        self.home = lab.folder / name
        self.home.mkdir(mode=0o700)
        self.state, self.socket = self.home / "state", str(self.home / "admin.sock")
        self.config = self.home / "config"  # each reads its own, as where manifests are brought to every node
        self.config.mkdir()
        # Not `ip netns exec`: that hides the cgroup mount.
        self.inside = ["nsenter", f"--net=/run/netns/{self.name}", *EDGEMESH]
        self.daemon = None
        self.more = {}  # environment that this lab adds

    def link(self, up):
        self.ip("link", "set", LINK, "up" if up else "down")
        if up:
            self.lab.route(self)  # the kernel forgot the ways over it

    def edgemesh(self, *words, given="", check=True):
        """What an operator types on this node."""
        command = [*self.inside, *words]
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=30, check=False, env=environment()
        )
        if check and done.returncode:
            raise AssertionError(f"edgemesh {' '.join(words)}: {done.stderr or done.stdout}")
        return done

    def begin(self):
        words = ["run", "--config", str(self.config), "--node", self.name, "--access-log", "all"]
        words += ["--authority"] if self.plain == "hub" else []
        with (self.home / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*self.inside, *words], stdout=log, stderr=log, env=environment() | self.more, cwd=self.home
            )

    def up(self):
        self.begin()
        self.lab.wait(self.ready, f"{self.plain} is ready")

    def ready(self):
        if self.daemon.poll() is not None:
            raise AssertionError(f"the daemon of {self.plain} ended: {self.log()[-2000:]}")
        try:
            status = get(self.socket, "/status")
        except ConnectionError:
            return False
        captured = [w for w in status["workloads"] if w["state"] == "captured"]
        wanted = sum(home == self.plain for home in HOMES.values())
        held = [
            one for one in get(self.socket, "/certs")["certificates"] if one["serial"]
        ]  # its own, and one for each identity
        return status["enforcing"] and len(captured) == wanted and len(held) > wanted

    def kill(self):
        self.daemon.kill()
        self.daemon.wait(20)

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
        for number, name in enumerate(HOMES, 2):
            node = self.nodes[HOMES[name]]
            self.leaves[name] = Place(self, name, f"{node.net}.{number}", node.name, "leaves")
            self.leaves[name].ip("route", "add", "default", "via", f"{node.net}.1")
        self.leaves["stranger"] = Place(self, "stranger", f"10.{self.octet}.0.99", self.switch, "br0")
        for place in (*self.nodes.values(), self.leaves["stranger"]):
            self.route(place)
        self.leaves["store"].start(WEB, "store", 80)
        self.leaves["store"].start(TCP_SERVER, "store", 7, "")
        self.manifests()
        self.enrol()
        return self

    def route(self, place):
        """The ways to the workloads of other nodes."""
        for node in self.nodes.values():
            if node is not place:
                place.ip("route", "replace", f"{node.net}.0/24", "via", node.v4)

    # what is in the namespaces

    def start(self, command, wait=False):
        process = subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
        )
        self.processes.append(process)
        if wait and not process.stdout.readline():
            raise AssertionError(f"did not start: {command}")
        return process

    def talk(self, to=None):
        return Talk(self.leaves["buyer"].start(TALKER, (to or self.leaves["store"]).v4))

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
            self.wait(
                lambda socket=socket: any(w["name"] == stamp for w in get(socket, "/snapshot")["workloads"]),
                "a new snapshot",
            )

    def manifests(self):
        for node in self.nodes.values():
            spec = {"stateDir": str(node.state), "adminSocket": node.socket, "metricsAddress": "", **self.settings}
            spec |= {"addresses": [node.v4]} if node.plain != "hub" else {}
            self.write(f"node-{node.plain}", own("NodeConfig", node.name, spec))
        for name in HOMES:
            leaf = self.leaves[name]
            spec = {"serviceAccount": name, "labels": {"app": name}, "addresses": [leaf.v4], "netns": leaf.name}
            spec["node"] = self.nodes[HOMES[name]].name
            self.write(f"workload-{name}", own("Workload", name, spec))
        self.service("store", [{"name": "http", "port": 80}, {"name": "tcp-echo", "port": 7}])
        self.write(
            "routes",
            routes("get", {"name": "get", "methods": ["GET"], "pathRegex": "/books.*"}),
            tcp_route("any", 7, 9),
        )
        self.allow("buyer", "store")
        self.write("mesh", mesh_config(enableEgress=True))

    def service(self, name, ports):
        service = {"apiVersion": "v1", "kind": "Service", "metadata": named(name)}
        self.write(f"service-{name}", service | {"spec": {"selector": {"app": name}, "ports": ports}})

    def allow(self, source, destination, nodes=NODES):
        """GET of /books, and TCP to 7 and 9."""
        tcp = target(source, destination, TCP) | {"metadata": named(f"{source}-{destination}-tcp")}
        self.write(f"access-{source}-{destination}", target(source, destination, GET), tcp, nodes=nodes)

    # the daemons

    def enrol(self):
        hub = self.nodes["hub"]
        hub.edgemesh("ca", "init", "--state", str(hub.state))
        hub.up()
        for name in ("n1", "n2"):
            self.join(name, self.token(name))
            self.nodes[name].begin()
        self.wait(lambda: all(node.ready() for node in self.nodes.values()), "all are ready")

    def token(self, name):
        hub = self.nodes["hub"]
        return hub.edgemesh("ca", "token", "--node", self.nodes[name].name, "--state", str(hub.state)).stdout

    def join(self, name, token, state=None, check=True):
        hub, node = self.nodes["hub"], self.nodes[name]
        words = ("--authority", f"{hub.v4}:15012", "--node", node.name, "--state", str(state or node.state))
        return node.edgemesh("join", *words, given=token, check=check)

    def wait(self, condition, what, seconds=PATIENCE):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if condition():
                return
            time.sleep(0.05)
        logs = "".join(f"\n{node.plain}: {node.log()[-1500:]}" for node in self.nodes.values() if node.daemon)
        raise AssertionError(f"gave up waiting: {what}; {logs}")

    def works(self):
        return self.leaves["buyer"].curl(f"http://{self.leaves['store'].v4}/books").status == 200

    def close(self):
        for node in self.nodes.values():
            if node.daemon is not None and node.daemon.poll() is None:
                node.kill()
        for process in self.processes:
            process.kill()
            process.communicate()
        for name in sh("ip", "netns", "list").stdout.split():
            if name.startswith(self.prefix):
                sh("ip", "netns", "del", name)
        if (root := cgroup.mount()) is not None:
            for node in self.nodes.values():
                cgroup.leave(cgroup.folder(root, node.name))


def environment():
    found = {name: value for name, value in os.environ.items() if not name.startswith("EDGEMESH_")}
    return {**found, "PATH": PATH, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    mesh = TwoNodes(tmp_path_factory.mktemp("mesh"), 87)
    try:
        yield mesh.enter()
    finally:
        mesh.close()
