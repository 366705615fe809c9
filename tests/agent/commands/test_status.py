"""status, from the words on the command line to what is printed and the exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli import main


def test_status(asked: Any, daemon: Any, problem: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("node edge-1, edgemesh 0.1.0, pid ")
    assert asked == [("/run/edgemesh/edgemesh.sock", "/status")]
    daemon.problems = [problem]
    assert main(["status", "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["line"] == 12
    daemon.problems, daemon.state = [], "degraded"
    assert main(["status"]) == 1
