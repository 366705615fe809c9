"""What each import costs the daemon: memory and time of every package that it loads until it enforces 20 workloads' policy and is idle.

Writes its part of BENCHMARKS.md. The daemon runs from the source tree in this process's Python, in namespaces of its own; every module is
measured as it is executed, without what it imports in turn, so that the rows add up. Needs root: it makes network namespaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bench import _ready, machine, wait
from bench_lane import ROOT, publish, workloads

BEGIN, END = "<!-- imports -->", "<!-- end of imports -->"
WORKLOADS = 20
SETTLED = 8  # seconds: what only the start needed has been given back by then
OURS = ("agent", "nodeproxy", "policy")

# Runs before anything else in the measured daemon. Figures are kB and ms, by module; written when it ends.
HOOK = """
import sys, time, threading, _frozen_importlib_external as external, _frozen_importlib as frozen
PAGE = 4
def memory():
    with open("/proc/self/statm", "rb") as file:
        rss = int(file.read().split()[1]) * PAGE
    with open("/proc/self/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return rss, int(line.split()[1])
found, local = {}, threading.local()
def measured(kind, name):
    # `name`: the method that makes (extension modules) or executes the module.
    original = getattr(kind, name)
    def run(self, what):
        stack = local.__dict__.setdefault("stack", [])
        spec = getattr(what, "__spec__", None) or what
        before, began = memory(), time.perf_counter()
        stack.append([0, 0, 0.0])
        try:
            return original(self, what)
        finally:
            ended = time.perf_counter()
            after, inner = memory(), stack.pop()
            whole = after[0] - before[0], after[1] - before[1], (ended - began) * 1e3
            own = found.setdefault(spec.name, [0, 0, 0.0, getattr(spec, "origin", None) or ""])
            for i in range(3):
                own[i] += whole[i] - inner[i]
                if stack:
                    stack[-1][i] += whole[i]
    setattr(kind, name, run)
measured(external.SourceFileLoader, "exec_module")
measured(external.ExtensionFileLoader, "create_module")
measured(external.ExtensionFileLoader, "exec_module")
base = memory()
from agent.cli import main
code = main(sys.argv[2:])
import json
json.dump({"base": base, "modules": found}, open(sys.argv[1], "w"))
"""


def rollup(pid: int) -> tuple[float, float]:
    """MiB of RSS and PSS."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, pss = (int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1]) / 1024 for name in ("Rss", "Pss"))
    return rss, pss


def daemon(command: list[str]) -> tuple[float, float]:
    """One daemon, from its start to its end: RSS and PSS when it is idle."""
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name:
        folder = Path(name)
        (folder / "config").mkdir()
        (folder / "config" / "all.yaml").write_text(workloads(WORKLOADS))
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
        with subprocess.Popen(
            [*command, "run", "--config", str(folder / "config"), *options], cwd=ROOT, stderr=subprocess.DEVNULL
        ) as process:
            try:
                wait(lambda: _ready(folder / "sock"), "edgemesh is ready", 30)
                time.sleep(SETTLED)
                return rollup(process.pid)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(20)


def owner(module: str, origin: str) -> str:
    """Whose row a module is counted in."""
    first, *rest = module.split(".")
    if first in OURS:
        return f"**{first}.{rest[0]}**" if rest else f"**{first}**"
    if "site-packages" not in origin:
        # Large ones of the standard library have rows of their own.
        return f"{first} (standard library)" if first in LARGE else "the rest of the standard library"
    return PACKAGE.get(first, first)


LARGE = (
    "asyncio",
    "ssl",
    "_ssl",
    "ctypes",
    "_ctypes",
    "email",
    "logging",
    "argparse",
    "socket",
    "inspect",
    "typing",
    "dataclasses",
    "json",
    "urllib",
    "http",
    "subprocess",
)
PACKAGE = {
    "yaml": "PyYAML",
    "_yaml": "PyYAML",
    "re2": "google-re2",
    "_re2": "google-re2",
    "_cffi_backend": "cffi",
    "attr": "attrs",
}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="edgemesh-bench-") as name:
        out = Path(name) / "found.json"
        daemon([sys.executable, "-c", HOOK, str(out)])
        found = json.loads(out.read_text())
    rss, pss = daemon([sys.executable, "-m", "agent"])
    rows: dict[str, list[float]] = {}
    for module, (one, two, took, origin) in found["modules"].items():
        row = rows.setdefault(owner(module, origin), [0, 0, 0, 0])
        for i, value in enumerate((one / 1024, two / 1024, took, 1)):
            row[i] += value
    small = [row for row in rows.values() if row[0] < 0.1]
    shown = sorted(((name, row) for name, row in rows.items() if row[0] >= 0.1), key=lambda item: -item[1][0])
    sums = [sum(row[i] for row in rows.values()) for i in range(4)]
    base = [value / 1024 for value in found["base"]]
    publish(
        [
            BEGIN,
            "## What each import costs the daemon",
            "",
            f"{time.strftime('%Y-%m-%d')}, {machine()}; from the source tree, until {WORKLOADS} workloads' policy is enforced, with the certificates' side idle"
            " (`tests/bench/bench_imports.py`). Each row without what it imports in turn; ours in bold. Times are of one start, with the measurement's own cost in them.",
            "",
            "| | modules | RSS, MiB | PSS, MiB | ms |",
            "|---|---|---|---|---|",
            f"| Python itself | | {base[0]:.1f} | {base[1]:.1f} | |",
            *(f"| {name} | {row[3]:.0f} | {row[0]:.1f} | {row[1]:.1f} | {row[2]:.0f} |" for name, row in shown),
            f"| {len(small)} packages of less than 0.1 | {sum(row[3] for row in small):.0f} | {sum(row[0] for row in small):.1f}"
            f" | {sum(row[1] for row in small):.1f} | {sum(row[2] for row in small):.0f} |",
            f"| at work: policy, sockets, what the allocator keeps | | {rss - base[0] - sums[0]:.1f} | {pss - base[1] - sums[1]:.1f} | |",
            f"| **idle daemon** | {sums[3]:.0f} | **{rss:.1f}** | **{pss:.1f}** | {sums[2]:.0f} |",
            END,
        ]
    )


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("the measurement makes network namespaces: run it as root")
    with contextlib.suppress(KeyboardInterrupt):
        main()
