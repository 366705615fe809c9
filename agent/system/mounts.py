"""File systems of our own, mounted nowhere, for a container whose /proc/sys is read-only or that has no cgroup2 mounted.

Such a mount has no path: only who holds its descriptor reaches it. It takes CAP_SYS_ADMIN and Linux 5.2.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

# These numbers are the same on every CPU family (asm-generic/unistd.h).
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC, _FSCONFIG_CMD_CREATE = 1, 1, 6
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8  # MOUNT_ATTR_*
_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def detached(kind: str) -> Path:
    """Return the root of a new mount of a file system ("proc", "cgroup2"), held until we end. Raise OSError.

    What it shows depends on our namespaces, as with any mount of its kind.
    """
    made = _call(f"fsopen {kind}", _FSOPEN, kind.encode(), _FSOPEN_CLOEXEC)
    try:
        _call(f"fsconfig {kind}", _FSCONFIG, made, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = _call(f"fsmount {kind}", _FSMOUNT, made, _FSMOUNT_CLOEXEC, _NOSUID | _NODEV | _NOEXEC)
    finally:
        os.close(made)
    return Path(f"/proc/self/fd/{mount}")


def _call(what: str, number: int, *arguments: int | bytes | None) -> int:
    done: int = _libc.syscall(number, *arguments)
    if done < 0:
        found = ctypes.get_errno()
        raise OSError(found, os.strerror(found), what)
    return done
