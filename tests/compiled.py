"""What needs the native lane is skipped where that was not compiled. In CI nothing is skipped: there a missing compiler is a failure."""

import os

import pytest

from nodeproxy.native import AVAILABLE

MISSING = "the native lane was not compiled"

if not AVAILABLE and os.environ.get("CI"):
    raise RuntimeError(
        f"{MISSING}, and its tests may not be skipped in CI: apt-get install gcc python3-dev libnghttp2-dev libssl-dev, then make native"
    )

needs_lane = pytest.mark.skipif(not AVAILABLE, reason=MISSING)
