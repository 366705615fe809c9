"""A cluster as tests see it: kubectl, its nodes, the outside, and a way to wait.

Where a cluster comes from: `Cluster.make` (tests/kube/cluster/up), EDGEMESH_CLUSTER (the folder of one that runs already) or
EDGEMESH_KUBECONFIG (any other one; KUBECONFIG alone is not heeded, since a test run changes the cluster it is given).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).parent
SCRIPTS = HERE / "cluster"
PROGRAMS = Path(os.environ.get("EDGEMESH_CACHE") or Path.home() / ".cache" / "edgemesh") / "kube" / "bin"
NEEDED = ("kubernetes", "containerd", "containerd-shim-runc-v2", "coredns", "probe", "bookstore")
BUSYBOX = "edgemesh.test/busybox:1"  # the applets of busybox, and probe (cluster/probe): on each node
PATIENCE = 60.0  # seconds for what takes some on a busy machine

T = TypeVar("T")
Manifest = dict[str, Any]


class Problem(Exception):  # noqa: N818
    """Something did not work, with what it said."""


def lacking() -> str:
    """Why no cluster can be made here; empty: one can."""
    if os.geteuid():
        return "a cluster of our own needs root"
    missing = [name for name in NEEDED if not (PROGRAMS / name).exists()]
    return f"not in {PROGRAMS}: {', '.join(missing)}; make kube-programs builds them" if missing else ""


def given() -> Cluster | None:
    """The cluster that the environment names, if it does."""
    if folder := os.environ.get("EDGEMESH_CLUSTER"):
        if not Path(folder, "kubectl").exists():
            raise Problem(f"EDGEMESH_CLUSTER: there is no cluster in {folder}: NODES=2 {SCRIPTS}/up {folder}")
        return Cluster(Path(folder).resolve())
    if kubeconfig := os.environ.get("EDGEMESH_KUBECONFIG"):
        ours = PROGRAMS / "kubernetes"
        words = [str(ours), "kubectl"] if ours.exists() else ["kubectl"]
        if not shutil.which(words[0]):
            raise Problem("EDGEMESH_KUBECONFIG: there is no kubectl here")
        return Cluster(None, [*words, "--kubeconfig", kubeconfig])
    return None


class Cluster:
    """A running cluster. `folder` is what tests/kube/cluster/up made; None: it is reached by its API only."""

    def __init__(self, folder: Path | None, kubectl: list[str] | None = None, ours: bool = False) -> None:
        self.folder = folder
        self._kubectl = kubectl or [f"{folder}/kubectl"]
        self._ours = ours
        # Tests of the API server leave nodes behind that nothing runs on.
        self.nodes = [node["metadata"]["name"] for node in self.list("nodes") if _ready(node)]

    @classmethod
    def make(cls, nodes: int = 2, **variables: str) -> Cluster:
        """A cluster of our own; `variables` are those of `up`. `close` ends it."""
        folder = Path(tempfile.mkdtemp(prefix="edgemesh-kube-")) / "c"
        environment = os.environ | {"NODES": str(nodes), "TTL": "5400"} | variables
        done = subprocess.run([SCRIPTS / "up", folder], capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            subprocess.run([SCRIPTS / "down", folder, "--keep"], check=False)
            raise Problem(f"no cluster: {done.stdout}{done.stderr}\nits logs stay in {folder}")
        try:
            return cls(folder, ours=True)
        except BaseException:
            subprocess.run([SCRIPTS / "down", folder], check=False)
            raise

    def close(self) -> None:
        if self._ours and self.folder:
            subprocess.run([SCRIPTS / "down", self.folder], check=True)
            self.folder.parent.rmdir()

    # the API

    def kubectl(self, *words: str, given: str | None = None, check: bool = True, timeout: float = 150) -> str:
        """What kubectl printed. Raise Problem with what it said, if it fails and `check`."""
        done = self.tried(*words, given=given, timeout=timeout)
        if check and done.returncode:
            raise Problem(f"kubectl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def tried(self, *words: str, given: str | None = None, timeout: float = 150) -> subprocess.CompletedProcess[str]:
        """kubectl, whatever it returns."""
        return _run([*self._kubectl, *words], given, timeout)

    def apply(self, *what: Manifest | Path | str, check: bool = True) -> str:
        """`kubectl apply` of objects, files, folders or YAML, as one request of a person; what it printed."""
        objects = [one for one in what if isinstance(one, dict)]
        said = "".join(self.kubectl("apply", "-f", str(one), check=check) for one in what if isinstance(one, Path))
        said += "".join(
            self.kubectl("apply", "-f", "-", given=one, check=check) for one in what if isinstance(one, str)
        )
        if objects:
            listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
            said += self.kubectl("apply", "-f", "-", given=listed, check=check)
        return said

    def delete(self, *words: str) -> None:
        """Delete an object, which may be gone already."""
        self.kubectl("delete", "--ignore-not-found", *words)

    def get(self, kind: str, name: str, namespace: str = "default") -> Manifest:
        return json.loads(self.kubectl("-n", namespace, "get", kind, name, "-o", "json"))

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> list[Manifest]:
        where = ["-n", namespace] if namespace else ["-A"]
        chosen = ["-l", selector] if selector else []
        return json.loads(self.kubectl("get", kind, *where, *chosen, "-o", "json"))["items"]

    def exec(self, namespace: str, pod: str, *command: str, check: bool = True, timeout: float = 60) -> str:
        """What a command printed in a pod; `pod` may be `deployment/NAME`."""
        return self.kubectl("-n", namespace, "exec", pod, "--", *command, check=check, timeout=timeout)

    def rolled_out(self, namespace: str, *what: str, timeout: float = 120) -> None:
        """Wait until each of `what` (`deployment/web`) is as it is to be."""
        for one in what:
            self.kubectl("-n", namespace, "rollout", "status", one, f"--timeout={timeout:.0f}s", timeout=timeout + 30)

    # nodes

    def inside(
        self, node: str, *command: str, check: bool = True, given: str | None = None, timeout: float = 60
    ) -> str:
        """What a command printed in a node: in all its namespaces."""
        done = self.inside_tried(node, *command, given=given, timeout=timeout)
        if check and done.returncode:
            raise Problem(f"in {node}: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def inside_tried(
        self, node: str, *command: str, given: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return _run([f"{self.folder}/in", node, *command], given, timeout)

    def start_inside(self, node: str, *command: str, **pipes: Any) -> subprocess.Popen[str]:
        """A program in a node that goes on; the caller ends it."""
        return subprocess.Popen([f"{self.folder}/in", node, *command], text=True, **pipes)

    def outside(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command beside the nodes, outside the cluster."""
        return _run([f"{self.folder}/outside", *command], None, timeout)

    def address(self, node: str) -> str:
        addresses = self.get("node", node)["status"]["addresses"]
        return next(one["address"] for one in addresses if one["type"] == "InternalIP")

    def restart(self, node: str, service: str, after: float | str = 0) -> None:
        """kill -9 of kine, apiserver, controller-manager, scheduler, containerd, kubelet or proxy; again after seconds, or "never"."""
        _checked([f"{self.folder}/restart", node, service, str(after)])

    def reboot(self, node: str) -> None:
        _checked([f"{self.folder}/reboot", node])

    def cable(self, node: str, up: bool) -> None:
        """The node's cable to all others, pulled or put back."""
        _checked([f"{self.folder}/outside", "ip", "link", "set", f"v{node}", "up" if up else "down"])

    def load_image(self, archive: Path) -> None:
        """An image archive, onto each node."""
        for node in self.nodes:
            _checked([f"{self.folder}/ctr", node, "images", "import", str(archive)])

    def api_answers(self) -> bool:
        return self.tried("get", "--raw", "/readyz", "--request-timeout=2s").returncode == 0

    # waiting

    def described(self) -> str:
        """Pods, and the newest events: what a person would look at first."""
        events = self.tried("get", "events", "-A", "--sort-by=.lastTimestamp").stdout.splitlines()[-25:]
        return self.tried("get", "pods", "-A", "-o", "wide").stdout + "\n" + "\n".join(events)


