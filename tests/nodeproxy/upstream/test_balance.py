"""Load, failures and turns of endpoints."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.upstream.balance import FAILURES, FIRST_REST, LONGEST_REST, Breaker, Live, Turns
from policy.balancing import Balancing
from policy.candidates import Taker, preferred
from policy.model import Endpoint, Service, ServicePort
from policy.route import Backend

A, B, C = (Endpoint(f"10.0.0.{i}", 80) for i in (1, 2, 3))


def test_fewest_requests_in_flight_wins():
    live = Live(seed=1)
    live.began(A)
    live.began(A)
    live.began(B)
    assert {live.least_loaded([A, B, C], (), 0.0) for _ in range(20)} == {C}
    live.began(C)
    live.began(C)
    assert live.least_loaded([A, B, C], (), 0.0) == B
    live.ended(A)
    live.ended(A)
    assert live.in_flight == {B: 1, C: 2}
    assert live.least_loaded([A, B, C], (), 0.0) == A


def test_ties_go_by_chance():
    live = Live(seed=1)
    assert set(Counter(live.least_loaded([A, B, C], (), 0.0) for _ in range(100))) == {A, B, C}


def test_tried_endpoints_are_left_out():
    live = Live(seed=1)
    assert live.least_loaded([A, B], [A], 0.0) == B
    assert live.least_loaded([A, B], [A, B], 0.0) is None
    assert live.least_loaded([A], [A], 0.0) is None


def test_a_dead_endpoint_is_left_out_and_probed_back():
    live = Live(seed=1)
    for _ in range(FAILURES):
        live.failed(A, 100.0)
    assert repr(live.breakers[A]) == f"<Breaker tripped after {FAILURES} failures>"
    assert {live.least_loaded([A, B], (), 100.5) for _ in range(50)} == {B}
    later = 100.0 + FIRST_REST
    picks = Counter(live.least_loaded([A, B], (), later) for _ in range(50))
    assert picks[A] == 1, "one probe, not a stampede"
    live.connected(A)
    assert Counter(live.least_loaded([A, B], (), later) for _ in range(100))[A] > 20


def test_a_failed_probe_rests_longer_each_time_up_to_a_bound():
    breaker = Breaker()
    now = 0.0
    for _ in range(FAILURES):
        breaker.fail(now)
    rests = []
    for _ in range(10):
        rests.append(breaker.until - now)
        now = breaker.until
        assert not breaker.admits(now - 0.01)
        assert breaker.admits(now)
        breaker.probe_started(now)
        assert not breaker.admits(now), "the probe is out"
        breaker.fail(now)
    assert rests[:3] == [FIRST_REST, FIRST_REST * 2, FIRST_REST * 4]
    assert rests[-1] == LONGEST_REST


def test_when_all_are_dead_the_one_that_rested_longest_is_tried_all_the_same():
    live = Live(seed=1)
    for _ in range(FAILURES):
        live.failed(A, 1.0)
        live.failed(B, 2.0)
    assert live.least_loaded([A, B], (), 1.5) == A
    assert live.least_loaded([B], (), 1.5) == B


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any), st.integers())
def test_turns_are_exact_over_one_round(weights, seed):
    turns = Turns(tuple((str(i), weight) for i, weight in enumerate(weights)), Random(seed))
    for _ in range(2):
        picks = Counter(turns.next() for _ in range(sum(weights)))
        assert [picks[str(i)] for i in range(len(weights))] == weights


def test_long_rounds_are_exact_too():
    turns = Turns((("a", 1999), ("b", 1)), Random(1))
    assert Counter(turns.next() for _ in range(2000)) == {"a": 1999, "b": 1}


def test_a_caller_that_alternates_does_not_get_one_backend_for_each_of_its_requests():
    live = Live(seed=1)
    half = [Backend("a/x", 50), Backend("a/y", 50)]
    even = Counter()
    for number in range(400):
        backend = live.turn("c", "a/s", 80, False, half)
        if number % 2 == 0:
            even[backend] += 1
    assert even["a/x"] == pytest.approx(100, abs=30)


def test_turns_are_apart_for_callers_and_for_connections_and_requests():
    live = Live(seed=1)
    half = [Backend("a/x", 1), Backend("a/y", 1)]
    for caller, opaque in (("c", False), ("c", True), ("d", False)):
        for _ in range(5):
            first = live.turn(caller, "a/s", 80, opaque, half)
            live.turn("other", "a/s", 80, opaque, half)
            assert {first, live.turn(caller, "a/s", 80, opaque, half)} == {"a/x", "a/y"}


def test_weights_that_change_start_a_new_round():
    live = Live(seed=1)
    live.turn("c", "a/s", 80, False, [Backend("a/x", 1), Backend("a/y", 1)])
    assert [live.turn("c", "a/s", 80, False, [Backend("a/x", 0), Backend("a/y", 1)]) for _ in range(3)] == ["a/y"] * 3


def test_memory_is_bounded():
    live = Live()
    for i in range(5000):
        live.failed(Endpoint("10.0.0.1", i), 0.0)
    assert len(live.breakers) == pytest.approx(4096)


def sticky(*endpoints, timeout=60.0):
    port = ServicePort("", 80, "", "tcp", endpoints)
    service = Service("n", "s", (), (port,), affinity=timeout)
    return Taker(Backend("n/s", 1), service, port, endpoints)


def test_calls_of_one_caller_stay_at_one_endpoint():
    live = Live(seed=1)
    first = {caller: live.affine(caller, sticky(A, B), (), 0.0) for caller in map(str, range(50))}
    assert set(first.values()) == {A, B}
    for caller, endpoint in first.items():
        assert {live.affine(caller, sticky(A, B, C), (), now) for now in (50.0, 100.0)} == {endpoint}, "a third came"
    later = {caller: live.affine(caller, sticky(A, B, C), (), 161.0) for caller in first}
    assert C in later.values(), "the timeout was over"
    assert later == {caller: preferred(caller, (A, B, C))[0] for caller in first}


def test_a_caller_whose_endpoint_is_gone_or_down_gets_another_and_stays_there():
    live = Live(seed=1)
    one = live.affine("c", sticky(A, B), (), 0.0)
    (other,) = {A, B} - {one}
    assert live.affine("c", sticky(A, B), (one,), 0.0) == other
    assert live.affine("c", sticky(A, B), (), 1.0) == other
    assert live.affine("c", sticky(one), (), 2.0) == one
    for _ in range(FAILURES):
        live.failed(one, 3.0)
    assert live.affine("c", sticky(A, B), (), 3.0) == other
    assert live.affine("c", sticky(one), (), 3.0) == one, "none is better than one that failed"
    assert live.affine("c", sticky(A), (A,), 3.0) is None


def test_what_is_remembered_of_callers_is_bounded():
    live = Live(seed=1)
    for number in range(5000):
        live.affine(str(number), sticky(A, B), (), 0.0)
    assert len(live._affine) == 4096


# what a LoadBalancing says

FEWER, TURNS, HASH = (
    Balancing("b", "least-request"),
    Balancing("b", "round-robin"),
    Balancing("b", "maglev", header="x"),
)
ALL = pytest.mark.parametrize("how", [FEWER, TURNS, HASH, Balancing("b", "ring-hash", header="x")])


def of(*endpoints, name="s"):
    port = ServicePort("", 80, "", "tcp", endpoints)
    return Taker(Backend(f"n/{name}", 1), Service("n", name, (), (port,)), port, endpoints)


def test_of_two_the_one_with_less_under_way_and_never_the_busiest_of_all():
    live = Live(seed=1)
    for endpoint, count in ((A, 5), (B, 1)):
        for _ in range(count):
            live.began(endpoint)
    found = Counter(live.balanced("c", of(A, B, C), FEWER, None, (), 0.0) for _ in range(900))
    assert found[A] == 0, "whichever is beside it has less"
    assert found[B] == pytest.approx(300, abs=60), "only where C is not one of the two"
    assert found[C] == pytest.approx(600, abs=60)


def test_turns_are_in_order_and_each_callers_own():
    live = Live(seed=1)
    for caller in ("c", "d"):
        first = live.balanced(caller, of(A, B, C), TURNS, None, (), 0.0)
        live.balanced("another", of(A, B, C), TURNS, None, (), 0.0)
        live.balanced(caller, of(A, B, name="other"), TURNS, None, (), 0.0)
        later = [live.balanced(caller, of(A, B, C), TURNS, None, (), 0.0) for _ in range(5)]
        order = [A, B, C] * 3
        at = order.index(first)
        assert later == order[at + 1 : at + 6]
    starts = {live.balanced(str(number), of(A, B, C), TURNS, None, (), 0.0) for number in range(50)}
    assert starts == {A, B, C}, "many callers of one call each are spread"


def test_turns_of_one_that_is_down_are_shared_evenly():
    live = Live(seed=1)
    for _ in range(FAILURES):
        live.failed(C, 0.0)
    assert Counter(live.balanced("c", of(A, B, C), TURNS, None, (), 0.0) for _ in range(100)) == {A: 50, B: 50}


def test_turns_begin_anew_when_endpoints_change():
    live = Live(seed=1)
    live.balanced("c", of(A, B, C), TURNS, None, (), 0.0)
    found = Counter(live.balanced("c", of(A), TURNS, None, (), 0.0) for _ in range(3))
    assert found == {A: 3}


def test_one_key_leads_to_one_endpoint_for_every_caller_and_others_elsewhere():
    live, other = Live(seed=1), Live(seed=2)
    found = {}
    for number in range(60):
        key = b"%d" % number
        (found[key],) = {each.balanced(c, of(A, B, C), HASH, key, (), 0.0) for each in (live, other) for c in "cd"}
    assert set(found.values()) == {A, B, C}


def test_a_call_with_nothing_to_hash_goes_where_least_is_under_way():
    live = Live(seed=1)
    live.began(A)
    live.began(B)
    assert {live.balanced("c", of(A, B, C), HASH, None, (), 0.0) for _ in range(20)} == {C}


@ALL
def test_whatever_the_balancing_what_was_tried_is_left_out_and_what_is_down_comes_last(how):
    live = Live(seed=1)
    for _ in range(20):
        assert live.balanced("c", of(A, B), how, b"k", [A], 0.0) == B
        assert live.balanced("c", of(A, B), how, b"k", [A, B], 0.0) is None
    for _ in range(FAILURES):
        live.failed(A, 0.0)
    assert {live.balanced("c", of(A, B), how, b"k", (), 0.0) for _ in range(20)} == {B}
    for _ in range(FAILURES):
        live.failed(B, 0.5)
    assert live.balanced("c", of(A, B), how, b"k", (), 0.9) == A, "its rest ends first"
    assert live.balanced("c", of(A), how, b"k", (), 0.0) == A, "none is better than one that failed"


@ALL
def test_one_probe_at_a_time_tries_what_was_down(how):
    live = Live(seed=1)
    for _ in range(FAILURES):
        live.failed(A, 0.0)
    late = FIRST_REST + 0.1
    found = Counter(live.balanced("c", of(A, B), how, b"%d" % number, (), late) for number in range(50))
    assert found[A] == 1
    assert live.breakers[A].state == "probing"


def test_what_is_remembered_of_turns_is_bounded():
    live = Live(seed=1)
    for number in range(5000):
        live.balanced(str(number), of(A, B), TURNS, None, (), 0.0)
    assert len(live._rounds) == 4096
