"""wait: until a systemd unit is captured, or the daemon of this container leads its node.

The unit itself runs it, before anything else of the unit runs (agent/install/drop_ins.py); the kubelet runs it in the
daemon's container (agent/install/manifests/daemon.yaml).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from agent.admin import client
from agent.commands import NO, OK, options
from agent.config.schema import SOCKET
from agent.config.settings import environment
from agent.system import cgroup

_LOOK = 0.02  # seconds between two looks
_ROUNDS = 50  # looks between two looks at all processes


def arguments(parser: ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--unit", metavar="NAME", help="the systemd unit that this is run from")
    what.add_argument("--daemon", action="store_true", help="until the daemon of this container leads its node")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=options.seconds, default=60.0, help="give up after (default: 60)"
    )
    options.socket(parser)


def run(arguments: Namespace) -> int:
    """Return 1 when it is not captured in time."""
    unit, until = arguments.unit, time.monotonic() + arguments.timeout
    socket = arguments.socket or environment().socket or SOCKET
    if arguments.daemon:
        return _for_daemon(Path(f"{socket}.lock"), until)
    number = _cgroup_of(unit)
    why = "its cgroup cannot be found: run this from the unit itself, in ExecStartPre="
    while number:
        try:
            answer = client.get(socket, "/unit", [("name", unit), ("cgroup", str(number))])
            if not answer["known"]:
                print(f"{unit} is no workload of this node: nothing to wait for")
                return OK
            if answer["captured"]:
                return OK
            why = answer["detail"]
        except (client.Unreachable, client.Answered) as error:
            why = str(error)
        if time.monotonic() >= until:
            break
        time.sleep(_LOOK)
    print(f"edgemesh: {unit} is not captured after {arguments.timeout:g} s: {why}", file=sys.stderr)
    return NO


def _for_daemon(lock: Path, until: float) -> int:
    """Wait until the process that leads (agent/admin/listener.py) is of our container: it has our mount namespace."""
    why, looks = "no daemon leads", 0
    while time.monotonic() < until:
        looks += 1
        if looks % _ROUNDS == 0 and not _in_company():
            why = "it has ended"  # in the node's PID namespace (hostPID) we do not end with it
            break
        try:
            pid = int(lock.read_text())
            if os.path.samefile(f"/proc/{pid}/ns/mnt", "/proc/self/ns/mnt"):
                return OK
            why = f"process {pid} leads"
        except (OSError, ValueError):
            pass  # none has begun, or it has ended
        time.sleep(_LOOK)
    print(f"edgemesh: the daemon of this container does not lead its node: {why}", file=sys.stderr)
    return NO


def _in_company() -> bool:
    """Return whether another process has our mount namespace."""
    ours = os.stat("/proc/self/ns/mnt").st_ino
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}/ns/mnt").st_ino == ours:
                    return True
    return False


def _cgroup_of(unit: str) -> int:
    """Return the inode of the cgroup of `unit` that we are in; 0 when we are in none."""
    root = cgroup.mount()
    if root is None:
        return 0
    for folder in (root / cgroup.current().lstrip("/"), *(root / cgroup.current().lstrip("/")).parents):
        if folder.name == unit:
            return os.stat(folder).st_ino
        if folder == Path(root):
            break
    return 0
