"""Whether the counters do what a step expects. Pure: two samples in, a finding for each counter out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from agent.demo.steps import Expectation, Step

RISE_LEAST = 3  # books
FROZEN_SECONDS = 2.0  # ten rounds of a shopper
FROZEN_TRIES = 10  # calls that a shopper must have made meanwhile: a stopped client proves nothing
HALF_SALES = 40  # of both versions together
HALF_BOUNDS = (0.35, 0.65)
IN_FLIGHT = 4  # sales counted before the base whose restocking was counted after it

State = Literal["held", "waiting", "broken"]


class Sample(Struct, frozen=True):
    """All counters at one moment. An application that did not respond is missing from the mappings."""

    at: float  # seconds of any clock that only goes forward
    counts: Mapping[str, int]  # owner -> books; bookwarehouse -> restocked, mysql -> stored
    tries: Mapping[str, int]  # owner -> calls made
    last: Mapping[str, str]  # owner -> how its last call ended


class Finding(Struct, frozen=True):
    state: State
    text: str


def findings(step: Step, base: Sample, now: Sample) -> dict[str, Finding]:
    """Return a finding for each counter. `broken`: a counter that must be frozen has moved.

    `base` was taken when the step's policy was expected to be in force.
    """
    return {owner: _finding(owner, expectation, base, now) for owner, expectation in step.expectations.items()}


def _finding(owner: str, expectation: Expectation, base: Sample, now: Sample) -> Finding:
    if expectation == "absent":
        return Finding("held", "not deployed")
    if owner not in now.counts:
        return Finding("waiting", "does not answer on its control socket")
    grown = _grown(owner, base, now)
    match expectation:
        case "rises":
            return Finding("held" if grown >= RISE_LEAST else "waiting", f"+{grown}")
        case "frozen":
            if grown:
                return Finding("broken", f"+{grown}, expected none")
            tries = now.tries.get(owner, 0) - base.tries.get(owner, 0)
            enough = now.at - base.at >= FROZEN_SECONDS and (owner.startswith("bookstore") or tries >= FROZEN_TRIES)
            return Finding(
                "held" if enough else "waiting", "+0" if owner.startswith("bookstore") else f"+0 in {tries} calls"
            )
        case "half":
            sales = _sold(base, now)
            share = grown / sales if sales else 0.0
            least, most = HALF_BOUNDS
            return Finding(
                "held" if sales >= HALF_SALES and least <= share <= most else "waiting",
                f"{grown} of {sales} ({share:.0%})",
            )


def warehouse_gap(base: Sample, then: Sample, now: Sample) -> str:
    """Return what is wrong with the counts of warehouse and database; "" when nothing is.

    By `now` they must have counted every book sold from `base` to `then`, and no others.
    """
    for owner in ("bookwarehouse", "mysql"):
        counted = _grown(owner, base, now)
        if counted < (sold := _sold(base, then)):
            return f"{owner} has counted {counted} of {sold} books sold"
        if counted > (sold := _sold(base, now) + IN_FLIGHT):
            return f"{owner} has counted {counted} books, and at most {sold} were sold"
    return ""


def _sold(base: Sample, now: Sample) -> int:
    return sum(_grown(store, base, now) for store in ("bookstore-v1", "bookstore-v2"))


def _grown(owner: str, base: Sample, now: Sample) -> int:
    return now.counts.get(owner, 0) - base.counts.get(owner, 0)
