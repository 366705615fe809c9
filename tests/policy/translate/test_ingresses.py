"""translate/ingresses.py: which Ingresses are ours, what becomes of each call, and which certificates are named."""

import pytest
import yaml

from policy.build import build
from policy.model import Request, Where
from policy.resources import RawObject

WORLD = """
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {clusterIP: 10.43.0.1, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b, namespace: shop}, spec: {clusterIP: 10.43.0.2, ports: [{name: web, port: 8080}, {name: x, port: 80, protocol: UDP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: other}, spec: {clusterIP: 10.43.0.3, ports: [{name: http, port: 80}]}}
"""


def path(where, name="a", port=80, kind="Prefix"):
    wanted = {"number": port} if isinstance(port, int) else {"name": port}
    said = {"pathType": kind, "backend": {"service": {"name": name, "port": wanted}}}
    return said | ({"path": where} if where is not None else {})


def rule(*paths, host=None):
    return {"http": {"paths": list(paths)}} | ({"host": host} if host else {})


def ingress(*rules, name="i", namespace="shop", age="2024-01-01T00:00:00Z", annotations=None, **spec):
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": age, "annotations": annotations or {}}
    spec = {"ingressClassName": "edgemesh", **spec, **({"rules": list(rules)} if rules else {})}
    spec = {key: value for key, value in spec.items() if value is not None}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}


def cls(name="edgemesh", controller="edgemesh.io/ingress-controller", default=False):
    notes = {"ingressclass.kubernetes.io/is-default-class": "true"} if default else {}
    metadata = {"name": name, "annotations": notes}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": metadata,
        "spec": {"controller": controller},
    }


def made(*objects):
    every = [*yaml.safe_load_all(WORLD), *objects]
    return build([RawObject(data, Where("i.yaml", n), {}) for n, data in enumerate(every, 1)], node="n1")


def told(built, name="shop/i"):
    return [(p.severity, p.message) for p in built.problems if p.object == f"Ingress {name}"]


def goes(built, host, path, port=80, sni=None):
    """To which backend a call goes; the flag of its refusal; "" if nothing fits."""
    request = Request("GET", path, [(b"host", host.encode())])
    for virtual in built.snapshot.virtual_hosts("192.0.2.1", port, host, sni):
        found = built.snapshot.candidates(virtual.service, port, request)
        if found.rule is not None:
            backends = [f"{one.service}:{one.port}" for one in found.rule.backends]
            return found.rule.refuses or " ".join(backends)
    return ""


A, B = "shop/a:80", "shop/b:8080"


def test_nothing_listens_without_an_ingress_of_ours():
    assert made().snapshot.listeners == ()
    assert made(ingress(rule(path("/")), ingressClassName="traefik")).snapshot.listeners == ()
    assert made(ingress(rule(path("/")), ingressClassName=None)).snapshot.listeners == ()
    built = made(ingress(rule(path("/"))))
    assert [(one.port, one.protocol, one.addresses) for one in built.snapshot.listeners] == [(80, "HTTP", ())]
    assert told(built) == []


@pytest.mark.parametrize(
    ("objects", "is_ours"),
    [
        ([ingress(rule(path("/")))], True),
        ([ingress(rule(path("/"))), cls(controller="someone.example/else")], False),
        ([ingress(rule(path("/"))), cls()], True),
        ([ingress(rule(path("/")), ingressClassName="edge"), cls("edge")], True),
        ([ingress(rule(path("/")), ingressClassName=None), cls()], False),
        ([ingress(rule(path("/")), ingressClassName=None), cls(default=True)], True),
        ([ingress(rule(path("/")), ingressClassName="traefik"), cls(default=True)], False),
        (
            [ingress(rule(path("/")), ingressClassName=None, annotations={"kubernetes.io/ingress.class": "edgemesh"})],
            True,
        ),
        (
            [
                ingress(rule(path("/")), ingressClassName=None, annotations={"kubernetes.io/ingress.class": "nginx"}),
                cls(default=True),
            ],
            False,
        ),
    ],
)
def test_which_ingresses_are_ours(objects, is_ours):
    assert bool(made(*objects).snapshot.listeners) is is_ours


