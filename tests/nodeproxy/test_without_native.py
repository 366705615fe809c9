"""Where the native lane was not compiled, the daemon starts and serves all the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import sys

sys.modules["nodeproxy.native._lane"] = None  # importing it fails, as where there is no such file

import trio

import agent.daemon.node
from agent.daemon import self_test
from nodeproxy.native import AVAILABLE

assert not AVAILABLE
assert "nodeproxy.fastpath.path" not in sys.modules
assert trio.run(self_test.fault) == ""  # calls through a proxy: one is allowed, one is refused
"""


def test_the_daemon_starts_and_serves_without_it():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


_ASKED = """
import sys

sys.modules["nodeproxy.native._lane"] = None

import tests.compiled

assert tests.compiled.needs_lane.args == (True,)
"""


@pytest.mark.parametrize("ci,fails", [("", False), ("true", True)])
def test_its_tests_are_skipped_but_not_in_ci(ci, fails):
    done = subprocess.run(
        [sys.executable, "-c", _ASKED],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "CI": ci},
    )
    assert (done.returncode != 0) is fails, done.stderr
    assert ("may not be skipped in CI" in done.stderr) is fails
