"""status, routes, connections and explain, from the words on the command line to what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
import pytest
import trio

from agent.admin import client
from agent.admin.api import handler
from agent.cli import main
from agent.httpd import Ask
from tests.agent.conftest import MANIFESTS


@pytest.fixture
def asked(daemon: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The CLI's client talks to the daemon's views without a socket; the list has each socket path and target."""
    found: list[tuple[str, str]] = []

    def fetch(socket_path: str, method: str, target: str, timeout: float) -> tuple[int, bytes]:
        found.append((socket_path, target))
        path, _, query = target.partition("?")
        reply = trio.run(handler(daemon), Ask(path, tuple(parse_qsl(query, keep_blank_values=True))))
        return reply.status, reply.body

    monkeypatch.setattr(client, "_fetch", fetch)
    monkeypatch.delenv("EDGEMESH_SOCKET", raising=False)
    return found


def test_status(asked: Any, daemon: Any, problem: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("node edge-1, edgemesh 0.1.0, pid ")
    assert asked == [("/run/edgemesh/edgemesh.sock", "/status")]
    daemon.problems = [problem]
    assert main(["status", "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["line"] == 12
    daemon.problems, daemon.enforcing = [], False
    assert main(["status"]) == 1


def test_routes_and_connections(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routes"]) == 0
    assert "TrafficSplit shop/halves" in capsys.readouterr().out
    assert main(["routes", "--output", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert main(["connections"]) == 0
    assert capsys.readouterr().out == "no connection is open\n"
    assert main(["connections", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_explain_asks_the_daemon(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "get", "--path", "/buy", "--header", "A: b:c", "--port", "80"]
    assert main(["explain", "buyer", "store-v1", *words]) == 0
    assert capsys.readouterr().out.startswith("allowed: shop/buyer -> shop/store-v1 port 80, GET /buy\n")
    query = [("src", "buyer"), ("dst", "store-v1"), ("method", "GET"), ("path", "/buy"), ("header", "A:b:c"), ("port", "80")]
    assert asked == [("/run/edgemesh/edgemesh.sock", f"/explain?{urlencode(query)}")]
    assert main(["explain", "thief", "store-v1"]) == 1
    assert capsys.readouterr().out.startswith("denied: ")
    assert main(["explain", "buyer", "store-far", "--udp", "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["asked"] == "udp"


def test_explain_of_something_that_is_not_there(asked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "buyer", "stroe"]) == 1
    assert capsys.readouterr() == ("", "edgemesh: there is no service or workload 'stroe'\n  there is shop/store\n")


def test_explain_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.yaml").write_text(MANIFESTS)
    assert main(["explain", "buyer", "store-v1", "--path", "/buy", "--config", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("allowed: ")
    assert main(["explain", "buyer", "nowhere", "--config", str(tmp_path), "--node", "n1"]) == 1
    assert "there is no service or workload 'nowhere'" in capsys.readouterr().err


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


def test_documents_are_the_api_s(asked: Any, daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    main(["routes", "-o", "json"])
    reply = trio.run(handler(daemon), Ask("/routes"))
    assert json.loads(capsys.readouterr().out) == msgspec.json.decode(reply.body)