# the table of Kubernetes' documentation of Ingress, section "Examples" of path types
@pytest.mark.parametrize(
    ("kind", "said", "asked", "fits"),
    [
        ("Prefix", "/", "/anything", True),
        ("Exact", "/foo", "/foo", True),
        ("Exact", "/foo", "/bar", False),
        ("Exact", "/foo", "/foo/", False),
        ("Exact", "/foo/", "/foo", False),
        ("Prefix", "/foo", "/foo", True),
        ("Prefix", "/foo", "/foo/", True),
        ("Prefix", "/foo/", "/foo", True),
        ("Prefix", "/foo/", "/foo/", True),
        ("Prefix", "/aaa/bb", "/aaa/bbb", False),
        ("Prefix", "/aaa/bbb", "/aaa/bbb", True),
        ("Prefix", "/aaa/bbb/", "/aaa/bbb", True),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/", True),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/ccc", True),
        ("Prefix", "/aaa/bbb", "/aaa/bbbxyz", False),
        ("ImplementationSpecific", "/foo", "/foo/x", True),
        ("ImplementationSpecific", None, "/x", True),
    ],
)
def test_path_types(kind, said, asked, fits):
    assert goes(made(ingress(rule(path(said, kind=kind)))), "any.example", asked) == (A if fits else "")


def test_the_longest_path_decides_and_of_two_alike_the_exact_one():
    rules = (rule(path("/"), path("/x", "b", 8080), path("/x/y"), path("/x", kind="Exact")),)
    built = made(ingress(*rules))
    assert [goes(built, "h", one) for one in ("/q", "/x", "/x/z", "/x/y/z")] == [A, A, B, A]


def test_hosts_exact_before_wildcard_before_every():
    built = made(
        ingress(
            rule(path("/all")),
            rule(path("/", "b", 8080), host="*.shop.example"),
            rule(path("/here"), host="WWW.shop.example"),
            defaultBackend=None,
        )
    )
    assert goes(built, "www.shop.example", "/here") == A
    assert goes(built, "www.shop.example:8080", "/other") == B  # no path of its host fits: then the wildcard's
    assert goes(built, "api.shop.example", "/here") == B
    assert goes(built, "a.api.shop.example", "/here") == ""  # a wildcard is one label
    assert goes(built, "a.api.shop.example", "/all") == A
    assert goes(built, "shop.example", "/here") == ""


def test_a_default_backend_takes_what_no_rule_fits():
    default = {"service": {"name": "b", "port": {"name": "web"}}}
    built = made(ingress(rule(path("/a"), host="a.example"), {"host": "b.example"}, defaultBackend=default))
    assert [goes(built, "a.example", "/a"), goes(built, "a.example", "/b"), goes(built, "b.example", "/")] == [A, B, B]
    assert goes(made(ingress(defaultBackend=default)), "any", "/") == B


def test_a_rule_for_every_path_of_every_host_comes_before_a_default_backend():
    default = {"service": {"name": "b", "port": {"number": 8080}}}
    assert goes(made(ingress(rule(path("/")), defaultBackend=default)), "h", "/") == A


def test_several_ingresses_for_one_host_are_merged_and_the_older_one_is_first():
    one = ingress(rule(path("/"), path("/same"), host="h"), name="new", age="2025-01-01T00:00:00Z")
    two = ingress(rule(path("/b", "b", 8080), path("/same", "b", 8080), host="h"), name="old")
    built = made(one, two)
    assert [goes(built, "h", where) for where in ("/", "/b", "/same")] == [A, B, B]


def test_two_default_backends():
    default = {"service": {"name": "a", "port": {"number": 80}}}
    built = made(ingress(defaultBackend=default), ingress(defaultBackend=default, name="n", age="2025-01-01T00:00:00Z"))
    assert told(built) == []
    assert [message for _, message in told(built, "shop/n")] == [
        "Ingress shop/i is older, and has the default backend for all calls"
    ]


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ({"service": {"name": "gone", "port": {"number": 80}}}, "there is no Service shop/gone"),
        ({"service": {"name": "a", "port": {"number": 81}}}, "Service shop/a has no port 81"),
        ({"service": {"name": "b", "port": {"name": "x"}}}, "Service shop/b has no port x"),
        ({"service": {"name": "b", "port": {"number": 80}}}, "Service shop/b has no port 80"),
        ({"service": {"name": "a"}}, "Service shop/a has no port"),
        ({"resource": {"kind": "Bucket", "name": "x"}}, "its backend is no Service"),
    ],
)
def test_a_backend_that_cannot_be_refuses_its_calls_and_no_others(backend, why):
    rules = rule({"path": "/x", "pathType": "Prefix", "backend": backend}, path("/"))
    built = made(ingress(rules))
    ((severity, message),) = told(built)
    assert (severity, why in message) == ("warning", True)
    assert [goes(built, "h", "/x"), goes(built, "h", "/y")] == ["bad-route", A]


