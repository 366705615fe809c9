"""rates.py: so many at once, then so many a second, for each workload and port; the clock is a number here."""

import pytest

from nodeproxy.upstream import rates
from nodeproxy.upstream.rates import Rates
from policy.model import Endpoint, Request
from policy.route import HttpMatch, Regex
from policy.upstream import Rate, RequestRate, ServiceBounds

ONE, TWO = Endpoint("10.0.0.1", 80, "shop/one"), Endpoint("10.0.0.2", 80, "shop/two")


def every(most, each, **more):
    return RequestRate(Rate(most, each), **more)


def bounds(*rates, **more):
    return (ServiceBounds("u", request_rates=rates, **more),)


def passed(asked, endpoint, bounds, times, now, path="/"):
    return sum(asked.request(endpoint, bounds, Request("GET", path), now) is None for _ in range(times))


# what OSM's pages say of a rate, and how many of so many requests at once pass
@pytest.mark.parametrize(
    ("requests", "burst", "sent", "passes"), [(3, 0, 10, 3), (3, 10, 10, 10), (3, 10, 20, 13), (1, 10, 10, 10)]
)
def test_a_rate_as_osm_documents_it(requests, burst, sent, passes):
    of = bounds(every(requests + burst, requests / 60))
    assert passed(Rates(), ONE, of, sent, 0.0) == passes


def test_tokens_come_back_as_time_passes():
    asked, of = Rates(), bounds(every(3, 3 / 60))
    assert passed(asked, ONE, of, 10, 0.0) == 3
    assert passed(asked, ONE, of, 10, 19.9) == 0
    assert passed(asked, ONE, of, 10, 20.1) == 1
    assert passed(asked, ONE, of, 10, 1000.0) == 3


def test_workloads_and_ports_have_buckets_of_their_own_and_addresses_of_one_have_not():
    asked, of = Rates(), bounds(every(2, 0.01))
    assert passed(asked, ONE, of, 5, 0.0) == 2
    assert passed(asked, TWO, of, 5, 0.0) == 2
    assert passed(asked, Endpoint("10.0.0.1", 81, "shop/one"), of, 5, 0.0) == 2
    assert passed(asked, Endpoint("fd00::1", 80, "shop/one"), of, 5, 0.0) == 0


def test_a_request_that_one_rate_refuses_takes_of_no_other():
    asked = Rates()
    of = bounds(every(4, 0.01, name="all"), every(1, 0.01, name="a", match=HttpMatch("a", Regex("/a"))))
    assert passed(asked, ONE, of, 5, 0.0, "/a") == 1
    assert passed(asked, ONE, of, 5, 0.0, "/b") == 3


def test_the_rate_that_refuses_is_named():
    asked = Rates()
    of = bounds(every(9, 1, name="all"), every(1, 1, name="a", status=503, match=HttpMatch("a", Regex("/a"))))
    assert asked.request(ONE, of, Request("GET", "/a"), 0.0) is None
    found = asked.request(ONE, of, Request("GET", "/a"), 0.0)
    assert found is not None
    assert (found[0].name, found[1].name, found[1].status) == ("u", "a", 503)


def test_fields_are_matched():
    of = bounds(every(1, 0.01, match=HttpMatch("x", headers=(("x-who", Regex("^bot$")),))))
    asked = Rates()
    bot, other = (Request("GET", "/", [(b"x-who", who)]) for who in (b"bot", b"robot"))
    assert [asked.request(ONE, of, bot, 0.0) is None for _ in range(3)] == [True, False, False]
    assert all(asked.request(ONE, of, other, 0.0) is None for _ in range(3))


def test_connections_are_counted_apart():
    asked, of = Rates(), bounds(every(1, 0.01), connection_rate=Rate(2, 0.01))
    assert [asked.connection(ONE, of, 0.0) is None for _ in range(4)] == [True, True, False, False]
    assert passed(asked, ONE, of, 3, 0.0) == 1
    assert asked.connection(ONE, bounds(every(1, 1)), 0.0) is None


def test_an_edited_rate_begins_full():
    asked = Rates()
    assert passed(asked, ONE, bounds(every(2, 0.01)), 5, 0.0) == 2
    assert passed(asked, ONE, bounds(every(3, 0.01)), 5, 0.0) == 3


def test_they_are_bounded(monkeypatch):
    monkeypatch.setattr(rates, "_MOST", 4)
    asked, of = Rates(), bounds(every(2, 1))
    for number in range(100):
        passed(asked, Endpoint("10.0.0.1", 80, f"shop/{number}"), of, 2, float(number))
    assert repr(asked) == "<Rates of 4 buckets>" or repr(asked) in [f"<Rates of {n} buckets>" for n in (1, 2, 3)]


def test_a_path_that_may_be_read_in_two_ways_passes_no_rate_by():
    asked, of = Rates(), bounds(every(1, 0.01, match=HttpMatch("a", Regex("/reports/.*"))))
    plain, odd = Request("GET", "/reports/x"), Request("GET", "/reports%2Fx", (), ("/reports/x",))
    assert asked.request(ONE, of, odd, 0.0) is None
    assert asked.request(ONE, of, odd, 0.0) is not None
    assert asked.request(ONE, of, plain, 0.0) is not None


def test_many_paths_are_looked_up_at_once_and_those_of_older_bounds_are_forgotten(monkeypatch):
    monkeypatch.setattr(rates, "_MOST_MATCHERS", 2)
    asked = Rates()
    for number in range(9):
        of = bounds(every(1, 0.01, name="all"), every(1, 0.01, name="a", match=HttpMatch("a", Regex(f"/{number}$"))))
        endpoint = Endpoint("10.0.0.1", 80, f"shop/{number}")
        assert asked.request(endpoint, of, Request("GET", f"/{number}"), 0.0) is None
        found = asked.request(endpoint, of, Request("GET", f"/{number}"), 0.0)
        assert found is not None and found[1].name == "all"
        assert len(asked._matchers) <= 2
