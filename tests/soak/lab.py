"""One lab of the soak: two nodes and an authority in namespaces, everything that calls, and everything that changes meanwhile.

    python -m tests.soak.lab SECONDS OCTET [on | off]      (the native lane)

Prints what came of it as JSON. The nodes are those of tests/netns/two_nodes.py: certificates are renewed every ten seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.commands.update import family
from agent.ota.bundle import File, Manifest, write_head
from nodeproxy.h2.limits import Bounds
from nodeproxy.limits import Limits, PeerLimits
from tests.netns import two_nodes
from tests.netns.conftest import EDGEMESH, mesh_config, named, routes, target, tcp_route
from tests.netns.two_nodes import TwoNodes, environment
from tests.soak.server import DATABASE, ECHO, GRPC, UNSAID, WEB

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SERVERS = ("store", "shelf")  # on the other node, and on the caller's own
NODES = ("n1", "n2")
EDIT_EVERY, SAMPLE_EVERY = 4.0, 5.0  # seconds
SETTLE = 90.0  # seconds after the last call until what it took is given back: pools rest 30 s, and a daemon that handed over ends
GROWTH = (
    32 << 10
)  # KiB that a daemon may hold after its last call more than before its first: what calls need stays in the heap, once
SPARE_FDS = 16  # descriptors that may be open at the end and were not at the begin: links between nodes rest for 300 s
RELEASE = f'#!/bin/sh\n# %s\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.join(EDGEMESH)} "$@"\n'

# Who has no rights asks all the time; what he gets of a server is told.
PROBE = """
    import select, socket, sys
    addresses, (web, *opaque), asked, got = sys.argv[1].split(","), map(int, sys.argv[2:]), 0, []
    words = [(web, b"GET /soak/short HTTP/1.1\\r\\nhost: store\\r\\nconnection: close\\r\\n\\r\\n"), *((port, b"echo me") for port in opaque)]
    def ask(address, port, word):
        try:
            with socket.create_connection((address, port), 3) as s:
                s.settimeout(3)
                s.sendall(word)
                data = b""
                while (more := s.recv(4096)):
                    data += more
                    if b"HTTP/1.1 403" in data: break
                return data
        except OSError:
            return b""
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.3)[0]:
        for address in addresses:
            for port, word in words:
                data = ask(address, port, word)
                asked += 1
                if b"HTTP/1.1 200" in data or b"echo me" in data or b"ready" in data: got.append(f"{address}:{port} {data[:80]!r}")
    print(asked, len(got), *got[:3], sep="|")
"""


def deadlines() -> list[float]:
    """Every deadline of the data plane that a call could meet, in seconds."""
    limits, peers, bounds = Limits(), PeerLimits(), Bounds()
    values = [getattr(limits, name) for name in limits.__struct_fields__ if name.endswith("_timeout")]
    values += [peers.idle_timeout, peers.keepalive, peers.answer, bounds.preface, bounds.stall]
    return sorted({value for value in values if value >= 5})


def durations(seconds: float) -> list[float]:
    """A little more than each deadline, as far as there is time for it."""
    return [one * 1.1 + 1 for one in deadlines() if one * 1.1 + 20 < seconds]


def longest_silences() -> dict[str, float]:
    """By kind of call: for how long nothing may come of it, in seconds. What is silent for longer is cut by design."""
    limits = Limits()
    answer, body, between = limits.response_timeout, limits.idle_timeout, limits.keepalive_timeout
    return {"": body, "long poll": answer, "gRPC unary": answer, "keep-alive": between, "early connection": between}


class Daemon:
    """One process, from before its first call to its end. Sizes in KiB."""

    def __init__(self, node: str, pid: int) -> None:
        self.node, self.pid, self.began = node, pid, time.monotonic()
        self.rss: list[int] = []
        self.fds: list[int] = []

    def sample(self) -> bool:
        """False: it is gone."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            fds = len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return False
        found = re.search(r"VmRSS:\s+(\d+)", status)
        if found is None:  # a zombie
            return False
        self.rss.append(int(found[1]))
        self.fds.append(fds)
        return True

    def row(self) -> dict[str, object]:
        return {
            "node": self.node,
            "pid": self.pid,
            "rss": [self.rss[0], max(self.rss), self.rss[-1]],
            "fds": [self.fds[0], max(self.fds), self.fds[-1]],
            "seconds": time.monotonic() - self.began,
        }


