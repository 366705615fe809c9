"""Each caller's share of a common resource (lines of the access log, places for refusals).

So one caller's flood hides no record of another. A caller is a workload, a peer by its certificate, or all unknown
clients of one workload together: an address is no identity, and a client with many addresses must not have many shares.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from nodeproxy.telemetry.record import Record
from nodeproxy.token_bucket import TokenBucket

RATE, BURST = 20.0, 50.0  # for each caller, a second and at once, however much others have
CALLERS = 512  # callers with their own share; further ones share the rest, until one of these has been quiet


def whose(record: Record) -> str:
    """Return the caller that caused this record."""
    if record.source is not None:
        return record.source.key
    return record.tls_peer or f"to {record.destination.key if record.destination else ''}"


class Shares:
    """A share for each caller, and a common rest for those that need more."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float], each: tuple[float, float] = (RATE, BURST)
    ) -> None:
        self._clock = clock
        self._each = each
        self._common = TokenBucket(burst, rate, clock())
        self._own: OrderedDict[str, TokenBucket] = OrderedDict()  # the most recent caller last

    def __repr__(self) -> str:
        return f"<Shares of {len(self._own)} callers, {self._common!r} besides>"

    def take(self, caller: str) -> bool:
        """Return whether this caller may have one more."""
        now = self._clock()
        own = self._own.get(caller)
        if own is not None:
            self._own.move_to_end(caller)
        elif len(self._own) < CALLERS or self._forgets(now):
            rate, burst = self._each
            own = self._own[caller] = TokenBucket(burst, rate, now)
        return self._common.take(now) or (own is not None and own.take(now))

    def _forgets(self, now: float) -> bool:
        """Forget the caller that was quiet longest, if its share is whole, so that nothing is lost by that."""
        caller, bucket = next(iter(self._own.items()), ("", None))
        if bucket is None or not bucket.is_full(now):
            return False
        del self._own[caller]
        return True
