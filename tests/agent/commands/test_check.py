"""check: everything that is wrong with a directory, sorted, and an exit code for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli import main
from tests.agent.conftest import MANIFESTS


def test_a_good_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.yaml").write_text(MANIFESTS)
    assert main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "11 objects, no problems\n"


def test_problems_are_sorted_and_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.yaml").write_text("kind: 'never closed\n")
    (tmp_path / "a.yaml").write_text(MANIFESTS.replace("sources:", "sourcs:"))
    (tmp_path / "c.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")
    (tmp_path / "d.yaml").write_text("apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {name: n1}\nspec: {onStop: maybe}\n")
    assert main(["check", str(tmp_path), "--node", "n1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    places = [line.removeprefix(f"{tmp_path}/").partition(": ")[0] for line in lines if line.startswith(str(tmp_path))]
    assert places == ["a.yaml:57", "b.yaml:2", "d.yaml:4", "c.yaml:1"]
    assert "    a quote that was opened is never closed" in lines
    assert lines[-1] == "13 objects, 3 errors, 1 notice"


def test_notices_alone_are_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")
    assert main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("1 object, 1 notice\n")


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nowhere"), "-o", "json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["severity"], found["message"]) == ("error", "the directory cannot be read: No such file or directory")
