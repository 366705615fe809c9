"""The one file beside the source tree: size, start, memory, CPU of a request. bench_file.py FILE [NAME=FILE...]

Writes its part of BENCHMARKS.md. Topology, programs and load are those of bench_lane.py. Needs root, and the same packages.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import bench
from bench import ROUNDS, Program, _ready, machine, nginx_conf, topology, wait
from bench_lane import URL, cost, edgemesh, middle, publish, workloads

BEGIN, END = "<!-- one file -->", "<!-- end of one file -->"
STARTS = 5


def first_and_later(command: list[str]) -> tuple[float, float]:
    """Seconds for `version`: with nothing unpacked, and again."""
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as folder:
        took = []
        for _ in range(1 + STARTS):
            began = time.monotonic()
            subprocess.run(
                [*command, "version"],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "EDGEMESH_UNPACK": folder},
            )
            took.append(time.monotonic() - began)
    return took[0], sorted(took[1:])[STARTS // 2]


def enforcing(command: list[str]) -> float:
    """Seconds from the start to the moment when policy is enforced, with 20 workloads without namespaces; the middle of some starts."""
    took = []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name:
            folder = Path(name)
            (folder / "config").mkdir()
            (folder / "config" / "all.yaml").write_text(workloads(20))
            began = time.monotonic()
            options = [
                "--socket",
                str(folder / "sock"),
                "--state-dir",
                str(folder / "state"),
                "--metrics-address",
                "",
                "--node",
                "bench",
            ]
            program = Program("", *command, "run", "--config", str(folder / "config"), *options)
            with contextlib.closing(contextlib.ExitStack()) as stack:
                stack.callback(program.stop)
                wait(lambda folder=folder: _ready(folder / "sock"), "edgemesh is ready", 30)
                took.append(time.monotonic() - began)
    return sorted(took)[STARTS // 2]


def main(programs: dict[str, list[str]]) -> None:
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name, topology(), contextlib.ExitStack() as stack:
        server = nginx_conf(
            Path(name), 'server { listen 80 backlog=4096; location / { return 200 "hello from the server\\n"; } }'
        )
        stack.callback(Program("emb-server", "nginx", "-c", server, "-g", f"pid {name}/pid;").stop)
        for what, command in programs.items():
            first, later = first_and_later(command)
            rows[what] = {"first": first, "later": later, "enforcing": enforcing(command)}
            with edgemesh(workloads(20), command=command) as ours:
                time.sleep(8)  # what was needed for the start only has been given back
                rows[what]["rss"] = ours.rss()
        for setting, label in ((", nativeLane: false", "slow"), ("", "native")):
            costs: dict[str, list[dict[str, float]]] = {what: [] for what in programs}
            for _ in range(ROUNDS):
                for what, command in programs.items():
                    with edgemesh(settings=setting, command=command) as ours:
                        costs[what].append(cost(ours, "emb-client", URL + "/"))
            for what, found in costs.items():
                rows[what][label] = middle(found)["cpu"]
    sizes = {
        what: Path(command[0]).stat().st_size / 2**20 if len(command) == 1 else 0.0
        for what, command in programs.items()
    }
    publish(
        [
            BEGIN,
            "## One file beside the source tree",
            "",
            f"{time.strftime('%Y-%m-%d')}, {machine()}; medians of {STARTS} starts and of {ROUNDS} interleaved rounds of {bench.SECONDS} s"
            " (`tests/bench/bench_file.py`). Requests: same node, HTTP policy, 22-byte body.",
            "",
            "| | size, MiB | `version`, first start, s | later, s | start to enforcing, s | RSS idle, 22 workloads, MiB | CPU us/request | without the native lane |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {what} | {sizes[what] or '-'!s:.4} | {row['first']:.2f} | {row['later']:.2f} | {row['enforcing']:.2f} | {row['rss']:.1f}"
                f" | {row['native']:.1f} | {row['slow']:.0f} |"
                for what, row in rows.items()
            ),
            END,
        ]
    )


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("the measurement makes network namespaces: run it as root")
    if not sys.argv[1:]:
        raise SystemExit("bench_file.py FILE [NAME=FILE...]: make dist makes one")
    found = {"source tree": [sys.executable, "-m", "agent"]}
    for word in sys.argv[1:]:
        what, _, path = word.rpartition("=")
        found[what or "file"] = [str(Path(path).resolve())]
    main(found)