def test_a_backend_is_of_the_ingresss_own_namespace():
    assert goes(made(ingress(rule(path("/")), namespace="other")), "h", "/") == "other/a:80"


@pytest.mark.parametrize(("said", "kind"), [("x", "Prefix"), (None, "Exact"), ("", "Prefix")])
def test_a_path_that_means_nothing_is_an_error(said, kind):
    built = made(ingress(rule(path(said, kind=kind))))
    assert [severity for severity, _ in told(built)] == ["error"]
    assert built.snapshot.listeners == ()


# TLS


def test_port_443_is_open_for_hosts_with_a_certificate():
    tls = [{"hosts": ["A.example", "*.b.example"], "secretName": "one"}, {"secretName": "every"}]
    rules = rule(path("/"), host="a.example"), rule(path("/", "b", 8080), host="x.b.example")
    built = made(ingress(*rules, tls=tls))
    secure = {one.hostname: one for one in built.snapshot.listeners if one.port == 443}
    assert {host: one.certificates for host, one in secure.items()} == {
        "a.example": ("shop/one",),
        "*.b.example": ("shop/one",),
        "": ("shop/every",),
    }
    assert {one.protocol for one in secure.values()} == {"HTTPS"}
    assert goes(built, "a.example", "/", 443, "a.example") == A
    assert goes(built, "x.b.example", "/", 443, "x.b.example") == B
    assert goes(built, "a.example", "/", 443, "x.b.example") == ""  # another listener's host
    assert goes(built, "a.example", "/") == A  # and in plain text on port 80


def test_two_namespaces_with_one_host_have_both_certificates_named():
    built = made(
        ingress(rule(path("/a"), host="h"), tls=[{"hosts": ["h"], "secretName": "s"}]),
        ingress(
            rule(path("/b"), host="h"),
            tls=[{"hosts": ["h"], "secretName": "t"}],
            namespace="other",
            age="2025-01-01T00:00:00Z",
        ),
    )
    assert built.snapshot.listeners[-1].certificates == ("shop/s", "other/t")


def test_tls_without_a_secret_opens_nothing():
    built = made(ingress(rule(path("/"), host="h"), tls=[{"hosts": ["h"]}]))
    assert [one.port for one in built.snapshot.listeners] == [80]
    assert [severity for severity, _ in told(built)] == ["warning"]


# who comes in

MEMBERS = """
{apiVersion: v1, kind: Service, metadata: {name: w, namespace: shop}, spec: {selector: {app: w}, ports: [{name: http, port: 80}]}}
---
{apiVersion: edgemesh.io/v1alpha1, kind: Workload, metadata: {name: w, namespace: shop}, spec: {serviceAccount: w, labels: {app: w}, addresses: [10.1.0.9], netns: w}}
---
{apiVersion: policy.openservicemesh.io/v1alpha1, kind: IngressBackend, metadata: {name: w, namespace: shop}, spec: {backends: [{name: w, port: {number: 80, protocol: http}}], sources: [{kind: IngressClass, name: edgemesh}]}}
"""


def test_a_server_of_the_mesh_admits_callers_of_ingresses_by_name_of_the_class():
    built = made(*yaml.safe_load_all(MEMBERS), ingress(rule(path("/", "w"))))
    snapshot = built.snapshot
    (virtual,) = snapshot.virtual_hosts("192.0.2.1", 80, "h")
    via = snapshot.gateway_of(virtual.service.key)
    member = snapshot.workload("shop/w")
    assert snapshot.lets_in("192.0.2.9", member, 80, gateway=via).allowed
    assert not snapshot.lets_in("192.0.2.9", member, 80, gateway="shop/front").allowed
    assert not snapshot.lets_in("192.0.2.9", member, 80).allowed
    without = made(*list(yaml.safe_load_all(MEMBERS))[:2], ingress(rule(path("/", "w")))).snapshot
    assert not without.lets_in("192.0.2.9", without.workload("shop/w"), 80, gateway=via).allowed


def test_the_state_of_an_ingress_is_where_it_is_reached():
    node = {
        "apiVersion": "edgemesh.io/v1alpha1",
        "kind": "MeshNode",
        "metadata": {"name": "n1"},
        "spec": {"addresses": ["192.0.2.1"]},
    }
    built = made(node, ingress(rule(path("/"))), ingress(rule(path("/")), name="t", ingressClassName="traefik"))
    assert [(one.title, one.addresses) for one in built.snapshot.gateways.states] == [
        ("Ingress shop/i", ("192.0.2.1",))
    ]
