"""Workloads that are systemd units: they share the host's namespace and its addresses, and are told apart by their cgroups.

Each unit has doors of its own, on ports of its own, so that the door says who calls. All units are in one table. A unit that is
restarted has a new cgroup, so the cgroups are looked at in every round, and a round begins when systemd makes one beside them.
What it serves in the milliseconds until then is open.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from agent.kernel import cgroup, conntrack, route, sockets
from agent.kernel.condition import Condition
from agent.kernel.place import prepare_sysctls
from agent.kernel.table import Table
from nodeproxy.capture import Doors, Ports
from nodeproxy.ruleset import Unit, host_ruleset
from policy.model import Workload

if TYPE_CHECKING:
    from agent.kernel.ground import Capture

log = logging.getLogger("edgemesh.kernel")

FIRST_PORT = 15100  # each unit has three from here on: outbound, inbound, DNS
_STEP = 3
_MOST = 256  # units


class _Member(Struct):
    """One unit that is wanted."""

    workload: Workload
    slot: int
    ports: Ports
    doors: Doors
    fault: str
    since: float
    cgroups: tuple[str, ...] = ()


class Host:
    """The units' side of the ground. Nothing is touched on the host until a unit is wanted."""

    attach: Callable[[Workload, Doors], None]
    detach: Callable[[str], None]

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self._members: dict[str, _Member] = {}
        self._faults: dict[str, str] = {}
        self._table: Table | None = None
        self.folders: set[str] = set()  # slices that hold units: a new cgroup in one may be a unit that starts

    def __repr__(self) -> str:
        return f"<Host {len(self._members)} units>"

    @property
    def owned(self) -> bool:
        return self._table is None or self._table.owned

    def settle(self, wanted: Mapping[str, Workload]) -> None:
        """Make what there is what is wanted, once."""
        if not wanted and self._table is None:
            return
        for key in [key for key in self._members if key not in wanted]:
            self._drop(key)
        self._faults = {key: fault for key, fault in self._faults.items() if key in wanted}
        try:
            self._prepare()
            units = [unit for key in sorted(wanted) if (unit := self._unit(wanted[key])) is not None]
            assert self._table is not None
            assert self.capture.ours is not None
            config = self.capture.config
            self._table.put(host_ruleset(self.capture.marks, self.capture.ours, tuple(units), config.service_range, config.dns.enabled))
            self._table.repair()
        except OSError as error:
            for key in wanted:
                self._faults[key] = error.strerror or str(error)

    def _prepare(self) -> None:
        if self.capture.ours is None:
            raise OSError(errno.ENOTSUP, "systemd units are told apart by cgroup: this needs cgroup2, and root")
        if self._table is None:
            route.install(self.capture.marks, self.capture.config.service_range)
            prepare_sysctls()
            self._table = Table("the host")

    def _unit(self, workload: Workload) -> Unit | None:
        """What the ruleset says of one unit. None while it does not run."""
        root = cgroup.mount()
        folders = cgroup.find_unit(root, workload.unit) if root else []
        self.folders.add(f"{root}/system.slice")
        found = []
        for folder in folders:
            with contextlib.suppress(OSError):  # it ended just now
                assert root is not None
                found.append(cgroup.identify(folder, root))
        member = self._members.get(workload.key)
        if not found:
            self._faults[workload.key] = f"{workload.unit} does not run: it has no cgroup"
            if member is not None:
                member.cgroups = ()
            return None
        self._faults.pop(workload.key, None)
        if member is None:
            member = self._open(workload)
        member.workload = workload
        names = tuple(str(folder) for folder in folders)
        self.folders.update(str(folder.parent) for folder in folders)
        if names != member.cgroups:
            log.info("captured %s, unit %s", workload.key, workload.unit)
            member.cgroups = names
        return Unit(workload.key, tuple(found), member.ports, workload.exclusions)

    def _open(self, workload: Workload) -> _Member:
        taken = {member.slot for member in self._members.values()}
        slot = next((slot for slot in range(_MOST) if slot not in taken), None)
        if slot is None:
            raise OSError(errno.EMFILE, f"more than {_MOST} units on one node")
        first = FIRST_PORT + slot * _STEP
        ports = structs.replace(self.capture.config.ports, outbound=first, inbound=first + 1, dns=first + 2)
        doors, fault = sockets.open_doors(ports, 0, self.capture.config.dns.enabled)
        member = self._members[workload.key] = _Member(workload, slot, ports, doors, fault, time.time())
        self.attach(workload, doors)
        return member

    def _drop(self, key: str) -> None:
        del self._members[key]
        self.detach(key)

    def release(self, open_node: bool) -> None:
        for key in list(self._members):
            self._drop(key)
        if self._table is not None:
            if open_node:
                self._table.remove()
                route.remove()
            self._table.close()
            self._table = None

    def conditions(self) -> dict[str, Condition]:
        found = {key: Condition(False, "", fault) for key, fault in self._faults.items()}
        gaps = self._table.gaps if self._table else 0
        for key, member in self._members.items():
            if key not in found:
                found[key] = Condition(True, f"systemd unit {member.workload.unit}", member.fault, gaps=gaps)
        return found

    # sockets: the daemon lives on the host already

    def towards(self, workload: Workload, caller: str, family: int) -> socket.socket:
        if workload.key not in self._members:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), f"{workload.key} is not captured here")
        return sockets.towards(caller, family, self.capture.marks.local)

    def outwards(self, family: int, kind: int) -> socket.socket:
        return sockets.outwards(family, kind, 0 if self.capture.ours else self.capture.marks.bypass)

    def resolver_asked(self, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        return conntrack.first_destination(client, listener)
