"""The time, as well as a node can know it. All code that checks or writes a certificate's date asks this clock.

Theory of operation. Machines at the edge start with a clock of 1970, or of the day their image was made, and are set
later by hours or years, all of a site at once. Certificates have dates, so a wrong clock must not become an outage.

`now` is the authority's time, since the authority's dates are on our certificates. A steady clock carries it on: one
that cannot be set and that goes on during sleep. So a step of our own clock changes nothing. Until the authority has
been heard, `now` is our own clock, but never earlier than a moment that is certainly past. `look` compares our clock
with the steady one: a difference is a step, and a reason to ask the authority.

The authority's own node leads: it has no other clock to ask, so when its clock is set, the time changes for the whole
mesh at once. What it had seen before is then no longer evidence, except for when its own certificate begins, since
before that nothing can be signed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from policy.model import Problem, Where

log = logging.getLogger("edgemesh.clock")

MADE = 1767225600.0  # 2026-01-01: a correct clock never shows less
_STEP = 5.0  # seconds; NTP slews what is less than a tenth of one, and a busy machine may be late by a second
_OBJECT = "clock"


def steady() -> float:
    """Return seconds of a clock that cannot be set and that goes on while the machine sleeps (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """The time as one node knows it. `tolerance`: seconds that certificates are accepted before and after their dates.

    `leads`: the authority is here, and has this clock.
    """

    def __init__(
        self,
        tolerance: float,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady,
        leads: bool = False,
    ) -> None:
        self.wall = wall
        self.steady = steady
        self.tolerance = tolerance
        self.leads = leads
        self._authority: tuple[float, float] | None = None  # the authority's clock and the steady one, when heard
        self._base: tuple[float, float] | None = None  # the same for `now`: our own clock if the difference is small
        self._floor, self._floor_is = (0.0, 0.0), ""
        self._surely, self._surely_is = MADE, "this version of edgemesh was made after that"
        self._stepped: tuple[float, float] | None = None  # the last step not yet confirmed by the authority: by, at
        self._last = (wall(), steady())
        self.at_least(self._surely, self._surely_is)

    def __repr__(self) -> str:
        return f"<Clock {moment(self.wall())}, ahead {self.ahead}>"

    def now(self) -> float:
        """Return seconds since the epoch."""
        passed = self.steady()
        if self._base is not None:
            return self._base[0] + (passed - self._base[1])
        return max(self.wall(), self._floor[0] + (passed - self._floor[1]))

    def earliest(self) -> float:
        """Return the earlier of our clock and `now`: a certificate has expired only when it has by both."""
        return min(self.wall(), self.now())

    @property
    def ahead(self) -> float | None:
        """Return our clock minus the authority's; None when that is not known."""
        return (
            None if self._authority is None else self.wall() - self._authority[0] - (self.steady() - self._authority[1])
        )

    def look(self) -> float:
        """Return by how much the clock was set since the last look; 0 when it was not."""
        wall, steady = self.wall(), self.steady()
        by = (wall - self._last[0]) - (steady - self._last[1])
        self._last = (wall, steady)
        if abs(by) <= _STEP:
            return 0.0
        log.warning("the clock stepped by %+.0f s and now says %s", by, moment(wall))
        self._stepped = (by, wall)
        if self.leads:
            self._floor = (0.0, 0.0)
            self.at_least(self._surely, self._surely_is)
        return by

    def heard(self, authority: float, took: float = 0.0) -> None:
        """Take the authority's clock from a response that took `took` seconds: it was read about halfway."""
        self.look()
        self._stepped = None  # if the step made the clock wrong, `ahead` says so
        if self.leads:
            return  # we asked ourselves
        wall, steady, authority = self.wall(), self.steady(), authority + took / 2
        self._authority = (authority, steady)
        self._base = (wall if abs(wall - authority) <= self.tolerance / 2 else authority, steady)

    def at_least(self, moment: float, why: str, surely: bool = False) -> None:
        """Note that it is later than `moment`. Has no effect once the authority's clock is known.

        `surely`: holds also when the clock of the authority's node is set to an earlier time.
        """
        if surely and moment >= self._surely:
            self._surely, self._surely_is = moment, why
        steady = self.steady()
        if self._base is None and moment >= self._floor[0] + (steady - self._floor[1] if self._floor_is else 0.0):
            self._floor, self._floor_is = (moment, steady), why

    @property
    def wrong(self) -> bool:
        """Return whether our clock is so far behind that today's certificates look not yet valid."""
        return self.now() - self.wall() > self.tolerance

    def problems(self) -> list[Problem]:
        """Return what people should do about the clock."""
        found = []
        ahead = self.ahead
        if ahead is None and self.wrong:
            found.append(
                _problem(
                    f"the clock says {moment(self.wall())}, but it is at least {moment(self.now())}, "
                    f"counted from {moment(self._floor[0])}: {self._floor_is}",
                    "set it: timedatectl, or chronyc makestep. Until then this node's own certificates are used as they are, and peers "
                    "judge their dates; but peers whose certificates begin later are refused here",
                )
            )
        elif ahead is not None and abs(ahead) > self.tolerance / 2:
            way = "ahead of" if ahead > 0 else "behind"
            message = f"the clock is {abs(ahead):.0f} s {way} the authority's; {self._believed}"
            found.append(
                _problem(
                    message, "set the one that is wrong: timedatectl or chronyc tracking on both nodes tells which"
                )
            )
        if self._stepped:
            by, at = self._stepped
            message = f"the clock stepped by {by:+.0f} s at {moment(at)}; {self._believed}"
            found.append(
                _problem(
                    message,
                    "is it right now? timedatectl or chronyc tracking tells. This goes when the authority's clock agrees",
                )
            )
        return found

    @property
    def _believed(self) -> str:
        return f"certificates are believed with a tolerance of {self.tolerance:.0f} s"


def _problem(message: str, hint: str) -> Problem:
    return Problem("warning", Where(), _OBJECT, message, hint)


def moment(seconds: float) -> str:
    """Return a date for people."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # years beyond 9999
        return f"{seconds:.0f} s since 1970"
