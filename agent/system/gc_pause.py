"""Pause garbage collection while a thread reads or builds.

The trees made there have no cycles, and a collection would stop every thread while it walks them.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_inside = 0


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Pause collection, for seconds at most and where the objects made meanwhile are bounded.

    Several threads may be inside at once.
    """
    global _inside  # noqa: PLW0603 - the collector is one for the process
    with _lock:
        _inside += 1
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                gc.enable()
