"""A token bucket: `burst` tokens at once, and `rate` new ones per second.

Time is an argument: seconds of a monotonic clock.
"""

from __future__ import annotations


class TokenBucket:
    """A bucket is used in one of two ways, `take` or `spend`.

    `take` asks for permission; a refusal costs nothing. `spend` charges for what has already happened, into debt. It
    reads the clock only if the bucket is empty, because it runs for each frame of an HTTP/2 connection; native/h2.c
    counts in the same way.
    """

    __slots__ = ("_at", "burst", "left", "rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self.burst = burst
        self.rate = rate
        self.left = float(burst)
        self._at = now

    def __repr__(self) -> str:
        return f"<TokenBucket {self.left:.0f} of {self.burst:.0f} left>"

    def take(self, now: float) -> bool:
        """Take one token. Return False if there is none."""
        if self.fill(now) < 1:
            return False
        self.left -= 1
        return True

    def fill(self, now: float) -> float:
        """Add the tokens that have accrued since the last call. Return how many there are."""
        self.left = min(self.burst, self.left + (now - self._at) * self.rate)
        self._at = now
        return self.left

    def is_full(self, now: float) -> bool:
        return self.fill(now) >= self.burst

    def spend(self, cost: int, now: float) -> bool:
        """Charge `cost` tokens. Return False if that leaves a debt."""
        self.left -= cost
        if self.left >= 0:
            return True
        self.left = min(self.burst - cost, self.left + (now - self._at) * self.rate)
        self._at = now
        return self.left >= 0

    def earn(self, amount: int) -> None:
        """Add earned tokens."""
        if self.left < self.burst:
            self.left += amount

    def debt(self, now: float) -> float:
        """Return the seconds until the debt is paid; 0: there is none."""
        left = self.left + (now - self._at) * self.rate
        return -left / self.rate if self.left < 0 and left < 0 else 0.0
