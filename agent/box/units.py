"""Units that are workloads: a drop-in makes each of them wait, before it runs anything, until its new cgroup is captured.

Without it a unit that starts is open for the milliseconds until the daemon has seen it, and for as long as there is no daemon.
With it a unit does not start where nothing enforces: it fails, and systemd tries again as its own Restart= says.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.box.files import UNITS, Written, put

NAME = "50-edgemesh.conf"
_MARK = "# Written by edgemesh setup"
TEXT = f"""\
{_MARK}: this unit is a workload of the mesh, and begins when its calls are captured.
[Unit]
Wants=edgemesh.service
After=edgemesh.service

[Service]
ExecStartPre=+/var/lib/edgemesh/releases/current/edgemesh wait --unit %n
"""


def drop_in(unit: str, folder: Path = UNITS) -> Path:
    return folder / f"{unit}.d" / NAME


def lay(wanted: Iterable[str], folder: Path = UNITS) -> Iterator[Written]:
    """A drop-in for each of the units that are wanted, and for no others. Raises OSError."""
    names = set(wanted)
    for unit in sorted(names):
        yield put(drop_in(unit, folder), TEXT)
    for path in laid(folder):
        if path.parent.name.removesuffix(".d") not in names:
            take(path)
            yield Written(path, True)


def laid(folder: Path = UNITS) -> list[Path]:
    """Those that setup wrote."""
    found = []
    for path in sorted(folder.glob(f"*.d/{NAME}")):
        with contextlib.suppress(OSError):
            if path.read_text("utf-8", "replace").startswith(_MARK):
                found.append(path)
    return found


def take(path: Path) -> None:
    """Remove a drop-in, and its directory when nothing else is in it. Raises OSError."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def began_captured(unit: str, cgroup: Path, folder: Path = UNITS) -> bool:
    """Did what runs in this cgroup wait until it was captured: was the drop-in there when the cgroup was made?"""
    try:
        # A cgroup's directory has the time of its making; files in it come and go with their own.
        return os.stat(drop_in(unit, folder)).st_mtime <= os.stat(cgroup).st_ctime
    except OSError:
        return False
