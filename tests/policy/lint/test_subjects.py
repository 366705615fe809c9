"""lint/subjects.py: identities that somebody has, or will have."""

import pytest

from tests.policy.lint.test_findings import SERVICE, TARGET, TEMPLATE, found


@pytest.mark.parametrize(
    "runs",
    [
        f"{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d, namespace: n}}, spec: {{template: {TEMPLATE}}}}}",
        f"{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: d, namespace: n}}, spec: {{template: {TEMPLATE}}}}}",
        f"{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: d, namespace: n}}, spec: {{template: {TEMPLATE}}}}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: n, labels: {app: web}}, spec: {serviceAccountName: web, containers: [{ports: [{name: main, containerPort: 8080}]}]}}",
        "{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: n}, spec: {serviceAccount: web, labels: {app: web}, addresses: [10.0.0.1], netns: w, ports: [{name: main, port: 8080}]}}",
        # one that is broken is told by itself
        "{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: n}, spec: {serviceAccount: web, labels: {app: web}, ports: [{name: main, port: 8080}], netnss: w}}",
    ],
)
def test_what_will_run_is_somebody_and_is_selected(runs):
    assert found(SERVICE + TARGET + runs) == []


def test_an_egress_for_nobody():
    egress = """---
{apiVersion: policy.openservicemesh.io/v1alpha1, kind: Egress, metadata: {name: e, namespace: n}, spec: {sources: [{kind: ServiceAccount, name: wep}], ports: [{number: 443, protocol: tcp}]}}
---
{apiVersion: config.openservicemesh.io/v1alpha2, kind: MeshConfig, metadata: {name: osm-mesh-config, namespace: o}, spec: {traffic: {enableEgress: false}}}
---
"""
    account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: n}}"
    assert found(egress + account) == [
        "Egress n/e: source n/wep is nobody: no Workload or Pod has this service account",
    ]
    assert found(egress.replace("wep", "web") + account) == []


def test_nobody_is_told_without_it():
    assert found(SERVICE + TARGET + "{apiVersion: v1, kind: Namespace, metadata: {name: n}}") == [
        "Service n/web: its selector selects nothing: no Workload or Pod of namespace n has the labels app=web",
        "TrafficTarget n/t: destination n/web is nobody: no Workload or Pod has this service account",
        "TrafficTarget n/t: source n/web is nobody: no Workload or Pod has this service account",
    ]
    account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: n}}"
    assert found(TARGET + account) == []
