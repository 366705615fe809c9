"""candidates.py: which rule of a Route applies, and which backends can take a call."""

import pytest
from msgspec.structs import replace

from policy.candidates import Router, Taker, candidates, preferred
from policy.model import Endpoint, Request, Service, ServicePort
from policy.route import (
    Backend,
    Exact,
    Filter,
    HttpMatch,
    Prefix,
    Regex,
    Retry,
    Route,
    Rule,
    Signature,
    Timeouts,
    Verify,
)
from policy.snapshot import Snapshot

E1, E2 = Endpoint("10.0.0.1", 8080), Endpoint("10.0.0.2", 8080)


def service(name, *endpoints, port=80, transport="tcp", route=None):
    return Service("shop", name, (), (ServicePort("", port, "", transport, endpoints),), (route,) if route else ())


FULL, OTHER = service("full", E1), service("other", E2)
SERVICES = {
    one.key: one
    for one in (FULL, OTHER, service("bare"), service("elsewhere", E1, port=81), service("udp", E1, transport="udp"))
}


def asked(*weights, port=80, transport="tcp"):
    rule = Rule(tuple(Backend(f"shop/{name}", weight) for name, weight in weights))
    return candidates(SERVICES, FULL, Route("r", (rule,)), 0, port, transport)


def test_the_service_itself_takes_a_call_that_no_rule_fits():
    found = candidates(SERVICES, FULL, None, -1, 80, "tcp")
    assert found.takers == (Taker(Backend("shop/full", 1), FULL, FULL.ports[0], (E1,)),)
    assert (found.rule, found.idle, found.reason) == (None, (), "")
    assert candidates(SERVICES, FULL, None, -1, 81, "tcp").reason == "no-port"
    assert candidates(SERVICES, FULL, None, -1, 80, "udp").reason == "no-port"
    assert candidates(SERVICES, SERVICES["shop/bare"], None, -1, 80, "tcp").reason == "no-endpoint"


def test_each_that_cannot_take_it_is_named_with_what_it_lacks():
    found = asked(("full", 3), ("other", 0), ("gone", 1), ("elsewhere", 1), ("udp", 1), ("bare", 1))
    assert [taker.backend for taker in found.takers] == list(found.backends) == [Backend("shop/full", 3)]
    lacks = [(one.backend.service, one.lack, one.service and one.service.name) for one in found.idle]
    assert lacks == [
        ("shop/other", "weight", "other"),
        ("shop/gone", "no-service", None),
        ("shop/elsewhere", "no-port", "elsewhere"),
        ("shop/udp", "no-port", "udp"),
        ("shop/bare", "no-endpoint", "bare"),
    ]


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([("full", 0), ("gone", 0)], "all-weights-zero"),
        ([("full", 0), ("gone", 1)], "no-endpoint"),
        ([("elsewhere", 1), ("full", 0)], "no-port"),
        ([("elsewhere", 1), ("bare", 1)], "no-endpoint"),
        ([], "no-endpoint"),
    ],
)
def test_why_none_can(weights, reason):
    found = asked(*weights)
    assert (found.takers, found.backends, found.reason) == ((), (), reason)


# rules


def rule(name, *matches, **more):
    return Rule((Backend(f"shop/{name}", 1),), matches or None, **more)


BY_PATH = Route(
    "r",
    (
        rule("a", HttpMatch("exact", Exact("/a")), HttpMatch("query", query=(("beta", Exact("1")),))),
        rule("b", HttpMatch("below", Prefix("/a"), ("GET",))),
        rule("c", HttpMatch("regex", Regex("/[ab]"))),
    ),
)


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        (Request("GET", "/a"), 0),
        (Request("POST", "/b", target=b"/b?x=&beta=1"), 0),
        (Request("POST", "/z", target=b"/z?beta=11"), -1),
        (Request("GET", "/a/"), 1),
        (Request("GET", "/a/x"), 1),
        (Request("GET", "/ab"), 2),
        (Request("POST", "/a/x"), 2),
        (Request("GET", "/"), -1),
        (None, -1),
    ],
)
def test_the_first_rule_with_a_match_applies(request_, number):
    assert Router(BY_PATH).rule(request_) == number


def test_a_rule_without_matches_takes_the_rest_and_all_streams():
    router = Router(Route("r", (*BY_PATH.rules, rule("rest"), rule("never"))))
    assert [router.rule(request) for request in (Request("GET", "/a"), Request("GET", "/"), None)] == [0, 3, 3]
    assert not router.settled


def test_a_rule_with_no_match_in_its_list_fits_nothing():
    router = Router(Route("r", (Rule((Backend("shop/a", 1),), ()),)))
    assert [router.rule(request) for request in (Request("GET", "/"), None)] == [-1, -1]


class Blind(Filter, frozen=True):
    replayable = True


