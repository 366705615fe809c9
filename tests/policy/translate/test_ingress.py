"""translate/ingress.py: who comes in from outside, by address and by identity, also in strict mode."""

import pytest
import yaml
from msgspec import structs

from policy.build import build
from policy.model import Grant, Identity, PlainGrant, Request, Revoked, Verdict, Where
from policy.resources import RawObject

WORLD = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web}}, spec: {nodeName: n1, serviceAccountName: web, containers: [{ports: [{containerPort: 8080}]}]}, status: {podIP: 10.42.0.9}}
---
{apiVersion: v1, kind: Service, metadata: {name: traefik, namespace: kube-system}, spec: {clusterIP: 10.43.0.5, ports: [{name: web, port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: t, namespace: kube-system, labels: {kubernetes.io/service-name: traefik}}, ports: [{name: web, port: 8000}], endpoints: [{addresses: [10.42.1.4], targetRef: {kind: Pod, name: traefik-x, namespace: kube-system}}]}
"""
TRAEFIK = {"kind": "Service", "name": "traefik", "namespace": "kube-system"}
RANGE = {"kind": "IPRange", "name": "192.0.2.0/24"}
PRINCIPAL = {"kind": "AuthenticatedPrincipal", "name": "gate.edge.cluster.local"}
GROUP = "policy.openservicemesh.io/v1alpha1"


def backend(number=8080, protocol="http", name="web", **more):
    return {"name": name, "port": {"number": number, "protocol": protocol}, **more}


def made(*sources, backends=None, api=GROUP, world=WORLD, **more):
    spec = {"backends": [backend()] if backends is None else backends, "sources": list(sources), **more}
    objects = [
        *yaml.safe_load_all(world),
        {"apiVersion": api, "kind": "IngressBackend", "metadata": {"name": "i", "namespace": "shop"}, "spec": spec},
    ]
    return build([RawObject(data, Where("i.yaml", n), {}) for n, data in enumerate(objects, 1)], node="n1")


def told(built):
    return [(p.severity, p.message) for p in built.problems if p.object == "IngressBackend shop/i"]


@pytest.mark.parametrize("api", [GROUP, "policy.flomesh.io/v1alpha1"])
def test_the_pods_of_an_ingress_controller_may_call_in_plain_text_in_strict_mode(api):
    built = made(TRAEFIK, RANGE, api=api)
    assert told(built) == []
    assert built.snapshot.plain == (
        PlainGrant("IngressBackend shop/i", "shop/web-0", (8080,), ("10.42.1.4/32", "192.0.2.0/24"), True),
    )
    web = built.snapshot.workload("shop/web-0")
    assert built.snapshot.mtls("shop") == "strict"
    assert built.snapshot.plain_rule("10.42.1.4", web, 8080) == "IngressBackend shop/i"
    assert built.snapshot.plain_rule("10.42.1.4", web, 8081) == ""
    assert built.snapshot.plain_rule("10.42.1.5", web, 8080) == ""


def test_an_access_control_admits_nobody_in_strict_mode_beside_it():
    control = {"apiVersion": GROUP, "kind": "AccessControl", "metadata": {"name": "a", "namespace": "shop"}}
    control["spec"] = {"backends": [backend()], "sources": [{"kind": "IPRange", "name": "198.51.100.0/24"}]}
    snapshot = made(RANGE, world=WORLD + "---\n" + yaml.safe_dump(control)).snapshot
    assert snapshot.plain_rule("198.51.100.1", snapshot.workload("shop/web-0"), 8080) == ""
    assert snapshot.plain_rule("192.0.2.1", snapshot.workload("shop/web-0"), 8080)


def test_one_that_is_gone_admits_nobody():
    before = made(RANGE)
    after = build([raw for key, raw in before.accepted.items() if "Ingress" not in key], before.accepted, node="n1")
    assert after.snapshot.plain == ()


@pytest.mark.parametrize("name", ["gate.edge.cluster.local", "spiffe://cluster.local/ns/edge/sa/gate"])
def test_a_principal_is_an_identity_that_may_call_that_port(name):
    built = made({"kind": "AuthenticatedPrincipal", "name": name}, backends=[backend(protocol="https")])
    assert told(built) == []
    assert built.snapshot.plain == ()
    gate, web = Identity("edge", "gate"), built.snapshot.workload("shop/web-0")
    assert built.snapshot.grants == (Grant("IngressBackend shop/i", gate, web.identity, tcp=(8080,)),)
    assert built.snapshot.authorize(gate, web, 8080).allowed
    assert not built.snapshot.authorize(gate, web, 8081).allowed
    assert not built.snapshot.authorize(Identity("edge", "other"), web, 8080).allowed


@pytest.mark.parametrize(
    "name",
    [
        "*",
        "*.cluster.local",
        "gate.cluster.local",
        "cluster.local",
        "spiffe://cluster.local/node/n1",
        "spiffe://cluster.local/ns/a/sa/b/c",
        "*.edge.cluster.local",
    ],
)
def test_a_principal_that_is_nobody_is_left_out(name):
    built = made({"kind": "AuthenticatedPrincipal", "name": name})
    ((severity, message),) = told(built)
    assert (severity, f"principal {name!r} is no identity of this mesh" in message) == ("warning", True)
    assert (built.snapshot.grants, built.snapshot.plain) == ((), ())


def test_https_asks_for_a_certificate_so_addresses_alone_let_nobody_in():
    built = made(TRAEFIK, PRINCIPAL, backends=[backend(protocol="https")])
    assert built.snapshot.plain == ()
    assert len(built.snapshot.grants) == 1
    ((severity, message),) = told(built)
    assert (severity, message) == ("warning", "https asks callers for a certificate, so addresses alone let nobody in")


def test_https_without_one_passes_as_it_is():
    built = made(
        TRAEFIK, backends=[backend(protocol="https", tls={"skipClientCertValidation": True, "sniHosts": ["a.b"]})]
    )
    assert len(built.snapshot.plain) == 1
    assert ["TLS is not opened here" in message for _, message in told(built)] == [True]


@pytest.mark.parametrize(
    ("matches", "taken"),
    [
        ([{"apiGroup": GROUP, "kind": "UpstreamTrafficSetting", "name": "u"}], True),
        ([{"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "gone"}], False),
        ([{"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "TCPRoute", "name": "r"}], False),
        (["x"], False),
    ],
)
def test_one_that_would_let_in_more_than_it_says_is_refused(matches, taken):
    built = made(RANGE, matches=matches)
    assert bool(built.snapshot.plain) is taken
    assert [severity for severity, _ in told(built)] == ([] if taken else ["error"])


@pytest.mark.parametrize(
    ("sources", "backends", "message"),
    [
        ([], [backend()], "no sources"),
        ([RANGE], [], "no backends"),
        ([{"kind": "IPRange", "name": "x"}], [backend()], "'x' is not an address range"),
        ([RANGE], [backend(name="wbe")], "there is no Service shop/wbe in the IngressBackend's namespace"),
        ([RANGE], [backend(81)], "no server of Service shop/web listens on 81"),
        (
            [{"kind": "Service", "name": "gone", "namespace": "x"}],
            [backend()],
            "there is no Service x/gone, so it lets nobody in",
        ),
        ([{"kind": "User", "name": "x"}], [backend()], "source kind User is left out"),
    ],
)
def test_what_cannot_be_is_said(sources, backends, message):
    built = made(*sources, backends=backends)
    assert any(message in said for _, said in told(built)), told(built)
    assert built.snapshot.plain == ()


def test_a_port_of_the_service_means_the_port_of_its_servers():
    built = made(RANGE, backends=[backend(80)])
    assert built.snapshot.plain[0].ports == (8080,)
    assert [severity for severity, _ in told(built)] == ["notice"]


FOREIGN = """
---
{apiVersion: v1, kind: Pod, metadata: {name: vault-0, namespace: bank}, spec: {nodeName: n1, serviceAccountName: vault, containers: [{ports: [{containerPort: 8080}]}]}, status: {podIP: 10.42.0.8}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: bank, labels: {openservicemesh.io/monitored-by: osm}}}
---
{apiVersion: v1, kind: Service, metadata: {name: lure, namespace: shop}, spec: {ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: lure-1, namespace: shop, labels: {kubernetes.io/service-name: lure}}, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.42.0.8], targetRef: {kind: Pod, name: vault-0, namespace: bank}}]}
"""


@pytest.mark.parametrize("kind", ["IngressBackend", "AccessControl"])
def test_nobody_is_let_into_a_workload_of_another_namespace(kind):
    """Whoever may write a Service and its endpoints in one namespace could otherwise open every other one."""
    permissive = "{apiVersion: v1, kind: Namespace, metadata: {name: NAME, annotations: {edgemesh.io/mtls: permissive}, labels: {openservicemesh.io/monitored-by: osm}}}"
    world = (WORLD + FOREIGN).replace(
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm}}}",
        permissive.replace("NAME", "shop"),
    )
    sources = [RANGE, PRINCIPAL] if kind == "IngressBackend" else [RANGE]
    spec = {"backends": [backend(name="lure")], "sources": sources}
    objects = [
        *yaml.safe_load_all(world),
        {"apiVersion": GROUP, "kind": kind, "metadata": {"name": "i", "namespace": "shop"}, "spec": spec},
    ]
    built = build([RawObject(data, Where("i.yaml", n), {}) for n, data in enumerate(objects, 1)], node="n1")
    assert (built.snapshot.plain, built.snapshot.grants) == ((), ())
    (problem,) = [p for p in built.problems if p.object == f"{kind} shop/i"]
    assert problem.severity == "warning"
    assert "Service shop/lure has endpoints of namespace bank, which are left out" in problem.message


GROUPS = """
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: reads, namespace: shop}
spec: {matches: [{name: items, methods: [GET], pathRegex: "/items(/.*)?$"}]}
"""
READS = [{"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "reads"}]


def test_only_requests_that_its_matches_admit_come_in():
    built = made(RANGE, PRINCIPAL, world=WORLD + GROUPS, matches=READS)
    assert told(built) == []
    snapshot = built.snapshot
    web = snapshot.workload("shop/web-0")
    title = "IngressBackend shop/i"
    assert snapshot.plain_rule("192.0.2.1", web, 8080, Request("GET", "/items/3")) == title
    for request in (Request("POST", "/items"), Request("GET", "/admin"), None):
        assert snapshot.plain_rule("192.0.2.1", web, 8080, request) == ""
    assert snapshot.plain_rule("198.51.100.1", web, 8080, Request("GET", "/items")) == ""
    gate = Identity("edge", "gate")
    assert snapshot.authorize(gate, web, 8080, Request("GET", "/items")).allowed
    assert not snapshot.authorize(gate, web, 8080, Request("GET", "/admin")).allowed
    assert snapshot.plain_looks(web, 8080)
    assert not snapshot.plain_looks(web, 8081)


def test_a_match_that_is_gone_keeps_the_last_good_meaning():
    before = made(RANGE, world=WORLD + GROUPS, matches=READS)
    after = build([raw for key, raw in before.accepted.items() if "RouteGroup" not in key], before.accepted, node="n1")
    web = after.snapshot.workload("shop/web-0")
    assert after.snapshot.plain_rule("192.0.2.1", web, 8080, Request("GET", "/admin")) == ""


FRONT = {"kind": "Gateway", "name": "front"}


def test_callers_of_a_gateway_come_in_by_its_name_and_nobody_by_address():
    snapshot = made(FRONT).snapshot
    web = snapshot.workload("shop/web-0")
    assert snapshot.plain_rule("192.0.2.1", web, 8080) == ""
    assert snapshot.lets_in("192.0.2.1", web, 8080, gateway="shop/front") == Verdict(True, "IngressBackend shop/i")
    assert not snapshot.lets_in("192.0.2.1", web, 8080, gateway="shop/other").allowed
    assert not snapshot.lets_in("192.0.2.1", web, 8080).allowed
    elsewhere = made({**FRONT, "namespace": "edge"}).snapshot
    assert elsewhere.lets_in("192.0.2.1", web, 8080, gateway="edge/front").allowed
    assert not elsewhere.lets_in("192.0.2.1", web, 8080, gateway="shop/front").allowed


def test_a_gateway_and_matches():
    snapshot = made(FRONT, world=WORLD + GROUPS, matches=READS).snapshot
    web = snapshot.workload("shop/web-0")
    for request, allowed in ((Request("GET", "/items"), True), (Request("PUT", "/items"), False), (None, False)):
        assert snapshot.lets_in("192.0.2.1", web, 8080, request, gateway="shop/front").allowed is allowed


def test_a_name_in_a_certificate_counts_at_gateways_of_the_same_namespace():
    built = made({"kind": "AuthenticatedPrincipal", "name": "till.partner.example"})
    assert [severity for severity, _ in told(built)] == ["notice"]
    web = built.snapshot.workload("shop/web-0")
    names = ("spiffe://x/y", "till.partner.example")
    assert built.snapshot.lets_in("192.0.2.1", web, 8080, gateway="shop/front", names=names).allowed
    assert not built.snapshot.lets_in("192.0.2.1", web, 8080, gateway="evil/front", names=names).allowed
    assert not built.snapshot.lets_in("192.0.2.1", web, 8080, gateway="shop/front", names=("till",)).allowed
    assert built.snapshot.grants == ()


def test_https_asks_callers_of_a_gateway_for_a_certificate_too():
    built = made(FRONT, {"kind": "AuthenticatedPrincipal", "name": "till"}, backends=[backend(protocol="https")])
    web = built.snapshot.workload("shop/web-0")
    assert not built.snapshot.lets_in("192.0.2.1", web, 8080, gateway="shop/front").allowed
    assert built.snapshot.lets_in("192.0.2.1", web, 8080, gateway="shop/front", names=("till",)).allowed


def test_an_identity_of_the_mesh_comes_in_through_a_gateway_as_it_does_elsewhere():
    snapshot = made(PRINCIPAL).snapshot
    web = snapshot.workload("shop/web-0")
    gate = Identity("edge", "gate")
    assert snapshot.lets_in("192.0.2.1", web, 8080, identity=gate).allowed
    assert not snapshot.lets_in("192.0.2.1", web, 8080, identity=Identity("edge", "other")).allowed
    barred = structs.replace(snapshot, revoked=Revoked(identities=(gate,)))
    assert not barred.lets_in("192.0.2.1", web, 8080, identity=gate).allowed
