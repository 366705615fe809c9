"""edgemesh on a cluster: its image on the nodes, the add-on applied, and what tests do to its agents.

EDGEMESH_IMAGE is the image archive, as `make image` writes it; without it one is made of the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.house import ROOT
from tests.kube.clusters import Cluster, Manifest, Problem, until

SYSTEM = "edgemesh-system"
ADDON = ROOT / "k3s-addon" / "edgemesh.yaml"
DAEMONS = ("daemonset/edgemesh-server", "daemonset/edgemesh-agent")


class Mesh:
    """edgemesh in a cluster, from `up` to `down`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def up(self) -> None:
        if self.cluster.folder is not None:
            with tempfile.TemporaryDirectory() as folder:
                self.cluster.load_image(image(Path(folder)))
        there = bool(self.cluster.list("daemonsets", SYSTEM))
        self.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ADDON))
        if there:  # by an earlier session, with an image of the same name
            self.cluster.kubectl("-n", SYSTEM, "rollout", "restart", *DAEMONS)
        self.ready()

    def ready(self, timeout: float = 180) -> None:
        """Wait until an agent is ready on each node."""
        self.cluster.rolled_out(SYSTEM, *DAEMONS, timeout=timeout)

    def down(self) -> None:
        """Take away what `up` applied, and wait until no agent is left."""
        self.cluster.kubectl("delete", "--ignore-not-found", "-f", str(ADDON), "--timeout=120s", timeout=150)

    def agent(self, node: str) -> Manifest:
        """The pod of the daemon on a node."""
        there = [
            pod
            for pod in self.pods()
            if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]
        ]
        if not there:
            raise Problem(f"no daemon on {node}")
        return there[0]

    def replaced(self, *images: str, patience: float = 180) -> None:
        """Wait until each node has one pod of these images that is ready. Old ones may be there, and end with their connections.

        `ready` waits for those too, as `kubectl rollout status` does.
        """

        def there() -> bool:
            found = [one for one in self.pods() if "deletionTimestamp" not in one["metadata"]]
            nodes = sorted(one["spec"].get("nodeName", "") for one in found)
            return nodes == sorted(self.cluster.nodes) and all(
                one["spec"]["containers"][0]["image"] in images and one["status"]["containerStatuses"][0]["ready"]
                for one in found
            )

        until(f"each node has a daemon of {' or '.join(images)}", there, patience)

    def pods(self) -> list[Manifest]:
        """The pods of daemons, old ones that end included."""
        return self.cluster.list("pods", SYSTEM, "app.kubernetes.io/name=edgemesh")

    def edgemesh(self, node: str, *words: str, check: bool = True) -> str:
        """What a command of edgemesh printed, in the daemon's container."""
        pod = self.agent(node)["metadata"]["name"]
        done = self.cluster.tried("-n", SYSTEM, "exec", pod, "--", "/edgemesh", *words)
        if check and done.returncode:
            raise Problem(f"edgemesh {' '.join(words)} on {node}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def log(self, node: str) -> str:
        """The file in the node that the daemon writes its log to."""
        metadata = self.agent(node)["metadata"]
        return f"/var/log/pods/{SYSTEM}_{metadata['name']}_{metadata['uid']}/edgemesh/{self.restarts(node)}.log"

    def logs(self, node: str) -> str:
        return self.cluster.kubectl("-n", SYSTEM, "logs", self.agent(node)["metadata"]["name"], "--tail=200")

    def pids(self, node: str) -> list[int]:
        """The processes of the daemon, by their numbers in the node."""
        said = self.cluster.inside(node, "pgrep", "-f", "(^|/)edgemesh run", check=False)
        return [int(word) for word in said.split()]

    def kill(self, node: str) -> None:
        """kill -9 of the daemon on a node; the kubelet starts it again, later at each time."""
        pids = self.pids(node)
        if not pids:
            raise Problem(f"no daemon runs on {node}")
        self.cluster.inside(node, "kill", "-KILL", *map(str, pids), check=False)

    def back(self, node: str, since: int, patience: float = 120) -> float:
        """Seconds until the daemon on a node is ready with more than `since` restarts."""
        began = time.monotonic()

        def there() -> bool:
            status = self.agent(node)["status"].get("containerStatuses") or [{}]
            return bool(status[0].get("ready")) and status[0].get("restartCount", 0) > since

        until(f"the daemon on {node} is ready again", there, patience)
        return time.monotonic() - began

    def restarts(self, node: str) -> int:
        return int(self.agent(node)["status"]["containerStatuses"][0]["restartCount"])


def image(folder: Path, version: str = "") -> Path:
    """The archive to load: the one that EDGEMESH_IMAGE names, or one of the checkout; always that, as another `version`."""
    if not version and (given := os.environ.get("EDGEMESH_IMAGE")):
        return Path(given).resolve()
    made = folder / "edgemesh.tar"
    command = [sys.executable, str(ROOT / "build" / "image"), "--checkout", "--out", str(made)]
    command += ["--version", version] if version else []
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise Problem(f"build/image --checkout: {done.stdout}{done.stderr}")
    return made
