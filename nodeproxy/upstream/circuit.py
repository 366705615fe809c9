"""A circuit breaker: it counts responses, opens when too many are bad, and closes when one call goes well again.

*Closed*: calls are sent and counted, within windows that follow each other. *Open*: none is sent for a while.
*Half open*: one is sent, and decides. Time is an argument: seconds of a clock that only goes forward.
"""

from __future__ import annotations

from typing import Literal

from policy.upstream import Circuit

State = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """One circuit: that of one caller's calls to one Service."""

    __slots__ = ("_began", "_errors", "_slow", "_total", "_trial", "_until", "said", "state")

    def __init__(self, said: Circuit, now: float) -> None:
        self.said = said
        self.state: State = "closed"
        self._until = 0.0  # when it is half open
        self._trial = False  # the one call is under way
        self._start(now)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.state}: {self._errors} errors and {self._slow} slow of {self._total}>"

    def _start(self, now: float) -> None:
        self._began = now
        self._total = self._errors = self._slow = 0

    def admits(self, now: float) -> bool:
        """Return whether a call may be sent. Every call that may is ended by `ended` or `abandoned`."""
        if self.state == "closed":
            return True
        if self.state == "open" and now >= self._until:
            self.state = "half-open"
        if self.state == "open" or self._trial:
            return False
        self._trial = True
        return True

    def abandoned(self, trial: bool) -> None:
        """A call ended without an outcome: its caller left."""
        if trial:
            self._trial = False

    def ended(self, failed: bool, seconds: float, trial: bool, now: float) -> None:
        """Count the outcome of a call. `trial`: it was sent while the circuit was half open."""
        slow = 0 < self.said.slow < seconds
        if trial:
            self._trial = False
            if failed or slow:
                self._open(now)
            else:
                self.state = "closed"
                self._start(now)
            return
        if self.state != "closed":
            return  # it was sent before the circuit opened
        if now - self._began > self.said.window:
            self._start(now)
        self._total += 1
        self._errors += failed
        self._slow += slow
        if self._too_many():
            self._open(now)

    def _too_many(self) -> bool:
        said = self.said
        if self._total < said.least:
            return False
        return (
            0 < said.errors <= self._errors
            or 0 < said.error_ratio <= self._errors / self._total
            or 0 < said.slow_amount <= self._slow
            or 0 < said.slow_ratio <= self._slow / self._total
        )

    def _open(self, now: float) -> None:
        self.state = "open"
        self._until = now + self.said.rest

    @property
    def half_open(self) -> bool:
        return self.state == "half-open"

    def is_idle(self, now: float) -> bool:
        """Return whether it says little that a new one would not."""
        if self.state == "closed":
            return not self._total or now - self._began > self.said.window
        return self.state == "open" and now >= self._until
