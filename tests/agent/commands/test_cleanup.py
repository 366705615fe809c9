"""cleanup: its exit code is that of the work."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from agent.cli import main


def test_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.kernel import cleanup

    monkeypatch.setattr(cleanup, "cleanup", lambda: 1)
    assert main(["cleanup"]) == 1


def test_all_is_the_disk_too_and_others_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.commands import cleanup as command
    from agent.kernel import cleanup

    monkeypatch.setattr(cleanup, "cleanup", lambda: 0)
    plugins = tmp_path / "nri/plugins"
    plugins.mkdir(parents=True)
    for name in ("05-edgemesh", "10-other", "../edgemesh.json"):
        (plugins / name).write_text("")
    monkeypatch.setattr(command, "BOOT", tmp_path / "nri")
    for name in ("STATE", "CACHE", "RUNTIME"):
        monkeypatch.setattr(command, name, tmp_path / name)
    (tmp_path / "STATE/releases").mkdir(parents=True)
    (tmp_path / "STATE/releases/one").write_text("")
    (tmp_path / "STATE/link").symlink_to(plugins)
    assert main(["cleanup"]) == 0
    assert (tmp_path / "STATE/link").is_symlink()
    assert main(["cleanup", "--all"]) == 0
    assert not (tmp_path / "STATE").exists()
    assert [path.name for path in plugins.iterdir()] == ["10-other"]  # and what a link points at is left alone
    assert [path.name for path in (tmp_path / "nri").iterdir()] == ["plugins"]


def test_what_the_runtime_runs_for_us_ends_before_the_gate_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.commands import cleanup as command
    from agent.kernel import cleanup

    for name in ("STATE", "CACHE", "RUNTIME"):
        monkeypatch.setattr(command, name, tmp_path / name)
    monkeypatch.setattr(command, "BOOT", tmp_path)
    (tmp_path / "plugins").mkdir()
    program = tmp_path / "plugins/05-edgemesh"
    program.write_text("#!/bin/sh\necho begun\nread line\n")
    program.chmod(0o755)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"begun\n"
        monkeypatch.setattr(cleanup, "cleanup", lambda: 0 if started.wait(10) else 1)
        assert main(["cleanup", "--all"]) == 0
        assert started.returncode == -signal.SIGTERM
    assert not program.exists()


def test_it_stays_only_when_all_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.commands import cleanup as command
    from agent.kernel import cleanup

    waited: list[object] = []
    monkeypatch.setattr(command.signal, "sigwait", waited.append)
    monkeypatch.setattr(command.signal, "pthread_sigmask", lambda *_: None)
    monkeypatch.setattr(cleanup, "cleanup", lambda: 1)
    assert main(["cleanup", "--stay"]) == 1
    assert not waited
    monkeypatch.setattr(cleanup, "cleanup", lambda: 0)
    assert main(["cleanup", "--stay"]) == 0
    assert len(waited) == 1
