"""explain, of a daemon and of manifests, from the words on the command line to what is printed and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from agent.cli import main
from tests.agent.conftest import MANIFESTS


def test_explain_asks_the_daemon(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "get", "--path", "/buy", "--header", "A: b:c", "--port", "80"]
    assert main(["explain", "buyer", "store-v1", *words]) == 0
    assert capsys.readouterr().out.startswith("allowed: shop/buyer -> shop/store-v1 port 80, GET /buy\n")
    query = [
        ("src", "buyer"),
        ("dst", "store-v1"),
        ("method", "GET"),
        ("path", "/buy"),
        ("header", "A:b:c"),
        ("port", "80"),
    ]
    assert asked == [("/run/edgemesh/edgemesh.sock", f"/explain?{urlencode(query)}")]
    assert main(["explain", "thief", "store-v1"]) == 1
    assert capsys.readouterr().out.startswith("denied: ")
    assert main(["explain", "buyer", "store-far", "--udp", "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["asked"] == "udp"


def test_explain_of_something_that_is_not_there(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "buyer", "stroe"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(
        "edgemesh: there is no service or workload 'stroe'\n  did you mean shop/store? there is shop/buyer, "
    )


def test_explain_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.yaml").write_text(MANIFESTS)
    assert main(["explain", "buyer", "store-v1", "--path", "/buy", "--config", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("allowed: ")
    assert main(["explain", "buyer", "nowhere", "--config", str(tmp_path), "--node", "n1"]) == 1
    assert "there is no service or workload 'nowhere'" in capsys.readouterr().err


def test_explain_says_that_manifests_are_in_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What they would say is left out of the answer."""
    (tmp_path / "shop.yaml").write_text(MANIFESTS.replace("sources:", "sourcs:"))
    assert main(["explain", "buyer", "store-v1", "--path", "/buy", "--config", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("denied: ")
    assert "unknown field spec.sourcs" in said.err
    assert f"edgemesh check {tmp_path} tells more" in said.err
    assert main(["explain", "buyer", "store-v1", "--config", str(tmp_path / "nowhere")]) == 1
    assert "there is no such file or directory" in capsys.readouterr().err
