"""Rates at the node of a server: a token bucket for each rate and each of its workloads, for all callers together.

Buckets outlive snapshots. A rate that is edited begins with a full bucket.
"""

from __future__ import annotations

from collections.abc import Iterable

from nodeproxy.token_bucket import TokenBucket
from policy.match import Matcher
from policy.model import Endpoint, Request
from policy.route import HttpMatch
from policy.upstream import Rate, RequestRate, ServiceBounds

_EVERY = HttpMatch("every request")
_MOST_MATCHERS = 256
_MOST = 4096  # buckets; only rates of manifests times workloads of this node make any


class Rates:
    def __init__(self) -> None:
        self._matchers: dict[int, tuple[ServiceBounds, Matcher]] = {}  # by id of the bounds
        self._buckets: dict[tuple[str, int, str, str, Rate], TokenBucket] = {}

    def __repr__(self) -> str:
        return f"<Rates of {len(self._buckets)} buckets>"

    def request(
        self, endpoint: Endpoint, bounds: tuple[ServiceBounds, ...], request: Request, now: float
    ) -> tuple[ServiceBounds, RequestRate] | None:
        """Count a request that is about to be sent to a workload of this node.

        Return the rate that refuses it, or None. A request that is refused takes no token of any rate.
        """
        buckets = []
        for one in bounds:
            for said in self._fitting(one, request):
                bucket = self._bucket(endpoint, one.name, said.name, said.rate, now)
                if bucket.fill(now) < 1:
                    return one, said
                buckets.append(bucket)
        for bucket in buckets:
            bucket.take(now)
        return None

    def connection(self, endpoint: Endpoint, bounds: tuple[ServiceBounds, ...], now: float) -> ServiceBounds | None:
        """Count a connection that is about to be opened to a workload of this node.

        Return what refuses it, or None.
        """
        buckets = []
        for one in bounds:
            if one.connection_rate is not None:
                bucket = self._bucket(endpoint, one.name, "", one.connection_rate, now)
                if bucket.fill(now) < 1:
                    return one
                buckets.append(bucket)
        for bucket in buckets:
            bucket.take(now)
        return None

    def _fitting(self, bounds: ServiceBounds, request: Request) -> Iterable[RequestRate]:
        """Return the rates that are for a request: all its paths are looked up at once, whatever their number.

        A path that servers may read in two ways counts if either fits: none is written to pass a rate by.
        """
        rates = bounds.request_rates
        if all(one.match is None for one in rates):
            return rates
        known = self._matchers.get(id(bounds))
        if known is None or known[0] is not bounds:
            if len(self._matchers) >= _MOST_MATCHERS:
                self._matchers.clear()
            known = bounds, Matcher([one.match or _EVERY for one in rates])
            self._matchers[id(bounds)] = known
        return [rates[number] for number in known[1].possible(request)]

    def _bucket(self, endpoint: Endpoint, of: str, name: str, rate: Rate, now: float) -> TokenBucket:
        # A workload has the same bucket under each of its addresses
        key = (endpoint.workload or endpoint.address, endpoint.port, of, name, rate)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _MOST:
                self._forget(now)
            bucket = self._buckets[key] = TokenBucket(rate.most, rate.each, now)
        return bucket

    def _forget(self, now: float) -> None:
        """Forget full buckets, which say nothing; without any, the oldest one."""
        full = [key for key, bucket in self._buckets.items() if bucket.is_full(now)]
        for key in full or [next(iter(self._buckets))]:
            del self._buckets[key]
