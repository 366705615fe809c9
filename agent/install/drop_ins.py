"""Units that are workloads: a drop-in makes each wait, before it runs anything, until its new cgroup is captured.

Without it, a unit that starts is open for the milliseconds until the daemon has seen it, and for as long as no daemon
runs. With it, a unit does not start where nothing enforces: it fails, and systemd tries again as the unit's Restart=
says.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.install.files import UNITS, Written, put

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


# The directories where systemd looks for units (systemd.unit(5), "Unit File Load Path").
_LOADED_FROM = (
    *("/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system", "/run/systemd/system.control"),
    *(
        "/run/systemd/transient",
        "/run/systemd/generator",
        "/run/systemd/generator.early",
        "/run/systemd/generator.late",
    ),
    *("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"),
)


def is_known(unit: str, folders: Iterable[str] = _LOADED_FROM) -> bool:
    """Return whether there is a unit of that name, or the template of an instance, whether it runs or not."""
    name, at, _ = unit.partition("@")
    names = (unit, f"{name}@.{unit.rpartition('.')[2]}") if at else (unit,)
    return any(os.path.lexists(f"{folder}/{one}") for folder in folders for one in names)


def drop_in(unit: str, folder: Path = UNITS) -> Path:
    return folder / f"{unit}.d" / NAME


def lay(wanted: Iterable[str], folder: Path = UNITS) -> Iterator[Written]:
    """Write a drop-in for each of these units, and remove the drop-ins of all others. Raise OSError."""
    names = set(wanted)
    for unit in sorted(names):
        yield put(drop_in(unit, folder), TEXT)
    for path in laid(folder):
        if path.parent.name.removesuffix(".d") not in names:
            take(path)
            yield Written(path, True)


def laid(folder: Path = UNITS) -> list[Path]:
    """Return the drop-ins that setup wrote."""
    found = []
    for path in sorted(folder.glob(f"*.d/{NAME}")):
        with contextlib.suppress(OSError):
            if path.read_text("utf-8", "replace").startswith(_MARK):
                found.append(path)
    return found


def take(path: Path) -> None:
    """Remove a drop-in, and its directory when it is empty. Raise OSError."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def began_captured(unit: str, cgroup: Path, folder: Path = UNITS) -> bool:
    """Return whether the processes in this cgroup waited until it was captured.

    They did if the drop-in is older than the cgroup.
    """
    try:
        # A cgroup's directory keeps the time when it was made; the files in it have times of their own.
        return os.stat(drop_in(unit, folder)).st_mtime <= os.stat(cgroup).st_ctime
    except OSError:
        return False
