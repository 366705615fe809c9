"""routes, from the words on the command line to what is printed."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import trio

from agent.admin.api import handler
from agent.cli import main
from agent.http.server import HttpRequest


def test_routes(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routes"]) == 0
    assert "TrafficSplit shop/halves" in capsys.readouterr().out
    assert main(["routes", "--output", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4


def test_documents_are_the_api_s(asked: Any, daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    main(["routes", "-o", "json"])
    reply = trio.run(handler(daemon), HttpRequest("/routes"))
    assert json.loads(capsys.readouterr().out) == msgspec.json.decode(reply.body)
