"""On a daemon's PYTHONPATH, this sets its clock, as a test says in the file that CLOCK_OFF names; read anew each time. Steady clocks stay right."""

import os
import time

_real, _real_ns = time.time, time.time_ns
_off = os.open(os.environ["CLOCK_OFF"], os.O_RDONLY | os.O_CLOEXEC)


def _seconds() -> int:
    return int(os.pread(_off, 32, 0) or b"0")


time.time = lambda: _real() + _seconds()
time.time_ns = lambda: _real_ns() + _seconds() * 10**9
