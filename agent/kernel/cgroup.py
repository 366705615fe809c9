"""Cgroups: where cgroup2 is mounted, which cgroup is ours, which is a systemd unit's."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nodeproxy.ruleset import Cgroup

_FIRST_NAMESPACE = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO, linux/proc_ns.h
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


def own(name: str, predecessor: int = 0) -> tuple[Cgroup, Path] | None:
    """A cgroup that holds this process and no other program: our systemd service's, else `edgemesh-NAME`, made and entered.

    None where that cannot be (no cgroup2, no right to make one): the mark must do. `predecessor`: the daemon that hands over to us. It is
    in it too, and so may be those before it whose last connections have not ended.
    """
    root = mount()
    if root is None or not _depth_is_true():
        return None
    service = root / current().lstrip("/")
    if re.fullmatch(r"edgemesh[^/]*\.service", service.name):
        with contextlib.suppress(OSError):
            # Whatever else is in it, or below it, would be taken for us. A predecessor there has looked already: what else there is
            # now came with it, such as one before it that lets its last connections end.
            inside = set(processes(service))
            if (predecessor and predecessor in inside) or inside <= {os.getpid()}:  # 0 is one of another PID namespace
                return identify(service, root), service
    made = folder(root, name)
    try:
        made.mkdir(exist_ok=True)
        (made / "cgroup.procs").write_text(str(os.getpid()))
        return identify(made, root), made
    except OSError:
        return None


def _depth_is_true() -> bool:
    """Is the depth of a path that we see the one that nftables counts?

    In a cgroup namespace paths begin at its root; nftables takes that into account from Linux 6.12 on ("nft_socket: make
    cgroupsv2 matching work with namespaces"). Before, no rule would know our sockets, and they would be captured again and again.
    """
    with contextlib.suppress(OSError, ValueError):
        if os.stat("/proc/self/ns/cgroup").st_ino == _FIRST_NAMESPACE:
            return True
        major, minor = os.uname().release.split(".")[:2]
        return (int(major), int(re.match(r"\d*", minor)[0])) >= (6, 12)  # type: ignore[index]  # it always matches
    return True  # no cgroup namespaces at all


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


def current() -> str:
    """The cgroup that this process is in, as a path below cgroup2's mount."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def find_units(root: Path, names: Iterable[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """The cgroups of systemd units and of their sockets, by unit; and the slices where one of them could appear.

    A .socket has the listening socket until its unit takes it over. Units are in slices, also slices inside slices (instances of a
    template); what is deeper is a program's own. One look for all of them: nodes have hundreds of units.
    """
    wanted: dict[str, list[str]] = {}
    for name in names:
        for member in (name, f"{name.rpartition('.')[0]}.socket"):
            wanted.setdefault(member, []).append(name)
    found: dict[str, list[Path]] = {}
    slices = [root]
    for folder in slices:
        try:
            entries = sorted(os.listdir(folder))
        except OSError:
            continue
        for entry in entries:
            for name in wanted.get(entry, ()):
                if (folder / entry).is_dir():
                    found.setdefault(name, []).append(folder / entry)
            if entry.endswith(".slice") and len((folder / entry).relative_to(root).parts) < _DEEPEST:
                slices.append(folder / entry)
    return found, slices


def processes(folder: Path) -> Iterator[int]:
    """The processes of a cgroup and of those below it."""
    for path in folder.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            yield from map(int, path.read_text().split())
