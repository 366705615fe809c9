"""Where a daemon answers: metrics over TCP, for who shows the token; health, for a kubelet. The admin socket is in test_node.py."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from agent.admin import api, bearer
from agent.daemon import tcp_port
from agent.http.server import HttpRequest
from tests.ports import free_port

TOKEN = "6f1c" * 8


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "metrics-token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


async def fetch(port: int, path: str, *fields: str) -> tuple[int, bytes]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *fields, "", ""]
        await stream.send_all("\r\n".join(lines).encode())
        found = b"".join([bytes(part) async for part in stream])
    return int(found.split(b" ", 2)[1]), found


async def test_metrics_over_tcp_for_who_shows_the_token_and_nothing_else(start: Any, token_file: Path) -> None:
    port = free_port()
    daemon = start(metrics_address=f"127.0.0.1:{port}", metrics_token_file=str(token_file))
    await daemon.start()
    token = f"Authorization: Bearer {TOKEN}"
    status, text = await fetch(port, "/metrics", token)
    assert status == 200
    assert b"edgemesh_workloads_captured 3.0" in text
    assert (await fetch(port, "/ready", token))[0] == 200
    for path in ("/status", "/snapshot"):
        assert (await fetch(port, path, token))[0] == 404
    for fields in (
        (),
        (f"Authorization: Basic {TOKEN}",),
        ("Authorization: Bearer x",),
        (token, token),
        ("Authorization: Bearer ",),
    ):
        for path in ("/metrics", "/status"):
            status, text = await fetch(port, path, *fields)
            assert status == 401, fields
            assert b"www-authenticate: Bearer\r\n" in text
            assert b"edgemesh_" not in text
    assert (await fetch(port, "/ready"))[1].endswith(b'{"ready":true}\n')


async def test_an_address_for_metrics_without_a_token_is_not_listened_at(start: Any) -> None:
    port = free_port()
    daemon = start(metrics_address=f"127.0.0.1:{port}")
    await daemon.start()
    with pytest.raises(OSError, match="connect"):
        await fetch(port, "/metrics")


async def test_a_token_that_cannot_be_used_is_an_error_until_it_can(
    start: Any, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearer, "_LOOK", 0.0)
    port = free_port()
    token_file.chmod(0o644)
    daemon = start(metrics_address=f"127.0.0.1:{port}", metrics_token_file=str(token_file))
    await daemon.start()
    (problem,) = [problem for problem in daemon.node.problems if problem.object == "NodeConfig metricsTokenFile"]
    assert problem.severity == "error"
    assert f"{token_file} may be read by everybody" in problem.message
    token = f"Authorization: Bearer {TOKEN}"
    assert (await fetch(port, "/metrics", token))[0] == 401
    token_file.chmod(0o600)
    assert (await fetch(port, "/metrics", token))[0] == 200
    assert not any(problem.object == "NodeConfig metricsTokenFile" for problem in daemon.node.problems)


async def test_a_metrics_address_that_is_taken_is_a_warning_and_tried_again(
    start: Any, token_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp_port, "_AGAIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = start(metrics_address=address, metrics_token_file=str(token_file))
        await daemon.start()
        said = f"no metrics on {address}: Address already in use; it is tried again"
        (problem,) = [problem for problem in daemon.node.problems if problem.object == "NodeConfig metricsAddress"]
        assert (problem.severity, problem.message) == ("warning", said)
        assert [(r.levelno, r.getMessage()) for r in caplog.records if said in r.getMessage()] == [
            (logging.WARNING, str(problem))
        ]
        assert await daemon.ask("/ready") == {"ready": True}
    with trio.fail_after(10):
        while any(problem.object == "NodeConfig metricsAddress" for problem in daemon.node.problems):
            await trio.sleep(0.02)
    status, _ = await fetch(int(address.rpartition(":")[2]), "/metrics", f"Authorization: Bearer {TOKEN}")
    assert status == 200


async def test_a_kubelet_asks_whether_it_runs_and_has_begun_and_nothing_else(start: Any) -> None:
    port = free_port()
    daemon = start(health_address=f"127.0.0.1:{port}")
    await daemon.start()
    assert (await fetch(port, "/live"))[0] == 200
    assert (await fetch(port, "/settled"))[1].endswith(b'{"settled":true}\n')
    for path in ("/ready", "/metrics", "/status", "/"):
        assert (await fetch(port, path))[0] == 404


async def test_a_node_that_has_not_begun_is_live_and_not_settled() -> None:
    class Daemon:
        state = "starting"

    answer = api.health(cast(Any, Daemon()))
    assert (await answer(HttpRequest("/live"))).status == 200
    assert (await answer(HttpRequest("/settled"))).status == 503
    Daemon.state = "degraded"  # something is not captured: a restart would not help, and other nodes should be updated all the same
    assert (await answer(HttpRequest("/settled"))).status == 200
