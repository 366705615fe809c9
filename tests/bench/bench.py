"""Measure edgemesh beside nginx and HAProxy, in one run and one topology, and write BENCHMARKS.md.

Network namespaces on one bridge: a client (wrk), a proxy, a server (nginx answering from memory); client and server once captured
by edgemesh and once plain, for the other proxies. All get the same load in turn, in interleaved rounds; what is compared is the
CPU time of the proxy's own processes for each request, because that holds on a noisy machine. edgemesh has no hop in the proxy's
namespace: it captures client and server, decides by an HTTP policy, and keeps the caller's source address. Needs root, and: apt-get install iproute2 nginx-light haproxy wrk.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = 5
CONNECTIONS = 32
NAMESPACES = {"emb-client": 1, "emb-proxy": 2, "emb-server": 3, "emb-plain": 4, "emb-user": 5}
SUBNET = "10.79.0"


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def topology() -> Iterator[None]:
    _remove()
    sh("ip netns add emb-switch && ip -n emb-switch link add br0 type bridge && ip -n emb-switch link set br0 up")
    try:
        for name, number in NAMESPACES.items():
            sh(
                f"ip netns add {name} && ip -n {name} link set lo up"
                f" && ip -n {name} link add eth0 type veth peer name p{number} netns emb-switch"
                f" && ip -n emb-switch link set p{number} master br0 up && ip -n {name} link set eth0 up"
                f" && ip -n {name} addr add {SUBNET}.{number}/24 dev eth0 && ip -n {name} route add default via {SUBNET}.254"
            )
        yield
    finally:
        _remove()


def _remove() -> None:
    for name in (*NAMESPACES, "emb-switch"):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class Program:
    """A process tree that we started; its CPU time and memory."""

    def __init__(self, namespace: str, *command: str) -> None:
        prefix = ["ip", "netns", "exec", namespace] if namespace else []
        self.process = subprocess.Popen([*prefix, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def pids(self) -> list[int]:
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                found += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found

    def cpu(self) -> float:
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """Resident set size in MiB."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += int(re.search(r"^Rss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])
        return total / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def nginx_conf(folder: Path, body: str, workers: int = 1) -> str:
    path = folder / f"nginx-{abs(hash(body)) % 100000}.conf"
    path.write_text(
        f"daemon off; user root; worker_processes {workers}; error_log /dev/null;\n"
        "events { worker_connections 8192; }\n"
        f"http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;"
        f" fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n{body}\n}}\n"
    )
    return str(path)


MANIFEST = """
apiVersion: edgemesh.io/v1alpha1
kind: NodeConfig
metadata: {{name: default}}
spec: {{node: bench, stateDir: {folder}/state, adminSocket: {folder}/edgemesh.sock, accessLog: "off", limits: {{connections: 20000}}}}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {{name: client, namespace: bench}}
spec: {{serviceAccount: client, labels: {{app: client}}, addresses: ["10.79.0.1"], netns: emb-client}}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {{name: server, namespace: bench}}
spec: {{serviceAccount: server, labels: {{app: server}}, addresses: ["10.79.0.3"], netns: emb-server}}
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: bench}}
spec: {{clusterIP: 240.240.9.9, selector: {{app: server}}, ports: [{{name: http-web, port: 80}}, {{name: tcp-web, port: 81, targetPort: 80}}]}}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: web, namespace: bench}}
spec: {{matches: [{{name: all, pathRegex: "/.*", methods: [GET]}}]}}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {{name: web, namespace: bench}}
spec:
  destination: {{kind: ServiceAccount, name: server, namespace: bench}}
  rules: [{{kind: HTTPRouteGroup, name: web, matches: [all]}}]
  sources: [{{kind: ServiceAccount, name: client, namespace: bench}}]
"""
TCP_TARGET = """---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: raw, namespace: bench}
spec:
  destination: {kind: ServiceAccount, name: server, namespace: bench}
  rules: [{kind: TCPRoute, name: raw}]
  sources: [{kind: ServiceAccount, name: client, namespace: bench}]
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: TCPRoute
metadata: {name: raw, namespace: bench}
spec: {matches: {ports: [80]}}
"""


