"""What time it is, as well as a node can know: its own clock, the steps that it makes, and what the authority's clock says.

Theory of operation. Boxes at the edge start with a clock of 1970, or of the day their image was made, and are set later by hours
or years. Certificates have dates, so a wrong clock must not become an outage. `look` compares the system's clock with one that
nobody sets: a difference is a step. `heard` compares it with the authority's, whose dates our certificates bear. `now` is the best
that follows: the authority's time carried on; without it our own, but never earlier than what cannot be in the future.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from policy.model import Problem, Where

log = logging.getLogger("edgemesh.clock")

MADE = 1767225600.0  # 2026-01-01: no clock that is right says less
_STEP = 5.0  # seconds; NTP slews what is less than a tenth of one, and a busy box may be late by a second
_OBJECT = "clock"


def steady() -> float:
    """Seconds that nobody sets, and that go on while the box sleeps (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """One node's idea of the time. `tolerance`: seconds that certificates are believed before and after their dates."""

    def __init__(self, tolerance: float, wall: Callable[[], float] = time.time, steady: Callable[[], float] = steady) -> None:
        self.wall = wall
        self.steady = steady
        self.tolerance = tolerance
        self.ahead: float | None = None  # our clock minus the authority's; None when that is not known
        self._correction = 0.0  # added to our clock by `now`
        self._floor, self._floor_is = 0.0, ""
        self._stepped: tuple[float, float] | None = None  # the last step that the authority's clock has not confirmed: by, at
        self._last = (wall(), steady())
        self.at_least(MADE, "this version of edgemesh was made after that")

    def __repr__(self) -> str:
        return f"<Clock {_date(self.wall())}, ahead {self.ahead}>"

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.wall() + self._correction

    def earliest(self) -> float:
        """The earlier of our clock and `now`: only what has ended by both has ended."""
        return self.wall() + min(0.0, self._correction)

    def look(self) -> float:
        """By how much the clock was set since the last look; 0 when it was not."""
        wall, steady = self.wall(), self.steady()
        by = (wall - self._last[0]) - (steady - self._last[1])
        self._last = (wall, steady)
        if abs(by) <= _STEP:
            return 0.0
        log.warning("the clock stepped by %+.0f s and now says %s", by, _date(wall))
        self._stepped = (by, wall)
        if self.ahead is not None:
            self.ahead += by
            self._correction -= by  # what time it is did not change
        else:
            self._correction = max(0.0, self._floor - wall)
        return by

    def heard(self, authority: float, took: float = 0.0) -> None:
        """The authority's clock, in an answer that took so many seconds: it said so about halfway."""
        self.look()
        self.ahead = self.wall() - took / 2 - authority
        near = abs(self.ahead) <= self.tolerance / 2
        self._correction = 0.0 if near else -self.ahead
        self._stepped = None  # if it made the clock wrong, `ahead` says so

    def at_least(self, moment: float, why: str) -> None:
        """It is later than this. Counts for nothing once the authority's clock is known."""
        if self.ahead is None and moment >= self._floor:
            self._floor, self._floor_is = moment, why
            self._correction = max(self._correction, moment - self.wall(), 0.0)

    @property
    def wrong(self) -> bool:
        """Our clock is behind by so much that certificates of today look as if they were not valid yet."""
        return self._correction > self.tolerance

    def problems(self) -> list[Problem]:
        """What people should do about the clock."""
        found = []
        if self.ahead is None and self.wrong:
            found.append(
                _problem(
                    f"the clock says {_date(self.wall())}, but it is later than {_date(self._floor)}: {self._floor_is}",
                    "set it: timedatectl, or chronyc makestep. Until then this node's own certificates are used as they are, and peers "
                    "judge their dates; but peers whose certificates begin later are refused here",
                )
            )
        elif self.ahead is not None and abs(self.ahead) > self.tolerance / 2:
            way = "ahead of" if self.ahead > 0 else "behind"
            message = f"the clock is {abs(self.ahead):.0f} s {way} the authority's; {self._believed}"
            found.append(_problem(message, "set the one that is wrong: timedatectl or chronyc tracking on both nodes tells which"))
        if self._stepped:
            by, at = self._stepped
            message = f"the clock stepped by {by:+.0f} s at {_date(at)}; {self._believed}"
            found.append(
                _problem(message, "is it right now? timedatectl or chronyc tracking tells. This goes when the authority's clock agrees")
            )
        return found

    @property
    def _believed(self) -> str:
        return f"certificates are believed with a tolerance of {self.tolerance:.0f} s"


def _problem(message: str, hint: str) -> Problem:
    return Problem("warning", Where(), _OBJECT, message, hint)


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # years beyond 9999
        return f"{seconds:.0f} s since 1970"
