"""The owner of HTTP/2 connections: a workload of this node, or a peer by its certificate.

What one connection may do is in limits.py. That does not bound a peer that may open another connection. So two things
are counted for all connections of one owner together. The first is streams with work in progress: each may take a
descriptor to a server. A stream counts as long as its task works, even if its peer has reset it (CVE-2023-44487). The
second is the budget of streams that were wasted work. A new connection does not renew it; each connection has a budget
of its own beside it.
"""

from __future__ import annotations

from nodeproxy.h2.limits import Bounds
from nodeproxy.limits import Owner
from nodeproxy.native import AVAILABLE
from nodeproxy.token_bucket import TokenBucket

if AVAILABLE:
    from nodeproxy.native import Owner as NativeOwner


class PythonOwner:
    """Same as native/h2_type.c, which a native machine needs."""

    __slots__ = ("_resets", "most", "streams")

    def __init__(self, most: int, burst: float, rate: float, now: float) -> None:
        """`most`: streams at once. `burst` at once and `rate` a second may be wasted work; each served stream earns
        one.
        """
        self.most = most
        self.streams = 0
        self._resets = TokenBucket(int(burst), int(rate), now)

    def __repr__(self) -> str:
        return f"<Owner of {self.streams}/{self.most} streams>"

    def begin(self) -> bool:
        """Start work on a stream. Return False when there are too many. Each True needs one `end`."""
        if self.streams >= self.most:
            return False
        self.streams += 1
        return True

    def end(self) -> None:
        self.streams = max(0, self.streams - 1)

    def spend(self, now: float) -> bool:
        """Count wasted work. Return False when that was too often."""
        return self._resets.spend(1, now)

    def earn(self) -> None:
        """Earn one: a stream was served to its end."""
        self._resets.earn(1)

    def debt(self, now: float) -> float:
        """Return the seconds until the budget allows wasted work again; 0: now."""
        return self._resets.debt(now)


def of_all(most: int, bounds: Bounds, now: float) -> Owner:
    """Return the owner of many connections."""
    return (NativeOwner if AVAILABLE else PythonOwner)(most, bounds.owner_reset_burst, bounds.owner_reset_rate, now)
