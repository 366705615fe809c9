"""explain.py: the rule that came closest, and what it lacked; through services and splits. test_authz.py holds it to authorize()."""

import pytest

from policy.explain import explain
from policy.model import Endpoint, Grant, Identity, Mesh, Request, Service, ServicePort, Workload
from policy.route import Backend, HttpMatch, Regex, Route, Rule
from policy.snapshot import Snapshot

WHO = Workload("front", "caller", "caller", ("10.0.1.1",))
OTHER = Identity("front", "other")
V1 = Workload("shop", "v1", "web", ("10.0.0.1",), (8080,))
V2 = Workload("shop", "v2", "web-2", ("10.0.0.2",), (8080,))
OUTSIDE = Workload("shop", "outside", "x", ("10.0.0.3",), enrolled=False)
E1, E2 = Endpoint("10.0.0.1", 8080, "shop/v1"), Endpoint("10.0.0.2", 8080, "shop/v2")
E3, E4 = Endpoint("10.0.0.3", 8080, "shop/outside"), Endpoint("10.0.0.4", 8080)
READ = (HttpMatch("read", Regex("/items$"), ("GET",), (("x-team", Regex("^a$")),)), HttpMatch("ping", Regex("/ping$")))


def grant(rule="TrafficTarget shop/t", source=WHO.identity, destination=V1.identity, **kinds):
    return Grant(rule, source, destination, **kinds)


def web(*endpoints, route=None, name="web", port=80):
    return Service(
        "shop", name, ("10.9.0.1",), (ServicePort("http", port, "", "tcp", endpoints),), (route,) if route else ()
    )


def snapshot(*grants, services=(), **mesh):
    return Snapshot("n", Mesh(**mesh), (WHO, V1, V2, OUTSIDE), services, grants)


def get(path="/items", method="GET", **fields):
    return Request(method, path, [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()])


def test_datagrams():
    assert explain(snapshot(grant(udp=(53,))), WHO, V1, 53, udp=True).rule == "TrafficTarget shop/t"
    assert "lists UDP ports 53, not 54" in explain(snapshot(grant(udp=(53,))), WHO, V1, 54, udp=True).lacked
    assert "has no UDPRoute" in explain(snapshot(grant(tcp=())), WHO, V1, 53, udp=True).lacked


def test_a_service_is_explained_through_its_endpoints():
    told = explain(snapshot(grant(tcp=()), services=(web(E1),)), WHO, web(E1), 80)
    assert (told.allowed, told.endpoint, told.choices) == (True, "10.0.0.1:8080", ())
    assert told.steps[0] == "front/caller is identity front/caller"
    assert "service shop/web port 80 -> endpoint 10.0.0.1:8080" in told.steps


def test_endpoints_with_different_answers_are_all_shown_the_denied_one_first():
    told = explain(snapshot(grant(tcp=())), WHO, web(E1, E2), 80)
    assert not told.allowed
    assert told.endpoint == "10.0.0.2:8080"
    assert [choice.allowed for choice in told.choices] == [True, False]


def test_a_split_is_followed():
    backends = (Backend("shop/two", 3), Backend("shop/one", 0), Backend("shop/gone", 1))
    root = web(E1, route=Route("TrafficSplit shop/s", (Rule(backends, (HttpMatch("beta", Regex("/beta")),)),)))
    services = (root, web(E1, name="one"), web(E2, name="two"))
    given = snapshot(grant(tcp=()), services=services)
    told = explain(given, WHO, root, 80, get("/beta"))
    assert (told.allowed, told.endpoint) == (False, "10.0.0.2:8080")
    assert "TrafficSplit shop/s splits shop/web: shop/two 3, shop/one 0, shop/gone 1" in told.steps
    told = explain(given, WHO, root, 80, get("/stable"))
    assert (told.allowed, told.endpoint) == (True, "10.0.0.1:8080")
    assert "TrafficSplit shop/s does not apply: no match of it fits" in told.steps


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        (web(E1, port=81), "no-port"),
        (web(), "no-endpoint"),
        (web(E4), "unknown-workload"),
        (web(E1, route=Route("s", (Rule((Backend("shop/one", 0),)),))), "all-weights-zero"),
        (web(E1, route=Route("s", (Rule((Backend("shop/gone", 1),)),))), "no-endpoint"),
    ],
)
def test_what_stands_in_the_way_before_any_rule(service, reason):
    told = explain(snapshot(grant(tcp=())), WHO, service, 80)
    assert (told.allowed, told.reason) == (False, reason)
    assert told.lacked


def test_what_is_not_in_the_mesh():
    assert explain(snapshot(), WHO, web(E3), 80).rule == "enableEgress"
    assert explain(snapshot(egress=False), WHO, web(E3), 80).reason == "not-enrolled"


def test_an_endpoint_outside_the_mesh():
    beyond = Endpoint("192.0.2.7", 443, outside=True)
    told = explain(snapshot(), WHO, web(beyond), 80)
    assert (told.rule, "192.0.2.7:443 is outside the mesh: its EndpointSlice names no pod" in told.steps) == (
        "enableEgress",
        True,
    )
    denied = explain(snapshot(egress=False), WHO, web(beyond), 80)
    assert (denied.reason, denied.lacked) == (
        "outside", "the endpoint is outside the mesh, and traffic.enableEgress is false",
    )  # fmt: skip


def test_which_endpoints_callers_of_this_node_may_use_is_said():
    local = "internalTrafficPolicy Local of node n"
    port = ServicePort("", 80, "", "tcp", (E1, E2), None, (E2,), local)
    told = explain(snapshot(grant(tcp=())), WHO, Service("shop", "web", (), (port,), affinity=5.0), 80)
    assert told.endpoint == "10.0.0.2:8080"
    assert f"{local}: 1 of 2 endpoints of shop/web may take it" in told.steps
    assert "sessionAffinity ClientIP: calls of front/caller go to one endpoint of shop/web" in told.steps
    none = ServicePort("", 80, "", "tcp", (E1, E2), None, (), local)
    told = explain(snapshot(grant(tcp=())), WHO, Service("shop", "web", (), (none,)), 80)
    assert (told.reason, told.lacked) == (
        "no-endpoint", f"service shop/web has no endpoint for port 80 that may take it: {local}",
    )  # fmt: skip


def test_permissive_mode():
    assert explain(snapshot(permissive=True), WHO, V1, 8080).rule == "permissive mode"
    assert explain(snapshot(permissive=True), WHO, web(E4), 80).rule == "permissive mode"


def test_a_port_that_the_root_does_not_have_cannot_be_called_through_its_split():
    root = web(E1, route=Route("TrafficSplit shop/s", (Rule((Backend("shop/two", 1),)),)))
    told = explain(snapshot(grant(tcp=()), services=(root, web(E2, name="two", port=81))), WHO, root, 81)
    assert (told.allowed, told.reason, told.lacked) == (False, "no-port", "service shop/web has port 80, not 81")
