"""The demo's output: a live table on a terminal, one line for each step elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.demo.judge import Finding, Sample
from agent.demo.steps import STEPS, Step

COLOUR = {"held": "green", "waiting": "yellow", "broken": "red"}
NONE = "-"
MARK = {"held": "✓", "waiting": "…", "broken": "✗"}


class Result(Struct, frozen=True):
    """The result of one step. `failures` empty: it passed."""

    number: int
    step: Step
    seconds: float
    found: Mapping[str, Finding]
    trials: int
    failures: tuple[str, ...]


class Display:
    """Shows the current step; a context manager, so that the terminal is always restored."""

    def __init__(self, console: Console, notes: list[str]) -> None:
        self.console = console
        self.notes = notes  # the table's footer
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, number: int, step: Step, now: Sample, found: Mapping[str, Finding], doing: str) -> None:
        if self._live:
            self._live.update(table(number, step, now, found, [doing, *self.notes]))

    def finished(self, result: Result) -> None:
        """Print one line, which stays, for a step that is done."""
        found = ", ".join(
            f"{owner} {finding.text}" for owner, finding in result.found.items() if finding.text != "not deployed"
        )
        mark, style = ("FAILED", "red") if result.failures else ("ok", "green")
        self.console.print(
            Text.assemble(
                f"step {result.number}: {result.step.title}: ",
                (mark, style),
                f"  {found}; {result.trials} curls; {result.seconds:.1f} s",
            ),
            soft_wrap=True,
        )
        for failure in result.failures:
            self.console.print(Text(f"  {failure}", style="red"), soft_wrap=True)


def table(number: int, step: Step, now: Sample, found: Mapping[str, Finding], footer: list[str]) -> RenderableType:
    """Return the table of the current step: each counter, what it must do, what it did."""
    title = f"step {number} of {max(number, len(STEPS))}: {step.title}"
    grid = Table(title=title, title_justify="left", caption="\n".join(footer), caption_justify="left")
    for heading in ("", "books", "its last call", "expected", "since the change"):
        # Folded where it is narrow: cut short, bookstore-v1 and bookstore-v2 would look the same.
        grid.add_column(heading, justify="right" if heading == "books" else "left", overflow="fold")
    for owner, expectation in step.expectations.items():
        finding = found.get(owner, Finding("waiting", ""))
        count = NONE if expectation == "absent" else str(now.counts.get(owner, "?"))
        outcome = Text(f"{MARK[finding.state]} {finding.text}", style=COLOUR[finding.state])
        grid.add_row(owner, count, now.last.get(owner, ""), expectation, outcome)
    for owner, meaning in (("bookwarehouse", "restocked: follows sales"), ("mysql", "stored: follows sales")):
        grid.add_row(owner, str(now.counts.get(owner, "?")), now.last.get(owner, ""), meaning, "")
    return grid


def summary(results: list[Result]) -> RenderableType:
    """Return all steps in one table."""
    grid = Table(title="expected and found", title_justify="left")
    for heading in ("", "step", "bookbuyer", "bookthief", "bookstore-v1", "bookstore-v2", "curls", ""):
        grid.add_column(heading, overflow="fold")
    for result in results:
        cells = []
        for owner, expectation in result.step.expectations.items():
            finding = result.found[owner]
            cells.append(
                Text(NONE if expectation == "absent" else f"{expectation} {finding.text}", style=COLOUR[finding.state])
            )
        verdict = Text("FAILED", style="bold red") if result.failures else Text("ok", style="green")
        grid.add_row(str(result.number), result.step.title, *cells, str(result.trials), verdict)
    failed = [str(result.number) for result in results if result.failures]
    closing = (
        f"FAILED: step {', '.join(failed)}" if failed else f"all {len(results)} held" if len(results) > 1 else "held"
    )
    return Group(grid, Text(closing, style="bold red" if failed else "bold green"))
