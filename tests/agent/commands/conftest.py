"""A box to set up and to take down, below a test's own folder; a daemon that is asked without a socket; a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import trio

from agent.admin import client
from agent.admin.api import handler
from agent.commands import remove, setup
from agent.http.client import Response
from agent.http.server import HttpRequest
from agent.install import files
from agent.system import program
from tests.agent.kubernetes.objects import Cluster


@pytest.fixture
def box(tmp_path, monkeypatch):
    """Root on a box without systemd, whose places are below tmp_path."""
    monkeypatch.setattr(setup.os, "geteuid", lambda: 0)
    monkeypatch.setattr(program, "file", Path("/dev/null"))
    for name in ("STATE", "CONFIG", "CACHE", "RUNTIME", "UNITS", "PROGRAM", "OPTIONS", "NODE"):
        there = tmp_path / str(getattr(files, name)).lstrip("/")
        for module in (setup, remove, files):
            if module is files or hasattr(module, name):
                monkeypatch.setattr(module, name, there)
    for module in (setup, remove):
        monkeypatch.setattr(module, "is_there", lambda: False)
    return tmp_path


@pytest.fixture
def asked(daemon: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The CLI's client talks to the daemon's views without a socket; the list has each socket path and target."""
    found: list[tuple[str, str]] = []

    def fetch(socket_path: str, method: str, target: str, timeout: float) -> Response:
        found.append((socket_path, target))
        path, _, query = target.partition("?")
        reply = trio.run(handler(daemon), HttpRequest(path, tuple(parse_qsl(query, keep_blank_values=True))))
        return Response(reply.status, reply.body)

    monkeypatch.setattr(client, "_fetch", fetch)
    monkeypatch.delenv("EDGEMESH_SOCKET", raising=False)
    return found


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster in memory, which KUBECONFIG names."""
    there = Cluster()
    with there.running():
        (tmp_path / "kubeconfig").write_text(there.kubeconfig)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("EDGEMESH_NAMESPACE", "EDGEMESH_SOCKET", "KUBERNETES_SERVICE_HOST"):
            monkeypatch.delenv(name, raising=False)
        yield there
