"""So many at once, so many a second: never more, whoever asks how often."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeproxy.token_bucket import TokenBucket

STEPS = st.lists(st.floats(0, 5), max_size=60)


def test_a_burst_and_then_the_rate():
    bucket = TokenBucket(3, 2, 0.0)
    assert [bucket.take(0.0) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(1.0) for _ in range(3)] == [True, True, False]
    assert not bucket.is_full(1.5)
    assert bucket.is_full(2.5)
    assert repr(bucket) == "<TokenBucket 3 of 3 left>"


def test_who_is_told_no_pays_nothing():
    bucket = TokenBucket(1, 1, 0.0)
    assert bucket.take(0.0)
    assert not any(bucket.take(0.5) for _ in range(1000))
    assert bucket.take(1.0)


@given(STEPS)
def test_no_more_is_taken_than_came(steps):
    bucket, now, taken = TokenBucket(4, 2, 0.0), 0.0, 0
    for step in steps:
        now += step
        taken += bucket.take(now)
    assert taken <= 4 + 2 * now + 1e-6


def test_what_is_charged_may_leave_a_debt_that_time_pays():
    bucket = TokenBucket(10, 5, 0.0)
    assert all(bucket.spend(1, 0.0) for _ in range(10))
    assert bucket.debt(0.0) == 0
    assert not bucket.spend(5, 0.0)
    assert bucket.debt(0.0) == pytest.approx(1.0)
    assert bucket.debt(0.5) == pytest.approx(0.5)
    assert bucket.debt(1.0) == 0
    assert not bucket.spend(1, 1.0)
    assert bucket.spend(1, 1.5)


def test_what_is_earned_counts_at_once_and_fills_no_bucket_twice():
    bucket = TokenBucket(2, 0, 0.0)
    bucket.earn(1)
    assert bucket.left == 2
    assert bucket.spend(2, 0.0)
    assert not bucket.spend(1, 0.0)
    bucket.earn(1)
    assert bucket.debt(0.0) == 0


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 3)), max_size=60))
def test_no_debt_is_paid_twice(steps):
    """What was charged without a debt is never more than twice the burst beyond the rate: the clock is looked at only when it is empty."""
    bucket, now, spent = TokenBucket(6, 2, 0.0), 0.0, 0
    for step, cost in steps:
        now += step
        if bucket.debt(now):
            continue
        spent += cost if bucket.spend(cost, now) else 0
    assert spent <= 12 + 2 * now + 1e-6