@pytest.mark.parametrize(
    ("rules", "settled"),
    [
        ((), True),
        ((rule("a"), rule("b", HttpMatch("m"))), True),
        ((rule("a", HttpMatch("m")), rule("b")), True),
        ((rule("a", HttpMatch("n", Exact("/")), HttpMatch("m")), rule("b")), True),
        ((rule("a", HttpMatch("m", methods=("GET",))), rule("b")), False),
        ((rule("a", HttpMatch("m", query=(("a", Exact("b")),))), rule("b")), False),
        ((Rule((Backend("shop/a", 1, filters=(Filter(),)),)),), False),
        ((Rule((), refuses="no-route"),), False),
        ((rule("a", filters=(Filter(),)),), False),
        ((rule("a", filters=(Blind(),)),), True),
        ((rule("a", filters=(Blind(), Filter())),), False),
        ((rule("a", timeouts=Timeouts(1.0)),), False),
        ((rule("a", retry=Retry(1)),), False),
    ],
)
def test_only_what_is_alike_for_every_request_may_be_repeated(rules, settled):
    routed = service("web", E1, route=Route("r", rules))
    assert Router(routed.routes[0]).settled == settled
    assert Snapshot("n", services=(routed,)).is_settled(routed, 80, "shop") == settled


def test_a_strict_backend_keeps_its_turns_and_a_backend_may_have_its_own_port_and_filters():
    blind = Filter()
    backends = (
        Backend("shop/elsewhere", 1, 81, (blind,), strict=True),
        Backend("shop/gone", 2, 80, strict=True),
        Backend("shop/bare", 0, strict=True),
        Backend("shop/gone", 5),
    )
    found = candidates(SERVICES, FULL, Route("r", (Rule(backends, filters=(blind,)),)), 0, 80, "tcp")
    assert [(one.backend.key, one.port.port, one.filters) for one in found.takers] == [
        ("shop/elsewhere", 81, (blind, blind))
    ]
    assert found.backends == backends[:2]
    assert [one.lack for one in found.idle] == ["no-service", "weight", "no-service"]
    assert (found.route.name, found.number) == ("r", 0)


def test_backends_of_one_service_are_told_apart():
    assert [Backend("shop/a", 1, number=number).key for number in (0, 1)] == ["shop/a", "shop/a#1"]


def test_a_snapshot_remembers_what_it_found_for_its_own_services():
    root = service("root", E1, route=Route("r", (rule("full", HttpMatch("a", Exact("/a"))), rule("other"))))
    snapshot = Snapshot("n", services=(root, FULL, OTHER))
    a, rest = (snapshot.candidates(root, 80, Request("GET", path)) for path in ("/a", "/b"))
    assert [taker.service for taker in (*a.takers, *rest.takers)] == [FULL, OTHER]
    assert snapshot.candidates(root, 80, Request("GET", "/a")) is a
    assert snapshot.candidates(root, 80) is rest, "a stream"
    like_it = service("root", E2)
    assert [taker.port.endpoints for taker in snapshot.candidates(like_it, 80).takers] == [(E2,)], (
        "no other Service gets that"
    )


def near(*endpoints):
    port = replace(FULL.ports[0], endpoints=(E1, E2), near=endpoints, nearness="internalTrafficPolicy Local of node n")
    return replace(FULL, ports=(port,))


def test_a_restriction_of_this_nodes_callers_is_part_of_the_decision():
    (taker,) = candidates(SERVICES, near(E2), None, -1, 80, "tcp").takers
    assert (taker.endpoints, taker.port.endpoints) == ((E2,), (E1, E2))
    found = candidates(SERVICES, near(), None, -1, 80, "tcp")
    assert (found.takers, found.reason, found.idle[0].lack) == ((), "no-endpoint", "no-near-endpoint")


def test_each_caller_has_an_order_of_its_own_that_changes_little():
    endpoints = [Endpoint(f"10.0.0.{n}", 80) for n in range(1, 11)]
    firsts = {f"n/c{n}": preferred(f"n/c{n}", endpoints)[0] for n in range(1000)}
    shares = [sum(first == one for first in firsts.values()) for one in endpoints]
    assert min(shares) > 60, shares
    assert max(shares) < 150, shares
    fewer = endpoints[1:]
    moved = [caller for caller, first in firsts.items() if preferred(caller, fewer)[0] != first]
    assert {firsts[caller] for caller in moved} == {endpoints[0]}, "only those of the one that went"
    assert preferred("n/c", endpoints) == preferred("n/c", reversed(endpoints))


def test_a_path_of_two_readings_evades_no_rule_that_keeps_requests_back():
    guard, every = Verify(Signature("shop/key", ())), HttpMatch("every")
    admin = HttpMatch("admin", Prefix("/admin"))
    target = (Backend("shop/full", 1),)
    hidden = Request("GET", "/admin%2Fx", (), ("/admin/x",))

    def evades(*rules, request=hidden, readings=None):
        router = Router(Route("r", rules))
        return router.evades(router.rule(request), readings or request.readings())

    plain, guarded = Rule(target, (every,)), Rule(target, (admin,), filters=(guard,))
    assert evades(guarded, plain)
    assert evades(Rule((replace(target[0], filters=(guard,)),), (admin,)), plain)
    assert evades(Rule((), (admin,), refuses="bad-route"), plain)
    assert evades(guarded)  # and no rule fits it whole
    assert not evades(guarded, Rule(target, (every,), filters=(guard,)))
    assert not evades(Rule(target, (admin,)), plain)
    assert not evades(guarded, plain, request=Request("GET", "/a%2Fb", (), ("/a/b",)))
    assert not evades(guarded, plain, readings=hidden.readings()[:1])  # of a server that takes %2F for no slash
