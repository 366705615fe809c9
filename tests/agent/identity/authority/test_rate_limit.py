"""Failures are bounded for each source and for all together, and a minute later they are forgotten."""

from __future__ import annotations

import pytest

from agent.identity.authority import rate_limit
from agent.identity.authority.rate_limit import FailureLimit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_source_is_bounded_and_the_next_is_not() -> None:
    attempts = FailureLimit(3, 100, Clock())
    for _ in range(3):
        assert not attempts.too_many_of("192.0.2.1")
        attempts.failed("192.0.2.1")
    assert attempts.too_many_of("192.0.2.1")
    assert not attempts.too_many_of("192.0.2.2")
    assert not attempts.too_many()


def test_all_together_are_bounded() -> None:
    attempts = FailureLimit(3, 5, Clock())
    for number in range(5):
        assert not attempts.too_many()
        attempts.failed(f"192.0.2.{number}")
    assert attempts.too_many()


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),  # one holder has a whole /64
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),  # two holders of IPv4
        ("192.0.2.1", "192.0.2.2", False),
        ("a socket", "a socket", True),
    ],
)
def test_what_one_source_is(first: str, second: str, same: bool) -> None:
    attempts = FailureLimit(1, 100, Clock())
    attempts.failed(first)
    assert attempts.too_many_of(second) is same


def test_a_minute_later_they_are_forgotten() -> None:
    clock = Clock()
    attempts = FailureLimit(1, 1, clock)
    attempts.failed("192.0.2.1")
    clock.now += 59.9
    assert attempts.too_many() and attempts.too_many_of("192.0.2.1")
    clock.now += 0.1
    assert not attempts.too_many() and not attempts.too_many_of("192.0.2.1")


def test_a_flood_of_sources_takes_no_memory_and_is_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "_SOURCES", 8)
    attempts = FailureLimit(1, 20, Clock())
    for number in range(20):
        attempts.failed(f"192.0.2.{number}")
    assert len(attempts._sources) == 8
    assert attempts.too_many()
