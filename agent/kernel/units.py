"""Workloads that are systemd units: they share the host's namespace and its addresses, and are told apart by their cgroups.

Each unit has doors of its own, on ports of its own, so that the door says who calls. All units are in one table. A unit that is
restarted has a new cgroup, so the cgroups are looked at in every round, and a round begins when systemd makes one. What it serves
in the milliseconds until then is open.

A unit's traffic must never come to another's door. So the rules that an earlier daemon left, which may have given the same ports to
other units, are replaced before a door is opened; and a port that was given back is used again only after all others were.

Other nodes reach a unit by the node's own tunnel door, or by one of the unit's where its manifest gives it a port. No rule speaks of
it: it is a socket of ours, in no unit's cgroup, that anybody may dial.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from agent.box.units import began_captured
from agent.kernel import cgroup, conntrack, powers, route, sockets
from agent.kernel.condition import Condition
from agent.kernel.table import Table
from nodeproxy.capture import Doors, Ports
from nodeproxy.ruleset import Cgroup, Unit, host_ruleset
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
    since: float
    doors: Doors | None = None
    shut: str = ""  # doors that could not be opened
    moved: bool = False  # its tunnel door has another port now
    cgroups: tuple[Path, ...] = ()  # none: it does not run

    @property
    def name(self) -> str:
        """Under which its doors are kept."""
        return f"unit {self.slot} {self.workload.key}"


class Host:
    """The units' side of the ground. Nothing is touched on the host until a unit is wanted."""

    attach: Callable[[Workload, Doors], None]
    detach: Callable[[str], None]

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.table: Table | None = None
        self.folders: set[str] = set()  # slices: a new cgroup in one may be a unit that starts
        self._routes: route.Routes | None = None
        self._members: dict[str, _Member] = {}
        self._faults: dict[str, str] = {}
        self._in_force: tuple[Unit, ...] | None = None
        # The ports that a unit's kept doors have are its own again: callers of its may wait there.
        kept = (name.split(" ", 2) for name in capture.kept.names() if name.startswith("unit "))
        self._kept_slots = {key: int(slot) for _, slot, key in kept if slot.isdigit() and int(slot) < _MOST}
        self._next = max(self._kept_slots.values(), default=-1) + 1

    def __repr__(self) -> str:
        return f"<Host {len(self._members)} units>"

    def settle(self, wanted: Mapping[str, Workload]) -> None:
        """Make what there is what is wanted, once."""
        if not wanted:
            if self.table is not None:
                self.release(open_node=True)
            return
        for key in [key for key in self._members if key not in wanted]:
            self._drop(key)
        self._faults = {}
        try:
            self._prepare()
            units = self._look(wanted)
            if self._in_force is not None:
                self._open_doors(units)
            self._put(units)
            self._open_doors(units)
        except OSError as error:
            self._faults = dict.fromkeys(wanted, error.strerror or str(error))

    def _prepare(self) -> None:
        if self.capture.ours is None:
            raise OSError(errno.ENOTSUP, "systemd units are told apart by cgroup: this needs cgroup2, and root")
        if self._routes is None:
            self._routes = route.Routes(self.capture.marks, self.capture.config.service_range)
        if self._routes.due():
            self._routes.lay()
        if self.table is None:
            owner = next(iter(self.capture.kept.take("host")), None)
            self.table = Table("the host", kept=owner)
            self.capture.kept.hold("host", [self.table.socket])

    def _look(self, wanted: Mapping[str, Workload]) -> tuple[Unit, ...]:
        """What the ruleset says of the units that run."""
        root = cgroup.mount()
        assert root is not None, "ours is in it"
        folders, slices = cgroup.find_units(root, {workload.unit for workload in wanted.values()})
        self.folders = {str(folder) for folder in slices}
        units = []
        for key in sorted(wanted):
            workload = wanted[key]
            member = self._members.get(key) or self._admit(workload)
            if member is None:
                self._faults[key] = f"this node has {_MOST} units already; let one of them go"
                continue
            if member.ports.tunnel != workload.tunnel_port:
                member.ports = structs.replace(member.ports, tunnel=workload.tunnel_port)
                member.moved = member.doors is not None
            member.workload = workload
            running: dict[Path, Cgroup] = {}
            for folder in folders.get(workload.unit, ()):
                with contextlib.suppress(OSError):  # it ended just now
                    running[folder] = cgroup.identify(folder, root)
            if tuple(running) != member.cgroups:
                log.info("unit %s of %s %s", workload.unit, key, "is captured" if running else "ended")
                member.cgroups = tuple(running)
            if running:
                units.append(Unit(key, tuple(running.values()), member.ports, workload.exclusions))
            else:
                self._faults[key] = f"{workload.unit} does not run: it has no cgroup"
        return tuple(units)

    def _admit(self, workload: Workload) -> _Member | None:
        taken = {member.slot for member in self._members.values()} | set(self._kept_slots.values())
        slot = self._kept_slots.pop(workload.key, None)
        if slot is None:
            free = ((self._next + step) % _MOST for step in range(_MOST))
            slot = next((slot for slot in free if slot not in taken), None)
            if slot is None:
                return None
            self._next = (slot + 1) % _MOST
        first = FIRST_PORT + slot * _STEP
        ports = Ports(first, first + 1, workload.tunnel_port, first + 2)
        member = self._members[workload.key] = _Member(workload, slot, ports, time.time())
        return member

    def _put(self, units: tuple[Unit, ...]) -> None:
        assert self.table is not None
        assert self.capture.ours is not None
        config = self.capture.config
        if units != self._in_force or self.table.lent:
            capture = self.capture
            self.table.put(host_ruleset(capture.marks, self.capture.ours, units, config.service_range, config.dns.enabled, capture.earlier))
            self._in_force = units
        self.table.repair()

    def _open_doors(self, units: tuple[Unit, ...]) -> None:
        for unit in units:
            member = self._members[unit.key]
            if member.doors is not None and not member.shut and not member.moved:
                continue
            given = self.capture.kept.take(member.name)
            doors, shut = sockets.open_doors(member.ports, 0, self.capture.config.dns.enabled, (*given, *(member.doors or ())))
            for sock in given:
                sock.close()
            if member.doors is not None and shut == member.shut and not member.moved:
                doors.close()
                continue
            member.doors, member.shut, member.moved = doors, shut, False
            self.capture.kept.hold(member.name, doors)
            self.attach(member.workload, doors)

    def _drop(self, key: str, keep: bool = False) -> None:
        member = self._members.pop(key)
        if member.doors is not None:
            self.detach(key)
        if not keep:
            self.capture.kept.drop(member.name)

    def release(self, open_node: bool) -> None:
        for key in list(self._members):
            self._drop(key, keep=not open_node)
        if self.table is not None:
            if open_node:
                self.capture.kept.drop("host")
                self.table.remove()
                route.remove()
            self.table.close()
        if self._routes is not None:
            self._routes.close()
        self.table = self._routes = self._in_force = None
        self.folders = set()
        self._faults = {}

    def conditions(self, looked_up: bool = False) -> dict[str, Condition]:
        """How each unit is captured; with what has to be looked up, if asked."""
        found = {key: Condition(False, "", fault) for key, fault in self._faults.items()}
        if self.table is None or self._routes is None:
            return found
        packets: Counter[str] = Counter()
        if looked_up:
            of = [unit.key for unit in self._in_force or () for _ in unit.cgroups]  # one counting rule for each
            for key, count in zip(of, self.table.counts(), strict=False):
                packets[key] += count
        for key, member in self._members.items():
            if key not in found:
                processes = (pid for folder in member.cgroups for pid in cgroup.processes(folder)) if looked_up else ()
                found[key] = Condition(
                    captured=True,
                    where=f"systemd unit {member.workload.unit}",
                    error="; ".join(filter(None, (member.shut, self._routes.fault))),
                    gaps=self.table.gaps,
                    powers=powers.powers_of(processes),
                    udp_packets=packets[key],
                    since=member.since,
                    late=looked_up and not all(began_captured(member.workload.unit, folder) for folder in member.cgroups),
                    owned=self.table.owned,
                )
        return found

    def holds(self, key: str, number: int) -> bool:
        """Is the cgroup of that number captured as this workload's?"""
        return any(unit.key == key and any(found.id == number for found in unit.cgroups) for unit in self._in_force or ())

    # sockets: the daemon lives on the host already

    def towards(self, workload: Workload, caller: str, family: int) -> socket.socket:
        if workload.key not in self._members:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), f"{workload.key} is not captured here")
        return sockets.towards(caller, family, self.capture.marks.local)

    def outwards(self, family: int, kind: int) -> socket.socket:
        return sockets.outwards(family, kind, 0 if self.capture.ours else self.capture.marks.bypass)

    def resolver_asked(self, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        return conntrack.first_destination(client, listener)
