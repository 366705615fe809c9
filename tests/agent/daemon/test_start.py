"""One process that is a daemon: what it begins with, and how it ends. It makes its own loop."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.admin.listener import AdminSocket
from agent.daemon import node, start
from agent.sources import Change, directory, manifest
from agent.store.disk import State
from agent.system import state_files
from policy.model import Workload
from tests.agent.conftest import MANIFESTS
from tests.agent.daemon.conftest import FakeCapture, terminate

LATER = "apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {name: edge-1}\nspec: {accessLog: all}\n"
ACCOUNT = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: late, namespace: shop}\n"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Overrides for run(), whose ground asks for the end as soon as it is told what to want."""

    class Brief(FakeCapture):
        def want(self, workloads: Iterable[Workload]) -> None:
            super().want(workloads)
            terminate()

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(node, "CaptureManager", Brief)
    yield {
        "node": "edge-1",
        "state_dir": str(tmp_path / "state"),
        "admin_socket": str(tmp_path / "s"),
        "metrics_address": "",
    }
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_run_until_a_signal(tmp_path: Path, running: dict[str, Any]) -> None:
    (tmp_path / "shop.yaml").write_text(MANIFESTS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    assert start.run(tmp_path, running) == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    assert not (tmp_path / "s").exists()


def test_a_start_reads_and_parses_every_file_once(
    tmp_path: Path, running: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start too, which finds the state of the first."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.yaml").write_text(
            f"apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: a{number}, namespace: n}}\n"
        )
    (folder / "shop.yaml").write_text(MANIFESTS)
    opened: list[str] = []
    parsed: list[str] = []
    real_opened, real_read = state_files.opened, manifest.read

    def count_opened(path: Path, flags: int = 0) -> Any:
        opened.append(path.name)
        return real_opened(path, flags)

    def count_parsed(data: bytes, origin: str, rest: bool = False) -> Change:
        parsed.append(Path(origin).name)
        return real_read(data, origin, rest)

    monkeypatch.setattr(state_files, "opened", count_opened)
    monkeypatch.setattr(manifest, "read", count_parsed)
    monkeypatch.setattr(
        directory, "_FRESH_NS", -1
    )  # files that were written just now may change within the tick of their time stamps
    names = [*(f"{number}.yaml" for number in range(5)), "shop.yaml"]
    for _ in range(2):
        opened.clear()
        parsed.clear()
        assert start.run(folder, running) == 0
        assert sorted(parsed) == names
        assert sorted(name for name in opened if name in names) == names
        assert sorted(name for name in opened if name in ("addresses.json", "last-good.json")) == [
            "addresses.json",
            "last-good.json",
        ]


def test_settings_of_the_manifests_hold_from_the_start(
    tmp_path: Path, running: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del running["admin_socket"]
    path = tmp_path / "of-config.sock"
    settings = f"apiVersion: edgemesh.io/v1alpha1\nkind: NodeConfig\nmetadata: {{name: edge-1}}\nspec: {{adminSocket: {path}}}\n"
    (tmp_path / "node.yaml").write_text(settings)
    made = []
    monkeypatch.setattr(start, "AdminSocket", lambda path, lent=None: made.append(path) or AdminSocket(path, lent))
    assert start.run(tmp_path, running) == 0
    assert made == [path]


def test_a_socket_that_cannot_be_made_is_told_and_nothing_runs(
    tmp_path: Path, running: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    running["admin_socket"] = str(tmp_path / ("s" * 120))
    assert start.run(tmp_path, running) == 1
    assert capsys.readouterr().err.startswith("edgemesh: ")
    assert not (tmp_path / "state").exists()


def test_in_a_pod_it_waits_for_the_daemon_of_the_pod_before(
    tmp_path: Path, running: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one stops, and hands nothing over: to end here would make the kubelet wait."""
    (tmp_path / "shop.yaml").write_text(MANIFESTS)
    monkeypatch.setenv("EDGEMESH_POD", "edgemesh-agent-x")
    before = AdminSocket(tmp_path / "s")
    kept = manifest.read(ACCOUNT.encode(), "shop.yaml").objects or ()
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            State(tmp_path / "state").save(kept, {})
            (tmp_path / "node.yaml").write_text(LATER)
            before.close()

    monkeypatch.setattr(start.time, "sleep", sleep)
    began: list[str] = []

    def made(*given: Any) -> node.Node:
        began.extend(raw.data["metadata"]["name"] for raw in given[5].load()[0])
        began.append(given[1].config.access_log)
        return node.Node(*given)

    monkeypatch.setattr(start, "Node", made)
    assert start.run(tmp_path, running) == 0
    assert len(looks) == 3
    assert began == ["late", "all"], "what that one wrote last, and the settings of that moment"


def test_in_a_pod_it_does_not_wait_for_ever(
    tmp_path: Path, running: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop.yaml").write_text(MANIFESTS)
    monkeypatch.setenv("EDGEMESH_POD", "edgemesh-agent-x")
    monkeypatch.setattr(start, "_OLD_POD", 0.1)
    before = AdminSocket(tmp_path / "s")
    assert start.run(tmp_path, running) == 1
    assert "already running" in capsys.readouterr().err
    before.close()


HOLDS = """
import fcntl, os, signal, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, b"%d" % (int(sys.argv[2]) or os.getpid()))
print("holds it", flush=True)
signal.pause()
"""


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A daemon of an earlier version, which holds the lock and has no socket for the next pod's.

    `number`: the process that it says it is; 0: itself. `pod`: it runs in one.
    """
    (tmp_path / "shop.yaml").write_text(MANIFESTS)
    monkeypatch.setenv("EDGEMESH_POD", "edgemesh-agent-x")
    monkeypatch.setattr(start, "_DEAF", 0.1)
    made: list[subprocess.Popen[str]] = []

    def begin(number: int = 0, pod: bool = True) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLDS, str(tmp_path / "s.lock"), str(number)]
        environment = (
            {**os.environ} if pod else {key: value for key, value in os.environ.items() if key != "EDGEMESH_POD"}
        )
        made.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment))
        assert made[-1].stdout is not None
        assert made[-1].stdout.readline() == "holds it\n"
        return made[-1]

    yield begin
    for process in made:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_in_a_pod_it_asks_a_daemon_to_stop_that_cannot_hand_over(
    tmp_path: Path, running: dict[str, Any], deaf: Any
) -> None:
    """The kubelet would not, before the new pod is ready."""
    before = deaf()
    assert start.run(tmp_path, running) == 0
    assert before.wait(1) == -signal.SIGTERM


def test_another_process_is_not_asked_to_stop(
    tmp_path: Path, running: dict[str, Any], deaf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has by now the number that is in the file."""
    monkeypatch.setattr(start, "_OLD_POD", 0.5)
    with subprocess.Popen(["sleep", "60"]) as other:
        before = deaf(other.pid)
        assert start.run(tmp_path, running) == 1
        assert (before.poll(), other.poll()) == (None, None)
        other.kill()


def test_a_daemon_of_the_box_is_not_asked_to_stop(
    tmp_path: Path, running: dict[str, Any], deaf: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Its service manager would begin it again; a person has to decide."""
    monkeypatch.setattr(start, "_OLD_POD", 0.5)
    before = deaf(pod=False)
    assert start.run(tmp_path, running) == 1
    assert before.poll() is None
    assert "stop it first" in capsys.readouterr().err
