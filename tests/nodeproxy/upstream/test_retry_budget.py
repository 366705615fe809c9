"""The bound on requests that are sent again at once, and on what is kept of their bodies."""

from __future__ import annotations

import pytest

from nodeproxy.upstream.retry_budget import BODIES, BODIES_OF_ONE, FLOOR, SHARE, RetryBudget


@pytest.mark.parametrize(("active", "retries"), [(1, FLOOR), (54, FLOOR), (55, 11), (100, 20), (104, 20), (105, 21)])
def test_a_share_of_the_requests_under_way_is_sent_again_at_once(active: int, retries: int) -> None:
    assert SHARE == 0.2
    budget = RetryBudget()
    for _ in range(active):
        budget.began("shop/store")
    taken = sum(budget.take("shop/store") for _ in range(active + FLOOR))
    assert taken == retries
    budget.give("shop/store")
    assert budget.take("shop/store")
    assert not budget.take("shop/store")


def test_each_service_has_its_own() -> None:
    budget = RetryBudget()
    for service in ("shop/a", "shop/b"):
        budget.began(service)
        assert [budget.take(service) for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]


def test_nothing_is_left_of_a_service_without_requests() -> None:
    budget = RetryBudget()
    for _ in range(2):
        budget.began("shop/a")
    budget.take("shop/a")
    budget.give("shop/a")
    budget.ended("shop/a")
    assert repr(budget) == "<RetryBudget of 1 Services, 0 bytes of bodies>"
    budget.ended("shop/a")
    assert repr(budget) == "<RetryBudget of 0 Services, 0 bytes of bodies>"


def test_bodies_are_bounded_for_one_workload_and_for_all() -> None:
    budget = RetryBudget()
    assert budget.hold("shop/greedy", BODIES_OF_ONE)
    assert not budget.hold("shop/greedy", 1)
    others = [f"shop/w{number}" for number in range(BODIES // BODIES_OF_ONE - 1)]
    assert all(budget.hold(other, BODIES_OF_ONE) for other in others)
    assert not budget.hold("shop/late", 1), "all of it is taken"
    budget.release("shop/greedy", 1)
    assert budget.hold("shop/late", 1)
    budget.release("shop/late", 1)
    for workload, size in (("shop/greedy", BODIES_OF_ONE - 1), *((other, BODIES_OF_ONE) for other in others)):
        budget.release(workload, size)
    assert repr(budget) == "<RetryBudget of 0 Services, 0 bytes of bodies>"


def test_times_by_chance_are_between_their_bounds() -> None:
    budget = RetryBudget(1)
    times = [budget.between(1.0, 2.0) for _ in range(100)]
    assert all(1.0 <= one <= 2.0 for one in times)
    assert len(set(times)) == 100
