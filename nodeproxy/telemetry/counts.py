"""Requests that the fast path counted and did not record one by one: sums for one pair of workloads, from one side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from policy.model import Workload

# Seconds: upper bounds of the buckets of durations. From a fast local call to the default of limits.responseTimeout.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0)


class Pair(Struct, frozen=True):
    """Caller and server of these requests, as in a Record."""

    direction: Literal["outbound", "inbound"]
    source: Workload | None
    destination: Workload | None
    service: str


class Counts(Struct):
    """The sums since the previous Counts."""

    pair: Pair
    answered: tuple[int, ...]  # by class of status; the first: no response
    buckets: tuple[int, ...]  # one more than BUCKETS
    seconds: float
    bytes_in: int
    bytes_out: int


CountSink = Callable[[Counts], None]
