"""What fails on one node, under load: no decision is wrong, there and elsewhere. The clients are on that node.

Its town is that of test_failures.py, with the clients on the last node, which is no server of the cluster: it can lose the API
server, the other node, and the right time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.house import ROOT
from tests.kube.clusters import Cluster, pod, until
from tests.kube.meshes import SYSTEM, Mesh
from tests.kube.test_failures import MAY, MAY_NOT, Town, faultless, right

DAY = 86400
AGENT = "daemonset/edgemesh-agent"
SEAM = ROOT / "tests" / "netns" / "set_clock" / "sitecustomize.py"


class Outpost(Town):
    """A town whose clients, and one of whose servers, are on the node that fails: `near`."""

    def __init__(self, mesh: Mesh, namespace: str) -> None:
        super().__init__(mesh, namespace)
        self.near, self.far = self.far, self.near

    def recovered(self) -> None:
        for node in (self.near, self.far):
            until(f"{MAY} may call web-{node}", lambda node=node: self.answers(MAY, node) == {"200"}, 90)
            until(f"{MAY_NOT} may not call web-{node}", lambda node=node: self.answers(MAY_NOT, node) == {"403"}, 90)


@pytest.fixture(scope="module")
def cluster(mesh: Mesh) -> Cluster:
    return mesh.cluster


@pytest.fixture(scope="module")
def outpost(mesh: Mesh) -> Iterator[Outpost]:
    if mesh.cluster.folder is None or len(mesh.cluster.nodes) < 2:
        pytest.skip("it works on two nodes themselves, and this cluster is reached by its API only")
    name = f"outpost-{int(time.time())}"
    labels = {"openservicemesh.io/monitored-by": "osm"}
    mesh.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    made = Outpost(mesh, name)
    made.up()
    yield made
    mesh.cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture
def calm(outpost: Outpost) -> Outpost:
    outpost.mesh.ready()
    outpost.recovered()
    return outpost


def test_a_node_that_is_cut_off_decides_as_before(calm: Outpost, cluster: Cluster) -> None:
    """From the API server and from the other node. Its daemon is killed meanwhile, and knows what it knew from its disk."""
    before = calm.mesh.restarts(calm.near)
    with calm.load(40) as became:
        cluster.cable(calm.near, up=False)
        try:
            calm.mesh.kill(calm.near)
            cluster.apply(*calm.policy([MAY, MAY_NOT]))  # which does not arrive
            time.sleep(15)
            cluster.apply(*calm.policy([MAY]))
            time.sleep(1)
        finally:
            cluster.cable(calm.near, up=True)
    calm.mesh.back(calm.near, before)
    right({key: load for key, load in became.items() if key[1] == calm.near})
    for (who, node), load in became.items():
        last = load["changes"][-1]["answer"]
        assert last == ("200" if who == MAY else "403"), f"{who} to {node}: {load}"
    calm.recovered()


def test_a_policy_that_was_changed_meanwhile_is_in_force_when_the_node_is_back(calm: Outpost, cluster: Cluster) -> None:
    cluster.cable(calm.near, up=False)
    try:
        cluster.apply(*calm.policy([MAY_NOT]))
        time.sleep(5)
    finally:
        cluster.cable(calm.near, up=True)
    try:
        for node in (calm.near, calm.far):
            until("who may no more", lambda node=node: calm.answers(MAY, node) == {"403"}, 60)
            until("and who may now", lambda node=node: calm.answers(MAY_NOT, node) == {"200"}, 60)
    finally:
        cluster.apply(*calm.policy([MAY]))
    calm.recovered()


def test_what_begins_while_kubelet_and_runtime_are_restarted_is_of_the_mesh(calm: Outpost, cluster: Cluster) -> None:
    """Pods of an account that may not call, whose first instruction calls."""
    names = [f"begins-{number}" for number in range(6)]
    call = f"for i in 1 2 3 4; do probe get {calm.url(calm.near)} 1; done; true"
    with calm.load(20) as became:
        made = [
            pod(name, calm.namespace, ["sh", "-c", call], calm.near, restartPolicy="Never", serviceAccountName=MAY_NOT)
            for name in names
        ]
        cluster.apply(*made[:3])
        cluster.restart(calm.near, "containerd", 1)
        cluster.apply(*made[3:])
        cluster.restart(calm.near, "kubelet", 1)
    faultless(became)

    def ended() -> bool:
        phases = {one["metadata"]["name"]: one["status"].get("phase") for one in cluster.list("pods", calm.namespace)}
        return all(phases.get(name) in ("Succeeded", "Failed") for name in names)

    until("they have ended", ended, 120)
    said = {name: cluster.kubectl("-n", calm.namespace, "logs", name, check=False) for name in names}
    cluster.kubectl("-n", calm.namespace, "delete", "pod", *names, "--wait=false")
    assert not [name for name, text in said.items() if "\n200 " in f"\n{text}"], said
    assert [name for name, text in said.items() if "403 " in text], "some were answered"


ASKED = """
import json, sys
from agent.kernel.sandbox import Sandbox
from agent.nri.boot_files import BootFiles
from agent.nri.inquiry import Inquiry
inquiry = Inquiry()
inquiry.met(Sandbox("ours", "edgemesh-system", "ours", sys.argv[1], labels={"app.kubernetes.io/name": "edgemesh"}))
print(json.dumps([dict(found.labels) if (found := inquiry.ask(BootFiles().load(), name)) else None for name in sys.argv[2:]]))
"""


def test_without_a_daemon_the_api_server_is_asked_with_its_pods_token(calm: Outpost, cluster: Cluster) -> None:
    """As the program does that containerd starts on the node: it decides which pods may speak meanwhile."""
    ours = calm.mesh.agent(calm.near)["metadata"]["uid"]
    words = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", ASKED, ours, calm.namespace, "default", "no-such"]
    mesh, default, none = json.loads(cluster.inside(calm.near, *words))
    assert mesh["openservicemesh.io/monitored-by"] == "osm"
    assert default == {"kubernetes.io/metadata.name": "default"}
    assert none is None


@contextmanager
def clock_of(mesh: Mesh, node: str) -> Iterator[Path]:
    """Give the daemon of a node a clock that what is written into the file moves, by seconds. The node's own stays right.

    It is one of the checkout: another Python starts sitecustomize.py, and time namespaces do not cover this clock.
    """
    assert mesh.cluster.folder is not None
    folder = mesh.cluster.folder / node / "edgemesh" / "set-clock"  # in the node: /var/lib/edgemesh
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_bytes(SEAM.read_bytes())
    (folder / "off").write_text(f"{0:+20d}")
    image = "edgemesh.io/edgemesh:checkout"
    archive = folder / "image.tar"
    words = [sys.executable, str(ROOT / "build" / "image"), "--checkout", "--name", image, "--out", str(archive)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    mesh.cluster.load_image(archive)
    archive.unlink()
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    container = {
        "name": "edgemesh",
        "image": image,
        "env": [{"name": "CLOCK_OFF", "value": "/var/lib/edgemesh/set-clock/off"}],
        "volumeMounts": [{"name": "set-clock", "mountPath": f"/usr/lib/{python}/sitecustomize.py", "readOnly": True}],
    }
    host = {"path": "/var/lib/edgemesh/set-clock/sitecustomize.py", "type": "File"}
    spec = {"containers": [container], "volumes": [{"name": "set-clock", "hostPath": host}]}
    patch = json.dumps({"spec": {"template": {"spec": spec}}})
    mesh.cluster.kubectl("-n", SYSTEM, "patch", AGENT, "-p", patch)
    try:
        mesh.ready()
        yield folder / "off"
    finally:
        mesh.cluster.kubectl("-n", SYSTEM, "rollout", "undo", AGENT)
        mesh.ready()


@pytest.mark.long
@pytest.mark.timeout(420)
def test_the_clock_of_a_node_is_wrong(calm: Outpost, mesh: Mesh) -> None:
    """By more than certificates live, forward and back, while it runs and when it starts."""
    with clock_of(mesh, calm.near) as clock:
        calm.recovered()

        def set_off(days: int) -> None:
            with clock.open("r+b") as file:
                os.pwrite(file.fileno(), f"{days * DAY:+20d}".encode(), 0)

        def ahead() -> float:
            clock: dict[str, float] = json.loads(mesh.edgemesh(calm.near, "certs", "-o", "json", check=False))["clock"]
            return clock["ahead_seconds"]

        for days in (20, -20, 0):
            with calm.load(8) as became:
                time.sleep(1)
                set_off(days)
                until("it notices", lambda days=days: abs(ahead() - days * DAY) < 60, 7)
            faultless(became)
        for days in (20, -20):
            before = mesh.restarts(calm.near)
            set_off(days)
            mesh.kill(calm.near)
            mesh.back(calm.near, before)
            with calm.load(6) as became:
                pass
            right(became)
            calm.recovered()
            print(days, json.dumps({f"{who} {node}": load["answers"] for (who, node), load in became.items()}))
        set_off(0)
        calm.recovered()
