"""lacking.py, through explain(): the rule that came closest, and what it lacks."""

import pytest

from policy.explain import explain
from policy.model import Request
from policy.route import Exact, HttpMatch, Regex
from tests.policy.test_explain import OTHER, READ, V1, WHO, get, grant, snapshot


@pytest.mark.parametrize(
    ("request_", "lacked"),
    [
        (get("/items"), "match read of TrafficTarget shop/t wants header x-team to have '^a$', it is absent"),
        (get("/items", x_team="b"), "wants header x-team to have '^a$', it is 'b'"),
        (
            get("/items", "POST", x_team="b"),
            "wants method GET, this is POST; and header x-team to have '^a$', it is 'b'",
        ),
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
    assert (
        explain(snapshot(foreign, far), WHO, V1, 8080, get("/x")).lacked
        == "TrafficTarget shop/far lists TCP ports 1, not 8080"
    )
    assert (
        explain(snapshot(foreign), WHO, V1, 8080, get("/x")).lacked
        == "TrafficTarget shop/foreign names source front/other, not front/caller"
    )
    assert explain(snapshot(), WHO, V1, 8080, get("/x")).lacked == "no TrafficTarget has shop/web as its destination"


def test_what_a_match_lacks_is_told_as_it_is_written():
    wanted = HttpMatch("m", Exact("/a"), (), (("x", Exact("1")),), (("q", Regex("^2")),))
    told = explain(
        snapshot(grant(http=(wanted,))), WHO, V1, 8080, Request("GET", "/b", [(b"x", b"11")], target=b"/b?q=1")
    )
    lacked = (
        "wants the path '/a', this is '/b'; and header x to be '1', it is '11'; and parameter q to have '^2', it is '1'"
    )
    assert told.lacked == f"match m of {told.nearest} {lacked}"
