"""What every demo stands on: what becomes of it when a part does not start. The village stands for any other."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from agent.demo import mesh, network, stage
from agent.demo.processes import StartFailed
from agent.demo.village import Village

PREFIX = "emt-"
PRIVATE = not os.access("/etc", os.W_OK)  # the rootless run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, or to run under unshare"),
    pytest.mark.skipif(
        shutil.which("ip") is None or shutil.which("setpriv") is None, reason="needs iproute2 and util-linux"
    ),
]

IDLE = "import sys, time; from agent.demo import apps; sys.exit(apps.run(sys.argv[3:])) if sys.argv[1] == 'demo' else time.sleep(600)"


@pytest.fixture(autouse=True)
def without_a_mesh(monkeypatch):
    for module in (stage, mesh):
        monkeypatch.setattr(module, "self_command", lambda: [sys.executable, "-c", IDLE])


def test_an_application_that_does_not_start_is_named_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "self_command", lambda: [sys.executable, "-c", "raise SystemExit('out of ink')"])
    with (
        pytest.raises(StartFailed, match=r"(?s)ended with status 1.*out of ink"),
        Village(tmp_path / "demo", PRIVATE, PREFIX),
    ):
        pass
    assert not (tmp_path / "demo").exists()
    assert not list(network.RUN.glob(f"{PREFIX}*"))


def test_a_daemon_that_never_is_ready_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "START_SECONDS", 5.0)
    with Village(tmp_path / "demo", PRIVATE, PREFIX) as there:
        monkeypatch.setattr(stage, "START_SECONDS", 0.2)
        with pytest.raises(StartFailed, match="edgemesh was not ready after 0 s"):
            there.start_mesh(lambda _: False)


def test_it_says_what_takes_its_time(tmp_path):
    said: list[str] = []
    with Village(tmp_path / "demo", PRIVATE, PREFIX, said.append) as there:
        assert [line.split()[0] for line in said] == ["making", "starting"]
        there.start_mesh(lambda _: True)
    assert said[2].startswith("starting the mesh")
