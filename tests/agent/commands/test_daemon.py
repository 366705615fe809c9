"""run, cleanup and demo: what the command line gives to those who do the work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, Any]]]:
    from agent import app

    calls: list[tuple[Path, dict[str, Any]]] = []

    def run(directory: Path, overrides: dict[str, Any], hold_authority: bool) -> int:
        assert not hold_authority
        calls.append((directory, overrides))
        return 0

    monkeypatch.setattr(app, "run", run)
    monkeypatch.delenv("EDGEMESH_SOCKET", raising=False)
    monkeypatch.delenv("EDGEMESH_NODE", raising=False)
    return calls


def test_run_gives_only_what_was_given(started: Any, tmp_path: Path) -> None:
    assert main(["run", "--config", str(tmp_path)]) == 0
    assert started == [(tmp_path, {})]


def test_run_gives_everything(started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEMESH_NODE", "of-environment")
    monkeypatch.setenv("EDGEMESH_SOCKET", "/environment")
    words = ["--state-dir", "state", "--socket", "/s", "--metrics-address", "", "--access-log", "all"]
    assert main(["run", "--config", "m", *words]) == 0
    given = {
        "node": "of-environment",
        "state_dir": str(tmp_path / "state"),
        "admin_socket": "/s",
        "metrics_address": "",
        "access_log": "all",
    }
    assert started == [(tmp_path / "m", given)]


def test_run_with_nonsense_does_not_start(started: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", "m", "--metrics-address", "here"]) == 2
    assert "metricsAddress 'here' is not ADDRESS:PORT" in capsys.readouterr().err
    assert started == []


def test_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.kernel import removal

    monkeypatch.setattr(removal, "cleanup", lambda: 1)
    assert main(["cleanup"]) == 1


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
    assert calls == [(None, False, None, 1), (3, True, None, 1), (None, False, ["bookstore", "port=1"], 1), (None, False, None, 2)]


@pytest.mark.slow
def test_the_daemon_carries_nothing_that_only_people_need() -> None:
    code = (
        "import sys, agent.cli, agent.commands.daemon, agent.app\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'rich', 'asyncio', 'pyroute2', 'hypothesis'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
