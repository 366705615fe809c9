"""Who comes in from outside: addresses at the cost of one lookup, requests, Gateways and certificates besides."""

from policy.doors import Came, Doors
from policy.model import PlainGrant, Request
from policy.route import Exact, HttpMatch

ITEMS = (HttpMatch("items", Exact("/items"), ("GET",)),)
GET = Request("GET", "/items")


def grant(rule="I shop/i", ports=(80,), networks=(), **more):
    return PlainGrant(rule, "shop/web", ports, networks, **more)


def test_a_grant_without_requests_comes_before_one_with():
    doors = Doors(
        (grant("a", networks=("10.0.0.0/8",), strict=True, http=ITEMS), grant("b", networks=("10.1.0.0/16",)))
    )
    assert doors.rule("10.1.0.1", "shop/web", 80, False, None) == "b"
    assert doors.rule("10.1.0.1", "shop/web", 80, True, None) == ""  # b does not hold in strict mode
    assert doors.rule("10.1.0.1", "shop/web", 80, True, GET) == "a"
    assert doors.rule("10.1.0.1", "shop/web", 81, True, GET) == ""
    assert doors.rule("192.0.2.1", "shop/web", 80, True, GET) == ""


def test_one_that_does_not_hold_in_strict_mode_admits_no_request_there_either():
    doors = Doors((grant(networks=("10.0.0.0/8",), http=ITEMS),))
    assert doors.rule("10.0.0.1", "shop/web", 80, False, GET)
    assert doors.rule("10.0.0.1", "shop/web", 80, True, GET) == ""


def test_both_readings_of_a_path_have_to_fit():
    doors = Doors((grant(networks=("10.0.0.0/8",), http=ITEMS),))
    assert doors.rule("10.0.0.1", "shop/web", 80, False, Request("GET", "/items", (), ("/items/x",))) == ""


def test_through_a_gateway_or_with_a_certificate_and_only_there():
    doors = Doors((grant(gateways=("edge/front",), principals=("till",)),))
    assert doors.through(Came("192.0.2.1", "edge/front"), "shop/web", 80, None)
    assert doors.through(Came("192.0.2.1", "shop/other", ("x", "till")), "shop/web", 80, None)
    assert doors.through(Came("192.0.2.1", "edge/other", ("till",)), "shop/web", 80, None) == ""
    assert doors.through(Came("192.0.2.1", "", ("till",)), "shop/web", 80, None) == ""
    assert doors.through(Came("192.0.2.1"), "shop/web", 80, None) == ""
    assert doors.rule("192.0.2.1", "shop/web", 80, True, None) == ""


def test_whether_requests_are_looked_at():
    assert Doors((grant(gateways=("edge/front",), http=ITEMS),)).looks_at_requests("shop/web", 80)
    assert not Doors((grant(gateways=("edge/front",)),)).looks_at_requests("shop/web", 80)
    assert not Doors((grant(networks=("10.0.0.0/8",)),)).looks_at_requests("shop/web", 80)
