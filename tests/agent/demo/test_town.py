"""The town with real namespaces, real applications and no mesh: what it needs to be before a policy can be tried on it."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from agent.demo import network, town
from agent.demo.database import STAND_IN_NOTE, installed
from agent.demo.plan import HOSTS
from agent.demo.steps import STEPS
from agent.demo.town import StartFailed, Town

PREFIX = "emt-"
PRIVATE = not os.access("/etc", os.W_OK)  # the rootless run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, or to run under unshare"),
    pytest.mark.skipif(shutil.which("ip") is None or shutil.which("setpriv") is None, reason="needs iproute2 and util-linux"),
]

# Nobody answers DNS here: the applications are given addresses.
ADDRESS = {host.name: host.address4 for host in HOSTS}
DIRECT = (
    f"store={ADDRESS['bookstore-v1']}:14001",
    f"warehouse={ADDRESS['bookwarehouse']}:14001",
    f"database={ADDRESS['mysql']}:3306",
    "interval=0.02",
    "pause_least=0",
    "pause_most=0",
)

STUB = """
import sys, time
from agent.demo import apps
if sys.argv[1] == "demo":
    sys.exit(apps.run(sys.argv[3:]))
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def without_a_mesh(monkeypatch):
    monkeypatch.setattr(town, "self_command", lambda: [sys.executable, "-c", STUB])
    monkeypatch.setattr(town, "SETTINGS", (*town.SETTINGS, *DIRECT))


@pytest.mark.parametrize("real", [pytest.param(True, marks=pytest.mark.skipif(installed() is None, reason="no MariaDB")), False])
def test_everything_runs_counts_and_goes_away(tmp_path, monkeypatch, eventually, real):
    if not real:
        monkeypatch.setattr(town, "installed", lambda: None)
    with Town(tmp_path / "demo", private=PRIVATE, prefix=PREFIX) as there:
        assert there.notes == ([] if real else [STAND_IN_NOTE])
        there.apply(STEPS[0])
        assert {path.name for path in there.config.path.iterdir()} > {"mesh.yaml", "services.yaml", "node.yaml", "workload-mysql.yaml"}
        assert not (there.config.path / "workload-bookstore-v2.yaml").exists()

        def books(owner: str) -> int:
            return there.sample().counts.get(owner, -1)

        for owner in ("bookbuyer", "bookthief", "bookstore-v1", "bookwarehouse", "mysql"):
            eventually(lambda owner=owner: books(owner) >= 3)
        assert there.stored() >= 3
        assert books("bookstore-v2") == -1

        there.apply(STEPS[5])
        eventually(lambda: books("bookstore-v2") == 0)
        assert (there.config.path / "workload-bookstore-v2.yaml").exists()
        there.start_mesh(lambda: True)
        assert there.processes.ended() == ""
        there.apply(STEPS[0])
        assert books("bookstore-v2") == -1
    assert not (tmp_path / "demo").exists()
    assert not list(network.RUN.glob(f"{PREFIX}*"))


def test_an_application_that_does_not_start_is_named_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(town, "self_command", lambda: [sys.executable, "-c", "raise SystemExit('out of ink')"])
    with pytest.raises(StartFailed, match=r"(?s)ended with status 1.*out of ink"), Town(tmp_path / "demo", private=PRIVATE, prefix=PREFIX):
        pass
    assert not (tmp_path / "demo").exists()
    assert not list(network.RUN.glob(f"{PREFIX}*"))


def test_a_daemon_that_never_is_ready_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(town, "START_SECONDS", 5.0)
    with Town(tmp_path / "demo", private=PRIVATE, prefix=PREFIX) as there:
        monkeypatch.setattr(town, "START_SECONDS", 0.2)
        with pytest.raises(StartFailed, match="edgemesh was not ready after 0 s"):
            there.start_mesh(lambda: False)
