"""The netns ring: the installed program, or the built file (EDGEMESH_FILE), against the real kernel. A `Lab` is a few network namespaces on a bridge and one daemon.

Runs as root, or without root inside user namespaces (build/rootly). In CI nothing here may be skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from agent.admin.client import get
from agent.system import cgroup

NEEDED = ("ip", "nft", "curl")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
# The program under test: the source tree, or the built file (make netns-file).
FILE = os.environ.get("EDGEMESH_FILE", "")
EDGEMESH = [str(Path(FILE).resolve())] if FILE else [sys.executable, "-m", "agent"]
PATIENCE = 60  # seconds to wait for what is to happen: how soon it does is measured elsewhere, on a machine at rest
ROOTLESS = Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def pytest_collection_modifyitems(items):
    skip_where_it_cannot_run([item for item in items if Path(__file__).parent in item.path.parents])


def skip_where_it_cannot_run(items):
    """Of rings that make namespaces."""
    missing = [program for program in NEEDED if shutil.which(program, path=PATH) is None]
    reason = f"needs {', '.join(missing)}" if missing else "needs root" if os.geteuid() else ""
    if not reason:
        return
    if items and os.environ.get("CI"):
        raise pytest.UsageError(f"what makes namespaces may not be skipped in CI: {reason}")
    for item in items:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def needs_cgroup():
    """For tests that must make a cgroup: only these are skipped without root."""
    root = cgroup.mount()
    if root is None or not os.access(root, os.W_OK):
        if os.environ.get("CI") and not ROOTLESS:
            pytest.fail("no cgroup2 that can be written")
        pytest.skip("must make a cgroup, which needs root")
    return root


def sh(*words, check=True, timeout=20, **options):
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, "PATH": PATH}, **options
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr or done.stdout}")
    return done


class Host:
    """One namespace of a lab."""

    def __init__(self, lab, name, number):
        self.lab, self.name, self.number = lab, f"{lab.prefix}{name}", number
        self.v4, self.v6 = f"{lab.subnet}.{number}", f"{lab.subnet6}::{number}"
        self.make()

    def make(self):
        sh("ip", "netns", "add", self.name)
        peer = f"{self.lab.prefix}p{self.number}"
        for words in (
            f"link add eth0 type veth peer name {peer} netns {self.lab.switch}",
            "link set lo up",
            "link set eth0 up",
            f"addr add {self.v4}/24 dev eth0",
            f"addr add {self.v6}/64 dev eth0 nodad",
            f"route add default via {self.lab.subnet}.254",
            f"-6 route add default via {self.lab.subnet6}::254",
        ):
            sh("ip", "-n", self.name, *words.split())
        sh("ip", "-n", self.lab.switch, "link", "set", peer, "master", "br0", "up")

    def delete(self):
        sh("ip", "netns", "del", self.name)

    def run(self, *words, **options):
        return sh("ip", "netns", "exec", self.name, *words, **options)

    def curl(self, url, *words, timeout=6):
        """Unmodified curl: (exit code, status, body, x-edgemesh-reason)."""
        form = "\n%{http_code} %header{x-edgemesh-reason}"
        done = self.run("curl", "-sS", "-m", str(timeout), "-w", form, *words, url, check=False, timeout=timeout + 5)
        body, _, last = done.stdout.rpartition("\n")
        status, _, reason = last.partition(" ")
        return Answer(done.returncode, int(status or 0), body, "" if reason.startswith("%") else reason.strip())

    def curl_by_name(self, url, nameserver, more="options timeout:2 attempts:1\n", timeout=5):
        """curl that resolves names as every program does, by /etc/resolv.conf: one of its own is mounted for it alone."""
        resolver = self.lab.folder / "resolv.conf"
        resolver.write_text(f"nameserver {nameserver}\n{more}")
        script = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec curl -sS -m "$2" -w "\n%{http_code}" "$1"'
        done = self.run(
            "unshare", "--mount", "sh", "-c", script, str(resolver), url, str(timeout), check=False, timeout=timeout + 5
        )
        body, _, status = done.stdout.rpartition("\n")
        return Answer(done.returncode, int(status or 0), body, "")

    def start(self, code, *words):
        """Run Python code here until the lab ends; returns when it has printed a line."""
        command = [
            "ip",
            "netns",
            "exec",
            self.name,
            sys.executable,
            "-u",
            "-c",
            textwrap.dedent(code),
            *map(str, words),
        ]
        return self.lab.start(command, wait=True)

    def python(self, code, *words, timeout=20):
        return self.run(
            sys.executable, "-c", textwrap.dedent(code), *map(str, words), check=False, timeout=timeout
        ).stdout.strip()


class Answer:
    def __init__(self, exit_code, status, body, reason):
        self.exit_code, self.status, self.body, self.reason = exit_code, status, body, reason

    def __repr__(self):
        return f"<{self.status} {self.reason} exit {self.exit_code}: {self.body[:80]!r}>"

    @property
    def refused(self):
        """A refusal that says so, or a connection that got nothing."""
        return self.status == 403 or (self.status == 0 and self.exit_code in (7, 52, 56))


HTTP_SERVER = """
    import http.server, socket, sys, time
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            if self.path.startswith("/slow"):
                time.sleep(1.5)
            body = f"{sys.argv[1]} saw {self.client_address[0]} {self.path}".encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        do_POST = do_DELETE = do_GET
        def log_message(self, *_): pass
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6
        daemon_threads = True
    server = Server(("::", int(sys.argv[2])), Handler)  # both families
    print("ready")
    server.serve_forever()
