"""run: what the command line gives to the daemon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from nodeproxy.native import AVAILABLE


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, Any]]]:
    from agent.daemon import start

    calls: list[tuple[Path, dict[str, Any]]] = []

    def run(directory: Path, overrides: dict[str, Any], hold_authority: bool, access: Any) -> int:
        assert not hold_authority
        assert access is None
        calls.append((directory, overrides))
        return 0

    monkeypatch.setattr(start, "run", run)
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
    words = [
        "--state-dir",
        "state",
        "--socket",
        "/s",
        "--metrics-address",
        "",
        "--metrics-token-file",
        "t",
        "--access-log",
        "all",
    ]
    assert main(["run", "--config", "m", *words]) == 0
    given = {
        "node": "of-environment",
        "state_dir": str(tmp_path / "state"),
        "admin_socket": "/s",
        "metrics_address": "",
        "metrics_token_file": str(tmp_path / "t"),
        "access_log": "all",
    }
    assert started == [(tmp_path / "m", given)]


def test_run_with_nonsense_does_not_start(started: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", "m", "--metrics-address", "here"]) == 2
    assert "metricsAddress 'here' is not ADDRESS:PORT" in capsys.readouterr().err
    assert started == []


def test_run_with_nothing_to_read(started: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert "give --config DIR, --kubernetes or both" in capsys.readouterr().err
    assert started == []


def test_run_in_a_cluster(
    started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from agent.daemon import start

    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    given: list[Any] = []
    monkeypatch.setattr(
        start, "run", lambda directory, _overrides, _authority, access: given.append((directory, access)) or 0
    )
    assert main(["run", "--kubernetes"]) == 1
    assert "no access to a cluster was found" in capsys.readouterr().err
    file = tmp_path / "config"
    assert main(["run", "--kubeconfig", str(file)]) == 1
    assert f"{file}: cannot be read: No such file" in capsys.readouterr().err
    file.write_text(
        "current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\n"
        "clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443'}}]\n"
    )
    assert main(["run", "--kubeconfig", str(file)]) == 0
    assert main(["run", "--kubernetes", "--kubeconfig", str(file), "--config", str(tmp_path)]) == 0
    monkeypatch.setenv("KUBECONFIG", str(file))
    assert main(["run", "--kubernetes"]) == 0
    assert [directory for directory, _ in given] == [None, tmp_path, None]
    assert {access.place for _, access in given} == {"https://10.0.0.1:6443"}


def test_with_no_source_there_is_nothing_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert "nothing to read: give --config DIR, --kubernetes or both" in capsys.readouterr().err


@pytest.mark.slow
def test_the_daemon_carries_nothing_that_only_people_need() -> None:
    code = (
        "import sys, agent.cli, agent.commands.run, agent.daemon.start\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'rich', 'asyncio', 'pyroute2', 'hypothesis'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    code = "import sys, agent.cli, agent.commands.run, agent.daemon.start\nprint('agent.kubernetes.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "a node without a cluster"


# What a daemon loads when it needs it first, and most daemons never do: MiB of resident memory.
LATER = {
    "prometheus_client",  # a scrape
    "http.server",
    "http.client",
    "email",
    "html.entities",
    "urllib.request",
    "h11",  # a server whose responses are not in strict form
    "yaml",  # manifests in files
    "cryptography",  # a certificate that is due
    "difflib",  # a typing error
    "importlib.resources",
    "importlib.metadata",
    "xml",
    "multiprocessing",
}
NATIVE = {"h2", "hpack", "hyperframe"}  # HTTP/2 without the native lane


@pytest.mark.slow
def test_the_daemon_of_a_cluster_starts_without_what_it_may_never_need() -> None:
    code = (
        "import sys, agent.cli, agent.commands.run, agent.daemon.start\n"
        "import agent.sources.kubernetes.cluster, agent.identity.kubernetes.signer\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded & (LATER | NATIVE if AVAILABLE else LATER) == set()
