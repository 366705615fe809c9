"""Cgroups: where cgroup2 is mounted, our own cgroup, and those of systemd units and pods.

Paths and levels are those of our cgroup namespace, and nftables counts from its root too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from agent.system import mounts

_FIRST_NAMESPACE = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO, linux/proc_ns.h
_CLONE_NEWCGROUP = 0x02000000
_DEEPEST = 4  # levels of nested slices that are searched
_MOST = 20_000  # cgroups that are searched at most
_NAMESPACE, _FIRST_PROCESS = "/proc/self/ns/cgroup", "/proc/1/ns/cgroup"
_libc = ctypes.CDLL(None, use_errno=True)


class Cgroup(Struct, frozen=True, order=True):
    """A cgroup2 as nftables identifies it: the depth of its path and its inode number."""

    level: int
    id: int

    def __str__(self) -> str:
        return f"socket cgroupv2 level {self.level} {self.id}"


def mount() -> Path | None:
    """Return where cgroup2 is mounted (beside version 1: /sys/fs/cgroup/unified), or None.

    A container may have none, or one that begins at its own cgroup: then it is a mount of our own.
    """
    other = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, after = line.partition(" - ")
        root, path = fields.split()[3:5]
        if after.startswith("cgroup2 "):
            if root == "/":
                return Path(path)
            other = other or Path(path)
    try:
        return mounts.detached("cgroup2")
    except OSError:
        return other


def enter_nodes() -> str:
    """Enter the cgroup namespace of the first process, which is the node's where we see its processes (hostPID).

    A rule that names a cgroup reaches only those below the root of the cgroup namespace from which it was installed
    (Linux 6.12), and a container has its own. The calling thread moves, with threads that it starts later. Return ""
    or what went wrong; then we stay where we were.
    """
    try:
        own = os.stat(_NAMESPACE).st_ino
        if own == _FIRST_NAMESPACE or own == os.stat(_FIRST_PROCESS).st_ino:  # the second may be refused
            return ""
        found = os.open(_FIRST_PROCESS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(found, _CLONE_NEWCGROUP):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "setns")
        finally:
            os.close(found)
    except FileNotFoundError:
        return ""  # the kernel has no cgroup namespaces
    except OSError as error:
        return error.strerror or str(error)
    return ""


def reaches(number: int) -> bool:
    """Return whether a rule that we install can recognise sockets of the cgroup with this inode number."""
    with contextlib.suppress(OSError):
        if os.stat(_NAMESPACE).st_ino == _FIRST_NAMESPACE:
            return True
        root = mount()
        if root is None:
            return False
        waiting = [root]
        for _ in range(_MOST):
            if not waiting:
                return False
            folder = waiting.pop()
            if folder.stat().st_ino == number:
                return True
            with contextlib.suppress(OSError):  # removed meanwhile
                waiting += [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
        return False
    return True  # the kernel has no cgroup namespaces


def identify(folder: Path, root: Path) -> Cgroup:
    """Return the cgroup of a directory. Raise OSError when it is gone."""
    return Cgroup(len(folder.relative_to(root).parts), folder.stat().st_ino)


def own(name: str, predecessor: int = 0) -> tuple[Cgroup, Path] | None:
    """Return a cgroup that holds this process and no other program.

    It is our systemd service's, or our container's in a pod: a process that left its pod's cgroup would have none of
    its limits. Otherwise it is `edgemesh-NAME`, which is made and entered. Return None where that is impossible (no
    cgroup2, no permission to make one): then the mark must do. `predecessor`: the daemon that hands over to us. It is
    in the same cgroup, and so may be earlier daemons whose last connections have not ended.
    """
    root = mount()
    if root is None or not _depth_is_true():
        return None
    service = root / current().lstrip("/")
    if any(part.startswith("kubepods") for part in service.parts):
        # Other processes in it are what `kubectl exec` starts in our container.
        try:
            return identify(service, root), service
        except OSError:
            return None
    if re.fullmatch(r"edgemesh[^/]*\.service", service.name):
        with contextlib.suppress(OSError):
            # Rules would take any other process in it, or below it, for us. A predecessor has checked that already:
            # other processes that are in it now came with the predecessor, such as an earlier daemon whose last
            # connections have not ended.
            inside = set(processes(service))
            # 0 stands for a process of another PID namespace
            if (predecessor and predecessor in inside) or inside <= {os.getpid()}:
                return identify(service, root), service
    made = folder(root, name)
    try:
        made.mkdir(exist_ok=True)
        (made / "cgroup.procs").write_text(str(os.getpid()))
        return identify(made, root), made
    except OSError:
        return None


def _depth_is_true() -> bool:
    """Return whether the depth of a path as we see it is the depth that nftables counts.

    In a cgroup namespace paths begin at its root; nftables accounts for that from Linux 6.12 on ("nft_socket: make
    cgroupsv2 matching work with namespaces"). On older kernels no rule would recognise our sockets, and they would be
    captured again and again.
    """
    with contextlib.suppress(OSError, ValueError):
        if os.stat("/proc/self/ns/cgroup").st_ino == _FIRST_NAMESPACE:
            return True
        major, minor = os.uname().release.split(".")[:2]
        return (int(major), int(re.match(r"\d*", minor)[0])) >= (6, 12)  # type: ignore[index]  # it always matches
    return True  # the kernel has no cgroup namespaces


def folder(root: Path, name: str) -> Path:
    """Return the cgroup that the daemon of the node `name` makes for itself. The node's next daemon takes it over."""
    return root / f"edgemesh-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"


def leave(made: Path) -> bool:
    """Remove a cgroup that `own` made, if it is empty. Return whether it was."""
    try:
        made.rmdir()
    except OSError:
        return False
    return True


def current() -> str:
    """Return the cgroup of this process, as a path below cgroup2's mount."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def find_units(root: Path, names: Iterable[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the cgroups of systemd units and of their sockets, by unit, and the slices where one could appear.

    A .socket holds the listening socket until its unit takes it over. Units are in slices, also in nested slices
    (instances of a template); cgroups deeper than that are made by programs. One search finds all, since nodes have
    hundreds of units.
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


def find_pods(root: Path, uids: Iterable[str]) -> tuple[dict[str, Path], list[Path]]:
    """Return the cgroups of pods, by uid, and the folders where one could appear.

    A kubelet names them in one of two ways: /kubepods/burstable/podUID, or with systemd
    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice, where dashes of the uid are underscores.
    Containers are below. On a node with version 1 beside it the runtime makes the same cgroups here.
    """
    wanted = {uid: (f"pod{uid}", f"-pod{uid.replace('-', '_')}.slice") for uid in uids}
    found: dict[str, Path] = {}
    folders: list[Path] = []
    parts = Path(current()).parts[1:]  # the kubelet's own root, where we are below it
    above = next((number for number, part in enumerate(parts) if part.startswith("kubepods")), 0)
    for base in {root, root.joinpath(*parts[:above])}:
        for top, between in (("kubepods", ""), ("kubepods.slice", "kubepods-")):
            ends = ".slice" if between else ""
            for folder in (
                base / top,
                *(base / top / f"{between}{quality}{ends}" for quality in ("burstable", "besteffort")),
            ):
                try:
                    entries = os.listdir(folder)
                except OSError:
                    continue
                folders.append(folder)
                for uid, (plain, ending) in wanted.items():
                    for entry in entries:
                        if entry == plain or (entry.startswith("kubepods") and entry.endswith(ending)):
                            found[uid] = folder / entry
        if (base / "kubepods").is_dir() or (base / "kubepods.slice").is_dir():
            continue
        folders.append(base)
    return found, folders


def processes(folder: Path) -> Iterator[int]:
    """Yield the processes of a cgroup and of those below it."""
    for path in folder.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            yield from map(int, path.read_text().split())