"""

TCP_SERVER = """
    import socket, sys, threading
    def serve(c, a):
        greeting = sys.argv[3].encode()
        if greeting: c.sendall(greeting + b"\\n")
        while data := c.recv(4096): c.sendall(b"echo " + data)
        c.sendall(b"bye\\n"); c.close()
    s = socket.create_server(("::", int(sys.argv[2])), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready")
    while True:
        threading.Thread(target=serve, args=s.accept(), daemon=True).start()
"""


class Lab:
    """Namespaces, servers in them, and one daemon with a directory of manifests. Leaves nothing behind."""

    def __init__(self, folder, prefix, octet):
        self.folder, self.prefix, self.octet = folder, prefix, octet
        self.subnet, self.subnet6 = f"10.{octet}.0", f"fd00:{octet}"
        self.switch = f"{prefix}switch"
        self.config = folder / "config"
        self.config.mkdir()
        self.socket = str(folder / "admin.sock")
        self.hosts = {}
        self.processes = []
        self.daemon = None
        self.node = f"{prefix}node"
        self.settings = {}
        self.sealed = []  # a command that starts the daemon in some confinement
        self.home = None  # the namespace that the daemon takes for the host; None: the tests' own
        self.remove_leftovers()
        sh("ip", "netns", "add", self.switch)
        for words in (
            "link add br0 type bridge",
            "link set br0 up",
            f"addr add {self.subnet}.254/24 dev br0",
            f"addr add {self.subnet6}::254/64 dev br0 nodad",
        ):
            sh("ip", "-n", self.switch, *words.split())

    def host(self, name):
        if name not in self.hosts:
            self.hosts[name] = Host(self, name, len(self.hosts) + 1)
        return self.hosts[name]

    # policy

    def write(self, name, *documents):
        """Put a file of manifests in place at once."""
        new = self.config / f".{name}.new"
        new.write_text("\n---\n".join(json.dumps(document) for document in documents))
        new.rename(self.config / f"{name}.yaml")

    def workload(self, host, service_account="", **spec):
        name = host.name.removeprefix(self.prefix)
        given = {
            "serviceAccount": service_account or name,
            "labels": {"app": name},
            "addresses": [host.v4, host.v6],
            "netns": host.name,
        }
        self.write(f"workload-{name}", own("Workload", name, given | spec))

    def service(self, name, ports, selector=None, **more):
        spec = {"selector": selector or {"app": name}, "ports": ports, **more}
        self.write(f"service-{name}", {"apiVersion": "v1", "kind": "Service", "metadata": named(name), "spec": spec})

    def allow(self, source, destination, *rules):
        self.write(f"target-{source}-{destination}", target(source, destination, *rules))

    def forbid(self, source, destination):
        (self.config / f"target-{source}-{destination}.yaml").unlink()

    def status(self):
        return get(self.socket, "/status")

    def build(self):
        """Wait until everything written so far is in force."""
        stamp = f"stamp-{time.monotonic_ns()}"
        self.write("stamp", own("Workload", stamp, {"addresses": []}))
        self.wait(lambda: any(w["name"] == stamp for w in get(self.socket, "/snapshot")["workloads"]), "a new snapshot")

    # the daemon

    def up(self):
        spec = {
            "node": self.node,
            "adminSocket": self.socket,
            "stateDir": str(self.folder / "state"),
            "metricsAddress": "",
            **self.settings,
        }
        self.write("node", own("NodeConfig", "default", spec))
        log = (self.folder / "daemon.log").open("ab")
        # Not `ip netns exec`: that hides the cgroup mount.
        inside = ["nsenter", f"--net=/run/netns/{self.home.name}"] if self.home else []
        command = [*inside, *self.sealed, *EDGEMESH, "run", "--config", str(self.config), "--access-log", "all"]
        environment = {**os.environ, "PATH": PATH, "PYTHONPATH": str(Path(__file__).parents[2])}
        if self.daemon is not None:
            self.daemon.poll()  # the one before has ended; nobody may have asked it yet how
        self.daemon = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)
        log.close()
        self.wait(self.ready, "the daemon is ready")
        return self

    def ready(self):
        if self.daemon.poll() is not None:
            raise AssertionError(f"the daemon ended: {(self.folder / 'daemon.log').read_text()[-2000:]}")
        try:
            status = get(self.socket, "/status")
        except ConnectionError:
            return False
        local = [w for w in status["workloads"] if w["place"] or w["detail"]]
        return status["enforcing"] and all(w["state"] == "captured" for w in local)

    def down(self, number=signal.SIGTERM):
        self.daemon.send_signal(number)
        return self.daemon.wait(15)

    def wait(self, condition, what, seconds=PATIENCE):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError(f"gave up waiting: {what}; {self.log()[-1500:]}")

    def log(self):
        return (self.folder / "daemon.log").read_text()

    def records(self):
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    # the world around

    def start(self, command, wait=False, **options):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PATH": PATH}, **options
        )
        self.processes.append(process)
        if wait and not process.stdout.readline():
            raise AssertionError(f"did not start: {command}")
        return process

    def http(self, host, port=80):
        return host.start(HTTP_SERVER, host.name.removeprefix(self.prefix), port)

    def tcp(self, host, port, greeting=""):
        return host.start(TCP_SERVER, host.name.removeprefix(self.prefix), port, greeting)

    def close(self):
        if self.daemon is not None and self.daemon.poll() is None:
            self.down(signal.SIGKILL)
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()
        self.remove_leftovers()
        root = cgroup.mount()
        if root is not None:
            cgroup.leave(cgroup.folder(root, self.node))

    def remove_leftovers(self):
        for line in sh("ip", "netns", "list").stdout.splitlines():
            name = line.split()[0]
            if name.startswith(self.prefix):
                with contextlib.suppress(AssertionError):
                    sh("ip", "netns", "del", name)


def named(name):
    return {"name": name, "namespace": "lab"}


def own(kind, name, spec):
    return {"apiVersion": "edgemesh.io/v1alpha1", "kind": kind, "metadata": named(name), "spec": spec}


def account(name):
    return {"kind": "ServiceAccount", "name": name, "namespace": "lab"}


def target(source, destination, *rules):
    spec = {"destination": account(destination), "sources": [account(source)], "rules": list(rules)}
    return {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": named(f"{source}-{destination}"),
        "spec": spec,
    }


def routes(name, *matches):
    spec = {"matches": list(matches)}
    return {"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": named(name), "spec": spec}


def tcp_route(name, *ports):
    spec = {"matches": {"ports": list(ports)}} if ports else {}
    return {"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "TCPRoute", "metadata": named(name), "spec": spec}


def mesh_config(**traffic):
    spec = {"traffic": traffic}
    metadata = {"name": "osm-mesh-config", "namespace": "osm-system"}
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": metadata,
        "spec": spec,
    }


GET = {"kind": "HTTPRouteGroup", "name": "get"}
TCP = {"kind": "TCPRoute", "name": "any"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, request):
    """Buyer and thief, a store (HTTP on 80, echo on 7, greeting on 3306), an outsider; the buyer may GET, and open TCP to 7 and 3306."""
    number = 90 + sum(map(ord, request.module.__name__)) % 60
    lab = Lab(tmp_path_factory.mktemp("lab"), f"emk{number}-", number)
    try:
        buyer, thief, store, _ = (lab.host(name) for name in ("buyer", "thief", "store", "outsider"))
        lab.http(store, 80)
        lab.tcp(store, 7)
        lab.tcp(store, 3306, "greetings")
        for host in (buyer, thief, store):
            lab.workload(host)
        ports = [{"name": "http", "port": 80}, {"name": "any", "port": 8080, "targetPort": 80}]
        ports += [{"name": "tcp-echo", "port": 7}, {"name": "db", "port": 3306}, {"name": "http-none", "port": 81}]
        lab.service("store", ports)
        lab.write(
            "routes", routes("get", {"name": "get", "methods": ["GET"], "pathRegex": "/.*"}), tcp_route("any", 7, 3306)
        )
        lab.allow("buyer", "store", GET)
        lab.write("target-buyer-store-tcp", target("buyer", "store", TCP) | {"metadata": named("buyer-store-tcp")})
        lab.write("mesh", mesh_config(enableEgress=True))
        yield lab.up()
    finally:
        lab.close()
