"""What all connections of one owner have together: the same in C and in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nodeproxy import native
from nodeproxy.h2.owner import PythonOwner

KINDS = [PythonOwner, *([native.Owner] if native.AVAILABLE else [])]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def made(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param  # type: ignore[no-any-return]


def test_streams_at_once(made: Callable[..., Any]) -> None:
    owner = made(2, 10, 1, 0.0)
    assert [owner.begin(), owner.begin(), owner.begin()] == [True, True, False]
    assert owner.streams == 2
    owner.end()
    assert owner.begin()
    owner.most = 1
    owner.end()
    assert not owner.begin(), "fewer may be, from now on"
    owner.end()
    owner.end()
    assert owner.streams == 0


def test_a_budget_that_is_spent_is_a_debt_which_time_pays(made: Callable[..., Any]) -> None:
    owner = made(2, 3, 2, 100.0)
    assert owner.debt(100.0) == 0
    assert [owner.spend(100.0) for _ in range(5)] == [True, True, True, False, False]
    assert owner.debt(100.0) == pytest.approx(1.0)
    assert owner.debt(100.5) == pytest.approx(0.5)
    assert owner.debt(101.0) == 0
    assert owner.spend(102.0)


def test_what_is_served_earns_and_never_beyond_the_burst(made: Callable[..., Any]) -> None:
    owner = made(2, 3, 1, 0.0)
    for _ in range(10):
        owner.earn()
    assert [owner.spend(0.0) for _ in range(4)] == [True, True, True, False]
    owner.earn()
    owner.earn()
    assert owner.spend(0.0)
