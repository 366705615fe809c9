"""What a connection waits for, and until when: one deadline that moves from phase to phase.

Moving the deadline of a cancel scope costs microseconds (it is a heap operation), entering a new scope for each wait costs
more. So exchange.py makes one scope, and this names what running into it means.
"""

from __future__ import annotations

import math

import trio


class Phase:
    """`flag` is a key of errors.FLAGS, or "" when running into the deadline just ends the connection."""

    __slots__ = ("_moved_at", "flag", "scope")

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.flag = ""
        self._moved_at = 0.0

    def __repr__(self) -> str:
        return f"<Phase {self.flag or 'rest'} for {self.scope.deadline - trio.current_time():.1f} s more>"

    def begin(self, flag: str, seconds: float) -> None:
        self.flag = flag
        self._moved_at = trio.current_time()
        self.scope.deadline = self._moved_at + seconds

    def unbounded(self) -> None:
        """What comes now has deadlines of its own."""
        self.scope.deadline = math.inf

    def moved(self, seconds: float) -> None:
        """Bytes of a body moved, so there are `seconds` for the next ones. Moves the deadline at most once a second."""
        now = trio.current_time()
        if self.flag != "idle" or now - self._moved_at > min(1.0, seconds / 4):
            self.flag = "idle"
            self._moved_at = now
            self.scope.deadline = now + seconds
