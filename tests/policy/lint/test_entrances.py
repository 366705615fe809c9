"""lint/entrances.py: routes of Gateways and Ingresses to servers that let nobody in who comes that way."""

import pytest

from tests.policy.lint.test_findings import found

WORLD = """
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: edgemesh}, spec: {controllerName: edgemesh.io/gateway-controller}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: front, namespace: n}, spec: {gatewayClassName: edgemesh, %slisteners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: n}, spec: {selector: {app: web}, clusterIP: 10.9.0.1, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: n}, spec: {serviceAccount: web, labels: {app: web}, addresses: [10.0.0.1], netns: w, ports: [{port: 8080}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: n}, spec: {parentRefs: [{name: front}], rules: [{backendRefs: [{name: web, port: 80}]}]}}
---
"""
INGRESS = """{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, namespace: n}, spec: {ingressClassName: edgemesh, defaultBackend: {service: {name: web, port: {number: 80}}}}}
---
"""
OPEN = "{apiVersion: policy.openservicemesh.io/v1alpha1, kind: IngressBackend, metadata: {name: b, namespace: n}, spec: {backends: [{name: web, port: {number: %s, protocol: http}}], sources: [%s]}}\n---\n"
ACCESS = "{apiVersion: policy.openservicemesh.io/v1alpha1, kind: AccessControl, metadata: {name: a, namespace: n}, spec: {backends: [{name: web, port: {number: 8080, protocol: http}}], sources: [{kind: IPRange, name: 10.0.0.0/8}]}}\n---\n"
ASKS = "tls: {frontend: {default: {validation: {caCertificateRefs: [{kind: ConfigMap, name: roots, group: ''}]}}}}, "
LOOSE = "{apiVersion: v1, kind: Namespace, metadata: {name: n, annotations: {edgemesh.io/mtls: permissive, openservicemesh.io/monitored-by: osm}}}\n---\n"
MESH = "{apiVersion: config.openservicemesh.io/v1alpha2, kind: MeshConfig, metadata: {name: osm-mesh-config, namespace: osm-system}, spec: {traffic: {enablePermissiveTrafficPolicyMode: true}}}\n---\n"
TOLD = "HTTPRoute n/r: Service n/web lets in nobody who comes by Gateway n/front: such calls get 403"


def said(text, asks=""):
    return [one for one in found((WORLD % asks + text).removesuffix("---\n")) if "lets in nobody" in one]


@pytest.mark.parametrize(
    "text, asks, told",
    [
        ("", "", [TOLD]),
        (OPEN % (8080, "{kind: Gateway, name: front}"), "", []),
        (OPEN % (8080, "{kind: Gateway, name: front, namespace: other}"), "", [TOLD]),
        (OPEN % (8080, "{kind: IPRange, name: 10.0.0.0/8}"), "", []),
        (OPEN % (8080, "{kind: AuthenticatedPrincipal, name: till.example}"), "", [TOLD]),
        (OPEN % (8080, "{kind: AuthenticatedPrincipal, name: till.example}"), ASKS, []),
        (ACCESS, "", [TOLD]),
        (ACCESS + LOOSE, "", []),
        (MESH, "", []),
    ],
)
def test_what_opens_a_server_to_callers_of_a_gateway(text, asks, told):
    assert said(text, asks) == told


def test_an_ingress_is_told_of_by_itself():
    assert said(OPEN % (8080, "{kind: Gateway, name: front}") + INGRESS) == [
        "Ingress n/i: Service n/web lets in nobody who comes by IngressClass edgemesh: such calls get 403"
    ]
    assert said(OPEN % (8080, "{kind: Gateway, name: front}, {kind: IngressClass, name: edgemesh}") + INGRESS) == []


def test_servers_that_are_not_known_or_not_in_the_mesh_are_not_judged():
    assert said("").count(TOLD) == 1
    away = WORLD.replace("app: web}, addresses", "app: other}, addresses") % ""
    assert not [one for one in found(away.removesuffix("---\n")) if "lets in nobody" in one]
