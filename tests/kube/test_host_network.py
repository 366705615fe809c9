"""Pods in the node's own network: their calls are captured and calls to them are policed, by the cgroup that the kubelet made.

The daemon runs from this tree on one node, beside kubelet and kube-proxy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.kube.clusters import PROGRAMS, Cluster, account, answers, pod, service, until
from tests.kube.daemons import Daemon

PROBE = str(PROGRAMS / "probe")
CHECKS = {
    "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 3},
    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1},
}
NAMES = ("server", "caller", "thief", "web", "near")


class Scene:
    """Three hostNetwork pods and two others, in a namespace of the mesh, on one node."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace, self.node = cluster, namespace, cluster.nodes[0]
        serves = {"ports": [{"containerPort": 8080}]}

        def made(name: str, **spec: object) -> dict[str, object]:
            return pod(name, namespace, node=self.node, serviceAccountName=name, **spec)

        cluster.apply(
            *(account(name, namespace) for name in NAMES),
            made("server", hostNetwork=True, container=serves | CHECKS | {"command": ["probe", "serve"]}),
            made("caller", hostNetwork=True),
            made("thief", hostNetwork=True),
            made("web", container=serves | {"command": ["probe", "serve"]}),
            made("near"),
            service("server", namespace, {"http": 8080}),
            service("web", namespace, {"http": 8080}),
        )
        cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        self.address = cluster.address(self.node)
        self.services = {n: cluster.get("service", n, namespace)["spec"]["clusterIP"] for n in ("server", "web")}
        until("kube-proxy knows them", lambda: self.call("caller", self.services["web"]) == {"200"})
        self.daemon = Daemon(cluster, self.node, namespace)
        rule = {"kind": "HTTPRouteGroup", "name": "all"}
        self.daemon.write(
            "policy",
            self._own("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup", "all", matches=[{"name": "all", "pathRegex": ".*"}]),
            *(
                self._own("access.smi-spec.io/v1alpha3", "TrafficTarget", f"{source}-{destination}",
                    destination=self._account(destination), sources=[self._account(source)], rules=[rule])
                for source, destination in (("caller", "web"), ("caller", "server"), ("near", "server"))
            ),
        )  # fmt: skip

    def _own(self, version: str, kind: str, name: str, **spec: object) -> dict[str, object]:
        return {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }

    def _account(self, name: str) -> dict[str, str]:
        return {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}

    def call(self, name: str, address: str) -> set[str]:
        words = ("-n", self.namespace, "exec", name, "--", "probe", "get", f"http://{address}:8080/")
        return answers(self.cluster.tried(*words, timeout=30).stdout)

    def captured(self) -> set[str]:
        return {w["workload"].split("/")[1] for w in self.daemon.status()["workloads"] if w["state"] == "captured"}

    def kept(self, name: str) -> tuple[bool, int]:
        """Whether a pod is ready, and its restarts."""
        (status,) = self.cluster.get("pod", name, self.namespace)["status"]["containerStatuses"]
        return status["ready"], status["restartCount"]


@pytest.fixture
def scene(own: Cluster, namespaces) -> Iterator[Scene]:
    made = Scene(own, namespaces("hostnet", labels={"openservicemesh.io/monitored-by": "osm"}))
    try:
        made.daemon.read()
        made.daemon.start(probes={"listener": 10250})
        yield made
    finally:
        made.daemon.close()


def test_a_pod_of_the_nodes_network_is_of_the_mesh(scene: Scene) -> None:
    server, web = scene.services["server"], scene.services["web"]
    until("all are captured", lambda: scene.captured() == set(NAMES))

    assert scene.call("caller", web) == {"200"}
    assert scene.call("thief", web) == {"403"}, "kube-proxy does not have it before us"
    for at in (server, scene.address):
        assert scene.call("caller", at) == {"200"}, at
        assert scene.call("near", at) == {"200"}, at
        assert scene.call("thief", at) == {"403"}, at
        assert scene.call("web", at) == {"403"}, at
    assert scene.call("thief", "127.0.0.1") <= {"error", "403", "502", "503"}

    inside, others = (
        (lambda node, at: answers(scene.cluster.inside_tried(node, PROBE, "get", f"http://{at}:8080/").stdout)),
        scene.cluster.nodes[1:],
    )
    for at in (scene.address, "127.0.0.1", server):
        assert inside(scene.node, at) == {"error"}, f"a process of the node is nobody: {at}"
    for node in others:
        assert inside(node, scene.address) == {"403"}, "nor is one of another node"
    assert answers(scene.cluster.outside(PROBE, "get", f"http://{scene.address}:8080/").stdout) == {"403"}

    restarts = scene.kept("server")[1]
    time.sleep(6)  # twice as long as its kubelet is patient
    assert scene.kept("server") == (True, restarts), "its kubelet may ask"
    scene.daemon.kill()
    assert scene.call("caller", server) == scene.call("caller", web) == {"error"}, "without a daemon all is closed"
    time.sleep(6)
    assert scene.kept("server") == (True, restarts), "its kubelet may ask then too"
    scene.daemon.start(probes={"listener": 10250})
    until("it goes on", lambda: scene.call("caller", server) == {"200"})

    scene.cluster.exec(scene.namespace, "server", "sh", "-c", "kill 1", check=False)
    until("its container has begun again", lambda: scene.kept("server") == (True, restarts + 1))
    assert scene.call("caller", server) == {"200"}
    assert scene.call("thief", server) == {"403"}, "by the pod's cgroup, which stays"
    assert inside(scene.node, scene.address) == {"error"}
