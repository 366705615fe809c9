"""Two nodes beside each other: what mTLS between them costs, in CPU, on the wire and in memory. Writes its part of BENCHMARKS.md.

    emb-c (client) -- emb-n1 (node) ---- link ---- emb-n2 (node) -- emb-s (server, nginx from memory)      captured by two agents
    emb-pc         -- emb-n1                       emb-n2        -- emb-ps                                 plain, for the others

The same load goes through two edgemesh agents (policy, mTLS, HTTP/2 between them), through a pair of nghttpx doing the same without
policy (h1 -> h2 over mTLS -> h1), and through one plain nginx hop. What is compared is the CPU time of all proxies of a case together
for each request. Needs root, and: apt-get install iproute2 nginx-light wrk nghttp2 openssl.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bench import CONNECTIONS, ROOT, ROUNDS, SECONDS, Program, _ready, machine, nginx_conf, sh, wait
from bench_lane import publish

LEAVES = {
    "emb-c": ("emb-n1", "10.78.1", 2),
    "emb-pc": ("emb-n1", "10.78.3", 2),
    "emb-s": ("emb-n2", "10.78.2", 2),
    "emb-ps": ("emb-n2", "10.78.4", 2),
}
NODES = {
    "emb-n1": ("10.78.0.1", ("10.78.2.0/24", "10.78.4.0/24")),
    "emb-n2": ("10.78.0.2", ("10.78.1.0/24", "10.78.3.0/24")),
}
BEGIN, END = "<!-- two nodes -->", "<!-- end of two nodes -->"

MANIFEST = """
apiVersion: edgemesh.io/v1alpha1
kind: NodeConfig
metadata: {{name: n1}}
spec: {{stateDir: {folder}/n1, adminSocket: {folder}/n1.sock, accessLog: "off", addresses: ["10.78.0.1"], limits: {{connections: 20000}}}}
---
apiVersion: edgemesh.io/v1alpha1
kind: NodeConfig
metadata: {{name: n2}}
spec: {{stateDir: {folder}/n2, adminSocket: {folder}/n2.sock, accessLog: "off", addresses: ["10.78.0.2"], limits: {{connections: 20000}}}}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {{name: client, namespace: bench}}
spec: {{serviceAccount: client, addresses: ["10.78.1.2"], netns: emb-c, node: n1}}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {{name: server, namespace: bench}}
spec: {{serviceAccount: server, labels: {{app: server}}, addresses: ["10.78.2.2"], netns: emb-s, node: n2}}
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: bench}}
spec: {{clusterIP: 240.240.9.9, selector: {{app: server}}, ports: [{{name: http-web, port: 80}}, {{name: tcp-web, port: 81, targetPort: 81}}]}}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: web, namespace: bench}}
spec: {{matches: [{{name: all, pathRegex: "/.*", methods: [GET]}}]}}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: TCPRoute
metadata: {{name: raw, namespace: bench}}
spec: {{matches: {{ports: [81]}}}}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {{name: web, namespace: bench}}
spec:
  destination: {{kind: ServiceAccount, name: server, namespace: bench}}
  rules: [{{kind: HTTPRouteGroup, name: web, matches: [all]}}]
  sources: [{{kind: ServiceAccount, name: client, namespace: bench}}]
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {{name: raw, namespace: bench}}
spec:
  destination: {{kind: ServiceAccount, name: server, namespace: bench}}
  rules: [{{kind: TCPRoute, name: raw}}]
  sources: [{{kind: ServiceAccount, name: client, namespace: bench}}]
