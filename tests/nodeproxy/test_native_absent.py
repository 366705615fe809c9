"""Where nothing was compiled edgemesh is pure Python: nothing of it fails to be imported for that."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["nodeproxy.native._lane"] = None  # as where there is no compiler
import agent.app, nodeproxy.proxy
from nodeproxy.native import AVAILABLE
assert not AVAILABLE
"""


def test_everything_is_imported_without_the_native_lane():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
