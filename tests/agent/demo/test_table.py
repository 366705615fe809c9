"""What people see of a step, with and without a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from agent.demo.judge import Finding, Sample
from agent.demo.steps import STEPS
from agent.demo.table import Display, Result, summary, table

NOW = Sample(1.0, {"bookbuyer": 12, "bookwarehouse": 11, "mysql": 11}, {}, {"bookthief": "403 Forbidden"})
FOUND = {
    "bookbuyer": Finding("held", "+12"),
    "bookthief": Finding("broken", "+1, expected none"),
    "bookstore-v1": Finding("waiting", "+0"),
    "bookstore-v2": Finding("held", "not deployed"),
}


def printed(*things: object) -> str:
    console = Console(file=io.StringIO(), width=140)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_shows_counters_answers_and_findings():
    text = printed(table(3, STEPS[2], NOW, FOUND, ["curl: thief"]))
    for expected in (
        "step 3 of 9",
        "bookbuyer",
        "✓ +12",
        "403 Forbidden",
        "✗ +1, expected none",
        "… +0",
        "frozen",
        "curl: thief",
    ):
        assert expected in text
    assert "?" in text, "a counter that nobody answered"


def test_off_a_terminal_a_step_is_a_line_and_its_failures():
    out = io.StringIO()
    with Display(Console(file=out, width=60), []) as display:
        display.show(3, STEPS[2], NOW, FOUND, "watching")
        display.finished(Result(3, STEPS[2], 4.26, FOUND, 12, ("bookthief: expected frozen, found +1",)))
    lines = out.getvalue().splitlines()
    assert lines == [
        "step 3: apply traffic-access-v1: the buyer may: FAILED  "
        "bookbuyer +12, bookthief +1, expected none, bookstore-v1 +0; 12 curls; 4.3 s",
        "  bookthief: expected frozen, found +1",
    ]


def test_on_a_terminal_the_table_lives_and_the_terminal_is_given_back():
    out = io.StringIO()
    console = Console(file=out, width=140, force_terminal=True)
    with Display(console, ["mysql is a stand-in"]) as display:
        display.show(1, STEPS[0], NOW, FOUND, "watching")
        display.finished(Result(1, STEPS[0], 1.0, FOUND, 3, ()))
    assert "\x1b[?25l" in out.getvalue() and out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
    assert "ok" in out.getvalue()


def test_the_summary_names_what_failed():
    good = {owner: Finding("held", "+3") for owner in STEPS[0].expectations}
    results = [Result(1, STEPS[0], 1.0, good, 10, ()), Result(3, STEPS[2], 1.0, FOUND, 12, ("x",))]
    text = printed(summary(results))
    assert "frozen +1, expected none" in text and "FAILED: step 3" in text
    assert "all 2 held" in printed(summary([results[0], results[0]]))


def test_names_are_told_apart_however_narrow_it_is():
    """Cut short, bookstore-v1 and bookstore-v2 were one."""
    result = Result(3, STEPS[2], 4.26, FOUND, 12, ())
    console = Console(file=io.StringIO(), width=48)
    console.print(table(3, STEPS[2], NOW, FOUND, []))
    console.print(summary([result]))
    assert "…" not in console.file.getvalue().replace("… +0", "")  # type: ignore[attr-defined]