def start_edgemesh(folder: Path) -> Program:
    config = folder / "config"
    config.mkdir(exist_ok=True)
    (config / "bench.yaml").write_text(MANIFEST.format(folder=folder) + TCP_TARGET)
    program = Program("", sys.executable, "-m", "agent", "run", "--config", str(config))
    wait(lambda: _ready(folder / "edgemesh.sock"), "edgemesh is ready")
    return program


def _ready(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        try:
            sock.connect(str(path))
            sock.sendall(b"GET /ready HTTP/1.1\r\nhost: local\r\nconnection: close\r\n\r\n")
            return sock.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def wait(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return
        time.sleep(0.1)
    raise SystemExit(f"gave up waiting until {what}")


def wrk(url: str, connections: int = CONNECTIONS, seconds: float = SECONDS, *options: str) -> dict[str, float]:
    client = "emb-client" if "240.240." in url else "emb-user"
    out = sh(f"ip netns exec {client} wrk -t1 -c{connections} -d{seconds:g}s --latency {' '.join(options)} {url}")
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    latency = {}
    for percent in ("50", "99"):
        value, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)\b", out).groups()
        latency[f"p{percent}"] = float(value) * scale[unit]
    requests = int(re.search(r"(\d+) requests in", out)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    if errors:
        raise SystemExit(f"{url}: {errors[0]}")
    return {"requests": requests, "rate": rate, **latency}


def measure(program: Program | None, url: str, connections: int = CONNECTIONS) -> dict[str, float]:
    before = program.cpu() if program else 0.0
    row = wrk(url, connections)
    row["cpu"] = (program.cpu() - before) / row["requests"] * 1e6 if program else 0.0
    return row


def each_on_its_own(url: str) -> list[float]:
    """The rate of calls, each on a connection of its own, over two minutes: a caller whose ports are not free again in time gets slower."""
    return [wrk(url, 32, 15, "-H 'Connection: close'")["rate"] for _ in range(8)]


def idle_connections(address: str, port: int, count: int) -> subprocess.Popen[bytes]:
    code = (
        "import socket,sys,time\n"
        f"s=[socket.create_connection(('{address}',{port})) for _ in range({count})]\n"
        "[(x.sendall(b'GET / HTTP/1.1\\r\\nhost: server\\r\\n\\r\\n'), x.recv(4096)) for x in s]\n"
        "print('up',flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        ["ip", "netns", "exec", "emb-client", sys.executable, "-c", code], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != b"up":
        raise SystemExit("could not open the idle connections")
    return process


def machine() -> str:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) // 1048576
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), {memory} GiB, Linux {platform.release().split('-')[0]},"
        f" Python {platform.python_version()}"
    )


