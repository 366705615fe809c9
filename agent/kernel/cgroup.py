"""Cgroups: where cgroup2 is mounted, which cgroup is ours, which is a systemd unit's."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from nodeproxy.ruleset import Cgroup

_DEEPEST = 4  # slices inside slices


def mount() -> Path | None:
    """Where cgroup2 is mounted; beside version 1 that is /sys/fs/cgroup/unified. None: nowhere."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(fields[1])
    return None


def identify(folder: Path, root: Path) -> Cgroup:
    """A cgroup as nftables knows it. Raises OSError when it is gone."""
    return Cgroup(len(folder.relative_to(root).parts), folder.stat().st_ino)


def own(name: str) -> tuple[Cgroup, Path] | None:
    """A cgroup that holds this process and no other program: our systemd service's, else `edgemesh-NAME`, made and entered.

    None where that cannot be (no cgroup2, no right to make one): the mark must do.
    """
    root = mount()
    if root is None:
        return None
    current = root / _current().lstrip("/")
    if re.fullmatch(r"edgemesh[^/]*\.service", current.name):
        with contextlib.suppress(OSError):
            return identify(current, root), current
    made = folder(root, name)
    try:
        made.mkdir(exist_ok=True)
        (made / "cgroup.procs").write_text(str(os.getpid()))
        return identify(made, root), made
    except OSError:
        return None


def folder(root: Path, name: str) -> Path:
    """The cgroup that the daemon of the node `name` makes for itself. The next daemon of that name finds it and takes it over."""
    return root / f"edgemesh-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"


def leave(made: Path) -> bool:
    """Remove a cgroup that `own` made, once nothing is in it."""
    try:
        made.rmdir()
    except OSError:
        return False
    return True


def _current() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def find_unit(root: Path, name: str) -> list[Path]:
    """The cgroups of a systemd unit and of its .socket, whose listening socket belongs to it until the unit takes it over.

    Units are in system.slice or in slices inside it (instances of a template); anything deeper is a program's own.
    """
    stem = name.rpartition(".")[0]
    wanted = {name, f"{stem}.socket"}
    found: list[Path] = []
    slices = [root]
    for folder in slices:
        try:
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name in wanted and entry.is_dir():
                found.append(folder / entry.name)
            elif entry.name.endswith(".slice") and len((folder / entry.name).relative_to(root).parts) < _DEEPEST:
                slices.append(folder / entry.name)
    return found
