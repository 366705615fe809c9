"""pace.py: many requests at once, few over time, and a place in the row."""

from __future__ import annotations

import pytest
import trio

from agent.kubernetes.pace import Pace


async def test_so_many_at_once_and_then_so_many_a_second(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(5.0, 10)
    began = trio.current_time()
    for _ in range(30):
        await pace.admit()
    assert trio.current_time() - began == pytest.approx(4.0)
    assert pace.delayed == pytest.approx(4.0)
    assert pace.requests == 30
    await trio.sleep(100)
    began = trio.current_time()
    for _ in range(10):
        await pace.admit()
    assert trio.current_time() == began


async def test_who_comes_later_waits_longer(autojump_clock: trio.testing.MockClock) -> None:
    pace, admitted = Pace(2.0, 2), list[tuple[int, float]]()

    async def ask(number: int) -> None:
        await trio.sleep(number / 1000)
        await pace.admit()
        admitted.append((number, round(trio.current_time() - began)))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(ask, number)
    assert [number for number, _ in admitted] == list(range(6))
    assert admitted[-1][1] == 2


async def test_an_urgent_request_does_not_wait_and_counts(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(1.0, 5)
    for _ in range(10):
        await pace.admit()
    began = trio.current_time()
    for _ in range(3):
        await pace.admit(urgent=True)
    assert trio.current_time() == began
    await pace.admit()
    assert trio.current_time() - began == pytest.approx(4.0)
