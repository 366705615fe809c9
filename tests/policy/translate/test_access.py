"""translate/access.py: AccessControl lets addresses call in plain text where mTLS is not strict, and lets in no more than it says."""

import pytest
import yaml

from policy.build import build
from policy.model import PlainGrant, Where
from policy.resources import RawObject

WORLD = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop, annotations: {edgemesh.io/mtls: permissive}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{name: a, port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: named}, {name: u, port: 8080, targetPort: 53, protocol: UDP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: outer, namespace: lan}, spec: {ports: [{port: 1}, {port: 2}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: o, namespace: lan, labels: {kubernetes.io/service-name: outer}}, ports: [{port: 9}], endpoints: [{addresses: [192.0.2.1]}, {addresses: ["2001:DB8::1"]}, {addresses: [10.0.0.9]}]}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w1, namespace: shop}, spec: {labels: {app: web}, addresses: [10.0.0.1], ports: [{name: named, port: 9000}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w2, namespace: shop}, spec: {labels: {app: web}, addresses: [10.0.0.2], ports: [{name: named, port: 9001}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: scanner, namespace: lan}, spec: {addresses: [10.0.0.9, "fd00::9"]}}
"""
RANGE = {"kind": "IPRange", "name": "10.1.2.3/16"}
GROUP = "policy.openservicemesh.io/v1alpha1"


def made(*specs, world=WORLD, api=GROUP):
    objects = list(yaml.safe_load_all(world))
    objects += [
        {"apiVersion": api, "kind": "AccessControl", "metadata": {"name": f"a{n}", "namespace": "shop"}, "spec": spec}
        for n, spec in enumerate(specs)
    ]
    return build([RawObject(data, Where("a.yaml", n), {}) for n, data in enumerate(objects, 1)])


def backend(number, name="web", **more):
    return {"name": name, "port": {"number": number, "protocol": "http"}, **more}


def plain(built):
    return {(g.destination, g.ports): g.networks for g in built.snapshot.plain}


@pytest.mark.parametrize("api", [GROUP, "policy.flomesh.io/v1alpha1"])
def test_a_range_may_call_the_port_that_the_servers_listen_on(api):
    built = made({"backends": [backend(8080)], "sources": [RANGE]}, api=api)
    assert built.snapshot.plain == (
        PlainGrant("AccessControl shop/a0", "shop/w1", (8080,), ("10.1.0.0/16",)),
        PlainGrant("AccessControl shop/a0", "shop/w2", (8080,), ("10.1.0.0/16",)),
    )
    assert built.problems == ()
    web = built.snapshot.workload("shop/w1")
    assert built.snapshot.plain_rule("10.1.9.9", web, 8080) == "AccessControl shop/a0"
    assert not built.snapshot.plain_rule("10.1.9.9", web, 9000)
    assert not built.snapshot.plain_rule("10.2.0.1", web, 8080)


def test_a_named_target_port_is_each_servers_own():
    assert plain(made({"backends": [backend(9001)], "sources": [RANGE]})) == {("shop/w2", (9001,)): ("10.1.0.0/16",)}
    both = made({"backends": [backend(9001), backend(8080)], "sources": [RANGE]})
    assert plain(both) == {("shop/w1", (8080,)): ("10.1.0.0/16",), ("shop/w2", (8080, 9001)): ("10.1.0.0/16",)}


def test_the_services_own_port_is_understood_and_pointed_out():
    built = made({"backends": [backend(81)], "sources": [RANGE]})
    assert plain(built) == {("shop/w1", (9000,)): ("10.1.0.0/16",), ("shop/w2", (9001,)): ("10.1.0.0/16",)}
    (problem,) = built.problems
    assert problem.severity == "notice"
    assert "which is 9000, 9001" in problem.message


def test_a_service_as_source_is_the_addresses_of_its_endpoints():
    built = made({"backends": [backend(9000)], "sources": [{"kind": "Service", "namespace": "lan", "name": "outer"}]})
    assert plain(built) == {("shop/w1", (9000,)): ("10.0.0.9/32", "192.0.2.1/32", "2001:db8::1/128", "fd00::9/128")}
    assert built.problems == ()
    own = made({"backends": [backend(9000)], "sources": [{"kind": "Service", "name": "web"}]})
    assert plain(own) == {("shop/w1", (9000,)): ("10.0.0.1/32", "10.0.0.2/32")}, (
        "without a namespace: the AccessControl's own"
    )


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"backends": [backend(8080)], "sources": [{"kind": "Service", "name": "gone"}]},
            "there is no Service shop/gone",
        ),
        (
            {"backends": [backend(8080)], "sources": [{"kind": "AuthenticatedPrincipal", "name": "*"}]},
            "AuthenticatedPrincipal is left out",
        ),
        ({"backends": [backend(8080, "gone")], "sources": [RANGE]}, "there is no Service shop/gone"),
        ({"backends": [backend(7)], "sources": [RANGE]}, "no server of Service shop/web listens on 7"),
        ({"backends": [backend(53)], "sources": [RANGE]}, "no server of Service shop/web listens on 53"),
    ],
)
def test_what_lets_nobody_in_is_a_warning(spec, says):
    built = made(spec)
    assert built.snapshot.plain == ()
    (problem,) = built.problems
    assert problem.severity == "warning"
    assert says in problem.message


def test_another_kind_of_source_beside_a_range_is_left_out():
    built = made({"backends": [backend(9000)], "sources": [{"kind": "AuthenticatedPrincipal", "name": "x"}, RANGE]})
    assert plain(built) == {("shop/w1", (9000,)): ("10.1.0.0/16",)}
    assert [p.severity for p in built.problems] == ["warning"]


def test_tls_is_not_looked_at():
    (problem,) = made(
        {"backends": [backend(9000, tls={"skipClientCertValidation": True})], "sources": [RANGE]}
    ).problems
    assert (problem.severity, "tls is not looked at" in problem.message) == ("warning", True)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"backends": [], "sources": [RANGE]}, "no backends"),
        ({"backends": [backend(8080)]}, "no sources"),
        (
            {"backends": [backend(8080)], "sources": [{"kind": "IPRange", "name": "10.0.0.0/33"}]},
            "is not an address range",
        ),
        (
            {"backends": [backend(8080)], "sources": [RANGE], "matches": [{"kind": "HTTPRouteGroup", "name": "r"}]},
            "matches are not read",
        ),
        ({"backends": [backend(0)], "sources": [RANGE]}, "spec.backends[0].port.number"),
        ({"backend": []}, "unknown field spec.backend"),
    ],
)
def test_one_that_cannot_be_meant_is_not_in_force(spec, says):
    built = made(spec)
    assert built.snapshot.plain == ()
    (problem,) = built.problems
    assert (problem.severity, problem.object) == ("error", "AccessControl shop/a0")
    assert says in problem.message


def test_in_strict_mode_it_does_nothing_and_says_so():
    built = made({"backends": [backend(8080)], "sources": [RANGE]}, world=WORLD.replace("permissive", "strict"))
    assert built.snapshot.plain == ()
    (problem,) = built.problems
    assert problem.severity == "warning"
    assert "does nothing: namespace shop is in strict mode" in problem.message


def test_where_mtls_is_disabled_it_holds_too():
    assert plain(made({"backends": [backend(9000)], "sources": [RANGE]}, world=WORLD.replace("permissive", "disabled")))
