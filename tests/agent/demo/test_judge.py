"""Counters against expectations."""

from __future__ import annotations

import pytest

from agent.demo.judge import FROZEN_SECONDS, FROZEN_TRIES, Sample, findings, warehouse_gap
from agent.demo.steps import STEPS

ALL = ("bookbuyer", "bookthief", "bookstore-v1", "bookstore-v2", "bookwarehouse", "mysql")
ZERO = Sample(100.0, dict.fromkeys(ALL, 0), dict.fromkeys(ALL, 0), {})


def later(seconds: float, tries: int = FROZEN_TRIES, **counts: int) -> Sample:
    grown = {name.replace("_", "-"): count for name, count in counts.items()}
    return Sample(ZERO.at + seconds, dict(ZERO.counts) | grown, dict.fromkeys(ALL, tries), {})


def states(number: int, now: Sample) -> dict[str, str]:
    return {owner: finding.state for owner, finding in findings(STEPS[number - 1], ZERO, now).items()}


def test_rising_needs_more_than_one_lucky_call():
    assert states(1, later(1, bookbuyer=2, bookthief=3, bookstore_v1=5)) == {
        "bookbuyer": "waiting",
        "bookthief": "held",
        "bookstore-v1": "held",
        "bookstore-v2": "held",  # not deployed
    }


@pytest.mark.parametrize(
    ("seconds", "tries", "stolen", "state"),
    [
        (FROZEN_SECONDS, FROZEN_TRIES, 0, "held"),
        (FROZEN_SECONDS - 0.1, FROZEN_TRIES, 0, "waiting"),  # too early to say
        (FROZEN_SECONDS, FROZEN_TRIES - 1, 0, "waiting"),  # a thief that does not try proves nothing
        (0.1, 0, 1, "broken"),
        (60, 300, 1, "broken"),
    ],
)
def test_frozen_is_no_growth_in_a_while_of_trying(seconds, tries, stolen, state):
    assert states(3, later(seconds, tries, bookthief=stolen))["bookthief"] == state


def test_a_store_is_frozen_without_tries_of_its_own():
    assert states(7, later(FROZEN_SECONDS, tries=0, bookstore_v1=9))["bookstore-v2"] == "held"
    assert states(7, later(FROZEN_SECONDS, tries=0, bookstore_v1=9, bookstore_v2=1))["bookstore-v2"] == "broken"


@pytest.mark.parametrize(
    ("v1", "v2", "state"),
    [
        (20, 20, "held"),
        (14, 26, "held"),
        (13, 27, "waiting"),
        (19, 20, "waiting"),
        (0, 0, "waiting"),
        (40, 0, "waiting"),
    ],
)
def test_half_is_a_share_of_enough_sales(v1, v2, state):
    found = states(8, later(20, bookbuyer=v1 + v2, bookstore_v1=v1, bookstore_v2=v2))
    assert (found["bookstore-v1"], found["bookstore-v2"]) == (state, state)


def test_an_application_that_does_not_answer_holds_nothing():
    silent = Sample(200.0, {}, {}, {})
    assert set(states(2, silent).values()) == {"waiting", "held"}  # held: bookstore-v2, which is not deployed
    assert "does not answer" in findings(STEPS[1], ZERO, silent)["bookthief"].text


def counting(warehouse: int, mysql: int, v1: int = 10, v2: int = 5) -> Sample:
    return later(9, bookstore_v1=v1, bookstore_v2=v2, bookwarehouse=warehouse, mysql=mysql)


def test_warehouse_and_database_count_what_was_sold():
    then = counting(0, 0)
    assert warehouse_gap(ZERO, then, counting(15, 15)) == ""
    assert warehouse_gap(ZERO, then, counting(17, 16, v1=12)) == ""  # sales go on meanwhile
    assert warehouse_gap(ZERO, then, counting(14, 14)) == "bookwarehouse has counted 14 of 15 books sold"
    assert warehouse_gap(ZERO, then, counting(15, 9)) == "mysql has counted 9 of 15 books sold"
    assert warehouse_gap(ZERO, then, counting(20, 15)) == "bookwarehouse has counted 20 books, and at most 19 were sold"
