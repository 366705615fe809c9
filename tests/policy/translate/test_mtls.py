"""translate/mtls.py: the mode of the mesh and of a namespace; a word that nobody knows opens nothing."""

import pytest

from agent.sources.manifest import read
from policy.build import build

MESH = """
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata:
  name: osm-mesh-config
  namespace: osm-system
  annotations:
    edgemesh.io/mtls: {0}
spec: {{traffic: {{enableEgress: false}}}}
"""
NAMESPACE = """
---
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {{openservicemesh.io/monitored-by: edgemesh}}
  annotations: {{edgemesh.io/mtls: {0}}}
"""


def made(text, previous=None):
    return build(read(text.encode(), "m.yaml").objects, previous)


@pytest.mark.parametrize("mode", ["strict", "permissive", "disabled"])
def test_the_mesh_config_speaks_for_the_mesh(mode):
    built = made(MESH.format(mode))
    assert built.problems == ()
    assert built.snapshot.mesh.mtls == mode
    assert built.snapshot.mtls("anywhere") == mode


@pytest.mark.parametrize("mode", ["strict", "permissive", "disabled"])
def test_a_namespace_speaks_for_itself(mode):
    built = made(MESH.format("permissive") + NAMESPACE.format(mode))
    assert built.problems == ()
    assert (built.snapshot.mtls("shop"), built.snapshot.mtls("other")) == (mode, "permissive")
    assert built.snapshot.modes == {"shop": mode}


def test_without_an_annotation_the_mesh_is_strict():
    assert made(MESH.format("x").replace("edgemesh.io/mtls", "other")).snapshot.mtls("shop") == "strict"
    assert made("").snapshot.mtls("shop") == "strict"


def test_an_unknown_word_of_the_mesh_keeps_what_was_good():
    good = made(MESH.format("permissive"))
    built = made(MESH.format("permisive"), good.accepted)
    assert built.snapshot.mesh == good.snapshot.mesh
    (problem,) = built.problems
    assert (str(problem.where), problem.severity) == ("m.yaml:8", "error")
    assert "edgemesh.io/mtls is 'permisive'" in problem.message
    assert problem.hint == "write strict, permissive or disabled; the last good version stays in force"


def test_an_unknown_word_of_a_namespace_keeps_what_was_good():
    good = made(NAMESPACE.format("disabled"))
    built = made(NAMESPACE.format("none"), good.accepted)
    assert built.snapshot.mtls("shop") == "disabled"
    (problem,) = built.problems
    assert (str(problem.where), problem.object, problem.severity) == ("m.yaml:8", "Namespace shop", "error")


def test_an_unknown_word_with_nothing_good_before_it_is_strict_and_takes_nothing_else_out_of_force():
    pod = "\n---\n{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop}, status: {podIP: 10.0.0.1}}\n"
    built = made(MESH.format("disabledd") + NAMESPACE.format("off") + pod)
    assert (built.snapshot.mesh.mtls, built.snapshot.mtls("shop")) == ("strict", "strict")
    assert [p.severity for p in built.problems] == ["error", "error"]
    assert built.snapshot.workload("shop/p").enrolled, "its namespace still says that it is in the mesh"
    assert not built.snapshot.mesh.egress


def test_a_second_mesh_config_does_not_set_the_mode():
    other = MESH.format("disabled").replace("osm-mesh-config", "mine")
    assert made(f"{MESH.format('permissive')}\n---\n{other}").snapshot.mesh.mtls == "permissive"


@pytest.mark.parametrize(("kind", "api"), [("Workload", "edgemesh.io/v1alpha1"), ("Pod", "v1"), ("Service", "v1")])
def test_elsewhere_it_says_nothing_and_that_is_told(kind, api):
    (problem,) = made(
        f"{{apiVersion: {api}, kind: {kind}, metadata: {{name: x, namespace: shop, annotations: {{edgemesh.io/mtls: strict}}}}}}"
    ).problems
    assert (problem.severity, problem.object) == ("warning", f"{kind} shop/x")
