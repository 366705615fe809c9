"""Count what capture cannot enforce, for `status`: processes with network capabilities, and older connections."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from types import MappingProxyType

_POWERS = {12: "NET_ADMIN", 13: "NET_RAW"}  # linux/capability.h
_ESTABLISHED = "01"  # state in /proc/net/tcp (net/tcp_states.h)
_LOOPBACK = re.compile(
    "(0{16}FFFF0000)?.{6}7F|0{24}01000000"
)  # 127.0.0.0/8 (also mapped into IPv6) and ::1, as written in /proc/net
_MOST = 20_000  # at most so many processes are inspected
# The directories where containerd (its own, and k3s's) keeps the state of what it runs for Kubernetes. Only root can
# write there, so a pod cannot forge it.
_TASKS = tuple(Path(run, "io.containerd.runtime.v2.task/k8s.io") for run in ("/run/containerd", "/run/k3s/containerd"))
_SANDBOX = ("io.kubernetes.cri.container-type", "sandbox")  # annotation (containerd, pkg/cri/annotations)


def powers_by_namespace(
    wanted: Iterable[tuple[int, int]], owners: Mapping[tuple[int, int], int] = MappingProxyType({})
) -> dict[tuple[int, int], tuple[str, ...]]:
    """Return which of NET_ADMIN and NET_RAW some process holds in each of these network namespaces.

    A namespace is given by device and inode. Reads /proc. `owners`: the inode of the user namespace that owns each
    network namespace, where it is not our own. A pod's sandbox process, which holds the pod's namespaces open, has
    NET_RAW by default and does not use it: it is not counted.
    """
    wanted = set(wanted)
    if not wanted:
        return {}
    found: dict[tuple[int, int], set[str]] = {}
    pauses: set[int] | None = None
    try:
        home, processes = _user_namespace("self"), os.listdir("/proc")
    except OSError:  # out of descriptors for the moment; the next call reports them
        return {}
    for number, name in enumerate(processes):
        if number > _MOST or not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            status = os.stat(f"/proc/{name}/ns/net")
            key = (status.st_dev, status.st_ino)
            if key in wanted:
                held = _held(name, {home, owners.get(key, home)})
                if held and pauses is None:
                    pauses = sandbox_processes()
                found.setdefault(key, set()).update(held if int(name) not in (pauses or ()) else ())
    return {key: tuple(sorted(powers)) for key, powers in found.items()}


def sandbox_processes() -> set[int]:
    """Return the first process of each pod's sandbox, from the container runtime's own records.

    A process is not recognised by its name or program, since a pod chooses those for its own processes.
    """
    found: set[int] = set()
    for tasks in _TASKS:
        with contextlib.suppress(OSError):
            for folder in os.scandir(tasks):
                with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
                    pid = int(Path(folder.path, "init.pid").read_text())
                    notes = json.loads(Path(folder.path, "config.json").read_bytes()).get("annotations") or {}
                    if notes.get(_SANDBOX[0]) == _SANDBOX[1]:
                        found.add(pid)
    return found


def powers_of(processes: Iterable[int]) -> tuple[str, ...]:
    """Return which of NET_ADMIN and NET_RAW these processes of the node's own namespace hold."""
    found: set[str] = set()
    for pid in processes:
        with contextlib.suppress(OSError):
            found.update(_held(str(pid), {_user_namespace("self")}))
    return tuple(sorted(found))


def _held(pid: str, users: Set[int]) -> set[str]:
    """Return the capabilities of a process, if it is in one of these user namespaces.

    A process in another user namespace has capabilities only over that namespace's own resources.
    """
    if _user_namespace(pid) not in users:
        return set()
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    held = int(match[1], 16) if match else 0
    return {power for bit, power in _POWERS.items() if held >> bit & 1}


def _user_namespace(pid: str) -> int:
    return os.stat(f"/proc/{pid}/ns/user").st_ino


def established(own_ports: Iterable[int]) -> int:
    """Count the open TCP connections in the calling thread's namespace, except those over loopback and our own."""
    if not _any_established():
        return 0
    ours = set(own_ports)
    count = 0
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                address, _, port = fields[1].partition(":")
                if fields[3] != _ESTABLISHED or int(port, 16) in ours:
                    continue
                if not _LOOPBACK.fullmatch(address):
                    count += 1
    return count


def _any_established() -> bool:
    """Return whether the calling thread's namespace has any open TCP connection; True if that cannot be told.

    The lists above take the kernel a walk over the table of all namespaces' connections: 4 ms for each list with 24 GiB
    of memory, by which the table is sized.
    """
    try:
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return values[names.index("CurrEstab")] != "0"
    except (OSError, ValueError, IndexError):
        return True
