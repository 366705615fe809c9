"""Does a node do what its manifests ask, and what keeps it from that?"""

from __future__ import annotations

import pytest

from agent.daemon import readiness
from agent.kernel.condition import Condition
from policy.model import Problem, Where

CAPTURED, WAITING, NOT = Condition(True), Condition(False, waiting=True), Condition(False, error="a port is taken")


@pytest.mark.parametrize(
    ("settled", "conditions", "state", "words"),
    [
        (False, {"shop/a": NOT}, "starting", "starting on edge-1"),
        (True, {}, "enforcing", "enforces policy on edge-1"),
        (True, {"shop/a": CAPTURED, "shop/b": WAITING}, "enforcing", "enforces policy on edge-1"),
        (
            True,
            {"shop/a": CAPTURED, "shop/b": NOT},
            "degraded",
            "degraded: not captured on edge-1: shop/b; edgemesh status says why",
        ),
    ],
)
def test_state(settled: bool, conditions: dict[str, Condition], state: str, words: str) -> None:
    found = readiness.state(settled, conditions)
    assert (found, readiness.in_words(found, "edge-1", conditions)) == (state, words)


def test_many_are_counted() -> None:
    conditions = {f"shop/{name}": NOT for name in "edcba"}
    assert readiness.in_words("degraded", "n", conditions) == (
        "degraded: not captured on n: shop/a, shop/b, shop/c and 2 more; edgemesh status says why"
    )


def test_problems_name_the_line_and_the_fault() -> None:
    found = list(
        readiness.problems({"shop/a": NOT, "shop/b": Condition(False), "shop/c": CAPTURED}, lambda key: Where(key, 3))
    )
    hint = "no policy holds for its calls, and nobody is refused there"
    assert found == [
        Problem("error", Where("shop/a", 3), "Workload shop/a", "is not captured: a port is taken", hint),
        Problem("error", Where("shop/b", 3), "Workload shop/b", "is not captured: not yet", hint),
    ]


def test_closed_places_are_warnings_and_those_that_cannot_be_closed_errors() -> None:
    closed, unclosed = readiness.closed({"/run/netns/a": "shop/a"}, {"/run/netns/b": "no"}, lambda key: Where(key, 1))
    assert (closed.severity, closed.object, unclosed.severity, unclosed.object) == (
        "warning",
        "Workload shop/a",
        "error",
        "/run/netns/b",
    )
    assert "edgemesh release shop/a" in closed.hint
