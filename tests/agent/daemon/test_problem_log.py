"""Problems in the log: each once, however often it is looked at."""

from __future__ import annotations

import logging

import pytest

from agent.daemon.problem_log import ProblemLog
from policy.model import Problem, Where


def expired(hours: int, where: Where | None = None) -> Problem:
    return Problem("error", where or Where(), "identity", f"expired {hours} h ago")


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


def test_each_once_by_its_severity_and_how_many_are_gone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log, notice = ProblemLog(), Problem("notice", Where(), "a", "is odd")
    warning = Problem("warning", Where(), "b", "is wrong", "mend it")
    assert log.tell([notice, warning]) == 0
    assert sorted(said(caplog)) == [("INFO", "notice: a: is odd"), ("WARNING", "warning: b: is wrong (mend it)")]
    assert log.tell([warning]) == 1
    assert log.tell([warning]) == 0
    assert said(caplog) == []
    assert log.tell([notice]) == 1, "what comes again is told again"
    assert said(caplog) == [("INFO", "notice: a: is odd")]


def test_other_numbers_are_the_same_problem_but_another_line_of_a_file_is_not(caplog: pytest.LogCaptureFixture) -> None:
    log = ProblemLog()
    log.tell([expired(1)])
    log.tell([expired(2)])
    assert said(caplog) == [("ERROR", "error: identity: expired 1 h ago")]
    log.tell([expired(2), expired(3, Where("shop.yaml", 7))])
    assert said(caplog) == [("ERROR", "shop.yaml:7: error: identity: expired 3 h ago")]
