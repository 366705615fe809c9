"""How long to wait before the next attempt: exponential back-off with jitter.

Pure: the number of failures and the random number are arguments.
"""

from __future__ import annotations

from msgspec import Struct

_DOUBLINGS = 30  # maximum: a float overflows after about a thousand, and `most` is reached long before


class Backoff(Struct, frozen=True):
    """`first` seconds after the first failure in a row, twice as long after each further one, and never more than
    `most`.

    The result is multiplied by a factor between `low` and `high`, so that clients that failed together do not return
    together.
    """

    first: float
    most: float
    low: float = 1.0
    high: float = 1.0

    def after(self, failures: int, chance: float = 0.0) -> float:
        """Return the seconds to wait after `failures` failures in a row, at least 1.

        `chance`: from 0 (factor `low`) to 1 (factor `high`).
        """
        doubled = min(self.most, self.first * 2.0 ** min(failures - 1, _DOUBLINGS))
        return doubled * (self.low + (self.high - self.low) * chance)
