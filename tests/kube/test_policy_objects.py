"""Policy objects as a person applies them: dry runs, their misspelt names, Isolation, and MeshConfigs of both versions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kube.clusters import Manifest, account, answers, pod, service, until
from tests.kube.meshes import Mesh

NAMESPACE = f"tried-{os.getpid()}"  # one that ended before may still be ending
MARK = "edgemesh.io/dry-run"


class Scene:
    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.cluster = mesh, mesh.cluster
        self.node = mesh.cluster.nodes[0]
        labels = {"openservicemesh.io/monitored-by": "osm"}
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
            account("web", NAMESPACE),
            account("till", NAMESPACE),
        )
        self.cluster.apply(
            pod("web", NAMESPACE, ["probe", "serve"], self.node, serviceAccountName="web"),
            pod("till", NAMESPACE, node=self.node, serviceAccountName="till"),
            service("web", NAMESPACE, {"http": 8080}),
            _smi("specs", "HTTPRouteGroup", "all", {"matches": [{"name": "all", "pathRegex": ".*"}]}),
        )
        self.cluster.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        self.address = self.cluster.get("pod", "web", NAMESPACE)["status"]["podIP"]

    def target(self, **annotations: str) -> None:
        spec = {
            "destination": {"kind": "ServiceAccount", "name": "web", "namespace": NAMESPACE},
            "sources": [{"kind": "ServiceAccount", "name": "till", "namespace": NAMESPACE}],
            "rules": [{"kind": "HTTPRouteGroup", "name": "all"}],
        }
        self.cluster.kubectl("-n", NAMESPACE, "delete", "traffictarget", "t", "--ignore-not-found")
        self.cluster.apply(_smi("access", "TrafficTarget", "t", spec, annotations))

    def call(self) -> set[str]:
        done = self.cluster.tried(
            "-n", NAMESPACE, "exec", "till", "--", "probe", "get", f"http://web.{NAMESPACE}:8080/", timeout=30
        )
        return answers(done.stdout)

    def explained(self) -> dict[str, Any]:
        words = ("explain", f"{NAMESPACE}/till", f"{NAMESPACE}/web", "--path", "/", "-o", "json")
        return json.loads(self.mesh.edgemesh(self.node, *words, check=False))

    def end(self) -> None:
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
        self.cluster.kubectl("delete", "isolations.edgemesh.io", "--all")


def _smi(group: str, kind: str, name: str, spec: Any, annotations: dict[str, str] | None = None) -> Manifest:
    version = {"specs": "v1alpha4", "access": "v1alpha3"}[group]
    metadata = {"name": name, "namespace": NAMESPACE, "annotations": annotations or {}}
    return {"apiVersion": f"{group}.smi-spec.io/{version}", "kind": kind, "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def scene(mesh: Mesh) -> Iterator[Scene]:
    made = Scene(mesh)
    yield made
    made.end()


def test_a_dry_run_admits_nothing_and_explain_says_what_it_would(scene: Scene) -> None:
    scene.target(**{MARK: "true"})
    until("it is known", lambda: "would be allowed by" in scene.explained().get("dry_run", ""))
    for _ in range(3):
        assert scene.call() == {"403"}
    scene.target()
    until("without the annotation it is in force", lambda: scene.call() == {"200"})
    scene.target(**{MARK: "removal"})
    until("it is known", lambda: "would be denied without" in scene.explained().get("dry_run", ""))
    assert scene.call() == {"200"}


@pytest.mark.parametrize("name", ["edgemesh.io/dryrun", "edgmesh.io/dry-run", "example.org/dry-run"])
def test_a_misspelt_dry_run_opens_nothing(scene: Scene, name: str) -> None:
    """The annotation has to come through the API server and the node's watch, where others are left out."""
    scene.target(**{name: "true"})

    def told() -> bool:
        return f"did you mean the annotation {MARK}?" in scene.mesh.edgemesh(scene.node, "status", check=False)

    until("it is an error", told)
    assert scene.call() == {"403"}


def test_an_isolation_cuts_off_and_lets_go(scene: Scene) -> None:
    scene.target()
    until("it is in force", lambda: scene.call() == {"200"})
    metadata = {"name": "quarantine"}
    spec = {"cidrs": [f"{scene.address}/32"]}
    scene.cluster.apply({"apiVersion": "edgemesh.io/v1alpha1", "kind": "Isolation", "metadata": metadata, "spec": spec})
    until("it is cut off", lambda: scene.call() == {"503"})
    assert scene.explained()["allowed"] is False
    scene.cluster.kubectl("delete", "isolations.edgemesh.io", "quarantine")
    until("it is lifted", lambda: scene.call() == {"200"})


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2"])
def test_mesh_configs_of_both_versions(scene: Scene, version: str) -> None:
    scene.cluster.kubectl("-n", NAMESPACE, "delete", "traffictarget", "t", "--ignore-not-found")
    scene.cluster.kubectl("delete", "meshconfig", "--all", "--all-namespaces")  # of several the oldest would hold
    until("nothing is admitted", lambda: scene.call() == {"403"})
    config: Manifest = {
        "apiVersion": f"config.openservicemesh.io/{version}",
        "kind": "MeshConfig",
        "metadata": {"name": "osm-mesh-config", "namespace": NAMESPACE},
        "spec": {"traffic": {"enablePermissiveTrafficPolicyMode": True}, "sidecar": {"logLevel": "error"}},
    }
    scene.cluster.apply(config)
    until("the mesh is permissive", lambda: scene.call() == {"200"})
    scene.cluster.kubectl("-n", NAMESPACE, "delete", "meshconfig", "osm-mesh-config")
    until("it is not any more", lambda: scene.call() == {"403"})
