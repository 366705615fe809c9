"""explain.py: the rule that came closest, and what it lacked; through services and splits. test_authz.py holds it to authorize()."""

import pytest

from policy.explain import explain
from policy.model import Backend, Endpoint, Grant, HttpMatch, Identity, Mesh, Request, Service, ServicePort, Split, Workload
from policy.snapshot import Snapshot

WHO = Workload("front", "caller", "caller", ("10.0.1.1",))
OTHER = Identity("front", "other")
V1 = Workload("shop", "v1", "web", ("10.0.0.1",), (8080,))
V2 = Workload("shop", "v2", "web-2", ("10.0.0.2",), (8080,))
OUTSIDE = Workload("shop", "outside", "x", ("10.0.0.3",), enrolled=False)
E1, E2 = Endpoint("10.0.0.1", 8080, "shop/v1"), Endpoint("10.0.0.2", 8080, "shop/v2")
E3, E4 = Endpoint("10.0.0.3", 8080, "shop/outside"), Endpoint("10.0.0.4", 8080)
READ = (HttpMatch("read", "/items$", ("GET",), (("x-team", "^a$"),)), HttpMatch("ping", "/ping$"))


def grant(rule="TrafficTarget shop/t", source=WHO.identity, destination=V1.identity, **kinds):
    return Grant(rule, source, destination, **kinds)


def web(*endpoints, split=None, name="web", port=80):
    return Service("shop", name, ("10.9.0.1",), (ServicePort("http", port, "", "tcp", endpoints),), split)


def snapshot(*grants, services=(), **mesh):
    return Snapshot("n", Mesh(**mesh), (WHO, V1, V2, OUTSIDE), services, grants)


def get(path="/items", method="GET", **fields):
    return Request(method, path, [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()])


@pytest.mark.parametrize(
    ("request_", "lacked"),
    [
        (get("/items"), "match read of TrafficTarget shop/t wants header x-team to have '^a$', it is absent"),
        (get("/items", x_team="b"), "wants header x-team to have '^a$', it is 'b'"),
        (get("/items", "POST", x_team="b"), "wants method GET, this is POST; and header x-team to have '^a$', it is 'b'"),
        (get("/items", "POST", x_team="a"), "wants method GET, this is POST"),
        (get("/pong"), "wants a path that begins with '/ping$', this is '/pong'"),
        (None, "admits HTTP requests only"),
    ],
)
def test_the_match_that_came_closest_says_what_it_lacked(request_, lacked):
    told = explain(snapshot(grant(http=READ)), WHO, V1, 8080, request_)
    assert not told.allowed
    assert told.nearest == "TrafficTarget shop/t"
    assert lacked in told.lacked


def test_nearer_is_who_then_port_then_route():
    foreign = grant("TrafficTarget shop/foreign", OTHER, http=READ)
    far = grant("TrafficTarget shop/far", tcp=(1,), http=READ)
    near = grant("TrafficTarget shop/near", http=READ)
    for order in ((foreign, far, near), (near, far, foreign)):
        assert explain(snapshot(*order), WHO, V1, 8080, get("/x")).nearest == near.rule
    assert explain(snapshot(foreign, far), WHO, V1, 8080, get("/x")).lacked == "TrafficTarget shop/far lists TCP ports 1, not 8080"
    assert (
        explain(snapshot(foreign), WHO, V1, 8080, get("/x")).lacked
        == "TrafficTarget shop/foreign names source front/other, not front/caller"
    )
    assert explain(snapshot(), WHO, V1, 8080, get("/x")).lacked == "no TrafficTarget has shop/web as its destination"


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
    root = web(E1, split=Split("TrafficSplit shop/s", backends, (HttpMatch("beta", "/beta"),)))
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
        (web(E1, split=Split("s", (Backend("shop/one", 0),))), "all-weights-zero"),
        (web(E1, split=Split("s", (Backend("shop/gone", 1),))), "no-endpoint"),
    ],
)
def test_what_stands_in_the_way_before_any_rule(service, reason):
    told = explain(snapshot(grant(tcp=())), WHO, service, 80)
    assert (told.allowed, told.reason) == (False, reason)
    assert told.lacked


def test_what_is_not_in_the_mesh():
    assert explain(snapshot(), WHO, web(E3), 80).rule == "enableEgress"
    assert explain(snapshot(egress=False), WHO, web(E3), 80).reason == "not-enrolled"


def test_permissive_mode():
    assert explain(snapshot(permissive=True), WHO, V1, 8080).rule == "permissive mode"
    assert explain(snapshot(permissive=True), WHO, web(E4), 80).rule == "permissive mode"
