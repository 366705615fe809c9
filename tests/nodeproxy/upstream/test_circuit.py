"""circuit.py: closed, open, half open; the clock is a number here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.upstream.circuit import CircuitBreaker
from policy.upstream import Circuit


def breaker(least=1, window=60.0, rest=30.0, **said):
    return CircuitBreaker(Circuit(window, least, rest, **said), 0.0)


def send(circuit, now, failed=False, seconds=0.0):
    """One call, if it may be sent. Whether it was."""
    if not circuit.admits(now):
        return False
    circuit.ended(failed, seconds, circuit.half_open, now)
    return True


def sent(circuit, times, now, **more):
    return sum(send(circuit, now, **more) for _ in range(times))


def test_so_many_errors_open_it_once_enough_was_counted():
    circuit = breaker(least=200, errors=100)
    assert sent(circuit, 100, 0.0, failed=True) == 100
    assert sent(circuit, 99, 1.0) == 99
    assert circuit.state == "closed"
    assert send(circuit, 1.0)
    assert circuit.state == "open"
    assert not send(circuit, 1.0)


# As osm-edge's page of circuit breaking: 1000 requests of which each fifth fails, at most 200 a second
@pytest.mark.parametrize(
    ("said", "good", "bad"),
    [({"errors": 100}, 400, 100), ({"error_ratio": 0.1}, 160, 40), ({}, 800, 200), ({"error_ratio": 0.3}, 800, 200)],
)
def test_as_osm_edge_documents_it(said, good, bad):
    circuit = breaker(least=200, **said)
    found = {True: 0, False: 0}
    for number in range(1000):
        failed = number % 5 == 4
        if send(circuit, number / 200, failed):
            found[failed] += 1
    assert (found[False], found[True]) == (good, bad)
    assert sent(circuit, 1000, 20.0) == (1000 if (good, bad) == (800, 200) else 0)
    assert sent(circuit, 10, 65.0) == 10, "a minute later"


def test_slow_responses_open_it_by_number_and_by_share():
    circuit = breaker(least=4, slow=0.2, slow_amount=3)
    assert sent(circuit, 2, 0.0, seconds=0.3) == 2
    assert sent(circuit, 5, 0.0, seconds=0.2) == 5, "not slower than that"
    assert send(circuit, 0.0, seconds=0.21)
    assert circuit.state == "open"
    circuit = breaker(least=4, slow=0.2, slow_ratio=0.5)
    assert sent(circuit, 3, 0.0) == 3
    assert sent(circuit, 9, 0.0, seconds=1.0) == 3
    assert circuit.state == "open"


def test_what_was_counted_in_a_window_is_forgotten_after_it():
    circuit = breaker(errors=3, window=10.0)
    assert sent(circuit, 2, 0.0, failed=True) == 2
    assert sent(circuit, 2, 10.5, failed=True) == 2
    assert circuit.state == "closed"
    assert send(circuit, 11.0, failed=True)
    assert circuit.state == "open"


def test_after_its_rest_one_call_decides():
    circuit = breaker(errors=1, rest=30.0)
    assert send(circuit, 0.0, failed=True)
    assert sent(circuit, 5, 29.9) == 0
    assert circuit.admits(30.0)
    assert circuit.state == "half-open"
    assert not circuit.admits(30.0), "the others wait for its outcome"
    circuit.ended(True, 0.0, True, 31.0)
    assert circuit.state == "open"
    assert not circuit.admits(60.9)
    assert send(circuit, 61.0)
    assert circuit.state == "closed"
    assert sent(circuit, 5, 61.0) == 5


def test_a_slow_trial_opens_it_again():
    circuit = breaker(errors=1, slow=0.2)
    send(circuit, 0.0, failed=True)
    assert send(circuit, 30.0, seconds=0.3)
    assert circuit.state == "open"


def test_a_trial_whose_caller_left_lets_another_one_try():
    circuit = breaker(errors=1)
    send(circuit, 0.0, failed=True)
    assert circuit.admits(30.0)
    circuit.abandoned(True)
    assert send(circuit, 30.0)
    assert circuit.state == "closed"


def test_outcomes_of_calls_that_were_sent_before_it_opened_change_nothing():
    circuit = breaker(errors=1)
    assert circuit.admits(0.0) and circuit.admits(0.0)
    circuit.ended(True, 0.0, False, 0.0)
    circuit.ended(False, 0.0, False, 1.0)
    circuit.abandoned(False)
    assert circuit.state == "open"
    assert repr(circuit) == "<CircuitBreaker open: 1 errors and 0 slow of 1>"


def test_when_it_may_be_forgotten():
    circuit = breaker(errors=2, window=10.0, rest=5.0)
    assert circuit.is_idle(0.0)
    send(circuit, 0.0, failed=True)
    assert not circuit.is_idle(1.0)
    assert circuit.is_idle(11.0)
    sent(circuit, 2, 11.0, failed=True)
    assert circuit.state == "open"
    assert not circuit.is_idle(15.0)
    assert circuit.is_idle(16.0)


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=200))
def test_while_it_is_open_nothing_is_sent_and_it_never_stays_shut(steps):
    circuit, now, opened = breaker(errors=2, window=10.0, rest=5.0), 0.0, None
    for after, failed in steps:
        now += after
        went = send(circuit, now, failed)
        if opened is not None:
            assert went is (now >= opened + 5.0)
        if circuit.state != "open":
            opened = None
        elif opened is None or went:
            opened = now
