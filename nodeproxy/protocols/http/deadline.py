"""What a connection waits for, and until when: one deadline that moves from phase to phase.

Moving the deadline of a cancel scope costs microseconds (a heap operation). Entering a new scope for each wait costs
more. So exchange.py makes one scope, and a Phase names what its expiry means. A rule's timeouts end a request whatever
its phase is.
"""

from __future__ import annotations

import math

import trio


class Phase:
    """`flag` is a key of errors.FLAGS, or "" if the expiry of the deadline only ends the connection."""

    __slots__ = ("_attempt", "_moved_at", "_request", "flag", "scope")

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.flag = ""
        self._moved_at = 0.0
        self._request = self._attempt = math.inf  # when the rule's timeouts end

    def __repr__(self) -> str:
        return f"<Phase {self.flag or 'rest'} for {self.scope.deadline - trio.current_time():.1f} s more>"

    def begin(self, flag: str, seconds: float) -> None:
        self.flag = flag
        self._moved_at = trio.current_time()
        self._end(self._moved_at + seconds)

    def unbounded(self) -> None:
        """Remove the deadline of the phase: the next step has its own deadlines."""
        self.scope.deadline = self._attempt

    def bound(self, request: float, attempt: float) -> None:
        """End the request that begins now after `request` seconds, and the attempt that begins now after `attempt`."""
        now = trio.current_time()
        self._request = min(self._request, now + request)
        self._attempt = min(self._request, now + attempt)
        self._end(self.scope.deadline)

    def free(self) -> None:
        """Forget a rule's timeouts: the request is over, or it has become something else."""
        self._request = self._attempt = math.inf

    @property
    def left(self) -> float:
        """The seconds until the rule's timeouts end the request."""
        return self._request - trio.current_time()

    @property
    def expired(self) -> str:
        """The flag that the expiry of the deadline means."""
        return self.flag if trio.current_time() < self._attempt else "route-timeout"

    def _end(self, deadline: float) -> None:
        self.scope.deadline = deadline if deadline < self._attempt else self._attempt

    def moved(self, seconds: float) -> None:
        """Allow `seconds` for the next bytes of a body, because some have moved.

        Move the deadline at most once a second.
        """
        now = trio.current_time()
        if self.flag != "idle" or now - self._moved_at > min(1.0, seconds / 4):
            self.flag = "idle"
            self._moved_at = now
            self._end(now + seconds)
