"""check: everything that is wrong with a directory, sorted, and an exit code for scripts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from agent.cli import main

GOOD = (Path(__file__).parents[2] / "policy" / "mistakes" / "base.yaml").read_text()
WARNED = GOOD.replace("selector: {app: stock}", "selector: {app: stokc}", 1)
BROKEN = GOOD.replace("sources:", "sourcs:")


def test_a_good_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.yaml").write_text(GOOD)
    assert main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "7 objects, no problems\n"


def test_problems_are_sorted_and_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.yaml").write_text("kind: 'never closed\n")
    (tmp_path / "a.yaml").write_text(BROKEN.replace("selector: {app: stock}", "selector: {app: stokc}", 1))
    (tmp_path / "c.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")
    (tmp_path / "d.yaml").write_text(
        "apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {name: n1}\nspec: {onStop: maybe}\n"
    )
    assert main(["check", str(tmp_path), "--node", "n1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    places = [line.removeprefix(f"{tmp_path}/").partition(": ")[0] for line in lines if line.startswith(str(tmp_path))]
    assert places == ["a.yaml:50", "b.yaml:2", "d.yaml:4", "a.yaml:28", "c.yaml:1"], "errors, warnings, notices"
    assert "    a quote that was opened is never closed" in lines
    assert lines[-1] == "9 objects, 3 errors, 1 warning, 1 notice"


@pytest.mark.parametrize(
    ("text", "code", "strict"), [(GOOD, 0, 0), (WARNED, 0, 2), (BROKEN, 1, 1), (BROKEN + WARNED, 1, 1)]
)
def test_exit_codes(text: str, code: int, strict: int, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(text)
    assert main(["check", str(tmp_path)]) == code
    assert main(["check", "--strict", str(tmp_path)]) == strict


def test_files_and_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in several places is one: what one of them names may be in another."""
    documents = GOOD.split("---\n")
    (tmp_path / "objects.txt").write_text("---\n".join(documents[:-2]))
    (tmp_path / "routes").mkdir()
    (tmp_path / "routes" / "stock.yaml").write_text(documents[-2])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(documents[-1].encode())))
    assert main(["check", str(tmp_path / "objects.txt"), "-", str(tmp_path / "routes")]) == 0
    assert capsys.readouterr().out == "7 objects, no problems\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"kind: Workload\n")))
    assert main(["check", "-"]) == 1
    assert capsys.readouterr().out.startswith("standard input:1: error: ")


def test_what_is_missed_may_be_in_a_file_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = GOOD.split("---\n")
    (tmp_path / "all.yaml").write_text("---\n".join((*documents[:-2], documents[-1])))
    (tmp_path / "routes.yaml").write_text(documents[-2].replace("matches:", "\tmatches:"))
    assert main(["check", str(tmp_path), "-o", "json"]) == 1
    said = {item["file"].rpartition("/")[2]: item for item in json.loads(capsys.readouterr().out)}
    assert said["all.yaml"]["message"] == "there is no HTTPRouteGroup shop/stock-routes"
    assert said["all.yaml"]["hint"].endswith(f"; it may be in {tmp_path}/routes.yaml, which cannot be read")
    (tmp_path / "routes.yaml").unlink()
    assert main(["check", str(tmp_path), "-o", "json"]) == 1
    assert "cannot be read" not in capsys.readouterr().out


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "stock.yaml")]) == 1
    assert capsys.readouterr().out.startswith(f"{tmp_path}/stock.yaml: error: there is no such file or directory\n")


def test_notices_alone_are_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")
    assert main(["check", "--strict", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("1 object, 1 notice\n")


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nowhere"), "-o", "json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["severity"], found["message"]) == ("error", "there is no such file or directory")
    assert "--config" not in found["hint"], "check has no such option"
