"""lint/selectors.py: Services that are no mistake."""

import pytest

from tests.policy.lint.test_findings import found


@pytest.mark.parametrize(
    "beside",
    [
        "{apiVersion: v1, kind: Endpoints, metadata: {name: web, namespace: n}}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: n, labels: {kubernetes.io/service-name: web}}}",
        "{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: s, namespace: n}, spec: {service: web, backends: [{service: b, weight: 0}]}}",
    ],
)
def test_a_service_without_a_selector_may_be_served_otherwise(beside):
    service = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: n}, spec: {ports: [{port: 80}]}}\n---\n"
    assert found(service + beside) == []


def test_one_of_another_name_is_not_asked_for_ports():
    text = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: n}, spec: {type: ExternalName, externalName: example.org}}"
    assert found(text) == []


@pytest.mark.parametrize(
    "name", ["http", "http-api", "http2", "https", "grpc-web", "tcp-server-first", "dns", "metrics", "udp", "web", ""]
)
def test_names_of_ports_that_are_meant(name):
    text = "{apiVersion: v1, kind: Service, metadata: {name: w, namespace: n}, spec: {selector: {a: b}, ports: [{port: 80, name: 'NAME'}]}}"
    assert not [line for line in found(text.replace("NAME", name)) if "declares no protocol" in line]


def test_what_a_workload_lists_is_tcp_s():
    text = """
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: n}, spec: {selector: {app: web}, ports: [{port: 53, protocol: PROTOCOL}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: n}, spec: {serviceAccount: w, labels: {app: web}, addresses: [10.0.0.1], netns: w, ports: [{port: 8080}]}}
"""
    assert found(text.replace("PROTOCOL", "UDP")) == []
    assert len(found(text.replace("PROTOCOL", "TCP"))) == 1
