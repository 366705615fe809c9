"""translate/upstream.py: UpstreamTrafficSetting, field by field, good and bad."""

import pytest
import yaml

from agent.sources.manifest import read
from policy.build import build
from policy.explain import explain, limiting
from policy.model import Endpoint, Request, Where
from policy.resources import RawObject
from policy.route import HttpMatch, Regex
from policy.upstream import Circuit, Rate, RequestRate, ServiceBounds

WORLD = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: away}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web}}, spec: {nodeName: n1, serviceAccountName: web, containers: [{ports: [{containerPort: 8080}]}]}, status: {podIP: 10.42.0.9}}
"""
GROUP = "policy.openservicemesh.io/v1alpha1"
TITLE = "UpstreamTrafficSetting shop/u"
HTTP = "rateLimit: {local: {http: {requests: 6, unit: minute, "


def made(*specs, api=GROUP, created=("2024", "2025"), more=()):
    objects = [*yaml.safe_load_all(WORLD), *more]
    for name, at, spec in zip("uvw", (*created, None), specs, strict=False):
        metadata = {"name": name, "namespace": "shop", "creationTimestamp": at}
        objects.append({"apiVersion": api, "kind": "UpstreamTrafficSetting", "metadata": metadata, "spec": spec})
    return build([RawObject(data, Where("u.yaml", n), {}) for n, data in enumerate(objects, 1)], node="n1")


def spec(text, host="web"):
    return yaml.safe_load(f"{{host: {host}, {text}}}")


def told(built):
    return [(p.severity, p.message) for p in built.problems if p.object.startswith("UpstreamTrafficSetting")]


def upstream(text, **more):
    built = made(spec(text, **more))
    assert told(built) == []
    return built.snapshot.service("shop/web").upstream


@pytest.mark.parametrize(
    "host", ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "WEB.shop.svc.cluster.local."]
)
@pytest.mark.parametrize("api", [GROUP, "policy.flomesh.io/v1alpha1"])
def test_hosts_that_mean_the_service(host, api):
    built = made(spec("rateLimit: {local: {tcp: {connections: 1, unit: second}}}", host), api=api)
    assert told(built) == []
    assert built.snapshot.service("shop/web").upstream == ServiceBounds(TITLE, Rate(1, 1))
    at_server = Endpoint("10.42.0.9", 8080, "shop/web-0")
    assert built.snapshot.bounds(at_server) == (ServiceBounds(TITLE, Rate(1, 1)),)
    assert built.snapshot.bounds(Endpoint("10.42.0.9", 8081, "shop/web-0")) == ()


@pytest.mark.parametrize("host", ["other.away.svc.cluster.local", "wep", "httpbin.org", "192.0.2.1"])
def test_other_hosts_bound_nothing_and_it_is_said(host):
    built = made(spec("rateLimit: {local: {tcp: {connections: 1, unit: second}}}", host))
    ((severity, message),) = told(built)
    assert (severity, message) == ("warning", f"host {host} is no Service of namespace shop: nothing is bounded")
    assert all(service.upstream is None for service in built.snapshot.services)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HTTP}}}}}}}", RequestRate(Rate(6, 0.1), name="rateLimit.local.http")),
        (f"{HTTP}burst: 4}}}}}}", RequestRate(Rate(10, 0.1), name="rateLimit.local.http")),
        (
            f"{HTTP}responseStatusCode: 503, responseHeadersToAdd: [{{name: Hello, value: world}}]}}}}}}",
            RequestRate(Rate(6, 0.1), None, 503, (("hello", "world"),), "rateLimit.local.http"),
        ),
        (
            "httpRoutes: [{path: /a}, {path: /b.*, rateLimit: {local: {requests: 1, unit: hour}}}]",
            RequestRate(Rate(1, 1 / 3600), HttpMatch("httpRoutes[1]", Regex("/b.*")), name="httpRoutes[1]"),
        ),
        (
            "httpHeaders: [{headers: [{name: X-A, value: b}, {name: c, value: d}], rateLimit: {local: {requests: 1, unit: second}}}]",
            RequestRate(
                Rate(1, 1),
                HttpMatch("httpHeaders[0]", headers=(("x-a", Regex("b")), ("c", Regex("d")))),
                name="httpHeaders[0]",
            ),
        ),
    ],
)
def test_rates_of_requests(text, expected):
    assert upstream(text) == ServiceBounds(TITLE, request_rates=(expected,))


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ("rateLimit: {local: {tcp: {connections: 0, unit: second}}}", "rateLimit.local.tcp.connections", ">= 1"),
        ("rateLimit: {local: {tcp: {connections: 1}}}", "rateLimit.local.tcp.unit", "missing"),
        ("rateLimit: {local: {tcp: {connections: 1, unit: day}}}", "rateLimit.local.tcp.unit", "no unit 'day'"),
        ("rateLimit: {local: {tcp: {connections: 1, unit: second, burst: -1}}}", "rateLimit.local.tcp.burst", ">= 0"),
        (f"{HTTP}burst: many}}}}}}", "rateLimit.local.http.burst", "whole number"),
        (
            f"{HTTP}responseStatusCode: 200}}}}}}",
            "rateLimit.local.http.responseStatusCode",
            "not the status of an error",
        ),
        (f"{HTTP}responseStatusCode: 600}}}}}}", "rateLimit.local.http.responseStatusCode", "<= 599"),
        (
            f"{HTTP}responseHeadersToAdd: [{{name: host, value: x}}]}}}}}}",
            "rateLimit.local.http.responseHeadersToAdd[0]",
            "not a filter's",
        ),
        (
            f'{HTTP}responseHeadersToAdd: [{{name: a, value: "x\\r\\ny"}}]}}}}}}',
            "rateLimit.local.http.responseHeadersToAdd[0]",
            "malformed",
        ),
        (f"{HTTP}requets: 1}}}}}}", "rateLimit.local.http.requets", "unknown field"),
        ("httpRoutes: [{path: (}]", "httpRoutes[0].path", "pattern"),
        ("httpRoutes: [{path: ''}]", "httpRoutes[0].path", "empty"),
        (
            "httpRoutes: [{path: /, rateLimit: {local: {requests: 1, unit: x}}}]",
            "httpRoutes[0].rateLimit.local.unit",
            "no unit",
        ),
        ("httpHeaders: [{headers: []}]", "httpHeaders[0].headers", "no headers"),
        ("httpHeaders: [{headers: [{name: a, value: (}]}]", "httpHeaders[0].headers[0].value", "pattern"),
        (
            "httpHeaders: [{headers: [{name: a, value: b}], rateLimit: {local: {requests: 1, unit: x}}}]",
            "httpHeaders[0].rateLimit.local.unit",
            "no unit",
        ),
        ("connectionSettings: {tcp: {maxConnections: 0}}", "connectionSettings.tcp.maxConnections", ">= 1"),
        ("connectionSettings: {tcp: {connectTimeout: 5}}", "connectionSettings.tcp.connectTimeout", "expected"),
        ("connectionSettings: {tcp: {connectTimeout: soon}}", "connectionSettings.tcp.connectTimeout", "no time"),
        ("connectionSettings: {tcp: {connectTimeout: 0s}}", "connectionSettings.tcp.connectTimeout", "no time"),
        ("connectionSettings: {tcp: {connectTimeout: 25h}}", "connectionSettings.tcp.connectTimeout", "no time"),
        ("connectionSettings: {http: {maxRequests: 0}}", "connectionSettings.http.maxRequests", ">= 1"),
        (
            "connectionSettings: {http: {maxRequestsPerConnection: 0}}",
            "connectionSettings.http.maxRequestsPerConnection",
            ">= 1",
        ),
        ("connectionSettings: {http: {maxPendingRequests: -1}}", "connectionSettings.http.maxPendingRequests", ">= 0"),
        ("connectionSettings: {http: {maxRetries: x}}", "connectionSettings.http.maxRetries", "expected"),
        (
            "connectionSettings: {http: {circuitBreaking: {degradedTimeWindow: 1m}}}",
            "connectionSettings.http.circuitBreaking.statTimeWindow",
            "missing",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_bounds_nothing(text, path, said):
    document = f"{{apiVersion: {GROUP}, kind: UpstreamTrafficSetting, metadata: {{name: u, namespace: shop}}, spec: {{host: web, {text}}}}}"
    built = build(read(f"{WORLD}---\n{document}".encode(), "u.yaml").objects, node="n1")
    (problem,) = [one for one in built.problems if one.object == TITLE]
    assert problem.severity == "error"
    assert problem.where.line == len(WORLD.splitlines()) + 2
    assert path in problem.message or said in problem.message
    assert said in problem.message
    assert built.snapshot.service("shop/web").upstream is None


CIRCUIT = "connectionSettings: {http: {circuitBreaking: {statTimeWindow: 1m, degradedTimeWindow: 30s, "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("errorRatioThreshold: 1.1", "<= 1"),
        ("errorAmountThreshold: 0", ">= 1"),
        ("slowAmountThreshold: 3", "nothing says which are slow"),
        ("slowTimeThreshold: 1x", "no time"),
        ("degradedStatusCode: 99", "not the status of a final response"),
        ("minRequestAmount: 0", ">= 1"),
        (f"degradedResponseContent: {'x' * 65537}", "more than 65536"),
    ],
)
def test_what_is_wrong_of_a_circuit(text, said):
    ((severity, message),) = told(made(spec(f"{CIRCUIT}{text}}}}}}}")))
    assert severity == "error"
    assert said in message


def test_two_for_one_service_the_older_one_is_in_force():
    one, two = spec(f"{HTTP}}}}}}}"), spec("rateLimit: {local: {tcp: {connections: 1, unit: second}}}")
    built = made(one, two)
    assert told(built) == [("warning", f"{TITLE} bounds web too, and is in force")]
    assert built.snapshot.service("shop/web").upstream.request_rates
    assert not made(one, two, created=("2025", "2024")).snapshot.service("shop/web").upstream.request_rates


def test_a_bad_edit_keeps_the_last_good_rate():
    good = made(spec(f"{HTTP}}}}}}}"))
    bad = [RawObject(raw.data, raw.where, raw.lines) for raw in good.accepted.values()]
    broken = {**bad[-1].data, "spec": spec("rateLimit: {local: {http: {requests: 0, unit: minute}}}")}
    built = build([*bad[:-1], RawObject(broken, Where("u.yaml", 9), {})], good.accepted, node="n1")
    assert built.snapshot.service("shop/web").upstream == good.snapshot.service("shop/web").upstream
    assert [one.severity for one in built.problems if one.object == TITLE] == ["error"]


def test_a_rate_limit_service_is_asked_by_nobody_and_it_is_said():
    built = made(spec("rateLimit: {global: {http: {}}}, httpRoutes: [{path: /, rateLimit: {global: {}}}]"))
    assert [severity for severity, _ in told(built)] == ["warning"] * 2


def test_explain_tells_it():
    tcp = "tcp: {connections: 9, unit: second}"
    built = made(spec(f"{HTTP}burst: 4}}, {tcp}}}}}"))
    snapshot = built.snapshot
    workload = snapshot.workload("shop/web-0")
    steps = explain(snapshot, workload, snapshot.service("shop/web"), 80, Request("GET", "/")).steps
    assert f"{TITLE}: requests 6 a minute, 10 at once, else 429" in steps
    assert f"{TITLE}: new connections 9 a second, 9 at once" in steps
    built = made(spec("httpRoutes: [{path: /b, rateLimit: {local: {requests: 1, unit: hour}}}]"))
    (said,) = limiting(built.snapshot.service("shop/web").upstream)
    assert said == f"{TITLE}: requests that httpRoutes[0] (/b) fits 1 an hour, 1 at once, else 429"


def test_circuits():
    built = made(
        spec(
            f"{CIRCUIT}minRequestAmount: 5, errorAmountThreshold: 3, errorRatioThreshold: 0.5, slowTimeThreshold: 200ms,"
            " slowAmountThreshold: 4, slowRatioThreshold: 1, degradedStatusCode: 520, degradedResponseContent: later}}}"
        )
    )
    expected = Circuit(60.0, 5, 30.0, 3, 0.5, 0.2, 4, 1.0, 520, "later")
    assert built.snapshot.service("shop/web").upstream.circuit == expected
    built = made(spec(f"{CIRCUIT}errorAmountThreshold: 1}}}}}}"))
    assert built.snapshot.service("shop/web").upstream.circuit == Circuit(60.0, 100, 30.0, 1)


def test_bounds_of_connections_and_requests():
    tcp = "tcp: {maxConnections: 1, connectTimeout: 250ms}"
    http = "http: {maxRequests: 2, maxPendingRequests: 0, maxRetries: 4, maxRequestsPerConnection: 5}"
    found = upstream(f"connectionSettings: {{{tcp}, {http}}}")
    assert found == ServiceBounds(TITLE, None, (), 1, 0.25, 2, 0, 4, 5)


def test_explain_tells_what_bounds_a_caller():
    circuit = (
        f"{CIRCUIT}errorRatioThreshold: 0.5, slowTimeThreshold: 200ms, slowAmountThreshold: 4}}, maxRequests: 3}}}}"
    )
    built = made(spec(circuit))
    snapshot = built.snapshot
    steps = explain(
        snapshot, snapshot.workload("shop/web-0"), snapshot.service("shop/web"), 80, Request("GET", "/")
    ).steps
    words = "the circuit opens for 30 s at 50% errors or 4 slower than 0.2 s, of 100 or more requests in 60 s, then 409"
    assert f"{TITLE}, for each caller: requests under way at most 3, {words}" in steps


def egress(*hosts, name="u", namespace="shop"):
    return {
        "apiVersion": GROUP,
        "kind": "Egress",
        "metadata": {"name": "out", "namespace": namespace},
        "spec": {
            "sources": [{"kind": "ServiceAccount", "name": "web", "namespace": "shop"}],
            "hosts": list(hosts),
            "ports": [{"number": 80, "protocol": "http"}],
            "matches": [{"apiGroup": GROUP, "kind": "UpstreamTrafficSetting", "name": name}],
        },
    }


NO_EGRESS = {
    "apiVersion": "config.openservicemesh.io/v1alpha2",
    "kind": "MeshConfig",
    "metadata": {"name": "osm-mesh-config", "namespace": "osm-system"},
    "spec": {"traffic": {"enableEgress": False}},
}


def test_what_an_egress_names_bounds_the_calls_that_it_lets_out():
    said = spec("connectionSettings: {tcp: {maxConnections: 1}}", "httpbin.org")
    built = made(said, more=(NO_EGRESS, egress("httpbin.org", "other.org")))
    assert told(built) == []
    assert built.snapshot.outside == {"Egress shop/out": ServiceBounds(TITLE, max_connections=1)}
    assert all(service.upstream is None for service in built.snapshot.services)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            egress("other.org"),
            "host httpbin.org is no host of Egress shop/out, which names this: nothing of it is bounded",
        ),
        (egress("httpbin.org", name="v"), "host httpbin.org is no Service of namespace shop: nothing is bounded"),
        (
            egress("httpbin.org", namespace="away"),
            "host httpbin.org is no Service of namespace shop: nothing is bounded",
        ),
    ],
)
def test_what_no_egress_names_so_bounds_nothing(more, words):
    built = made(spec("connectionSettings: {tcp: {maxConnections: 1}}", "httpbin.org"), more=(NO_EGRESS, more))
    assert told(built) == [("warning", words)]
    assert built.snapshot.outside == {}


def test_rates_of_what_leaves_the_mesh_are_held_by_nobody_and_it_is_said():
    built = made(spec(f"{HTTP}}}}}}}", "httpbin.org"), more=(NO_EGRESS, egress("httpbin.org")))
    assert told(built) == [("warning", "rates hold at a server's node: what leaves the mesh has none")]
