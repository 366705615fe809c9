"""demo: what the command line gives to the walk."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli import main


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.demo import walk

    calls: list[tuple[Any, ...]] = []

    def walk_main(*arguments: Any) -> int:
        calls.append(arguments)
        return 0

    monkeypatch.setattr(walk, "main", walk_main)
    assert main(["demo"]) == 0
    assert main(["demo", "--step", "3", "--hold"]) == 0
    assert main(["demo", "--app", "bookstore", "port=1"]) == 0
    assert main(["demo", "--nodes", "2"]) == 0
    assert main(["demo", "--chapter", "canary", "--hold"]) == 0
    assert calls == [
        (None, False, None, 1, None),
        (3, True, None, 1, None),
        (None, False, ["bookstore", "port=1"], 1, None),
        (None, False, None, 2, None),
        (None, True, None, 1, "canary"),
    ]
