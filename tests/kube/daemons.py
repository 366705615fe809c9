"""A daemon on one node of the cluster, beside its kubelet, with a directory of manifests: what tests of the kernel side need.

It reads what kubectl prints of some namespaces, and what a test writes beside that.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agent.admin.client import get
from tests.kube.clusters import Cluster, Manifest, until

TREE = Path(__file__).parents[2]
KINDS = "services,pods,endpointslices"


class Daemon:
    """One daemon; `close` ends it and takes its rules along."""

    def __init__(self, cluster: Cluster, node: str, *namespaces: str) -> None:
        assert cluster.folder is not None
        self.cluster, self.node, self.namespaces = cluster, node, namespaces
        self.folder = cluster.folder / node / f"mesh-{namespaces[0]}"
        self.config = self.folder / "config"
        self.config.mkdir(parents=True, exist_ok=True)
        self.socket = str(self.folder / "s")
        self._process: subprocess.Popen[str] | None = None

    def write(self, name: str, *objects: Manifest) -> None:
        """Put a file of manifests in place at once; without objects: take it away."""
        path = self.config / f"{name}.json"
        if not objects:
            path.unlink(missing_ok=True)
            return
        new = self.config / f".{name}.new"
        new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
        new.rename(path)

    def read(self) -> None:
        """Take what the cluster has now."""
        for namespace in self.namespaces:
            items = self.cluster.list(KINDS, namespace)
            self.write(namespace, self.cluster.get("namespace", namespace), *items)

    def settle(self) -> None:
        """Wait until all that was written so far is in force."""
        stamp = f"stamp-{time.monotonic_ns()}"
        metadata = {"name": stamp, "namespace": self.namespaces[0]}
        self.write(
            "stamp", {"apiVersion": "edgemesh.io/v1alpha1", "kind": "Workload", "metadata": metadata, "spec": {"addresses": []}}
        )  # fmt: skip
        until("a new snapshot", lambda: any(w["name"] == stamp for w in get(self.socket, "/snapshot")["workloads"]))

    def start(self, **settings: Any) -> Daemon:
        spec = {
            "node": self.node,
            "adminSocket": self.socket,
            "stateDir": str(self.folder / "state"),
            "metricsAddress": "",
        }
        metadata = {"name": "default", "namespace": self.namespaces[0]}
        own = {"apiVersion": "edgemesh.io/v1alpha1", "kind": "NodeConfig", "metadata": metadata}
        self.write("node", own | {"spec": spec | settings})
        command = ["env", f"PYTHONPATH={TREE}", sys.executable, "-m", "agent", "run", "--config", str(self.config)]
        with (self.folder / "log").open("ab") as log:
            self._process = self.cluster.start_inside(
                self.node, *command, "--access-log", "all", stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        until("the daemon enforces", self.enforces)
        return self

    def enforces(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the daemon ended: {self.log()[-2000:]}")
        try:
            return bool(self.status()["enforcing"])
        except ConnectionError:
            return False

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = get(self.socket, "/status")
        return found

    def problems(self) -> list[str]:
        return [problem["message"] for problem in self.status()["problems"]]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self.cluster.inside(self.node, "kill", "-KILL", str(self.status()["pid"]))
        self._process.wait(10)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        cleanup = ["env", f"PYTHONPATH={TREE}", sys.executable, "-m", "agent", "cleanup"]
        self.cluster.inside(self.node, *cleanup, check=False)
