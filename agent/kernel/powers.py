"""What capture cannot hold, counted for `status`: processes with powers over their own network, and older connections."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

_POWERS = {12: "NET_ADMIN", 13: "NET_RAW"}  # linux/capability.h
_ESTABLISHED = "01"  # state in /proc/net/tcp (net/tcp_states.h)
_LOOPBACK = re.compile("(0{16}FFFF0000)?.{6}7F|0{24}01000000")  # 127.0.0.0/8, also inside IPv6, and ::1, as /proc/net has them
_MOST = 20_000  # processes looked at


def powers_by_namespace(wanted: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, ...]]:
    """Which of NET_ADMIN and NET_RAW some process holds in each of these network namespaces (device, inode). Reads /proc."""
    wanted = set(wanted)
    found: dict[tuple[int, int], set[str]] = {}
    own_user_namespace = _user_namespace("self")
    for number, name in enumerate(os.listdir("/proc")):
        if number > _MOST or not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            status = os.stat(f"/proc/{name}/ns/net")
            key = (status.st_dev, status.st_ino)
            if key in wanted and _user_namespace(name) == own_user_namespace:
                match = re.search(r"^CapEff:\s*([0-9a-f]+)", Path(f"/proc/{name}/status").read_text(), re.M)
                held = int(match[1], 16) if match else 0
                found.setdefault(key, set()).update(power for bit, power in _POWERS.items() if held >> bit & 1)
    return {key: tuple(sorted(powers)) for key, powers in found.items()}


def _user_namespace(pid: str) -> int:
    # Capabilities count in the user namespace that owns the network namespace; a process inside another holds none here.
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
