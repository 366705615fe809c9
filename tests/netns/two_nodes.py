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

# Prints one line for each failure, and at the end how many calls went well.
CALLER = """
    import http.client, os, signal, sys, time
    host, path, wanted, pause = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    well, going = {}, [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    print("ready")
    connection = http.client.HTTPConnection(host, 80, timeout=5)
    while going:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            word = str(response.status) + " " + (response.getheader("x-edgemesh-reason") or "")
        except OSError as error:
            word = type(error).__name__
            connection.close()
        except http.client.HTTPException as error:
            word = type(error).__name__
            connection.close()
        word = word.strip()
        well[word] = well.get(word, 0) + 1
        time.sleep(pause)
    import json
    print(json.dumps(well), flush=True)
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


class Node(Host):
    """A namespace with a daemon. `v4` is its address on the link; its workloads are on a bridge behind it."""

    def __init__(self, lab, name, number):
        self.lab, self.number, self.plain = lab, number, name
        self.name = lab.prefix + name
        self.v4 = f"10.{lab.octet}.0.{number}"
        self.home = lab.folder / name
        self.home.mkdir(mode=0o700)
        self.state, self.socket = self.home / "state", str(self.home / "admin.sock")
        self.config = self.home / "config"  # manifests that this node alone reads, beside those of all
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

    def start(self, *more):
        more = more or (("--authority",) if self.plain == "hub" else ())
        log = (self.home / "daemon.log").open("ab")
        command = ["nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-m", "agent", "run"]
        command += ["--config", str(self.config), "--node", self.plain, "--access-log", "all", *more]
        self.daemon = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), cwd=self.home)
        log.close()

    def up(self, *more):
        self.start(*more)
        self.lab.wait(self.ready, f"{self.plain} is ready")
        return self

    def ready(self):
        if self.daemon.poll() is not None:
            raise AssertionError(f"the daemon of {self.plain} ended: {self.log()[-2000:]}")
        try:
            status = get(self.socket, "/status")
        except ConnectionError:
            return False
        local = [w for w in status["workloads"] if w["place"] or w["detail"]]
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


class TwoNodes:
    """`enter` makes it; `close` leaves nothing behind."""

    def __init__(self, folder, octet):
        self.folder, self.octet = folder, octet
        self.prefix = f"emt{os.getpid()}-"
        self.switch = f"{self.prefix}switch"
        self.config = folder / "config"
        self.config.mkdir()
        self.processes = []
        self.nodes, self.leaves = {}, {}
        self.settings = {"identity": {"lifetime": LIFETIME, "refresh": 1.0}}

    def enter(self):
        sh("ip", "netns", "add", self.switch)
        for words in ("link add br0 type bridge", "link set br0 up"):
            sh("ip", "-n", self.switch, *words.split())
        for number, name in enumerate(NODES, 1):
            self.nodes[name] = Node(self, name, number)
        for number, (name, home) in enumerate(HOMES.items(), 2):
            self.leaves[name] = Leaf(self, name, home, number)
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

    def stranger(self):
        """A namespace on the link that is in no mesh; made when it is asked for."""
        name = f"{self.prefix}stranger"
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "add", LINK, "type", "veth", "peer", "name", "stranger", "netns", self.switch)
        for words in ("link set lo up", f"link set {LINK} up", f"addr add 10.{self.octet}.0.99/24 dev {LINK}"):
            sh("ip", "-n", name, *words.split())
        sh("ip", "-n", self.switch, "link", "set", "stranger", "master", "br0", "up")
        for node in self.nodes.values():
            sh("ip", "-n", name, "route", "add", f"10.{self.octet}.{node.number}.0/24", "via", node.v4)
        return name
