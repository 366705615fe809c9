"""wait: until a systemd unit is captured. Run by the unit itself, before anything of it runs (agent/box/units.py)."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from pathlib import Path

from agent.admin import client
from agent.commands import NO, OK
from agent.config import SOCKET, environment
from agent.kernel import cgroup

_LOOK = 0.02  # seconds between two looks


def wait(arguments: Namespace) -> int:
    """1 when it is not captured in time."""
    unit, until = arguments.unit, time.monotonic() + arguments.timeout
    number = _cgroup_of(unit)
    socket = arguments.socket or environment().socket or SOCKET
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


def _cgroup_of(unit: str) -> int:
    """The number of the cgroup of `unit` that we are in; 0 when we are in none."""
    root = cgroup.mount()
    if root is None:
        return 0
    for folder in (root / cgroup.current().lstrip("/"), *(root / cgroup.current().lstrip("/")).parents):
        if folder.name == unit:
            return os.stat(folder).st_ino
        if folder == Path(root):
            break
    return 0