def main() -> None:
    for program in ("ip", "nginx", "haproxy", "wrk"):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            raise SystemExit(f"{program} is missing: apt-get install iproute2 nginx-light haproxy wrk")
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name, topology(), contextlib.ExitStack() as stack:
        folder = Path(name)

        def start(namespace: str, *command: str) -> Program:
            program = Program(namespace, *command)
            stack.callback(program.stop)
            return program

        server_conf = nginx_conf(
            folder, 'server { listen 80 backlog=4096; location / { return 200 "hello from the server\\n"; } }'
        )
        for namespace in ("emb-server", "emb-plain"):
            start(namespace, "nginx", "-c", server_conf, "-g", f"pid {folder}/{namespace}.pid;")
        proxy_conf = nginx_conf(
            folder,
            f"upstream s {{ server {SUBNET}.4:80; keepalive 64; keepalive_requests 100000000; }}\n"
            'server { listen 80 backlog=4096; location / { proxy_pass http://s; proxy_http_version 1.1; proxy_set_header Connection ""; } }',
        )
        nginx = start("emb-proxy", "nginx", "-c", proxy_conf, "-g", f"pid {folder}/proxy.pid;")
        haproxy_conf = folder / "haproxy.cfg"
        haproxy_conf.write_text(
            "global\n nbthread 1\n maxconn 4000\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
            f"frontend f\n bind {SUBNET}.2:81\n default_backend b\nbackend b\n http-reuse always\n server s {SUBNET}.4:80\n"
        )
        haproxy = start("emb-proxy", "haproxy", "-db", "-f", str(haproxy_conf))
        edgemesh = start_edgemesh(folder)
        stack.callback(edgemesh.stop)
        wait(lambda: edgemesh.process.poll() is None, "edgemesh runs")
        time.sleep(2)
        idle = edgemesh.rss()
        cases: dict[str, tuple[Program, str]] = {
            "edgemesh, HTTP policy": (edgemesh, "http://240.240.9.9/"),
            "nginx, plain hop": (nginx, f"http://{SUBNET}.2/"),
            "HAProxy, plain hop": (haproxy, f"http://{SUBNET}.2:81/"),
            "edgemesh, opaque TCP": (edgemesh, "http://240.240.9.9:81/"),
        }
        rows: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
        for _ in range(ROUNDS):
            for case, (program, url) in cases.items():
                rows[case].append(measure(program, url))
        middle = {case: {k: statistics.median(r[k] for r in got) for k in got[0]} for case, got in rows.items()}
        one = {case: measure(program, url, 1) for case, (program, url) in cases.items()}
        own = {case: each_on_its_own(cases[case][1]) for case in ("edgemesh, HTTP policy", "nginx, plain hop")}
        time.sleep(1)
        loaded = edgemesh.rss()
        holding = idle_connections("240.240.9.9", 80, 1000)
        try:
            time.sleep(2)
            thousand = edgemesh.rss()
        finally:
            holding.kill()
            holding.wait()
        base = middle["nginx, plain hop"]["cpu"]
        lines = [
            "# Benchmarks",
            "",
            "Made by `make bench`; the table is from one run on one machine, so compare the ratios, not the figures.",
            "",
            f"{time.strftime('%Y-%m-%d')}, {machine()}; wrk, {CONNECTIONS} keep-alive connections, {ROUNDS} interleaved rounds of"
            f" {SECONDS} s, medians; a 22-byte body. CPU is the time of the proxy's own processes for each request.",
            "",
            "| | req/s | CPU us/request | to nginx | p50 ms | p99 ms | p50 ms, one connection |",
            "|---|---|---|---|---|---|---|",
        ]
        for case, row in middle.items():
            lines.append(
                f"| {case} | {row['rate']:.0f} | {row['cpu']:.1f} | {row['cpu'] / base:.1f} | {row['p50']:.2f} | {row['p99']:.2f}"
                f" | {one[case]['p50']:.2f} |"
            )
        lines += [
            "",
            "edgemesh does both ends of the call in one pass: capture, identity, HTTP policy, balancing, metrics; the others are one plain",
            "hop. The native lane serves both; NodeConfig nativeLane: false leaves them to Python.",
            "",
            "| each call on a connection of its own, two minutes, 32 at a time | req/s in the first 15 s | in the slowest 15 s | in the last 15 s |",
            "|---|---|---|---|",
            *(f"| {case} | {rates[0]:.0f} | {min(rates):.0f} | {rates[-1]:.0f} |" for case, rates in own.items()),
            "",
            "| memory of the daemon (RSS) | MiB |",
            "|---|---|",
            f"| idle, two workloads | {idle:.1f} |",
            f"| after the load above | {loaded:.1f} |",
            f"| with 1,000 idle HTTP connections | {thousand:.1f} |",
            "",
        ]
        print("\n".join(lines))
    policy = subprocess.run(
        [sys.executable, str(ROOT / "tests/bench/bench_policy.py")], capture_output=True, text=True, check=True
    ).stdout
    print(policy)
    lines += ["## Policy", "", "Snapshot build and lookups (`tests/bench/bench_policy.py`):", "", policy.strip(), ""]
    (ROOT / "BENCHMARKS.md").write_text("\n".join(lines))
    print(json.dumps(middle, indent=1))


if __name__ == "__main__":
    main()
