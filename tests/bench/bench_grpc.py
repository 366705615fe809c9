"""What a small gRPC call costs, from node to node and on one node: unary POSTs over HTTP/2 with prior knowledge. Writes its part of BENCHMARKS.md.

The topology is bench_nodes.py's, with a second server on the caller's own node. The same load goes through the agents, through a pair of
nghttpx (h2 -> h2 over mTLS -> h2, no policy), and through one plain nginx hop (grpc_pass). Compared is the CPU time of all proxies of a
case together. Needs root, and: apt-get install iproute2 nginx-light nghttp2 openssl.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import tempfile
import time
from pathlib import Path

import bench_nodes
from bench import ROUNDS, SECONDS, Program, machine, nginx_conf, sh
from bench_lane import publish
from bench_nodes import LEAVES, start_edgemesh, topology

CONNECTIONS, STREAMS = 8, 8
BEGIN, END = "<!-- grpc -->", "<!-- end of grpc -->"
PATH = "/bench.Echo/Say"

LEAVES["emb-near"] = ("emb-n1", "10.78.5", 2)
bench_nodes.MANIFEST = (
    bench_nodes.MANIFEST.replace("{{name: http-web, port: 80}}", "{{name: grpc-calls, port: 80}}").replace(
        "methods: [GET]", "methods: [POST]"
    )
    + """---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {{name: near, namespace: bench}}
spec: {{serviceAccount: server, labels: {{app: near}}, addresses: ["10.78.5.2"], netns: emb-near, node: n1}}
---
apiVersion: v1
kind: Service
metadata: {{name: near, namespace: bench}}
spec: {{clusterIP: 240.240.9.10, selector: {{app: near}}, ports: [{{name: grpc-calls, port: 80}}]}}
"""
)


def load(client: str, url: str, message: Path, seconds: float = SECONDS) -> dict[str, float]:
    """CPU apart: what h2load says."""
    fields = "-H 'content-type: application/grpc' -H 'te: trailers'"
    out = sh(
        f"ip netns exec {client} h2load -c{CONNECTIONS} -m{STREAMS} -D{seconds:g} -d {message} {fields} {url}{PATH}"
    )
    done = re.search(r"requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored", out)
    assert done is not None, out
    if (int(done[3]) + int(done[4])) * 100 > int(
        done[1]
    ):  # nginx answers a few with 502, where a connection that it reuses was closed
        raise SystemExit(f"{url}: {out}")
    mean = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", out)
    assert mean is not None
    return {
        "requests": int(done[2]),
        "rate": int(done[2]) / seconds,
        "mean": float(mean[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[mean[2]],
    }


def measure(programs: list[Program], client: str, url: str, message: Path) -> dict[str, float]:
    before = sum(p.cpu() for p in programs)
    row = load(client, url, message)
    row["cpu"] = (sum(p.cpu() for p in programs) - before) / row["requests"] * 1e6
    return row


def start_nghttpx(folder: Path, stack: contextlib.ExitStack) -> list[Program]:
    sh(
        f"cd {folder} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout k.pem -out c.pem -subj /CN=n2"
        " -addext subjectAltName=DNS:n2 2>/dev/null"
    )
    tls = f"--tls-min-proto-version=TLSv1.3 --cacert={folder}/c.pem"
    far = Program(
        "emb-n2", "nghttpx", "--workers=1", "--errorlog-syslog", "--frontend=10.78.0.2,8443", "--backend=10.78.4.2,80;;proto=h2", "--verify-client",
        f"--verify-client-cacert={folder}/c.pem", *tls.split(), f"{folder}/k.pem", f"{folder}/c.pem",
    )  # fmt: skip
    near = Program(
        "emb-n1", "nghttpx", "--workers=1", "--errorlog-syslog", "--frontend=10.78.3.1,8080;no-tls", "--backend=10.78.0.2,8443;;proto=h2;tls;sni=n2",
        f"--client-private-key-file={folder}/k.pem", f"--client-cert-file={folder}/c.pem", *tls.split(),
    )  # fmt: skip
    for program in (far, near):
        stack.callback(program.stop)
    return [near, far]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name, topology(), contextlib.ExitStack() as stack:
        folder = Path(name)
        message = folder / "message"
        message.write_bytes(b"\0\0\0\0\x5f" + bytes(95))
        conf = nginx_conf(
            folder, 'server { listen 80 http2 backlog=4096; location / { return 200 "hello from the server\\n"; } }'
        )
        for leaf in ("emb-s", "emb-ps", "emb-near"):
            stack.callback(Program(leaf, "nginx", "-c", conf, "-g", f"pid {folder}/{leaf}.pid;").stop)
        hop = nginx_conf(
            folder,
            "upstream s { server 10.78.4.2:80; keepalive 64; keepalive_requests 100000000; }\n"
            "server { listen 10.78.3.1:80 http2 backlog=4096; location / { grpc_pass grpc://s; } }",
        )
        nginx = Program("emb-n1", "nginx", "-c", hop, "-g", f"pid {folder}/hop.pid;")
        stack.callback(nginx.stop)
        nghttpx = start_nghttpx(folder, stack)
        agents = start_edgemesh(folder, stack)
        time.sleep(2)
        cases = {
            "two edgemesh agents, mTLS, HTTP policy": (agents, "emb-c", "http://240.240.9.9"),
            "one edgemesh agent, both workloads on its node": (agents[:1], "emb-c", "http://240.240.9.10"),
            "two nghttpx, mTLS, no policy": (nghttpx, "emb-pc", "http://10.78.3.1:8080"),
            "one nginx, plain hop (grpc_pass)": ([nginx], "emb-pc", "http://10.78.3.1"),
        }
        rows: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
        for _ in range(ROUNDS):
            for case, (programs, client, url) in cases.items():
                rows[case].append(measure(programs, client, url, message))
        middle = {case: {k: statistics.median(r[k] for r in got) for k in got[0]} for case, got in rows.items()}
        base = middle["one nginx, plain hop (grpc_pass)"]["cpu"]
        lines = [
            BEGIN,
            "## gRPC",
            "",
            f"{time.strftime('%Y-%m-%d')}, {machine()}; h2load, {CONNECTIONS} connections of {STREAMS} streams, unary POSTs of some 100 bytes,"
            f" {ROUNDS} interleaved rounds of {SECONDS} s, medians (`tests/bench/bench_grpc.py`). CPU is of all proxies of the case together.",
            "",
            "| | req/s | CPU us/request | to nginx | mean ms |",
            "|---|---|---|---|---|",
            *(
                f"| {case} | {row['rate']:.0f} | {row['cpu']:.0f} | {row['cpu'] / base:.1f} | {row['mean']:.2f} |"
                for case, row in middle.items()
            ),
            END,
        ]
        publish(lines)


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("the measurement makes network namespaces: run it as root")
    main()
