"""What was learned of endpoints: requests in progress, failures, and the turns of a split. Mutable, outlives snapshots.

An endpoint is *passing* until it failed to connect `FAILURES` times in a row, then *tripped* for a while that doubles
each time, then *probing*: one connection may try it. The names say what happens to traffic, not to an imagined electric
circuit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal

from nodeproxy.backoff import Backoff
from nodeproxy.upstream.hashing import Tables
from nodeproxy.upstream.retry_budget import RetryBudget
from policy.balancing import Balancing
from policy.candidates import Taker, preferred
from policy.model import Endpoint
from policy.route import Backend

FAILURES = 3  # in a row; Envoy's outlier detection uses 5, but an edge service often has one or two endpoints
FIRST_REST, LONGEST_REST = 1.0, 30.0  # seconds
_REST = Backoff(FIRST_REST, LONGEST_REST)  # without jitter: only this node counts these failures
_LONGEST_ROUND = 1000  # picks; longer rounds are exact only over several of these
_MOST_KNOWN = 4096  # endpoints remembered; more than a small node ever talks to

State = Literal["passing", "tripped", "probing"]


class Breaker:
    """The health of one endpoint that has failed. Time is an argument: seconds of any clock that only goes forward."""

    __slots__ = ("failures", "rest", "state", "trips", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.trips = 1  # each doubles the rest time
        self.rest = _REST.after(1)
        self.state: State = "passing"
        self.until = 0.0

    def __repr__(self) -> str:
        return f"<Breaker {self.state} after {self.failures} failures>"

    def fail(self, now: float) -> None:
        self.failures += 1
        if self.state == "probing":
            self.trips += 1
            self.rest = _REST.after(self.trips)
        if self.state == "probing" or self.failures >= FAILURES:
            self.state = "tripped"
            self.until = now + self.rest

    def admits(self, now: float) -> bool:
        """Return whether a connection may be tried now. A probe without result is given up after the rest time."""
        if self.state == "passing":
            return True
        if now >= self.until:
            self.state = "probing"
            return True
        return False

    def probe_started(self, now: float) -> None:
        if self.state == "probing":
            self.until = now + self.rest


class Turns:
    """Weighted turns: each round of `sum(weights)` picks gives each backend exactly its weight.

    The weights are in lowest terms. Smooth weighted round robin (as in nginx) makes the round, and a shuffle its order.
    Without the shuffle, a caller that alternates between two requests would send each of them to one backend for ever.
    """

    __slots__ = ("_current", "_left", "_random", "_reduced", "drawn", "weights")

    def __init__(self, weights: tuple[tuple[str, int], ...], chance: random.Random) -> None:
        self.weights = weights
        divisor = math.gcd(*(weight for _, weight in weights)) or 1
        self._reduced = [weight // divisor for _, weight in weights]
        self._current = [0] * len(weights)
        self._left: list[int] = []
        self._random = chance
        # Callbacks of those that have drawn turns ahead: each gives back its first turn, or "" for none.
        self.drawn: list[Callable[[], str]] = []

    def next(self) -> str:
        for give_back in self.drawn:
            if name := give_back():
                return name
        return self.draw()

    def draw(self) -> str:
        if not self._left:
            self._left = [self._smooth() for _ in range(min(sum(self._reduced), _LONGEST_ROUND))]
            self._random.shuffle(self._left)
        return self.weights[self._left.pop()][0]

    def put_back(self, names: Sequence[str]) -> None:
        """Put back turns that were drawn and not taken; the first of them is next."""
        numbers = {name: number for number, (name, _) in enumerate(self.weights)}
        self._left += [numbers[name] for name in reversed(names)]

    def _smooth(self) -> int:
        current = self._current
        best = 0
        for i, weight in enumerate(self._reduced):
            current[i] += weight
            if current[i] > current[best]:
                best = i
        current[best] -= sum(self._reduced)
        return best


class Live:
    """What was learned of each endpoint, and the turns of each split."""

    def __init__(self, seed: int | None = None) -> None:
        self.in_flight: dict[Endpoint, int] = {}
        self.breakers: dict[Endpoint, Breaker] = {}
        self.retries = RetryBudget(seed)
        self._turns: dict[tuple[str, str, int, bool, int], Turns] = {}
        # The endpoint that a caller's calls to a Service's port go to, and when the last one did; the oldest first
        self._affine: dict[tuple[str, str, int], tuple[Endpoint, float]] = {}
        # The endpoints of a Service's port that a caller's calls go round, and whose turn it is
        self._rounds: dict[tuple[str, str, int], tuple[tuple[Endpoint, ...], int]] = {}
        self.tables = Tables()
        self._random = random.Random(seed)  # noqa: S311 - spreads load, guards nothing

    def began(self, endpoint: Endpoint) -> None:
        self.in_flight[endpoint] = self.in_flight.get(endpoint, 0) + 1

    def ended(self, endpoint: Endpoint) -> None:
        left = self.in_flight.get(endpoint, 0) - 1
        if left > 0:
            self.in_flight[endpoint] = left
        else:
            self.in_flight.pop(endpoint, None)

    def connected(self, endpoint: Endpoint) -> None:
        if self.breakers:
            self.breakers.pop(endpoint, None)

    def failed(self, endpoint: Endpoint, now: float) -> None:
        breaker = self.breakers.get(endpoint)
        if breaker is None:
            if len(self.breakers) >= _MOST_KNOWN:
                self.breakers.pop(next(iter(self.breakers)))
            breaker = self.breakers[endpoint] = Breaker()
        breaker.fail(now)

    def least_loaded(self, endpoints: Sequence[Endpoint], tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """Return the passing endpoint with the fewest requests in progress; ties are broken at random.

        When every endpoint that was not tried is tripped, the one whose rest ends first is used: a wrong guess costs
        one attempt, refusing would cost the service.
        """
        if len(endpoints) == 1 and not tried and not self.breakers:
            return endpoints[0]
        open_ = [e for e in endpoints if e not in tried] if tried else endpoints
        if not open_:
            return None
        if self.breakers:
            passing = [e for e in open_ if (b := self.breakers.get(e)) is None or b.admits(now)]
            if not passing:
                return min(open_, key=lambda e: self.breakers[e].until)
            open_ = passing
        start = self._random.randrange(len(open_))
        best, load = open_[start], self.in_flight.get(open_[start], 0)
        if load:
            for endpoint in open_:
                other = self.in_flight.get(endpoint, 0)
                if other < load:
                    best, load = endpoint, other
        if self.breakers and (breaker := self.breakers.get(best)) is not None:
            breaker.probe_started(now)
        return best

    def affine(self, caller: str, taker: Taker, tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """Return the endpoint of a Service with sessionAffinity that this caller's calls go to.

        It is that of the call before, within the Service's timeout and while it may be called; otherwise the first one
        in the caller's own order, so that a caller which was forgotten mostly finds the same again.
        """
        key = (caller, taker.service.key, taker.port.port)
        kept, used = self._affine.pop(key, (None, 0.0))
        order = [kept] if kept in taker.endpoints and now - used <= taker.service.affinity else []
        if kept not in order or kept in tried or kept in self.breakers:
            order += preferred(caller, taker.endpoints)
        chosen = self._first(order, tried, now)
        if chosen is None:
            return self.least_loaded(taker.endpoints, tried, now)
        if len(self._affine) >= _MOST_KNOWN:
            self._affine.pop(next(iter(self._affine)))
        self._affine[key] = chosen, now
        return chosen

    def balanced(
        self, caller: str, taker: Taker, how: Balancing, key: bytes | None, tried: Collection[Endpoint], now: float
    ) -> Endpoint | None:
        """Return the endpoint that a Service's LoadBalancing chooses. `key`: what is hashed of the call.

        A call that has nothing to hash goes where least is under way, as does one whose endpoints are all tripped.
        """
        endpoints = taker.endpoints
        if how.algorithm == "least-request":
            chosen = self._of_two(endpoints, tried, now)
        elif how.algorithm == "round-robin":
            chosen = self._in_turn(caller, taker, tried, now)
        elif key is not None:
            chosen = self._first(self.tables.of(taker, how).order(key), tried, now)
        else:
            chosen = None
        return self.least_loaded(endpoints, tried, now) if chosen is None else chosen

    def _first(self, order: Iterable[Endpoint], tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """Return the first endpoint that was not tried and may be called; None if there is none."""
        for endpoint in order:
            if endpoint in tried:
                continue
            breaker = self.breakers.get(endpoint)
            if breaker is None:
                return endpoint
            if breaker.admits(now):
                breaker.probe_started(now)
                return endpoint
        return None

    def _of_two(self, endpoints: Sequence[Endpoint], tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """Return that of two endpoints, chosen by chance among those that may be called, with less under way."""
        open_ = endpoints
        if tried or self.breakers:
            open_ = [
                one
                for one in endpoints
                if one not in tried and ((breaker := self.breakers.get(one)) is None or breaker.admits(now))
            ]
        two = self._random.sample(open_, min(2, len(open_)))
        return self._first(sorted(two, key=lambda one: self.in_flight.get(one, 0)), (), now)

    def _in_turn(self, caller: str, taker: Taker, tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """Return the endpoint whose turn it is. Each caller has turns of its own, which begin anywhere.

        One that may not be called loses its turn: the next call goes to the endpoint behind the one that took it.
        """
        key, number = (caller, taker.service.key, taker.port.port), len(taker.endpoints)
        endpoints, at = self._rounds.pop(key, ((), 0))
        if endpoints != taker.endpoints:
            at = self._random.randrange(number)
        chosen = self._first((*taker.endpoints[at:], *taker.endpoints[:at]), tried, now)
        if chosen is not None:
            at = (taker.endpoints.index(chosen) + 1) % number
        if len(self._rounds) >= _MOST_KNOWN:
            self._rounds.pop(next(iter(self._rounds)))
        self._rounds[key] = taker.endpoints, at
        return chosen

    def turn(
        self, caller: str, service: str, port: int, opaque: bool, backends: Sequence[Backend], rule: int = 0
    ) -> str:
        """Return the key of the backend whose turn it is, among those that take turns."""
        return self.turns(caller, service, port, opaque, backends, rule).next()

    def turns(
        self, caller: str, service: str, port: int, opaque: bool, backends: Sequence[Backend], rule: int = 0
    ) -> Turns:
        """Return the turns of one caller, which has its own (SMI N18), as have connections, requests and each rule."""
        weights = tuple((b.key, b.weight) for b in backends)
        key = (caller, service, port, opaque, rule)
        turns = self._turns.get(key)
        if turns is None or turns.weights != weights:
            if len(self._turns) >= _MOST_KNOWN:
                self._turns.pop(next(iter(self._turns)))
            turns = self._turns[key] = Turns(weights, self._random)
        return turns
