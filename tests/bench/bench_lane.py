"""The native lane in detail, beside nginx and HAProxy in the same run: bodies, new connections, many rules, many paths, opaque bytes, memory,
fairness.

Writes its part of BENCHMARKS.md. Topology, programs and load are those of bench.py. Needs root, and the same packages.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import bench
from bench import MANIFEST, ROOT, ROUNDS, SUBNET, TCP_TARGET, Program, _ready, machine, nginx_conf, sh, topology, wait

BEGIN, END = "<!-- native lane -->", "<!-- end of native lane -->"
POURED = 1 << 30  # bytes of one download
IDLE = 10_000  # connections
URL, NGINX = "http://240.240.9.9", f"http://{SUBNET}.2"

PATHS = """
local number = 0
request = function()
  number = (number + 7919) % 100000
  return wrk.format("GET", "/items/" .. number)
end
"""
# Another workload of the node, which may call the same server.
OTHER = """---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {name: other, namespace: bench}
spec: {serviceAccount: client, addresses: ["10.79.0.5"], netns: emb-user}
"""
CLOSING = 'wrk.headers["Connection"] = "close"\n'
FLOOD = """
init = function(args)
  local r = {}
  for i = 1, 64 do r[i] = wrk.format("GET", "/") end
  pipelined = table.concat(r)
end
request = function() return pipelined end
"""


def rules(count: int) -> str:
    """So many TrafficTargets beside the one that counts, for the same server, each with a route of its own."""
    texts = [
        f"""---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: items-{n}, namespace: bench}}
spec: {{matches: [{{name: some, pathRegex: "/never-{n}/[0-9]+", methods: [GET]}}]}}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {{name: items-{n}, namespace: bench}}
spec:
  destination: {{kind: ServiceAccount, name: server, namespace: bench}}
  rules: [{{kind: HTTPRouteGroup, name: items-{n}, matches: [some]}}]
  sources: [{{kind: ServiceAccount, name: other-{n}, namespace: bench}}]