"""


@contextlib.contextmanager
def topology() -> Iterator[None]:
    _remove()
    try:
        for node in NODES:
            sh(
                f"ip netns add {node} && ip -n {node} link set lo up && ip netns exec {node} sysctl -qw net.ipv4.ip_forward=1"
            )
        sh("ip -n emb-n1 link add link0 type veth peer name link0 netns emb-n2")
        for node, (address, _) in NODES.items():
            sh(f"ip -n {node} link set link0 up && ip -n {node} addr add {address}/24 dev link0")
        for leaf, (node, net, host) in LEAVES.items():
            sh(
                f"ip netns add {leaf} && ip -n {leaf} link set lo up && ip -n {leaf} link add eth0 type veth peer name {leaf} netns {node}"
                f" && ip -n {leaf} link set eth0 up && ip -n {leaf} addr add {net}.{host}/24 dev eth0 && ip -n {node} link set {leaf} up"
                f" && ip -n {node} addr add {net}.1/24 dev {leaf} && ip -n {leaf} route add default via {net}.1"
            )
        for node, (_, routes) in NODES.items():
            other = next(address for name, (address, _) in NODES.items() if name != node)
            for route in routes:
                sh(f"ip -n {node} route add {route} via {other}")
        yield
    finally:
        _remove()


def _remove() -> None:
    for name in (*LEAVES, *NODES):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def wire_bytes() -> int:
    """Bytes that have crossed the link, both ways."""
    stats = json.loads(sh("ip -n emb-n1 -s -j link show link0"))[0]["stats64"]
    return int(stats["tx"]["bytes"]) + int(stats["rx"]["bytes"])


def start_edgemesh(folder: Path, stack: contextlib.ExitStack, native: bool = True) -> list[Program]:
    config = folder / "config"
    config.mkdir(parents=True)
    text = MANIFEST if native else MANIFEST.replace('accessLog: "off"', 'accessLog: "off", nativeLane: false')
    (config / "bench.yaml").write_text(text.format(folder=folder))
    me = f"{sys.executable} -m agent"
    sh(f"{me} ca init --state {folder}/n1 --trust-domain cluster.local")
    agents = []
    for node in ("n1", "n2"):
        if node == "n2":
            printed = sh(f"{me} ca token --node n2 --state {folder}/n1")
            token = next(word for word in printed.split() if re.fullmatch(r"[A-Za-z0-9_-]{20,}\.[0-9a-f]{64}", word))
            subprocess.run(
                [
                    "ip",
                    "netns",
                    "exec",
                    "emb-n2",
                    *me.split(),
                    "join",
                    "--authority",
                    "10.78.0.1:15012",
                    "--node",
                    "n2",
                    "--state",
                    f"{folder}/n2",
                ],
                input=token.encode(),
                check=True,
                stdout=subprocess.DEVNULL,
            )
        extra = ["--authority"] if node == "n1" else []
        agent = Program(f"emb-{node}", *me.split(), "run", "--config", str(config), "--node", node, *extra)
        stack.callback(agent.stop)
        wait(lambda node=node: _ready(folder / f"{node}.sock"), f"edgemesh on {node} is ready")
        agents.append(agent)
    return agents


def start_nghttpx(folder: Path, stack: contextlib.ExitStack) -> list[Program]:
    sh(
        f"cd {folder} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout k.pem -out c.pem -subj /CN=n2"
        " -addext subjectAltName=DNS:n2 2>/dev/null"
    )
    tls = f"--tls-min-proto-version=TLSv1.3 --cacert={folder}/c.pem"
    far = Program(
        "emb-n2", "nghttpx", "--workers=1", "--errorlog-syslog", "--frontend=10.78.0.2,8443", "--backend=10.78.4.2,80", "--verify-client",
        f"--verify-client-cacert={folder}/c.pem", *tls.split(), f"{folder}/k.pem", f"{folder}/c.pem",
    )  # fmt: skip
    near = Program(
        "emb-n1", "nghttpx", "--workers=1", "--errorlog-syslog", "--frontend=10.78.3.1,8080;no-tls", "--backend=10.78.0.2,8443;;proto=h2;tls;sni=n2",
        f"--client-private-key-file={folder}/k.pem", f"--client-cert-file={folder}/c.pem", *tls.split(),
    )  # fmt: skip
    for program in (far, near):
        stack.callback(program.stop)
    return [near, far]


def wrk(client: str, url: str, connections: int = CONNECTIONS, seconds: float = SECONDS) -> dict[str, float]:
    out = sh(f"ip netns exec {client} wrk -t1 -c{connections} -d{seconds:g}s --latency {url}")
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    row: dict[str, float] = {}
    for percent in ("50", "99"):
        value, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)\b", out).groups()
        row[f"p{percent}"] = float(value) * scale[unit]
    row["requests"] = int(re.search(r"(\d+) requests in", out)[1])
    row["rate"] = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    if errors := re.search(r"Non-2xx or 3xx responses: (\d+)", out):
        raise SystemExit(f"{url}: {errors[0]}")
    return row


def measure(programs: list[Program], client: str, url: str, connections: int = CONNECTIONS) -> dict[str, float]:
    before, bytes_before = sum(p.cpu() for p in programs), wire_bytes()
    row = wrk(client, url, connections)
    row["cpu"] = (sum(p.cpu() for p in programs) - before) / row["requests"] * 1e6
    row["wire"] = (wire_bytes() - bytes_before) / row["requests"]
    return row


def curl_bytes(times: int) -> float:
    """Bytes on the link for each of `times` requests on one connection of the client."""
    urls = " ".join(["http://240.240.9.9/"] * times)
    before = wire_bytes()
    sh(f"ip netns exec emb-c curl -s -o /dev/null {urls}")
    time.sleep(0.3)  # the last acknowledgements
    return (wire_bytes() - before) / times


def throughput(programs: list[Program], client: str, url: str, size: int) -> tuple[float, float]:
    """MiB/s of one large response, and the CPU seconds of these programs for each GiB of it."""
    before = sum(p.cpu() for p in programs)
    out = sh(f"ip netns exec {client} curl -s -o /dev/null -w '%{{speed_download}}' {url}")
    return float(out) / 1048576, (sum(p.cpu() for p in programs) - before) * (1 << 30) / size


def knock(*words: object) -> list[str]:
    return [
        "ip",
        "netns",
        "exec",
        "emb-n1",
        sys.executable,
        str(Path(__file__).parent / "knocker.py"),
        *map(str, words),
    ]


def handshake_cost(program: Program, *words: object) -> float:
    """CPU milliseconds of this program for each connection that knocker.py makes to it."""
    count = 300
    before = program.cpu()
    subprocess.run(
        knock(words[0], "handshakes", count, *words[1:]), check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return (program.cpu() - before) / count * 1000


def held_cost(program: Program, state: Path, what: str, count: int) -> float:
    """KiB of this program's memory for each idle connection or tunnel."""
    before = program.rss()
    command = knock(state, what, count)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise SystemExit(f"knocker.py {what} failed")
        time.sleep(1)
        held = program.rss() - before
        holder.communicate(b"")
    return held * 1024 / count


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name, topology(), contextlib.ExitStack() as stack:
        folder = Path(name)
        big = 256 << 20
        (folder / "big").write_bytes(bytes(big))
        body = (
            'server { listen 80 backlog=4096; location / { return 200 "hello from the server\\n"; } }'
            f" server {{ listen 81; location / {{ root {folder}; }} }}"
        )
        conf = nginx_conf(folder, body)
        for leaf in ("emb-s", "emb-ps"):
            stack.callback(Program(leaf, "nginx", "-c", conf, "-g", f"pid {folder}/{leaf}.pid;").stop)
        hop = nginx_conf(
            folder,
            "upstream s { server 10.78.4.2:80; keepalive 64; keepalive_requests 100000000; }\n"
            'server { listen 10.78.3.1:80 backlog=4096; location / { proxy_pass http://s; proxy_http_version 1.1; proxy_set_header Connection ""; } }',
        )
        nginx = Program("emb-n1", "nginx", "-c", hop, "-g", f"pid {folder}/hop.pid;")
        stack.callback(nginx.stop)
        nghttpx = start_nghttpx(folder, stack)
        agents = start_edgemesh(folder, stack)
        time.sleep(2)
        idle = [agent.rss() for agent in agents]
        first = curl_bytes(1)
        thousandth = (curl_bytes(1000) * 1000 - curl_bytes(10) * 10) / 990
        cases = {
            "two edgemesh agents, mTLS, HTTP policy": (agents, "emb-c", "http://240.240.9.9/"),
            "two nghttpx, mTLS, no policy": (nghttpx, "emb-pc", "http://10.78.3.1:8080/"),
            "one nginx, plain hop": ([nginx], "emb-pc", "http://10.78.3.1/"),
        }
        rows: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
        for _ in range(ROUNDS):
            for case, (programs, client, url) in cases.items():
                rows[case].append(measure(programs, client, url))
        middle = {case: {k: statistics.median(r[k] for r in got) for k in got[0]} for case, got in rows.items()}
        one = {case: measure(programs, client, url, 1) for case, (programs, client, url) in cases.items()}
        loaded = [agent.rss() for agent in agents]
        poured, plain = [], []
        for _ in range(3 * ROUNDS):
            poured.append(throughput(agents, "emb-c", "http://240.240.9.9:81/big", big))
            plain.append(throughput([], "emb-pc", "http://10.78.4.2:81/big", big))
        (tunnel, tunnel_cpu), (direct, _) = (
            tuple(map(statistics.median, zip(*got, strict=True))) for got in (poured, plain)
        )
        shake, other_shake = handshake_cost(agents[1], folder / "n1"), handshake_cost(nghttpx[1], "-", folder)
        connection, stream = (
            held_cost(agents[1], folder / "n1", "connections", 200),
            held_cost(agents[1], folder / "n1", "streams", 1000),
        )
        for agent in agents:
            agent.stop()
        agents = start_edgemesh(folder / "slow", stack, native=False)
        time.sleep(2)
        slow, slow_cpu = map(
            statistics.median,
            zip(*(throughput(agents, "emb-c", "http://240.240.9.9:81/big", big) for _ in range(ROUNDS)), strict=True),
        )
        base = middle["one nginx, plain hop"]["cpu"]
        lines = [
            BEGIN,
            "## Two nodes",
            "",
            f"{time.strftime('%Y-%m-%d')}, {machine()}; wrk, {CONNECTIONS} keep-alive connections, {ROUNDS} interleaved rounds of {SECONDS} s, medians"
            " (`tests/bench/bench_nodes.py`). CPU and bytes on the link are for each request, of all proxies of the case together.",
            "",
            "| | req/s | CPU us/request | to nginx | bytes on the link | p50 ms | p99 ms | p50 ms, one connection |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {case} | {row['rate']:.0f} | {row['cpu']:.0f} | {row['cpu'] / base:.1f} | {row['wire']:.0f} | {row['p50']:.2f} | {row['p99']:.2f}"
                f" | {one[case]['p50']:.2f} |"
                for case, row in middle.items()
            ),
            "",
            "| | |",
            "|---|---|",
            f"| bytes on the link, first request (TCP and TLS handshakes, request, response) | {first:.0f} |",
            f"| the same for each of the next thousand on that connection | {thousandth:.0f} |",
            f"| opaque TCP through a tunnel, {big >> 20} MiB | {tunnel:.0f} MiB/s, {tunnel_cpu:.2f} s of CPU a GiB, of both agents together |",
            f"| the same without the native lane | {slow:.0f} MiB/s, {slow_cpu:.2f} s |",
            f"| the same without proxies | {direct:.0f} MiB/s |",
            f"| CPU of a handshake at the accepting node, its first look to its SETTINGS | {shake:.2f} ms: {1000 / shake:.0f} in a second of CPU |",
            f"| the same, nghttpx | {other_shake:.2f} ms: {1000 / other_shake:.0f} |",
            f"| memory of an idle connection between nodes, at the accepting one | {connection:.0f} KiB |",
            f"| of an open tunnel, with its connection to the server | {stream:.0f} KiB |",
            f"| memory (RSS) of the node with the authority, idle / after the load | {idle[0]:.1f} / {loaded[0]:.1f} MiB |",
            f"| of the other node | {idle[1]:.1f} / {loaded[1]:.1f} MiB |",
            END,
        ]
        publish(lines)


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("the measurement makes network namespaces: run it as root")
    main()
