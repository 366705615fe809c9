"""Where the native lane gets no memory, the call at hand fails, and nothing else: no other call, no record, not the daemon.

The inputs of tests/fuzz are given to it as often as it allocates something, and each time another allocation fails (tests/fuzz/driver.h).
"""

import os
import re
import subprocess
from pathlib import Path

from tests.compiled import needs_lane

pytestmark = needs_lane

ROOT = Path(__file__).parents[3]
ENTRIES = ("memory-lane", "memory-link", "memory-tunnel", "memory-stream")


def test_each_allocation_may_fail():
    ran = subprocess.run(
        [ROOT / "build" / "fuzz", "0", "1", *ENTRIES],
        env=os.environ | {"LEVEL": "-O0", "LD_PRELOAD": ""},
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stderr
    failed = [int(count) for count in re.findall(r"(\d+) allocations failed", ran.stdout)]
    assert len(failed) == len(ENTRIES) and min(failed) > 20, ran.stdout
