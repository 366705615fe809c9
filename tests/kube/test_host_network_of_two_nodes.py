"""Pods in a node's own network, called by and calling pods of another node: by tunnels, with their own identity each."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.kube.clusters import PROGRAMS, Cluster, account, answers, pod, service, until
from tests.kube.meshes import Mesh
from tests.kube.test_failures import strict

PROBE = str(PROGRAMS / "probe")
PORT = 18080
SERVERS, MAY, MAY_NOT = ("server", "hostserver"), ("caller", "hostcaller"), ("thief", "hostthief")


class Scene:
    """Callers on one node, servers on the other; of each kind one in the node's own network."""

    def __init__(self, cluster: Cluster, namespace: str, near: str, far: str) -> None:
        self.cluster, self.namespace, self.near, self.far = cluster, namespace, near, far
        serves = {"ports": [{"containerPort": PORT}], "command": ["probe", "serve", f":{PORT}"]}
        check = {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1}

        def made(name: str, node: str, **spec: object) -> dict[str, object]:
            return pod(name, namespace, node=node, serviceAccountName=name, hostNetwork=name.startswith("host"), **spec)

        rule = {"kind": "HTTPRouteGroup", "name": "all"}
        cluster.apply(
            strict(),
            *(account(name, namespace) for name in (*SERVERS, *MAY, *MAY_NOT)),
            self._own("specs.smi-spec.io/v1alpha4", "HTTPRouteGroup", "all", matches=[{"name": "all", "pathRegex": ".*"}]),
            *(
                self._own("access.smi-spec.io/v1alpha3", "TrafficTarget", name, destination=self._account(name),
                    sources=[self._account(one) for one in MAY], rules=[rule])
                for name in SERVERS
            ),
            *(made(name, far, container=serves | {"readinessProbe": check}) for name in SERVERS),
            *(made(name, near) for name in (*MAY, *MAY_NOT)),
            *(service(name, namespace, {"http": PORT}) for name in SERVERS),
        )  # fmt: skip
        cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        services = {name: cluster.get("service", name, namespace)["spec"]["clusterIP"] for name in SERVERS}
        pods = {name: cluster.get("pod", name, namespace)["status"]["podIP"] for name in SERVERS}
        self.places = {
            "Service": services["server"],
            "pod": pods["server"],
            "Service of a hostNetwork pod": services["hostserver"],
            "node": pods["hostserver"],
        }
        assert pods["hostserver"] == cluster.address(far)

    def _own(self, version: str, kind: str, name: str, **spec: object) -> dict[str, object]:
        metadata = {"name": name, "namespace": self.namespace}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}

    def _account(self, name: str) -> dict[str, str]:
        return {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}

    def call(self, name: str, place: str) -> set[str]:
        words = ("-n", self.namespace, "exec", name, "--", "probe", "get", f"http://{self.places[place]}:{PORT}/", "2")
        return answers(self.cluster.tried(*words, timeout=30).stdout)


@pytest.fixture(scope="module", params=["to the server's node", "to the agent's node"])
def scene(mesh: Mesh, request: pytest.FixtureRequest) -> Iterator[Scene]:
    cluster = mesh.cluster
    if cluster.folder is None or len(cluster.nodes) < 2:
        pytest.skip("it works on two nodes themselves, and this cluster is reached by its API only")
    mesh.ready()
    near, far = cluster.nodes[1::-1] if request.param.startswith("to the server") else cluster.nodes[:2]
    name = f"far-{int(time.time())}"
    labels = {"openservicemesh.io/monitored-by": "osm"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        yield Scene(cluster, name, near, far)
    finally:
        cluster.kubectl("delete", "namespace", name, "--timeout=60s", check=False)  # its port is the node's


@pytest.mark.parametrize("place", ["Service", "pod", "Service of a hostNetwork pod", "node"])
def test_who_may_call_may_and_nobody_else(scene: Scene, place: str) -> None:
    for name in MAY:
        until(f"{name} may call", lambda name=name: scene.call(name, place) == {"200"}, 90)
    for name in MAY_NOT:
        until(f"{name} is refused", lambda name=name: scene.call(name, place) == {"403"}, 30)
    for name in MAY:
        assert scene.call(name, place) == {"200"}


def test_who_is_nobody_is_refused(scene: Scene) -> None:
    at = f"http://{scene.places['node']}:{PORT}/"
    assert answers(scene.cluster.inside_tried(scene.near, PROBE, "get", at).stdout) == {"403"}, "the other node"
    assert answers(scene.cluster.inside_tried(scene.far, PROBE, "get", at).stdout) == {"error"}, "its own node"
    assert answers(scene.cluster.outside(PROBE, "get", at).stdout) == {"403"}
