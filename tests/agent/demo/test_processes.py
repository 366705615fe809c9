"""Children of the demo: started with a log, missed when they end by themselves, ended with us."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.demo.processes import Processes
from agent.demo.surroundings import environment

pytestmark = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs util-linux")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_leaving_ends_them(tmp_path):
    with Processes(tmp_path) as children:
        children.start("one", python("import time; time.sleep(600)"))
        children.start("two", python("import time; time.sleep(600)"))
        running = list(children._running.values())
        assert children.has("one") and children.ended() == ""
    assert [process.returncode for process in running] == [-signal.SIGTERM, -signal.SIGTERM]


def test_one_that_ended_by_itself_is_named_with_the_end_of_its_log(tmp_path, eventually):
    with Processes(tmp_path) as children:
        children.start("app", python("import sys; print('the reason', file=sys.stderr); sys.exit(3)"))
        eventually(lambda: children.ended() != "")
        assert children.ended() == "app ended with status 3:\nthe reason"


def test_one_that_was_stopped_is_not_missed(tmp_path):
    with Processes(tmp_path) as children:
        children.start("app", python("import time; time.sleep(600)"))
        children.stop("app")
        assert not children.has("app") and children.ended() == ""
        children.stop("app")  # again: nothing to do


def test_one_that_ignores_sigterm_is_killed(tmp_path, eventually):
    with Processes(tmp_path) as children:
        children.start(
            "app",
            python("import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"),
        )
        eventually(lambda: children.tail("app") == "up")
        process = children._running["app"]
        children.stop("app", patience=0.05)
        assert process.returncode == -signal.SIGKILL


def test_children_end_with_a_demo_that_is_killed(tmp_path, eventually):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom agent.demo.processes import Processes\n"
        "children = Processes(Path(sys.argv[1]))\n"
        "children.start('app', [sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(600)'])\n"
        "print(children._running['app'].pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    demo = subprocess.Popen(
        [*python(code), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert demo.stdout is not None
    pid = int(demo.stdout.readline())
    eventually(lambda: (tmp_path / "app.log").read_text() == "1\n")
    demo.kill()
    demo.communicate()
    eventually(lambda: _state(pid) in ("gone", "Z"))


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"
