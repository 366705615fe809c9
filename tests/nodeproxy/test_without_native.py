"""Where the native lane was not compiled, everything is there all the same: nothing imports it unasked."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys

sys.modules["nodeproxy.native._lane"] = None  # importing it fails, as where there is no such file

import agent.app
import nodeproxy.proxy
from nodeproxy.native import AVAILABLE

assert not AVAILABLE
assert "nodeproxy.http.exchange" in sys.modules
"""


def test_the_data_plane_is_imported_without_it():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
