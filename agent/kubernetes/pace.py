"""How many requests a second all clients of one process make to an API server, whatever asks them for more.

No fault of ours may become a flood. A request that comes too early waits its turn. An urgent one, as the renewal of a
lease, does not wait; it counts all the same, so that the others wait longer.
"""

from __future__ import annotations

import trio

RATE, BURST = 10.0, 50  # requests a second of one node, over time, and at once after a silence


class Pace:
    """One budget, of all clients that are given it. `rate`: requests a second; `burst`: at once."""

    def __init__(self, rate: float = RATE, burst: int = BURST) -> None:
        self.requests = 0  # that were admitted, or wait
        self.delayed = 0.0  # seconds that they had to wait, all together
        self._rate = rate
        self._burst = float(burst)
        self._left = float(burst)
        self._counted = -1.0  # trio's time when `_left` was right

    def __repr__(self) -> str:
        return f"<Pace {self._rate:g} a second, {self._left:.0f} left>"

    async def admit(self, urgent: bool = False) -> None:
        """Wait until another request is within the bounds. `urgent`: do not wait; for what is seldom by itself."""
        now = trio.current_time()
        if self._counted >= 0:
            self._left = min(self._burst, self._left + (now - self._counted) * self._rate)
        self._counted = now
        self.requests += 1
        self._left -= 1  # a place in the row: who comes later waits longer
        if self._left < 0 and not urgent:
            wait = -self._left / self._rate
            self.delayed += wait
            await trio.sleep(wait)
