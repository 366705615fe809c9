"""unknown.py: a kind that nobody knows is never silence in groups that are ours or that we read."""

import pytest

from policy.build import build
from policy.decode import Unread, decode
from policy.model import Problem, Where
from policy.resources import RawObject


def raw(version, kind, name="x", spec=None, line=1):
    data = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "n"}, "spec": spec or {}}
    return RawObject(data, Where("a.yaml", line), {"$.kind": line + 1})


@pytest.mark.parametrize(
    ("version", "kind", "hint"),
    [
        ("edgemesh.io/v1alpha1", "WorkLoad", "did you mean Workload?"),
        ("edgemesh.io/v1alpha1", "Revokation", "did you mean Revocation?"),
        ("edgemesh.io/v1alpha1", "NodeConf", "did you mean NodeConfig?"),
        (
            "edgemesh.io/v1alpha1",
            "Banana",
            "known there: HTTPFilter, Isolation, LoadBalancing, MeshNode, NodeConfig, Revocation, Workload",
        ),
        ("edgemesh.io/v1", "WorkLoad", "did you mean Workload?"),
        ("edgemesh.io", "Workload", "write edgemesh.io/v1alpha1"),
        ("v1", "Workload", "write apiVersion: edgemesh.io/v1alpha1"),
        ("edgemesh.io/v1alpha1", "Service", "write apiVersion: v1"),
        ("edgmesh.io/v1alpha1", "Workload", "did you mean edgemesh.io/v1alpha1, kind Workload?"),
        ("access.smi-spec.io/v1alpha3", "TrafficTargets", "did you mean TrafficTarget?"),
        ("access.smi-spec.io/v1alpha3", "HTTPRouteGroup", "write apiVersion: specs.smi-spec.io/v1alpha4"),
        ("specs.smi-spec.io/v1alpha4", "HttpRoutesGroup", "did you mean HTTPRouteGroup?"),
        ("split.smi-spec.io/v1alpha4", "Split", "known there: TrafficSplit"),
        ("config.openservicemesh.io/v1alpha2", "MeshConfg", "did you mean MeshConfig?"),
        ("policy.openservicemesh.io/v1alpha1", "AccesControl", "did you mean AccessControl?"),
        ("policy.openservicemesh.io/v1alpha1", "egress", "did you mean Egress?"),
        ("policy.flomesh.io/v1alpha1", "AccessControls", "did you mean AccessControl?"),
        ("v1", "namespace", "did you mean Namespace?"),
        ("v1", "Sevice", "did you mean Service?"),
        ("apps/v1", "Deploymnet", "did you mean Deployment?"),
        ("discovery.k8s.io/v1", "EndpointSlices", "did you mean EndpointSlice?"),
        ("gateway.networking.k8s.io/v1", "HttpRoutes", "did you mean HTTPRoute?"),
    ],
)
def test_a_kind_that_does_not_exist_is_an_error_that_names_the_one_that_was_meant(version, kind, hint):
    found = decode(raw(version, kind))
    assert isinstance(found, Problem), found
    assert found.severity == "error"
    assert hint in found.hint
    assert found.where.line == 2
    assert kind in found.object


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("v1", "ConfigMap"),
        ("v1", "Endpoints"),
        ("v1", "PodTemplate"),
        ("v1", "SecretList"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "ReplicaSet"),
        ("networking.k8s.io/v1", "ServiceCIDR"),
        ("gateway.networking.k8s.io/v1", "UDPRoute"),
        ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"),
        ("kueue.x-k8s.io/v1beta1", "Workload"),
        ("serving.knative.dev/v1", "Service"),
        ("policy.flomesh.io/v1alpha1", "HealthCheck"),
        ("metrics.smi-spec.io/v1alpha1", "TrafficMetrics"),
        ("example.org/v1", "Banana"),
        ("batch/v1", "Job"),
    ],
)
def test_kinds_of_others_are_left_alone(version, kind):
    assert isinstance(decode(raw(version, kind)), Unread)
    (problem,) = build([raw(version, kind)]).problems
    assert problem.severity == "notice"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("EgressGateway", "leaves from the caller's own node"),
    ],
)
def test_what_is_asked_for_by_a_kind_of_osm_and_not_done_is_said(kind, said):
    (problem,) = build([raw("policy.openservicemesh.io/v1alpha1", kind)]).problems
    assert problem.severity == "warning"
    assert said in problem.message


def test_of_an_access_cert_it_is_said_in_the_later_group_too():
    (problem,) = build([raw("policy.flomesh.io/v1alpha1", "AccessCert")]).problems
    assert (problem.severity, problem.unmet) == ("warning", True)
    assert "only as policy.openservicemesh.io/v1alpha1: its Secret is not written" in problem.message


@pytest.mark.parametrize("kind", ["WorkLoad", "Workloads"])
def test_a_misspelt_kind_loses_nothing_that_worked(kind):
    good = build([raw("edgemesh.io/v1alpha1", "Workload", spec={"netns": "x"})])
    again = build([raw("edgemesh.io/v1alpha1", kind, spec={"netns": "x"})], good.accepted)
    assert again.snapshot.workloads == good.snapshot.workloads
    (problem,) = again.problems
    assert "did you mean Workload?" in problem.hint
    assert "The last good version stays in force" in problem.hint


def test_a_misspelt_revocation_revokes_what_can_be_read_of_it():
    built = build([raw("edgemesh.io/v1alpha1", "Revokation", spec={"nodes": ["till-3"]})])
    assert built.snapshot.revoked.nodes == ("till-3",)
    assert built.problems[0].severity == "error"
