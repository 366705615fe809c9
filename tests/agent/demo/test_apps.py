"""APPS, and the frame that runs one application as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.demo import apps
from agent.demo.application import Settings
from agent.demo.servers import ask
from agent.demo.surroundings import environment


def test_an_application_runs_as_a_process_until_sigterm(tmp_path, eventually):
    control = tmp_path / "store.sock"
    words = ["bookstore", f"control={control}", "port=0", "identity=bookstore-v2"]
    code = "import sys; from agent.demo.apps import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *words], env=environment())
    try:
        eventually(control.exists)
        eventually(lambda: _answers(control))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def _answers(control: Path) -> bool:
    try:
        return ask(control, "/raw") == {"booksSold": 0}
    except OSError:
        return False


def test_every_application_can_be_made():
    assert set(apps.APPS) == {"bookstore", "bookbuyer", "bookthief", "bookwarehouse", "database", "web"}
    for make in apps.APPS.values():
        application, _handler = make(Settings())
        assert application.raw()


def test_an_unknown_application_is_named():
    with pytest.raises(SystemExit, match="no application named 'bookburner'"):
        apps.run(["bookburner"])
