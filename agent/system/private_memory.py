"""Keep private keys out of core dumps, and the memory of this process from all other users but root."""

from __future__ import annotations

import contextlib
import ctypes
import resource

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def keep_memory_private() -> None:
    """Make this process not dumpable, and forbid core dumps of its children too.

    The limit alone would not do: a core pattern that is a pipe, such as systemd-coredump's, receives the dump
    regardless (core(5)).
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    # as a service we may not make this call, and the unit sets the limit
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
