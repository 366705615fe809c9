"""Clock: steps both ways, the authority's time, and what cannot be in the future."""

from __future__ import annotations

import pytest

from agent.identity.node.clock import MADE, Clock
from agent.identity.node.clock import steady as boottime

TODAY = MADE + 100.5 * 86400.0
HOUR = 3600.0


class Times:
    """A clock on the wall that can be set, and one that cannot."""

    def __init__(self, wall: float = TODAY) -> None:
        self.set_to = wall
        self.passed = 0.0

    def wall(self) -> float:
        return self.set_to + self.passed

    def steady(self) -> float:
        return self.passed


def make(wall: float = TODAY) -> tuple[Times, Clock]:
    times = Times(wall)
    return times, Clock(300.0, times.wall, times.steady)


def messages(clock: Clock) -> list[str]:
    return [problem.message for problem in clock.problems()]


def test_time_that_passes_is_no_step() -> None:
    times, clock = make()
    times.passed += 12 * HOUR  # also while the box slept
    times.set_to += 4.9  # and a little was slewed
    assert clock.look() == 0
    assert (clock.problems(), clock.ahead, clock.wrong) == ([], None, False)


@pytest.mark.parametrize("by", [-3601.0, 3601.0, 5.1, -5.1])
def test_a_step_is_noticed_and_told_until_the_authority_agrees(by: float, caplog: pytest.LogCaptureFixture) -> None:
    times, clock = make()
    times.passed += 60
    times.set_to += by
    assert clock.look() == pytest.approx(by)
    assert clock.look() == 0
    assert f"stepped by {by:+.0f} s" in caplog.text
    (message,) = messages(clock)
    assert message.startswith(f"the clock stepped by {by:+.0f} s at 2026-04-11 ")
    assert message.endswith("certificates are believed with a tolerance of 300 s")
    clock.heard(times.wall())
    assert clock.problems() == []


@pytest.mark.parametrize("by", [-3601.0, 3601.0])
def test_a_step_does_not_change_what_time_it_is_once_the_authority_said_so(by: float) -> None:
    times, clock = make()
    clock.heard(TODAY)
    times.passed += 60
    times.set_to += by
    clock.look()
    assert clock.now() == pytest.approx(TODAY + 60)
    assert clock.ahead == pytest.approx(by)
    assert clock.earliest() == pytest.approx(TODAY + 60 + min(by, 0))
    assert clock.wrong is (by < 0)
    assert f"3601 s {'ahead of' if by > 0 else 'behind'} the authority's" in messages(clock)[0]
    times.set_to -= by
    clock.look()
    assert (clock.now(), clock.ahead) == (pytest.approx(TODAY + 60), pytest.approx(0))


def test_the_authority_s_clock_counts_when_ours_differs_by_more_than_half_the_tolerance() -> None:
    _, clock = make()
    clock.heard(TODAY - 149)
    assert (clock.now(), clock.ahead, clock.problems()) == (TODAY, 149, [])
    clock.heard(TODAY - 151)
    assert clock.now() == TODAY - 151
    assert messages(clock) == [
        "the clock is 151 s ahead of the authority's; certificates are believed with a tolerance of 300 s"
    ]
    clock.heard(TODAY + 151)
    assert "151 s behind the authority's" in messages(clock)[0]


def test_an_answer_that_took_long_was_given_halfway() -> None:
    times, clock = make()
    times.passed += 10
    clock.heard(TODAY + 5, took=10.0)
    assert clock.ahead == 0


def test_a_clock_of_1970_is_wrong_and_goes_on_from_what_cannot_be_in_the_future() -> None:
    times, clock = make(wall=10.0)
    assert clock.wrong
    assert clock.now() == MADE
    clock.at_least(TODAY, "the certificate of this node begins then")
    clock.at_least(TODAY - 5, "an older one")
    times.passed += 60
    assert clock.now() == TODAY + 60
    assert clock.earliest() == 70.0
    assert messages(clock) == [
        "the clock says 1970-01-01 00:01:10 UTC, but it is at least 2026-04-11 12:01:00 UTC, counted from 2026-04-11 12:00:00 UTC: "
        "the certificate of this node begins then"
    ]
    times.set_to = TODAY + HOUR  # set at last
    clock.look()
    assert not clock.wrong
    assert clock.now() == times.wall()


def test_a_clock_that_is_set_back_beyond_what_we_hold_goes_on_from_there() -> None:
    times, clock = make()
    clock.at_least(TODAY - HOUR, "the authority said so")
    assert clock.now() == TODAY
    times.set_to -= 10 * HOUR
    clock.look()
    assert (clock.now(), clock.wrong) == (TODAY - HOUR, True)


def test_the_authority_s_word_beats_what_we_took_for_the_past() -> None:
    """It, or we, were in a wrong year once."""
    _, clock = make()
    clock.at_least(TODAY + 1000 * HOUR, "the authority said so")
    assert clock.wrong
    clock.heard(TODAY)
    assert (clock.now(), clock.wrong, clock.problems()) == (TODAY, False, [])
    clock.at_least(TODAY + 1000 * HOUR, "a certificate")
    assert clock.now() == TODAY


def leading(wall: float = TODAY) -> tuple[Times, Clock]:
    times = Times(wall)
    return times, Clock(300.0, times.wall, times.steady, leads=True)


@pytest.mark.parametrize("by", [-3601.0, 3601.0, -400 * 24 * HOUR, 400 * 24 * HOUR])
def test_where_the_authority_is_a_step_is_the_time_of_the_mesh_at_once(by: float) -> None:
    times, clock = leading()
    clock.at_least(TODAY - HOUR, "the authority said so")
    clock.at_least(TODAY - 300 * 24 * HOUR, "its own certificate begins then", surely=True)
    clock.heard(clock.now())
    assert clock.ahead is None, "nobody else is asked"
    times.set_to += by
    assert clock.look()
    assert clock.now() == max(times.wall(), TODAY - 300 * 24 * HOUR, MADE)
    clock.heard(clock.now())
    assert not any("stepped" in message for message in messages(clock))


def test_where_the_authority_is_a_box_that_boots_in_the_past_goes_on_from_what_it_had() -> None:
    times, clock = leading(wall=10.0)
    clock.at_least(TODAY, "the authority said so")
    times.passed += HOUR
    clock.heard(clock.now())
    assert clock.now() == TODAY + HOUR
    times.set_to = TODAY + 20 * HOUR
    clock.look()
    assert clock.now() == times.wall()


def test_a_step_that_nobody_has_looked_at_yet_changes_nothing_either() -> None:
    times, clock = make()
    clock.heard(TODAY)
    times.set_to += 400 * 24 * HOUR
    assert clock.now() == TODAY


def test_a_year_that_nobody_can_write_is_still_told() -> None:
    _, clock = make()
    clock.at_least(1e18, "nonsense")
    assert "s since 1970: nonsense" in messages(clock)[0]


def test_the_steady_clock_goes_on() -> None:
    assert boottime() <= boottime()
