"""lint/references.py: Gateways, classes and Services that routes and filters name, and that are not there."""

import pytest

from tests.policy.lint.test_findings import found

ROUTE = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: n}, spec: {parentRefs: [%s]}}\n---\n"
SERVICE = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: n}, spec: {clusterIP: 10.9.0.1, ports: [{port: 80}]}}\n---\n"
CLASS = "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: edgemesh}, spec: {controllerName: edgemesh.io/gateway-controller}}\n---\n"
GATEWAY = "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: front, namespace: n}, spec: {gatewayClassName: %s, listeners: [{name: a, port: 80, protocol: HTTP}]}}\n---\n"
INGRESS = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, namespace: n}, spec: {ingressClassName: %s}}\n---\n"
BACKEND = "{apiVersion: policy.openservicemesh.io/v1alpha1, kind: IngressBackend, metadata: {name: b, namespace: n}, spec: {backends: [{name: web, port: {number: 80, protocol: http}}], sources: [%s]}}\n---\n"
FILTER = "{apiVersion: edgemesh.io/v1alpha1, kind: HTTPFilter, metadata: {name: f, namespace: n}, spec: {extAuth: {%s}}}\n---\n"


def said(text, about):
    return [one for one in found(text.removesuffix("---\n")) if one.startswith(about)]


@pytest.mark.parametrize(
    "text, told",
    [
        (ROUTE % "{name: web}", ["HTTPRoute n/r: there is no Gateway n/web, which the route is for"]),
        (
            ROUTE % "{name: s, kind: ListenerSet}",
            ["HTTPRoute n/r: there is no ListenerSet n/s, which the route is for"],
        ),
        (ROUTE % "{name: front}" + GATEWAY % "edgemesh" + CLASS, []),
        (ROUTE % "{name: front}" + GATEWAY % "istio", []),
        # a broken one is told by itself, and a parent of another group is not ours to judge
        (ROUTE % "{name: front}" + GATEWAY % "edgemesh, listenerss: []" + CLASS, []),
        (ROUTE % "{name: web, group: example.org, kind: Fleet}", []),
    ],
)
def test_parents(text, told):
    assert said(text, "HTTPRoute") == told


@pytest.mark.parametrize(
    "named, told",
    [
        ("edgemesh", []),
        ("edgemsh", ["Gateway n/front: there is no GatewayClass edgemsh: edgemesh does not serve this Gateway"]),
    ],
)
def test_classes_of_gateways(named, told):
    assert said(GATEWAY % named + CLASS, "Gateway ") == told


def test_a_class_that_nobody_wrote():
    assert said(GATEWAY % "edgemesh", "Gateway ") == [
        "Gateway n/front: there is no GatewayClass edgemesh: edgemesh does not serve this Gateway"
    ]


@pytest.mark.parametrize(
    "named, told",
    [
        ("edgemesh", []),
        ("nginx", []),
        ("edgmesh", ["Ingress n/i: there is no IngressClass edgmesh: edgemesh does not serve this Ingress"]),
    ],
)
def test_classes_of_ingresses(named, told):
    assert said(INGRESS % named, "Ingress ") == told


@pytest.mark.parametrize(
    "source, told",
    [
        ("{kind: Gateway, name: front}", []),
        ("{kind: Gateway, name: frnt}", ["IngressBackend n/b: there is no Gateway n/frnt, so it lets nobody in"]),
        ("{kind: IngressClass, name: edgemesh}", []),
        (
            "{kind: IngressClass, name: nginx}",
            [
                "IngressBackend n/b: IngressClass nginx lets nobody in: the Ingresses that edgemesh serves are all named edgemesh"
            ],
        ),
    ],
)
def test_sources(source, told):
    assert said(BACKEND % source + SERVICE + GATEWAY % "edgemesh" + CLASS, "IngressBackend") == told


@pytest.mark.parametrize(
    "asked, told",
    [
        ("service: web, port: 80", []),
        ("service: wep, port: 80", ["HTTPFilter n/f: there is no Service n/wep: its calls are answered 503"]),
        ("service: web, port: 81", ["HTTPFilter n/f: Service n/web has no port 81: its calls are answered 503"]),
        (
            "service: web, namespace: m, port: 80",
            ["HTTPFilter n/f: there is no Service m/web: its calls are answered 503"],
        ),
    ],
)
def test_services_that_are_asked(asked, told):
    assert said(FILTER % asked + SERVICE, "HTTPFilter") == told
