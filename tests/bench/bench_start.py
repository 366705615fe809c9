"""What a start of the daemon costs with thousands of objects: processor time and seconds until the first policy is in force.

    python tests/bench/bench_start.py [OBJECTS] [STARTS]

Run it in a network and mount namespace of its own. The first start knows nothing; the others have a state directory of the one before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKLOAD = """\
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {{name: w{n}, namespace: ns{m}, labels: {{app: w{n}}}}}
spec: {{node: other, addresses: ["10.{a}.{b}.{c}"], serviceAccount: sa{n}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: w{n}, namespace: ns{m}}}
spec: {{selector: {{app: w{n}}}, ports: [{{name: http, port: 80}}]}}
"""


def manifests(folder: Path, objects: int) -> None:
    """Forty files, as a cluster's export has them."""
    texts = [""] * 40
    for n in range(objects // 2):
        texts[n % 40] += WORKLOAD.format(n=n, m=n % 50, a=n >> 16 & 255, b=n >> 8 & 255, c=n & 255)
    for number, text in enumerate(texts):
        (folder / f"{number:02}.yaml").write_text(text)


def start(folder: Path, state: Path) -> tuple[float, float]:
    """Return the processor seconds and the seconds until the first snapshot is said to be in force."""
    words = [
        sys.executable,
        "-m",
        "agent",
        "run",
        "--node",
        "here",
        "--config",
        folder,
        "--state-dir",
        state,
        "--socket",
        state / "s",
    ]
    began = time.monotonic()
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as daemon:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            if " snapshot 1 in " in line:
                print(line.strip())
                break
        else:
            raise RuntimeError("it ended")
        took = time.monotonic() - began
        fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
        spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        time.sleep(1.0)  # the state is written
        daemon.send_signal(signal.SIGTERM)
        daemon.stderr.read()
    return spent, took


def main() -> None:
    objects, starts = int((sys.argv[1:2] or ["4000"])[0]), int((sys.argv[2:3] or ["3"])[0])
    with tempfile.TemporaryDirectory() as there:
        folder, state = Path(there, "manifests"), Path(there, "state")
        folder.mkdir()
        manifests(folder, objects)
        for number in range(starts + 1):
            spent, took = start(folder, state)
            print(f"{'again' if number else 'first'}: {spent:.2f} s of processor time, {took:.2f} s")


if __name__ == "__main__":
    main()
