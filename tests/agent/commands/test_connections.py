"""connections, from the words on the command line to what is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli import main


def test_connections(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connections"]) == 0
    assert capsys.readouterr().out == "no connection is open\n"
    assert main(["connections", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
