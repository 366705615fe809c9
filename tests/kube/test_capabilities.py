"""The daemon in a pod: what it needs of the node, and what it says when that is not there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube import clusters
from tests.kube.clusters import Cluster, pod, until
from tests.kube.daemons import KINDS, TREE, Daemon

IMAGE = "edgemesh.io/edgemesh:capabilities"
MESH = {"openservicemesh.io/monitored-by": "osm"}
ALL = ("NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE")
PROBE = str(clusters.PROGRAMS / "probe")


class Contained(Daemon):
    """A daemon in a pod of its own namespace, with these capabilities."""

    def run(self, namespace: str, capabilities: tuple[str, ...], cgroups: bool) -> None:
        spec = {"node": self.node, "metricsAddress": "", "probes": {"listener": 10250}}
        own = {"apiVersion": "edgemesh.io/v1alpha1", "kind": "NodeConfig"}
        self.write("node", own | {"metadata": {"name": "default", "namespace": namespace}, "spec": spec})
        security = {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"drop": ["ALL"], "add": list(capabilities)},
        }
        mounts = {
            "run": ("/run", {"mountPropagation": "HostToContainer"}),
            "cni": ("/var/lib/cni", {"readOnly": True}),
            "config": ("/config", {"readOnly": True}),
            "state": ("/var/lib/edgemesh", {}),
        } | ({"cgroup": ("/sys/fs/cgroup", {"readOnly": True})} if cgroups else {})
        paths = {"config": str(self.config), "state": str(self.folder / "state")}
        container = {
            "image": IMAGE,
            "command": None,
            "args": ["run", "--config", "/config", "--socket", "/run/edgemesh-capabilities", "--access-log", "all"],
            "securityContext": security,
            "volumeMounts": [{"name": name, "mountPath": path} | more for name, (path, more) in mounts.items()],
        }
        volumes = [
            {"name": name, "hostPath": {"path": paths.get(name, path), "type": "DirectoryOrCreate"}}
            for name, (path, _) in mounts.items()
        ]
        made = pod(
            "daemon", namespace, (), self.node, container=container, volumes=volumes, hostNetwork=True, hostPID=True
        )
        self.cluster.apply(made)
        self.namespace = namespace
        until("it has looked at everything", lambda: any(word in self.said() for word in ("enforces", "degraded")))

    def said(self) -> str:
        return self.cluster.kubectl("-n", self.namespace, "logs", "daemon", check=False)

    def close(self) -> None:
        self.cluster.delete("-n", self.namespace, "pod", "daemon", "--force")
        super().close()


@pytest.fixture(scope="module")
def image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    if cluster.folder is None:
        pytest.skip("it works on the nodes themselves, and this cluster is reached by its API only")
    archive: Path = tmp_path_factory.mktemp("image") / "edgemesh.tar"
    command = [sys.executable, str(TREE / "build" / "image"), "--checkout", "--name", IMAGE, "--out", str(archive)]
    subprocess.run(command, check=True, capture_output=True)
    cluster.load_image(archive)


@pytest.fixture
def daemon(cluster: Cluster, image: None) -> Iterator[Contained]:
    """In a namespace outside the mesh; `fresh` is a pod of the mesh that was never captured."""
    number = int(time.time() * 10) % 10_000_000
    mesh, own = f"capable-{number}", f"daemon-{number}"
    for name, labels in ((mesh, MESH), (own, {})):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    fresh = pod("fresh", mesh, ["probe", "serve"], cluster.nodes[0])
    fresh["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    holder = pod("holder", mesh, node=cluster.nodes[0])
    holder["spec"]["containers"][0]["securityContext"] = {"capabilities": {"add": ["NET_ADMIN"]}}
    dropped = {"drop": ["ALL"]}
    fresh["spec"]["containers"][0]["securityContext"] = {"capabilities": dropped, "runAsUser": 1000}
    cluster.apply(fresh, holder)
    cluster.kubectl("-n", mesh, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
    made = Contained(cluster, cluster.nodes[0], mesh)
    made.namespace = own
    permissive = {"apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig"}
    permissive |= {"metadata": {"name": "osm-mesh-config", "namespace": "osm-system"}}
    permissive["spec"] = {"traffic": {"enablePermissiveTrafficPolicyMode": True}}
    made.write("objects", cluster.get("namespace", mesh), *cluster.list(KINDS, mesh), permissive)
    yield made
    made.close()
    cluster.kubectl("delete", "namespace", mesh, own, "--wait=false", check=False)


def _called(daemon: Contained, *words: str) -> str:
    return daemon.cluster.tried(*words, timeout=30).stdout[:3]


@pytest.mark.parametrize("cgroups", [True, False], ids=["cgroups mounted", "none mounted"])
def test_three_capabilities_are_enough(daemon: Contained, cgroups: bool) -> None:
    cluster, mesh = daemon.cluster, daemon.namespaces[0]
    address = cluster.get("pod", "fresh", mesh)["status"]["podIP"]
    daemon.run(daemon.namespace, ALL, cgroups)
    said = daemon.said()
    assert "enforces" in said and "calls to it fail" not in said and "WARNING" not in said, said
    assert _called(daemon, "-n", mesh, "exec", "holder", "--", "probe", "get", f"http://{address}:8080/") == "200"
    assert cluster.inside_tried(daemon.node, PROBE, "get", f"http://{address}:8080/").stdout.startswith("403")
    status = cluster.exec(daemon.namespace, "daemon", "edgemesh", "status", "--socket", "/run/edgemesh-capabilities")
    assert f"{mesh}/holder" in status and "NET_ADMIN" in status
    held = [line for line in status.splitlines() if "holds" in line]
    assert not [line for line in held if "/fresh" in line], "the sandbox's own process is not the pod's"
    group = cluster.exec(daemon.namespace, "daemon", "edgemesh", "--version") and cluster.inside(
        daemon.node, "sh", "-c", "for p in $(pgrep -f edgemesh-capabilities); do grep ^0:: /proc/$p/cgroup; done"
    )
    assert "kubepods" in group and "/edgemesh" not in group, "it stays in its pod's cgroup"
    cluster.delete("-n", daemon.namespace, "pod", "daemon", "--force", "--grace-period=0")
    before = cluster.get("pod", "fresh", mesh)["status"]["containerStatuses"][0]
    time.sleep(4)
    after = cluster.get("pod", "fresh", mesh)["status"]["containerStatuses"][0]
    assert after["ready"] and after["restartCount"] == before["restartCount"], "its probes need no daemon"
    assert not cluster.inside_tried(daemon.node, PROBE, "get", f"http://{address}:8080/").stdout.startswith("200")


@pytest.mark.parametrize("without", ["NET_ADMIN", "SYS_ADMIN"])
def test_without_one_it_says_so(daemon: Contained, without: str) -> None:
    daemon.run(daemon.namespace, tuple(name for name in ALL if name != without), True)
    said = daemon.said()
    assert "degraded: not captured" in said and "edgemesh needs root's NET_ADMIN, SYS_ADMIN" in said
    assert "no network namespace has its addresses" not in said