class Soak(TwoNodes):
    """The lab, its load and its changes. `failures`: whatever went wrong, in words."""

    def __init__(self, folder: Path, octet: int, native: bool) -> None:
        super().__init__(folder, octet)
        self.native = native
        del self.settings["peers"]  # as they are: a machine that is busy with two labs may be silent for seconds
        self.settings |= {"nativeLane": native, "update": {"deadline": 60, "drainTimeout": 900}, "limits": {}}
        self.failures: list[str] = []
        self.daemons: list[Daemon] = []
        self.gone: list[Daemon] = []
        self.edits = self.updates = 0
        self.allowed = False  # /flip
        self.pause = 0.0  # seconds: the longest that the callers' own clock was late
        self.key = Ed25519PrivateKey.generate()
        self.serials: set[str] = set()
        self.over = threading.Event()

    def manifests(self) -> None:
        super().manifests()
        ports = [
            {"name": "http-web", "port": WEB},
            {"name": "grpc-calls", "port": GRPC},
            {"name": "tcp-server-first-db", "port": DATABASE, "appProtocol": "tcp-server-first"},
            {"name": "tcp-echo", "port": ECHO},
            {"name": "unsaid", "port": UNSAID},
        ]
        for server in SERVERS:
            self.service(server, [*ports, {"name": "http", "port": 80}] if server == "shelf" else ports)
        self.write(
            "soak-routes",
            routes("soak", {"name": "soak", "pathRegex": "/soak.*", "methods": ["*"]}),
            tcp_route("pool", ECHO, DATABASE),
        )
        self.write("flip-routes", routes("flip", {"name": "flip", "pathRegex": "/flip", "methods": ["GET"]}))
        for server in SERVERS:
            self.write(
                f"soak-{server}",
                *self._access(server, "soak", "HTTPRouteGroup"),
                *self._access(server, "pool", "TCPRoute"),
            )
        self.write("mesh", mesh_config(enableEgress=False))

    @staticmethod
    def _access(server: str, route: str, kind: str) -> list[dict[str, object]]:
        return [target("buyer", server, {"kind": kind, "name": route}) | {"metadata": named(f"buyer-{server}-{route}")}]

    # what is called, and by whom

    def serve(self) -> None:
        for server in SERVERS:
            leaf = self.leaves[server]
            command = ["ip", "netns", "exec", leaf.name, sys.executable, "-u", str(HERE / "server.py"), leaf.v4, server]
            self.start(command, wait=True)

    def call(self, seconds: float) -> dict[str, dict[str, object]]:
        """All calls of the buyer, for so long. Answers what came of each kind."""
        addresses = [self.leaves[server].v4 for server in SERVERS]
        asked = json.dumps(
            {
                "seconds": seconds,
                "durations": durations(seconds),
                "silences": longest_silences(),
                "addresses": addresses,
            }
        )
        command = [
            "ip",
            "netns",
            "exec",
            self.leaves["buyer"].name,
            sys.executable,
            "-u",
            str(HERE / "callers.py"),
            asked,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 120, check=False, env=environment()
        )
        if done.returncode:
            self.failures.append(f"the callers broke: {done.stderr[-2000:]}")
            return {}
        found = json.loads(done.stdout)
        self.pause = found["pause"]
        calls: dict[str, dict[str, object]] = found["calls"]
        return calls

    @contextlib.contextmanager
    def probed(self):
        """Meanwhile who may not, asks."""
        addresses = ",".join(self.leaves[server].v4 for server in SERVERS)
        probes = {
            name: self.leaves[name].start(PROBE, addresses, WEB, ECHO, DATABASE) for name in ("thief", "stranger")
        }
        yield
        for name, probe in probes.items():
            out, _ = probe.communicate("\n", timeout=30)
            asked, got, *which = out.strip().split("|")
            if int(got) or not int(asked):
                self.failures.append(f"{name} was served {got} of {asked} times: {which}")

    # what changes

    def edit(self) -> None:
        """A rule comes and goes; each time it has to be in force at both nodes as soon as they say so."""
        documents = [self._access(server, "flip", "HTTPRouteGroup") for server in SERVERS]
        self.allowed = not self.allowed
        if self.allowed:
            self.write("flip", *(one for both in documents for one in both))
        else:
            self.remove("flip")
        self.build()
        self.edits += 1
        for server in SERVERS:
            answer = self.leaves["buyer"].curl(f"http://{self.leaves[server].v4}:{WEB}/flip", timeout=30)
            if answer.status != (200 if self.allowed else 403):
                self.failures.append(f"{'allowed' if self.allowed else 'not allowed'}, {server} answered {answer}")

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 10) -> None:
        """A machine that is busy with two labs needs longer."""
        super().wait(condition, what, 6 * seconds)

    def update(self) -> None:
        """A daemon hands over to another."""
        name = NODES[self.updates % 2]
        node = self.nodes[name]
        self.updates += 1
        version = f"9.{self.updates}"
        data = (RELEASE % version).encode()
        manifest = Manifest(
            version, epoch=self.updates, files=(File(family(), len(data), hashlib.sha256(data).hexdigest()),)
        )
        bundle = self.folder / f"{version}.bundle"
        bundle.write_bytes(write_head(manifest, [self.key]) + data)
        self._update(name, bundle)
        self._follow(name, int(Path(f"{node.socket}.lock").read_text()))

    def trust(self) -> None:
        (self.folder / "key.pub").write_bytes(
            self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        for name in NODES:
            self._update(name, "trust", self.folder / "key.pub")

    def _update(self, name: str, *words: object) -> None:
        node = self.nodes[name]
        command = [*node.inside, "update", *map(str, words), "--state", str(node.state), "--socket", node.socket]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment())
        if done.returncode:
            self.failures.append(f"update of {name}: {done.stderr.strip()}")

    def restart_authority(self) -> None:
        """It stops in order and comes back: certificates are renewed by who waited for it."""
        hub = self.nodes["hub"]
        hub.daemon.terminate()
        hub.daemon.wait(30)
        hub.up()

    def change(self, every: float) -> None:
        """Until `over`: an edit every few seconds, and at times an update and a restart of the authority."""
        updated = time.monotonic()
        while not self.over.wait(EDIT_EVERY):
            try:
                self.edit()
                if time.monotonic() - updated > every:
                    self.update()
                    self.restart_authority()
                    updated = time.monotonic()
            except Exception as error:
                self.failures.append(f"a change: {error!r}"[:1500])

    # what it costs

    def _follow(self, name: str, pid: int) -> None:
        self.daemons.append(Daemon(name, pid))

    def watch(self) -> None:
        while not self.over.wait(SAMPLE_EVERY):
            self.sample()

    def sample(self) -> None:
        for daemon in [one for one in self.daemons if not one.sample()]:
            self.daemons.remove(daemon)
            self.gone.append(daemon)
        for name in NODES:
            with contextlib.suppress(OSError, KeyError, ValueError):
                held = two_nodes.get(self.nodes[name].socket, "/certs")["certificates"]
                self.serials.update(f"{name} {one['serial']}" for one in held if one["serial"])

    def settle(self) -> None:
        """After the load: daemons that handed over end, and the others give back what they took."""
        until = time.monotonic() + SETTLE
        begun = {
            name: next(one for one in (*self.gone, *self.daemons) if one.node == name).fds[0] for name in NODES
        }  # before any call
        current = {int(Path(f"{self.nodes[name].socket}.lock").read_text()) for name in NODES}
        while time.monotonic() < until:
            self.sample()
            left = [one for one in self.daemons if one.pid not in current]
            if not left and all(one.fds[-1] <= begun[one.node] + SPARE_FDS for one in self.daemons):
                break
            time.sleep(1)
        for one in (*self.gone, *self.daemons):
            if one.rss and one.rss[-1] > one.rss[0] + GROWTH:
                self.failures.append(
                    f"memory of {one.node}, pid {one.pid}: {one.rss[0]} KiB before its first call, {one.rss[-1]} after its last"
                )
        for one in self.daemons:
            if one.pid not in current:
                self.failures.append(
                    f"the daemon {one.pid} of {one.node} handed over and has not ended {SETTLE:g} s after the last call"
                )
            elif one.fds[-1] > begun[one.node] + SPARE_FDS:
                self.failures.append(
                    f"descriptors of {one.node}: {begun[one.node]} before any call, {one.fds[-1]} after the last"
                )

    def judge(self) -> None:
        """What the daemons say of themselves."""
        for node in self.nodes.values():
            log = node.log()
            for sign in ("Traceback", '"flag":"internal"', '"flag": "internal"'):
                if sign in log:
                    self.failures.append(f"{sign} in the log of {node.plain}: {log[log.index(sign) :][:1500]}")
        refused = [
            r for name in NODES for r in self.nodes[name].records() if r.get("flag") in ("denied", "no-identity", "cut")
        ]
        wrong = [r for r in refused if r.get("source") == "lab/buyer" and r.get("path") != "/flip"]
        if wrong:
            self.failures.append(f"{len(wrong)} refusals of what is allowed, the first: {wrong[0]}")

    def run(self, seconds: float) -> dict[str, object]:
        self.serve()
        self.trust()
        for name in NODES:
            self._follow(name, self.nodes[name].daemon.pid)
        self.sample()
        every = max(25.0, min(150.0, seconds / 5))
        threads = [threading.Thread(target=self.change, args=(every,)), threading.Thread(target=self.watch)]
        for thread in threads:
            thread.start()
        try:
            with self.probed():
                calls = self.call(seconds)
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
        self.settle()
        self.judge()
        return {
            "calls": calls,
            "daemons": [one.row() for one in (*self.gone, *self.daemons) if one.rss],
            "changes": {"policy edits": self.edits, "updates": self.updates, "certificates": len(self.serials)},
            "pause": self.pause,
            "failures": self.failures,
        }

    def close(self) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):  # those that took over are nobody's children any more
            with contextlib.suppress(OSError):
                words = path.read_text().split("\0")
                if any(str(node.config) in words for node in self.nodes.values()):
                    os.kill(int(path.parent.name), signal.SIGKILL)
        super().close()


def main() -> None:
    seconds, octet, lane = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "on"
    two_nodes.HOMES["shelf"] = "n1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # clean up all the same
    with tempfile.TemporaryDirectory(prefix="edgemesh-soak-") as folder:
        soak = Soak(Path(folder), octet, lane)
        try:
            soak.enter()
            print(json.dumps(soak.run(seconds)))
        finally:
            if os.environ.get("SOAK_LOGS"):
                os.makedirs(os.environ["SOAK_LOGS"], exist_ok=True)
                for node in soak.nodes.values():
                    Path(os.environ["SOAK_LOGS"], f"{sys.argv[3]}-{node.plain}.log").write_text(node.log())
            soak.close()


if __name__ == "__main__":
    main()