"""
        for n in range(count)
    ]
    return "".join(texts)


def workloads(count: int) -> str:
    return "".join(
        f"---\napiVersion: edgemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: more-{n}, namespace: bench}}\n"
        f'spec: {{serviceAccount: more-{n}, addresses: ["10.79.9.{n}"], netns: emb-more-{n}}}\n'
        for n in range(1, count + 1)
    )


@contextlib.contextmanager
def edgemesh(
    more: str = "", settings: str = "", seconds: float = 30, command: Sequence[str] = (sys.executable, "-m", "agent")
) -> Iterator[Program]:
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name:
        folder = Path(name)
        config = folder / "config"
        config.mkdir()
        text = MANIFEST.format(folder=folder).replace('pathRegex: "/.*"', 'pathRegex: "/([a-z]+/[0-9]+)?(big|small)?$"')
        (config / "bench.yaml").write_text(text.replace('accessLog: "off"', f'accessLog: "off"{settings}') + more)
        program = Program("", *command, "run", "--config", str(config))
        try:
            wait(lambda: _ready(folder / "edgemesh.sock"), "edgemesh is ready", seconds)
            time.sleep(1)
            yield program
        finally:
            program.stop()


def wrk(
    client: str, url: str, connections: int, script: Path | None = None, seconds: float = bench.SECONDS
) -> dict[str, float]:
    import re

    more = f"-s {script}" if script else ""
    out = sh(f"ip netns exec {client} wrk -t1 -c{connections} -d{seconds:g}s --latency {more} {url}")
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    row = {
        "requests": float(re.search(r"(\d+) requests in", out)[1]),
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),
    }
    for percent in ("50", "99"):
        value, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)\b", out).groups()
        row[f"p{percent}"] = float(value) * scale[unit]
    if errors := re.search(r"Non-2xx or 3xx responses: (\d+)", out):
        raise SystemExit(f"{url}: {errors[0]}")
    return row


def cost(
    program: Program, client: str, url: str, connections: int = bench.CONNECTIONS, script: Path | None = None
) -> dict[str, float]:
    before = program.cpu()
    row = wrk(client, url, connections, script)
    row["cpu"] = (program.cpu() - before) / row["requests"] * 1e6
    return row


def pour(program: Program | None, client: str, url: str) -> dict[str, float]:
    """One large download: MiB/s, and what the proxy's processes took for it. `program` None: there is none."""
    before = program.cpu() if program else 0.0
    out = sh(f"ip netns exec {client} curl -s -o /dev/null -w '%{{speed_download}}' {url}")
    return {"speed": float(out) / 1048576, "cpu": ((program.cpu() if program else 0.0) - before) * (1 << 30) / POURED}


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[None]:
    """Those of `workloads(count)`."""
    names = [f"emb-more-{n}" for n in range(1, count + 1)]
    try:
        for n, name in enumerate(names, 1):
            sh(f"ip netns add {name} && ip -n {name} link set lo up && ip -n {name} addr add 10.79.9.{n}/32 dev lo")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def middle(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name, topology(), contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "bigbig").write_bytes(bytes(1 << 20))
        (folder / "small").write_bytes(bytes(64 << 10))
        (folder / "big").write_bytes(bytes(1 << 20))
        with (folder / "huge").open("wb") as huge:
            huge.truncate(POURED)
        scripts = {}
        for script, text in (("paths", PATHS), ("closing", CLOSING), ("flood", FLOOD)):
            scripts[script] = folder / f"{script}.lua"
            scripts[script].write_text(text)
        body = (
            'server { listen 80 backlog=4096; location / { return 200 "hello from the server\\n"; }'
            f" location = /big {{ root {folder}; }} location = /small {{ root {folder}; }} location = /huge {{ root {folder}; }} }}"
        )
        server = nginx_conf(folder, body)
        hop = nginx_conf(
            folder,
            f"upstream s {{ server {SUBNET}.4:80; keepalive 64; keepalive_requests 100000000; }}\n"
            'server { listen 80 backlog=4096; location / { proxy_pass http://s; proxy_http_version 1.1; proxy_set_header Connection ""; } }',
        )
        for namespace in ("emb-server", "emb-plain"):
            stack.callback(Program(namespace, "nginx", "-c", server, "-g", f"pid {folder}/{namespace}.pid;").stop)
        nginx = Program("emb-proxy", "nginx", "-c", hop, "-g", f"pid {folder}/hop.pid;")
        stack.callback(nginx.stop)
        raw = folder / "haproxy.cfg"
        raw.write_text(
            "global\n nbthread 1\n maxconn 4000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
            f"frontend f\n bind {SUBNET}.2:82\n default_backend b\nbackend b\n server s {SUBNET}.4:80\n"
        )
        haproxy = Program("emb-proxy", "haproxy", "-db", "-f", str(raw))
        stack.callback(haproxy.stop)
        time.sleep(1)

        table: list[tuple[str, dict[str, float], dict[str, float]]] = []
        with edgemesh() as ours:
            for what, path, script in (
                ("a 22-byte body", "/", None),
                ("100,000 different paths", "/", "paths"),
                ("a 64 KiB body", "/small", None),
                ("a 1 MiB body", "/big", None),
                ("each request on a connection of its own", "/", "closing"),
            ):
                lua = scripts[script] if script else None
                mine, theirs = [], []
                for _ in range(ROUNDS):
                    mine.append(cost(ours, "emb-client", URL + path, script=lua))
                    theirs.append(cost(nginx, "emb-user", NGINX + path, script=lua))
                table.append((what, middle(mine), middle(theirs)))
            alone = middle([wrk("emb-client", URL + "/", 1) for _ in range(ROUNDS)])
        with edgemesh(TCP_TARGET) as ours:
            opaque: dict[str, tuple[Program | None, str, str]] = {
                "edgemesh, opaque TCP": (ours, "emb-client", f"{URL}:81"),
                "HAProxy, TCP mode": (haproxy, "emb-user", f"{NGINX}:82"),
                "no proxy, the same bridge and veths": (None, "emb-user", f"http://{SUBNET}.4"),
            }
            poured: dict[str, list[dict[str, float]]] = {what: [] for what in opaque}
            opened: dict[str, list[dict[str, float]]] = {what: [] for what in opaque}
            for _ in range(ROUNDS):
                for what, (program, client, url) in opaque.items():
                    poured[what] += [pour(program, client, url + "/huge") for _ in range(3)]
                    if program is not None:
                        opened[what].append(cost(program, client, url + "/", script=scripts["closing"]))
            flows = {what: (middle(poured[what]), middle(opened[what]) if opened[what] else None) for what in opaque}
        many = rules(10_000)
        with edgemesh(many, seconds=60) as ours:
            mine, theirs = [], []
            for _ in range(ROUNDS):
                mine.append(cost(ours, "emb-client", URL + "/"))
                theirs.append(cost(nginx, "emb-user", NGINX + "/"))
            table.append(("a 22-byte body, 10,000 rules in force", middle(mine), middle(theirs)))
        with edgemesh(settings=", nativeLane: false") as ours:
            slow = middle([cost(ours, "emb-client", URL + "/") for _ in range(ROUNDS)])
        with namespaces(20), edgemesh(workloads(20)) as ours:
            memory = [("idle, 22 captured workloads", ours.rss())]
            sh("ip netns exec emb-client sysctl -qw net.ipv4.ip_local_port_range='10000 65000'")
            # A connection is counted as two descriptors, and a quarter of them is kept: see downstream/accept.py.
            descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            most = min(IDLE, descriptors * 3 // 8 - 300)
            for count in (1000, most):
                holding = bench.idle_connections("240.240.9.9", 80, count)
                time.sleep(2)
                memory.append((f"with {count:,} idle HTTP connections, each used once", ours.rss()))
                holding.kill()
                holding.wait()
                time.sleep(2)
            if most < IDLE:
                what, size = memory[-1]
                memory[-1] = (
                    f"{what} (for {IDLE:,} a process needs {IDLE * 8 // 3 + 800:,} descriptors; here it may have {descriptors:,})",
                    size,
                )
        # Somebody else floods: another workload of the node pipelines as fast as it can. Without a proxy between, both ask the same server.
        rest = []
        with edgemesh(OTHER):
            for flooder, neighbour, url in (
                ("emb-client", "emb-user", f"{URL}/"),
                ("emb-proxy", "emb-user", f"http://{SUBNET}.4/"),
            ):
                quiet = middle([wrk(neighbour, url, 4) for _ in range(ROUNDS)])
                command = ["wrk", "-t1", "-c100", f"-d{ROUNDS * bench.SECONDS + 3}s", "-s", str(scripts["flood"]), url]
                flood = subprocess.Popen(["ip", "netns", "exec", flooder, *command], stdout=subprocess.DEVNULL)
                time.sleep(1)
                rest.append((quiet, middle([wrk(neighbour, url, 4) for _ in range(ROUNDS)])))
                flood.wait()
        (quiet, loud), (quiet_direct, loud_direct) = rest
        lines = [
            BEGIN,
            "## The native lane",
            "",
            f"{time.strftime('%Y-%m-%d')}, {machine()}; wrk, {bench.CONNECTIONS} connections, {ROUNDS} interleaved rounds of {bench.SECONDS} s, medians"
            " (`tests/bench/bench_lane.py`). Same node, HTTP policy, beside one plain nginx hop.",
            "",
            "| | req/s | nginx | CPU us/request | nginx | ratio of CPU |",
            "|---|---|---|---|---|---|",
            *(
                f"| {what} | {mine['rate']:.0f} | {theirs['rate']:.0f} | {mine['cpu']:.1f} | {theirs['cpu']:.1f} | {mine['cpu'] / theirs['cpu']:.2f} |"
                for what, mine, theirs in table
            ),
            "",
            f"Opaque TCP, {POURED >> 20} MiB at a time; and wrk, {bench.CONNECTIONS} at once, a new connection for each request:",
            "",
            "| | MiB/s | CPU s/GiB | new connections a second | CPU us/connection |",
            "|---|---|---|---|---|",
            *(
                f"| {what} | {flow['speed']:.0f} | "
                + (f"{flow['cpu']:.2f} | {new['rate']:.0f} | {new['cpu']:.0f} |" if new is not None else "| | |")
                for what, (flow, new) in flows.items()
            ),
            "",
            "| | |",
            "|---|---|",
            f"| the same 22-byte body without the native lane | {slow['cpu']:.1f} us |",
            f"| one connection, p50 / p99 | {alone['p50']:.2f} / {alone['p99']:.2f} ms |",
            f"| 4 connections, p50 / p99, alone | {quiet['p50']:.2f} / {quiet['p99']:.2f} ms |",
            f"| the same while another workload pipelines 64 requests at a time on 100 connections | {loud['p50']:.2f} / {loud['p99']:.2f} ms |",
            "| the same two without a proxy, at the server itself | "
            f"{quiet_direct['p50']:.2f} / {quiet_direct['p99']:.2f}, {loud_direct['p50']:.2f} / {loud_direct['p99']:.2f} ms |",
            *(f"| memory (RSS): {what} | {size:.1f} MiB |" for what, size in memory),
            END,
        ]
    publish(lines)


def publish(lines: list[str]) -> None:
    """Print a part of BENCHMARKS.md, and put it in the place of the one that has the same first and last line."""
    text, begin, end = "\n".join(lines), lines[0], lines[-1]
    print(text)
    path = ROOT / "BENCHMARKS.md"
    old = path.read_text()
    if begin in old:
        old = old[: old.index(begin)] + old[old.index(end) + len(end) :].lstrip("\n")
    path.write_text(old.rstrip("\n") + "\n\n" + text + "\n")


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("the measurement makes network namespaces: run it as root")
    with contextlib.suppress(ValueError):  # where we may
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * IDLE, 4 * IDLE))
    main()
