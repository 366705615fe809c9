"""The load ring: the installed daemon, a hostile program beside it for some seconds, and a neighbour whose calls all go well.

EDGEMESH_HOSTILE_SECONDS says how long each flood takes: 10 where it is not set. Figures of each are printed (make hostile).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from subprocess import PIPE

import pytest

from agent.admin.client import get
from tests.netns.conftest import GET, PATH, Lab, mesh_config, routes, skip_where_it_cannot_run
from tests.netns.two_nodes import WEB, TwoNodes

SECONDS = float(os.environ.get("EDGEMESH_HOSTILE_SECONDS", "10"))
BACK = 60.0  # seconds until memory has come back
ATTACKERS = Path(__file__).with_name("attackers.py")

# Calls one after the other, every fifth on a connection of its own. A line on standard input ends it; it prints what became of them.
NEIGHBOUR = """
    import http.client, json, select, sys, time
    address, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    print("ready", flush=True)
    took, wrong, line = [], [], None
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        began = time.monotonic()
        try:
            if line is None:
                line = http.client.HTTPConnection(address, port, timeout=15)
            line.request("GET", path)
            answer = line.getresponse()
            body = answer.read()
            if answer.status != 200:
                wrong.append(f"{answer.status} {body[:200]!r}")
        except Exception as error:
            wrong.append(repr(error))
            line = None
        took.append(time.monotonic() - began)
        if line is not None and len(took) % 5 == 0:
            line.close()
            line = None
    took.sort()
    print(json.dumps({"calls": len(took), "wrong": wrong[:5], "failed": len(wrong), "p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100]}))
"""

# Takes every connection and says nothing.
PIT = """
    import resource, socket, sys
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.create_server(("", int(sys.argv[1])), backlog=4096)
    print("ready", flush=True)
    kept = []
    while True:
        kept.append(listener.accept()[0])
        if len(kept) > 4096:
            kept.pop(0).close()
"""


def pytest_collection_modifyitems(items):
    skip_where_it_cannot_run([item for item in items if Path(__file__).parent in item.path.parents])


class Watched:
    """A daemon under a flood: its memory in MiB, and whether its admin socket answers."""

    def __init__(self, pid, socket):
        self.pid, self.socket = pid, socket
        self.peak = self.base = self.resident()
        self.slowest = 0.0

    def resident(self):
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)

    def seconds(self):
        """Of CPU, so far (proc(5))."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def look(self):
        """Raises where it does not answer."""
        self.peak = max(self.peak, self.resident())
        began = time.monotonic()
        assert get(self.socket, "/status")["enforcing"]
        self.slowest = max(self.slowest, time.monotonic() - began)

    def comes_back(self, slack):
        """Seconds until it has what it had, and `slack` at most; BACK when it does not come to that."""
        began = time.monotonic()
        while self.resident() > self.base + slack and time.monotonic() - began < BACK:
            time.sleep(0.25)
        return time.monotonic() - began


class Scene:
    """A daemon, and a caller of one of its workloads whom no flood is to hurt."""

    def __init__(self, lab, daemon, caller, url):
        self.lab, self.daemon, self.caller, self.url = lab, daemon, caller, url
        self.running = []

    def close(self):
        for process in self.running:
            process.kill()
            process.communicate()
        self.lab.close()

    def run(self, place, *words):
        """A program in a namespace, when it has said that it is ready."""
        command = ["ip", "netns", "exec", place.name, sys.executable, "-u", *map(str, words)]
        process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, env={**os.environ, "PATH": PATH})
        self.running.append(process)
        assert process.stdout.readline() == "ready\n", words
        return process

    def flood(self, name, attacker, address, port, most, slack=32.0, identity=(), during=lambda: None):
        """`most`: MiB that the daemon may take beside what it has in peace, and `slack` of them that it may keep."""
        watched = Watched(*self.daemon())
        worked, began = watched.seconds(), time.monotonic()
        peace = self.run(self.caller, "-c", textwrap.dedent(NEIGHBOUR), *self.url)
        war = self.run(attacker, ATTACKERS, name, address, port, SECONDS, *identity)
        while war.poll() is None:
            watched.look()
            during()
            time.sleep(0.2)
        did = json.loads(war.communicate()[0])
        calls = json.loads(peace.communicate("enough\n", timeout=30)[0])
        share = (watched.seconds() - worked) / (time.monotonic() - began)
        watched.look()
        back = watched.comes_back(slack)
        print(
            f"\n{name}: {did['connections']} connections, {did['sent'] >> 10} KiB sent, {did['refused']} refused; daemon {watched.base:.0f} MiB, "
            f"{watched.peak:.0f} at most, {watched.resident():.0f} {back:.0f} s later; {share:.0%} of a CPU; admin socket {watched.slowest * 1000:.0f} ms at most; "
            f"neighbour {calls['calls']} calls, {calls['failed']} failed, p50 {calls['p50'] * 1000:.1f} ms, p99 {calls['p99'] * 1000:.1f} ms"
        )
        assert did["connections"], "nothing happened"
        assert calls["calls"] > SECONDS, calls
        assert not calls["failed"], calls
        assert watched.peak - watched.base < most, f"{name} took {watched.peak - watched.base:.0f} MiB"
        assert back < BACK, f"{watched.resident() - watched.base:.0f} MiB of {name} were kept"


@pytest.fixture(scope="module")
def node(request, tmp_path_factory):
    """One node, with the native lane or without (the parameter): the buyer calls the store in peace; the thief and the vandal may call a pit, which takes everything and says nothing."""
    lab, scene = Lab(tmp_path_factory.mktemp("hostile"), f"emh{os.getpid()}-", 157), None
    try:
        buyer, thief, vandal, store, pit = (lab.host(name) for name in ("buyer", "thief", "vandal", "store", "pit"))
        store.start(WEB, "store", 80)
        pit.start(PIT, 80)
        for host in (buyer, thief, vandal, store, pit):
            lab.workload(host)
        for name in ("store", "pit"):
            lab.service(name, [{"name": "http", "port": 80}])
        lab.write("routes", routes("get", {"name": "get", "methods": ["GET", "POST"], "pathRegex": "/.*"}))
        lab.allow("buyer", "store", GET)
        lab.allow("thief", "pit", GET)
        lab.allow("vandal", "pit", GET)
        lab.write("mesh", mesh_config(enableEgress=False))
        lab.settings = {"nativeLane": request.param}
        lab.up()
        scene = Scene(lab, lambda: (lab.daemon.pid, lab.socket), buyer, (store.v4, "80", "/"))
        yield scene
    finally:
        scene.close() if scene else lab.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two nodes: the buyer calls the store of the other one, where a stranger stands before the door."""
    mesh, scene = TwoNodes(tmp_path_factory.mktemp("hostile-mesh"), 88), None
    try:
        mesh.enter()
        mesh.wait(mesh.works, "a call from node to node", 20)
        there = mesh.nodes["n2"]
        scene = Scene(
            mesh,
            lambda: (there.daemon.pid, there.socket),
            mesh.leaves["buyer"],
            (mesh.leaves["store"].v4, "80", "/books"),
        )
        yield scene
    finally:
        scene.close() if scene else mesh.close()
