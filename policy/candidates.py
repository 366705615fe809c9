"""Which backends and endpoints may take a call: one decision for the slow path, the fast path and explain.

A backend may take a call when its weight is not 0, it exists, it has the port that was dialled (or the one that the
rule names), and that port has an endpoint (SMI N22, N24; answer A16). The other backends take no turns: their share
goes to those that can. Those that are strict take turns all the same (Gateway API), and then the call is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from policy.match import Look, Matcher, looks, path_patterns
from policy.model import Endpoint, Request, Service, ServicePort
from policy.route import Backend, Filter, HttpMatch, Retry, Route, Rule, Timeouts

Transport = Literal["tcp", "udp"]
# Why a backend takes no turns, in the order of the checks.
Lack = Literal["weight", "no-service", "no-port", "no-endpoint", "no-near-endpoint"]


class Taker(Struct, frozen=True):
    """A backend that may take the call, and its endpoints that may: at least one of those of `port`."""

    backend: Backend
    service: Service
    port: ServicePort
    endpoints: tuple[Endpoint, ...]
    filters: tuple[Filter, ...] = ()  # of the rule and of the backend
    timeouts: Timeouts | None = None  # of the rule
    retry: Retry | None = None  # of the rule


class Idle(Struct, frozen=True):
    """A backend that cannot take the call. `service` is None if no Service has that name."""

    backend: Backend
    service: Service | None
    lack: Lack


class Candidates(Struct, frozen=True):
    """What may become of a call to one port of a Service. Without `takers` the call is refused, for `reason`."""

    service: Service  # the Service that was called
    rule: Rule | None  # the rule of its Route; None: no rule fits, and its own endpoints take the call
    takers: tuple[Taker, ...]
    backends: tuple[Backend, ...]  # that take turns: of the takers, and strict ones that cannot take the call
    idle: tuple[Idle, ...]  # the backends of no taker, and why
    reason: Literal["", "all-weights-zero", "no-port", "no-endpoint"] = ""
    route: Route | None = None  # the Route that holds for the call
    number: int = -1  # of the rule


class Ruled(Struct, frozen=True):
    """What the rule depends on that applies to a request, and what each rule does."""

    patterns: tuple[str, ...]  # those that a path is matched against
    looks: tuple[Look, ...]  # what is looked at beside method and path
    rules: tuple[Candidates, ...]  # of each rule that may apply, and of none (-1) if that can be


def candidates(
    services: Mapping[str, Service],
    service: Service,
    route: Route | None,
    number: int,
    port: int,
    transport: Transport,
) -> Candidates:
    """Return what may take a call to `port` of `service` to which the rule `number` of `route` applies; -1: none does.

    `services`: all that exist, by key.
    """
    rule = route.rules[number] if route is not None and number >= 0 else None
    if port_of(service, port, transport) is None:  # no client can dial it
        idle_root = Idle(Backend(service.key, 1), service, "no-port")
        return Candidates(service, rule, (), (), (idle_root,), "no-port", route, number)
    takers: list[Taker] = []
    idle: list[Idle] = []
    for backend in (Backend(service.key, 1),) if rule is None else rule.backends:
        chosen = service if rule is None else services.get(backend.service)
        found = port_of(chosen, backend.port or port, transport) if chosen is not None else None
        if not backend.weight:
            idle.append(Idle(backend, chosen, "weight"))
        elif chosen is None:
            idle.append(Idle(backend, chosen, "no-service"))
        elif found is None:
            idle.append(Idle(backend, chosen, "no-port"))
        elif not found.endpoints:
            idle.append(Idle(backend, chosen, "no-endpoint"))
        elif not (endpoints := found.endpoints if found.near is None else found.near):
            idle.append(Idle(backend, chosen, "no-near-endpoint"))
        else:
            filters, timeouts, retry = (
                (rule.filters, rule.timeouts, rule.retry) if rule is not None else ((), None, None)
            )
            takers.append(Taker(backend, chosen, found, endpoints, filters + backend.filters, timeouts, retry))
    turns = [taker.backend for taker in takers]
    turns += [one.backend for one in idle if one.backend.strict and one.lack != "weight"]
    reason = "" if takers else _reason(idle)
    return Candidates(service, rule, tuple(takers), tuple(turns), tuple(idle), reason, route, number)


def preflight(request: Request) -> bool:
    """Return whether a browser asks if a page of another origin may make a request (Fetch, "CORS-preflight request")."""
    if request.method != "OPTIONS":
        return False
    return all(request.header(name) is not None for name in ("origin", "access-control-request-method"))


def answered_here(rule: Rule, request: Request) -> bool:
    """Return whether no server is asked, and one of the rule's filters responds."""
    return not rule.backends or (preflight(request) and any(one.preflights for one in rule.filters))


