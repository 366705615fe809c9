"""lifecycle.py: each step of one certificate's life, when it is renewed, and how long failures wait."""

from __future__ import annotations

import pytest

from agent.identity.node.lifecycle import Failed, Got, Lifecycle, Moved, Passed, Sooner, State, backoff, renewal, step

DAY = 86400.0
FRESH = step(Lifecycle(), Got(0.0, 14 * DAY, 0.0), 0.0)
NO = Failed("no", refused=True, chance=0.0, hint="ask")
GONE = Failed("gone", refused=False, chance=0.0)


@pytest.mark.parametrize(
    ("standing", "event", "now", "state"),
    [
        (Lifecycle(), Passed(), 5.0, State.WAITING),
        (Lifecycle(), GONE, 5.0, State.WAITING),
        (Lifecycle(), NO, 5.0, State.REFUSED),
        (Lifecycle(), Got(0.0, 10.0, 0.5), 5.0, State.FRESH),
        (Lifecycle(), Got(0.0, 10.0, 0.5), 10.0, State.EXPIRED),
        (FRESH, Passed(), 14 * DAY - 1, State.FRESH),
        (FRESH, Passed(), 14 * DAY, State.EXPIRED),
        (FRESH, GONE, 3 * DAY, State.STALE),
        (FRESH, NO, 3 * DAY, State.REFUSED),
        (FRESH, Sooner(5.0), 1.0, State.FRESH),
        (step(FRESH, GONE, 3 * DAY), Passed(), 14 * DAY, State.EXPIRED),
        (step(FRESH, NO, 3 * DAY), Passed(), 14 * DAY, State.EXPIRED),
        (step(FRESH, GONE, 3 * DAY), GONE, 15 * DAY, State.EXPIRED),
        (step(FRESH, Passed(), 14 * DAY), Got(14 * DAY, 28 * DAY, 0.0), 14 * DAY, State.FRESH),
        (step(FRESH, NO, 3 * DAY), GONE, 4 * DAY, State.STALE),
    ],
)
def test_steps(standing: Lifecycle, event: object, now: float, state: State) -> None:
    assert step(standing, event, now).state is state  # type: ignore[arg-type]


def test_a_failure_is_told_until_there_is_a_new_one() -> None:
    failed = step(step(FRESH, GONE, 1.0), NO, 2.0)
    assert (failed.failures, failed.error, failed.hint, failed.not_after) == (2, "no", "ask", 14 * DAY)
    again = step(failed, Got(0.0, 14 * DAY, 0.0), 3.0)
    assert (again.failures, again.error, again.hint) == (0, "", "")


@pytest.mark.parametrize(
    ("life", "chance", "after"),
    [
        (3600.0, 0.0, 1800.0),
        (3600.0, 1.0, 1620.0),
        (6 * DAY, 0.0, 3 * DAY),
        (14 * DAY, 0.0, 3 * DAY),
        (14 * DAY, 1.0, 2.7 * DAY),
        (365 * DAY, 0.0, 3 * DAY),
    ],
)
def test_renewal_is_at_half_life_or_after_three_days(life: float, chance: float, after: float) -> None:
    assert renewal(1000.0, 1000.0 + life, chance) == pytest.approx(1000.0 + after)


def test_a_certificate_that_ends_at_once_is_not_asked_for_without_pause() -> None:
    assert step(Lifecycle(), Got(0.0, 100.0, 0.0), 99.9).due == pytest.approx(100.9)


def test_back_off_doubles_to_its_cap() -> None:
    assert [backoff(n, False, 0.0) for n in (1, 2, 3, 8, 9, 10, 10_000)] == [1, 2, 4, 128, 256, 300, 300]
    assert [backoff(n, True, 0.0) for n in (1, 2, 3, 8, 9, 10_000)] == [5, 10, 20, 640, 900, 900]


@pytest.mark.parametrize("refused", [False, True])
def test_back_off_leaves_up_to_half_to_chance(refused: bool) -> None:
    for n in range(1, 30):
        whole, least = backoff(n, refused, 0.0), backoff(n, refused, 1.0)
        assert max(backoff(1, refused, 0.0), whole / 2) == least


def test_sooner_never_means_later() -> None:
    assert step(FRESH, Sooner(10.0), 100.0).due == 110.0
    assert step(FRESH, Sooner(10 * DAY), 100.0).due == FRESH.due


def test_a_clock_that_was_wrong_is_forgiven() -> None:
    """What was loaded, or failed, in a wrong year is due when it would have been."""
    loaded = step(Lifecycle(), Got(0.0, 14 * DAY, 0.0), 400 * DAY)
    assert (loaded.state, loaded.due) == (State.EXPIRED, 400 * DAY + 1)
    right = step(loaded, Moved(), 1 * DAY)
    assert (right.state, right.due) == (State.FRESH, 3 * DAY)
    assert step(loaded, Moved(), 20 * DAY).state is State.EXPIRED
    failed = step(step(FRESH, GONE, 400 * DAY), Moved(), 5 * DAY)
    assert (failed.state, failed.due) == (State.STALE, 5 * DAY + backoff(1, True, 0.0))
    often = FRESH
    for _ in range(40):
        often = step(often, NO, 400 * DAY)
    assert step(often, Moved(), 5 * DAY).due == 5 * DAY + 900
    assert step(Lifecycle(), Moved(), 5.0) == Lifecycle()
    hurried = step(FRESH, Sooner(60.0), 100.0)
    assert step(hurried, Moved(), 50.0) == hurried
