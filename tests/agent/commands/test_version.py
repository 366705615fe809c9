"""version, for people and for programs."""

from __future__ import annotations

import json

import pytest

import agent
from agent.cli import main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"edgemesh {agent.__version__}\n"


def test_version_as_an_option_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"edgemesh {agent.__version__}\n")
    assert main(["version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": agent.__version__, "epoch": agent.__epoch__}


def test_the_version_is_the_project_s() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(agent.__file__).parent.parent / "pyproject.toml").read_text())
    assert project["project"]["version"] == agent.__version__
