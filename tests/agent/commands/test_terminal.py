"""Where people read: plain and wide in a pipe, and errors on standard error."""

from __future__ import annotations

import pytest

from agent.commands import terminal


def test_a_pipe_gets_long_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.text import Text

    made = terminal.console()
    made.print(Text("x " * 300, style="red"))
    made.print("[bold]:smile: 12")
    lines = capsys.readouterr().out.splitlines()
    assert [len(lines), lines[0].strip(), lines[1]] == [2, ("x " * 300).strip(), "[bold]:smile: 12"]


def test_a_width_can_be_given() -> None:
    assert terminal.console(60).width == 60


def test_json_is_for_programs_and_people(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({"a": ["é"]})
    assert capsys.readouterr().out == '{\n  "a": [\n    "é"\n  ]\n}\n'


def test_complaints(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.complain("no", "do that")
    terminal.complain("no")
    assert capsys.readouterr() == ("", "edgemesh: no\n  do that\nedgemesh: no\n")
