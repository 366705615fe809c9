"""What capture cannot hold, counted for `status`: processes with powers over their own network, and older connections."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from types import MappingProxyType

_POWERS = {12: "NET_ADMIN", 13: "NET_RAW"}  # linux/capability.h
_ESTABLISHED = "01"  # state in /proc/net/tcp (net/tcp_states.h)
_LOOPBACK = re.compile("(0{16}FFFF0000)?.{6}7F|0{24}01000000")  # 127.0.0.0/8, also inside IPv6, and ::1, as /proc/net has them
_MOST = 20_000  # processes looked at


def powers_by_namespace(
    wanted: Iterable[tuple[int, int]], owners: Mapping[tuple[int, int], int] = MappingProxyType({})
) -> dict[tuple[int, int], tuple[str, ...]]:
    """Which of NET_ADMIN and NET_RAW some process holds in each of these network namespaces (device, inode). Reads /proc.

    `owners`: the user namespaces (inodes) that they belong to, where that is not our own.
    """
    wanted = set(wanted)
    if not wanted:
        return {}
    found: dict[tuple[int, int], set[str]] = {}
    home = _user_namespace("self")
    for number, name in enumerate(os.listdir("/proc")):
        if number > _MOST or not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            status = os.stat(f"/proc/{name}/ns/net")
            key = (status.st_dev, status.st_ino)
            if key in wanted:
                found.setdefault(key, set()).update(_held(name, {home, owners.get(key, home)}))
    return {key: tuple(sorted(powers)) for key, powers in found.items()}


def powers_of(processes: Iterable[int]) -> tuple[str, ...]:
    """The same of some processes in the node's own namespace."""
    found: set[str] = set()
    home = _user_namespace("self")
    for pid in processes:
        with contextlib.suppress(OSError):
            found.update(_held(str(pid), {home}))
    return tuple(sorted(found))


def _held(pid: str, users: Set[int]) -> set[str]:
    """Capabilities count for a process of these user namespaces; one inside yet another has them over nothing but its own."""
    if _user_namespace(pid) not in users:
        return set()
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    held = int(match[1], 16) if match else 0
    return {power for bit, power in _POWERS.items() if held >> bit & 1}


def _user_namespace(pid: str) -> int:
    return os.stat(f"/proc/{pid}/ns/user").st_ino


def established(own_ports: Iterable[int]) -> int:
    """TCP connections that are open in the namespace that the calling thread is in, those over loopback and ours left out."""
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
