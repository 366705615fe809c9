"""`make soak`: both labs (with the native lane and without) side by side, then the floods; prints figures, and exits 1 for any failure.

SOAK_MINUTES (18): the time of the calls, after which each flood of tests/hostile takes a minute (five seconds, where the calls have less
than five minutes), and policies change at random for ten (half a minute): three quarters of an hour in all. SOAK_LOGS: a directory for the daemons' logs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.soak.lab import deadlines, durations

HOSTILE = Path(__file__).parents[1] / "hostile"
CHAOS = Path(__file__).parents[1] / "netns" / "test_chaos.py"
LANES = {"on": 61, "off": 62}  # the native lane -> second octet of the lab's addresses


def main() -> int:
    minutes = float(os.environ.get("SOAK_MINUTES", "18"))
    seconds = minutes * 60
    print(f"deadlines of the code: {', '.join(f'{one:g}' for one in deadlines())} s", flush=True)
    print(
        f"calls of {', '.join(f'{one:g}' for one in durations(seconds))} s, for {minutes:g} minutes, from {time.strftime('%H:%M:%S')}",
        flush=True,
    )
    labs = {
        lane: subprocess.Popen(
            [sys.executable, "-m", "tests.soak.lab", str(seconds), str(octet), lane],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for lane, octet in LANES.items()
    }
    failed = 0
    begun = os.getloadavg()[0]
    try:
        for lane, process in labs.items():
            out, errors = process.communicate(timeout=seconds + 600)
            if process.returncode:
                print(f"\nthe lab with the native lane {lane} broke:\n{errors[-4000:]}")
                failed += 1
            else:
                failed += show(lane, json.loads(out))
    finally:
        for process in labs.values():
            if process.poll() is None:
                process.terminate()
                process.wait(60)
    print(
        f"\nload of the machine: {begun:.1f} at the begin, {os.getloadavg()[2]:.1f} in the last 15 minutes, {os.cpu_count()} CPUs: alone, this takes less than 3"
    )
    failed += floods(60 if minutes >= 5 else 5)
    failed += chaos(600 if minutes >= 5 else 30)
    print(f"\n{failed or 'no'} failures")
    return 1 if failed else 0


def floods(seconds: int) -> int:
    """The load ring. Its figures are its own."""
    print(f"\nfloods of {seconds} s each", flush=True)
    environment = {**os.environ, "EDGEMESH_HOSTILE_SECONDS": str(seconds)}
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:randomly", "-o", "timeout=0", str(HOSTILE)]
    return subprocess.run(command, env=environment, check=False).returncode


def chaos(seconds: int) -> int:
    """Policies of every kind, changed at random."""
    print(f"\nchaos of {seconds} s", flush=True)
    environment = {**os.environ, "EDGEMESH_CHAOS_SECONDS": str(seconds)}
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:randomly", str(CHAOS)]
    return subprocess.run(command, env=environment, check=False).returncode


def show(lane: str, found: dict[str, Any]) -> int:
    """Print one lab's figures. Answers how many failures there were."""
    failures = list(found["failures"])
    print(f"\nnative lane {lane}: {', '.join(f'{count} {what}' for what, count in found['changes'].items())}")
    print(
        f"  the machine kept its programs waiting for {found['pause']:.1f} s at most; what is late by less than some seconds more is not the mesh's fault"
    )
    print(f"  {'calls':18} {'made':>7} {'failed':>7} {'longest s':>10}")
    for name, row in found["calls"].items():
        print(f"  {name:18} {row['calls']:7} {len(row['failures']):7} {row['longest']:10.1f}")
        failures += [f"{name}: {one}" for one in row["failures"]]
        if not row["calls"]:
            failures.append(f"{name}: no call was made")
    print(
        f"  {'daemon':18} {'lived s':>7} {'MiB begin':>10} {'most':>6} {'end':>6} {'fds begin':>10} {'most':>6} {'end':>6}"
    )
    for row in found["daemons"]:
        rss, fds = [f"{one / 1024:.1f}" for one in row["rss"]], row["fds"]
        name = f"{row['node']} {row['pid']}"
        print(
            f"  {name:18} {row['seconds']:7.0f} {rss[0]:>10} {rss[1]:>6} {rss[2]:>6} {fds[0]:10} {fds[1]:6} {fds[2]:6}"
        )
    for one in failures[:40]:
        print(f"  FAILED {one}")
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