def _reason(idle: list[Idle]) -> Literal["all-weights-zero", "no-port", "no-endpoint"]:
    lacks = {one.lack for one in idle}
    return (
        "all-weights-zero" if lacks == {"weight"} else "no-port" if lacks - {"weight"} == {"no-port"} else "no-endpoint"
    )


def preferred(caller: str, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Return endpoints in an order of the caller's own, which changes little when endpoints come and go.

    It is that of the highest random weights, so each endpoint is the first one for its share of callers.
    """
    return sorted(
        endpoints,
        key=lambda one: hashlib.blake2b(f"{caller} {one}".encode(), digest_size=8).digest(),
        reverse=True,
    )


def port_of(service: Service, number: int, transport: Transport) -> ServicePort | None:
    """Return the first port of this number: Kubernetes reads a Service that lists a port twice in the same way."""
    for port in service.ports:
        if port.port == number and port.transport == transport:
            return port
    return None


def _guards(rule: Rule) -> frozenset[Filter | str]:
    """Return what keeps requests of a rule from servers."""
    filters = (*rule.filters, *(one for backend in rule.backends for one in backend.filters))
    found: set[Filter | str] = {one for one in filters if one.guards}
    return frozenset(found | {rule.refuses} if rule.refuses else found)


class Router:
    """The rules of one Route, compiled for lookup. Immutable to its users."""

    __slots__ = ("_every", "_guards", "_matcher", "_matches", "_numbers", "_rules", "_stream", "settled")

    def __init__(self, route: Route) -> None:
        matches: list[HttpMatch] = []
        self._numbers: list[int] = []  # the rule of each match
        for number, rule in enumerate(route.rules):
            for match in (HttpMatch(""),) if rule.matches is None else rule.matches:
                matches.append(match)
                self._numbers.append(number)
        self._matches = matches
        self._rules = len(route.rules)
        self._guards = tuple(map(_guards, route.rules))
        self._matcher = Matcher(matches)
        self._stream = next((number for number, rule in enumerate(route.rules) if rule.matches is None), -1)
        # May every request be treated alike, whatever it contains? Then the first rule applies, if there is one, and
        # only chooses a backend, so an earlier decision may be reused.
        first = route.rules[0] if route.rules else None
        self._every = 0 if first is not None and _fits_all(first) else -1
        self.settled = first is None or (
            self._every == 0
            and repeatable(first)
            and all(one.replayable for one in first.filters)
            and all(one.replayable for backend in first.backends for one in backend.filters)
        )

    def __repr__(self) -> str:
        return f"<Router of {len(self._numbers)} matches>"

    def rule(self, request: Request | None) -> int:
        """Return the number of the rule that applies, -1 for none. A stream that is no HTTP request fits no matches."""
        if request is None:
            return self._stream
        if self.settled or self._every == 0:
            return self._every
        number = self._matcher.first(request)
        return self._numbers[number] if number >= 0 else -1

    def evades(self, chosen: int, readings: Iterable[Request]) -> bool:
        """Return whether one reading of a path falls to a rule that keeps back what the chosen one lets pass.

        A match fits only where it fits every reading, so the chosen rule may come behind that one.
        """
        met = self._guards[chosen] if chosen >= 0 else frozenset()
        falls = {self.rule(reading) for reading in readings} - {chosen, -1}
        return any(not self._guards[number] <= met for number in falls)

    @property
    def numbers(self) -> range:
        """The numbers that `rule` may return for a request."""
        return range(1) if self._every == 0 else range(-1, self._rules)

    @property
    def sight(self) -> tuple[tuple[str, ...], tuple[Look, ...]]:
        """Which patterns a path is matched against, and what is looked at beside method and path.

        Requests that are alike in that get the same rule.
        """
        if self._every == 0:
            return (), ()
        return path_patterns(self._matches), looks(self._matches)


def repeatable(rule: Rule) -> bool:
    """Return whether what a rule did with a request may be done to an equal one, its filters aside."""
    return not (rule.refuses or rule.timeouts or rule.retry)


def _fits_all(rule: Rule) -> bool:
    """Return whether a rule fits every HTTP request."""
    return rule.matches is None or any(
        match.path is None and not (match.methods or match.headers or match.query) for match in rule.matches
    )
