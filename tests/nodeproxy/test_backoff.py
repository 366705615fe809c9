"""Waits double, are bounded, and chance spreads them no further than was asked."""

from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.backoff import Backoff


def test_waits_double_up_to_the_longest():
    wait = Backoff(1.0, 300.0)
    assert [wait.after(n) for n in (1, 2, 3, 8, 9, 10, 10_000)] == [1, 2, 4, 128, 256, 300, 300]


def test_a_first_wait_that_is_longer_than_the_longest_is_cut():
    assert Backoff(5.0, 2.0).after(1) == 2


@given(st.integers(1, 10**9), st.floats(0, 1), st.floats(0.01, 60), st.floats(0.01, 600))
def test_chance_stays_between_both_factors(failures, chance, first, most):
    middle = Backoff(first, most).after(failures)
    wait = Backoff(first, most, 0.75, 1.25)
    assert 0.7499 * middle <= wait.after(failures, chance) <= 1.2501 * middle
    assert wait.after(failures, 0.0) == middle * 0.75
    assert wait.after(failures, 1.0) == middle * 1.25
    assert middle <= Backoff(first, most).after(failures + 1) <= most
