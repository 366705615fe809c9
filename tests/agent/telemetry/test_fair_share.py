"""One caller's flood hides nothing of another's."""

from __future__ import annotations

import pytest

from agent.telemetry import fair_share
from agent.telemetry.fair_share import Shares


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_whoever_floods_takes_what_is_common_and_leaves_each_its_own() -> None:
    clock = Clock()
    made = Shares(10, 10, clock, each=(2, 3))
    assert sum(made.take("flood") for _ in range(100)) == 10 + 3
    assert sum(made.take("quiet") for _ in range(100)) == 3
    clock.now = 1.0
    assert sum(made.take("flood") for _ in range(100)) == 10 + 2
    assert sum(made.take("quiet") for _ in range(100)) == 2


def test_callers_are_bounded_and_one_in_debt_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_share, "CALLERS", 2)
    clock = Clock()
    made = Shares(0, 0, clock, each=(1, 2))
    assert made.take("a")
    assert made.take("b")
    assert not made.take("c"), "neither has its whole share"
    assert len(made._own) == 2
    clock.now = 10.0
    assert made.take("c")
    assert len(made._own) == 2
