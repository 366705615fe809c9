"""What commands that ask the daemon share: where it is, and what is told when it does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.cli import main


def test_where_the_daemon_is(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["routes", "--socket", "/given"])
    monkeypatch.setenv("EDGEMESH_SOCKET", "/environment")
    main(["routes"])
    main(["routes", "--socket", "/given"])
    assert [path for path, _ in asked] == ["/given", "/environment", "/given"]


def test_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "s")
    for verb in (["status"], ["routes"], ["connections"], ["explain", "a", "b"]):
        assert main([*verb, "--socket", path]) == 3
        assert capsys.readouterr() == (
            "",
            f"edgemesh: edgemesh is not running on this node: nobody answers at {path}\n"
            "  start it: edgemesh run --config DIR; or say where it listens: --socket PATH, or EDGEMESH_SOCKET\n",
        )


def test_a_daemon_that_is_starting(asked: Any, daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.published = None
    assert main(["routes"]) == 3
    assert "is not ready: no policy has been read yet" in capsys.readouterr().err
