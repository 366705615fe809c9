"""Pods in the node's own network, found by the cgroup that a kubelet makes. Folders stand for a kubelet's, in a namespace that stands for the node."""

import pytest

from agent.system import cgroup
from tests.netns.conftest import GET, Lab, routes
from tests.netns.test_units_on_the_host import Nobody, Unit

UID = "7c9e6679-{}-40de-944b-e07fc1f90ae7"


class HostPod(Unit):
    """A pod's cgroup, and programs started in a container's below it."""

    def __init__(self, lab, root, name):
        self.uid = UID.format(name)
        self.pod = root / "kubepods" / "besteffort" / f"pod{self.uid}"
        super().__init__(lab, root, name)

    def make(self):
        self.folder = self.pod / "container"
        self.folder.mkdir(parents=True, exist_ok=True)

    def remove(self):
        super().remove()
        self.lab.wait(lambda: cgroup.leave(self.pod), "the pod ends")

    def manifest(self, address, account):
        ports = [{"containerPort": 8080}] if account == "store" else []
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": account, "namespace": "lab", "uid": self.uid, "labels": {"app": account}},
            "spec": {"hostNetwork": True, "serviceAccountName": account, "containers": [{"ports": ports}]},
            "status": {"podIP": address},
        }


@pytest.fixture(scope="module")
def node(tmp_path_factory, needs_cgroup):
    root = needs_cgroup
    lab = Lab(tmp_path_factory.mktemp("hostnet"), "emhn-", 91)
    was_there = (root / "kubepods").exists()
    pods = {}
    try:
        lab.home = home = lab.host("home")
        labels = {"edgemesh.io/mesh": "enabled"}
        lab.write("namespace", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab", "labels": labels}})
        for name in ("buyer", "thief", "store"):
            pods[name] = HostPod(lab, root, name)
            lab.write(f"pod-{name}", pods[name].manifest(home.v4, name))
        pods["store"].http(8080)
        lab.service("store", [{"name": "http", "port": 80, "targetPort": 8080}], clusterIP="10.96.0.7")
        lab.write("routes", routes("get", {"name": "get", "methods": ["GET"]}))
        lab.allow("buyer", "store", GET)
        lab.up()
        lab.pods, lab.nobody = pods, Nobody(lab, root, "nobody")
        yield lab
    finally:
        lab.close()
        for pod in pods.values():
            if pod.folder.exists():
                pod.remove()
        if not was_there:
            for folder in (root / "kubepods" / "besteffort", root / "kubepods"):
                folder.rmdir()


def captured(lab, name):
    return any(w["workload"] == f"lab/{name}" and w["state"] == "captured" for w in lab.status()["workloads"])


def test_calls_are_captured_and_who_calls_is_told_by_the_cgroup(node):
    assert all(captured(node, name) for name in node.pods), node.status()["workloads"]
    for at, port in (("10.96.0.7", 80), (node.home.v4, 8080)):
        assert node.pods["buyer"].call(at, port).startswith("HTTP/1.1 200 OK store saw"), at
        assert "403" in node.pods["thief"].call(at, port), at
    assert "Refused" in node.nobody.call(node.home.v4, 8080)
    assert node.host("outsider").curl(f"http://{node.home.v4}:8080/").reason == "no-identity"


def test_a_pod_that_is_deleted_is_closed_until_its_cgroup_is_gone_and_then_forgotten(node):
    file, store = node.config / "pod-store.yaml", node.pods["store"]
    text = file.read_text()
    file.unlink()
    node.build()
    try:
        for caller in (node.nobody, node.pods["thief"], node.pods["buyer"]):
            assert "200" not in caller.call(node.home.v4, 8080)
        store.remove()
        place = f"unit pod/{store.uid}"
        node.wait(lambda: place not in str(node.status()), "nothing is told of it")
    finally:
        store.make()
        file.write_text(text)
    node.wait(lambda: captured(node, "store"), "it is captured again")
    store.http(8080)
    assert node.pods["buyer"].call(node.home.v4, 8080).startswith("HTTP/1.1 200")
