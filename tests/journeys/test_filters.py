"""Filters of a rule from caller to server: each request meets them, also where the native lane takes part."""

import msgspec
import pytest

from nodeproxy.protocols.http import filters
from nodeproxy.protocols.http.filters import FILTERS
from policy.route import Backend, Filter, Route, Rule


class Count(Filter, frozen=True):
    pass


class CountBlindly(Count, frozen=True):
    replayable = True


class Counting:
    def __init__(self):
        self.requests = self.responses = 0

    async def request(self, head):
        self.requests += 1
        head.set_field(b"x-count", b"%d" % self.requests)

    def response(self, head, response):
        self.responses += 1
        response.set_field(b"x-counted", b"%d" % self.responses)


@pytest.fixture
def counting(monkeypatch):
    counting = Counting()
    for config in (Count, CountBlindly):
        monkeypatch.setitem(FILTERS, config, lambda _: counting)
    filters._made.cache_clear()
    yield counting
    filters._made.cache_clear()


def publish(mesh, *configs):
    """The Route of bookstore-v1 has one rule, for every request, with these filters."""
    key = "bookstore/bookstore-v1"
    route = Route("a route", (Rule((Backend(key, 1),), filters=configs),))
    snapshot = mesh.built.snapshot
    services = tuple(
        msgspec.structs.replace(service, routes=(route,)) if service.key == key else service
        for service in snapshot.services
    )
    mesh.proxy.publish(msgspec.structs.replace(snapshot, services=services))


def served(mesh):
    return mesh.proxy.fast.stats().served


async def test_each_request_of_a_connection_meets_the_filters(mesh, counting):
    web = mesh.web("store-v1")
    publish(mesh, Count())
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for number in range(1, 21):
        answer = await buyer.get("/books")
        assert (answer.status, answer.headers["x-counted"]) == (200, str(number))
    assert [headers[b"x-count"] for _, _, _, headers, _ in web.requests] == [b"%d" % n for n in range(1, 21)]
    assert (await buyer.get("/admin")).status == 403
    assert counting.requests == 20, "what policy refuses meets none"
    other = await mesh.call("buyer", "bookstore-v1.bookstore")
    assert (await other.get("/books")).headers["x-counted"] == "21"


async def test_filters_that_come_after_the_lane_was_taught_are_met_by_the_next_request(mesh, counting):
    mesh.web("store-v1")
    publish(mesh)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(10):
        assert "x-counted" not in (await buyer.get("/books")).headers
    if mesh.proxy.fast.stats().compiled:
        assert served(mesh) >= 8, "the lane did not take part"
    publish(mesh, Count())
    for number in range(1, 4):
        assert (await buyer.get("/books")).headers["x-counted"] == str(number)


async def test_only_what_may_be_repeated_blindly_is_taught_to_the_lane(mesh, counting):
    mesh.web("store-v1")
    publish(mesh, CountBlindly())
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(20):
        assert (await buyer.get("/books")).status == 200
    if mesh.proxy.fast.stats().compiled:
        assert counting.requests < 5
    else:
        assert counting.requests == 20
    publish(mesh, CountBlindly(), Count())
    before = counting.requests
    for _ in range(10):
        assert (await buyer.get("/books")).status == 200
    assert counting.requests == before + 20
