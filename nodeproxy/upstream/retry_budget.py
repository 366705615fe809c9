"""How many requests may be sent again at once, and how much of their bodies may be kept for that.

A server that is down makes every request to it fail. If each were sent again as its policy says, the load would be a
multiple just when there is too much of it. So of all requests to a Service that may be sent again, only a share is.
"""

from __future__ import annotations

import random

from msgspec import Struct

SHARE = 0.2  # retries under way to a Service, of the requests to it that may be sent again; Envoy's budget has the same
FLOOR = 10  # retries under way that a Service always has; Envoy's budget has 3, Linkerd's 10 a second
BODY = 65536  # bytes of one request's body that are kept
BODIES = 8 << 20  # of all bodies together
BODIES_OF_ONE = 1 << 20  # of all bodies of one workload


class _Load(Struct):
    active: int = 0  # requests under way that may be sent again
    again: int = 0  # of these, the ones that are being sent again


class RetryBudget:
    """Counts requests and retries by Service, and bytes of bodies by workload. What is taken has to be given back."""

    def __init__(self, seed: int | None = None) -> None:
        self._loads: dict[str, _Load] = {}  # by key of the Service: only those with requests under way
        self._bodies: dict[str, int] = {}  # bytes by key of the workload that sends them
        self._total = 0
        self._random = random.Random(seed)  # noqa: S311 - spreads load, guards nothing

    def __repr__(self) -> str:
        return f"<RetryBudget of {len(self._loads)} Services, {self._total} bytes of bodies>"

    def began(self, service: str) -> None:
        self._loads.setdefault(service, _Load()).active += 1

    def ended(self, service: str) -> None:
        load = self._loads[service]
        load.active -= 1
        if not load.active:
            del self._loads[service]

    def take(self, service: str) -> bool:
        """Return whether a request to this Service that has begun may be sent again now."""
        load = self._loads[service]
        if load.again >= max(FLOOR, int(load.active * SHARE)):
            return False
        load.again += 1
        return True

    def give(self, service: str) -> None:
        self._loads[service].again -= 1

    def hold(self, workload: str, size: int) -> bool:
        """Return whether so many more bytes of a workload's bodies may be kept."""
        held = self._bodies.get(workload, 0)
        if self._total + size > BODIES or held + size > BODIES_OF_ONE:
            return False
        self._total += size
        self._bodies[workload] = held + size
        return True

    def release(self, workload: str, size: int) -> None:
        self._total -= size
        left = self._bodies.get(workload, 0) - size
        if left > 0:
            self._bodies[workload] = left
        else:
            self._bodies.pop(workload, None)

    def between(self, least: float, longest: float) -> float:
        """Return a time by chance."""
        return self._random.uniform(least, longest)