def _ready(node: Manifest) -> bool:
    return any(
        one["type"] == "Ready" and one["status"] == "True" for one in node.get("status", {}).get("conditions", [])
    )


def answers(said: str) -> set[str]:
    """The statuses, or "error", in what `probe get` printed."""
    return set(re.findall(r"^(\d{3}|error) ", said, re.MULTILINE))


def until(what: str, attempt: Callable[[], T], patience: float = PATIENCE, pause: float = 0.1) -> T:
    """What `attempt` returns as soon as it is true (in Python's sense); a Problem or an AssertionError counts as not yet.

    Raise AssertionError with `what`, and with what was seen last, after `patience` seconds.
    """
    ends = time.monotonic() + patience
    while True:
        try:
            seen: object = attempt()
            if seen:
                return seen  # type: ignore[return-value]
        except (Problem, AssertionError) as error:
            seen = error
        if time.monotonic() > ends:
            raise AssertionError(f"not within {patience:g} s: {what}; seen last: {seen}")
        time.sleep(pause)


# manifests


def pod(
    name: str, namespace: str, command: Iterable[str] = ("sleep", "100000"), node: str = "", **spec: Any
) -> Manifest:
    """A pod of busybox and probe. `node` fixes where; other fields of its spec go into `spec`."""
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": list(command)}
    container |= spec.pop("container", {})
    where = {"nodeName": node} if node else {}
    grace = {"terminationGracePeriodSeconds": 0}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name} | spec.pop("labels", {})}
    metadata |= {"annotations": spec.pop("annotations", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container]} | grace | where | spec,
    }


def service(name: str, namespace: str, ports: dict[str, int], **spec: Any) -> Manifest:
    """A Service of the pods whose label `app` is its name. `ports`: name -> port."""
    listed = [{"name": one, "port": port} for one, port in ports.items()]
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": {"app": name}, "ports": listed} | spec,
    }


def account(name: str, namespace: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}


def _run(command: list[str], given: str | None, timeout: float) -> subprocess.CompletedProcess[str]:
    source = {"input": given} if given is not None else {"stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **source)
    except subprocess.TimeoutExpired as late:
        raise Problem(f"{' '.join(command)}: not done after {timeout:g} s") from late


def _checked(command: list[str]) -> None:
    done = _run(command, None, 120)
    if done.returncode:
        raise Problem(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
