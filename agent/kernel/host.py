"""Workloads that are systemd units. They share the host's namespace and addresses; their cgroups tell them apart.
A pod with hostNetwork is such a unit too, by the cgroup that the kubelet makes for it, with its containers below.

Each unit has its own listeners on its own ports, so that the listener tells which unit is calling. All units are in one
table. A unit that is restarted gets a new cgroup, so every round looks at the cgroups, and a round begins when systemd
makes one. Until then, for some milliseconds, the unit's traffic is not captured.

A unit's traffic must never reach another unit's listener. So the rules that an earlier daemon left, which may have
given the same ports to other units, are replaced before a listener is opened; and a port that was given back is reused
only after all others.

Other nodes reach a unit by the node's own tunnel listener, or by a tunnel listener of the unit where its manifest gives
a port. No rule concerns that listener: it is a socket of ours, in no unit's cgroup, and any process may dial it.
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

from msgspec import Struct, structs

from agent.install.drop_ins import began_captured, is_known
from agent.kernel import capabilities, conntrack, routing, sockets
from agent.kernel.condition import Condition
from agent.kernel.context import CaptureContext
from agent.kernel.ruleset import Unit, host_ruleset
from agent.kernel.table import Table
from agent.system import cgroup
from agent.system.cgroup import Cgroup
from nodeproxy.capture import Doors, Ports
from policy.model import POD, Workload

log = logging.getLogger("edgemesh.kernel")

FIRST_PORT = 15100  # each unit has three ports from here on: outbound, inbound, DNS
_STEP = 3
_MOST = 256  # units
LAST_PORT = FIRST_PORT + _STEP * _MOST


class _Member(Struct):
    """A wanted unit."""

    workload: Workload
    slot: int
    ports: Ports
    since: float
    doors: Doors | None = None
    shut: str = ""  # why some listeners could not be opened
    moved: bool = False  # its tunnel listener has a new port
    cgroups: tuple[Path, ...] = ()  # empty: the unit does not run

    @property
    def name(self) -> str:
        """The name under which its listeners are kept."""
        return f"unit {self.slot} {self.workload.key}"


def _closed(key: str, unit: str) -> Workload:
    namespace, _, name = key.partition("/")
    return Workload(namespace, f"{name}@{unit}", "", unit=unit)


def _is_pod(workload: Workload) -> bool:
    return workload.unit.startswith(POD)


def _called(workload: Workload) -> str:
    return f"hostNetwork {workload.unit}" if _is_pod(workload) else f"unit {workload.unit}"


def _place(workload: Workload) -> str:
    return "the node's network, by its pod's cgroup" if _is_pod(workload) else f"systemd unit {workload.unit}"


class Host:
    """The capture of systemd units and hostNetwork pods. Nothing on the host is touched until a unit is wanted."""

    attach: Callable[[Workload, Doors], None]
    detach: Callable[[str], None]

    def __init__(self, capture: CaptureContext) -> None:
        self.capture = capture
        self.table: Table | None = None
        self.folders: set[str] = set()  # slices to watch: a new cgroup in one may be a unit that starts
        self._routes: routing.Routes | None = None
        self._redirected = conntrack.Redirected(contextlib.nullcontext)
        self._members: dict[str, _Member] = {}
        self._faults: dict[str, str] = {}
        self._closed: set[str] = set()  # keys of closed units, whose listeners are not served
        self._idle: set[str] = set()  # keys of wanted units that have no cgroup
        self._in_force: tuple[tuple[Unit, ...], int | None] | None = None  # with the cgroup that may probe
        # A unit whose listeners were kept gets their ports again: connections may be waiting there.
        kept = (name.split(" ", 2) for name in capture.kept.names() if name.startswith("unit "))
        self._kept_slots = {key: int(slot) for _, slot, key in kept if slot.isdigit() and int(slot) < _MOST}
        self._next = max(self._kept_slots.values(), default=-1) + 1

    def __repr__(self) -> str:
        return f"<Host {len(self._members)} units>"

    def settle(self, wanted: Mapping[str, Workload], closed: Mapping[str, str] | None = None) -> None:
        """Bring the captures in line with what is wanted, once.

        `closed`: units that stay in the rules and whose listeners are not served, each with the key of its former
        workload.
        """
        self._closed = {f"{key}@{unit}" for unit, key in (closed or {}).items()}
        wanted = {**wanted, **{f"{key}@{unit}": _closed(key, unit) for unit, key in (closed or {}).items()}}
        if not wanted:
            self._faults, self._idle = {}, set()
            if self.table is not None:
                self.release(open_node=True)
            return
        for key in [key for key in self._members if key not in wanted]:
            self._drop(key)
        self._faults, self._idle = {}, set()
        try:
            self._prepare()
            units = self._look(wanted)
            if self._in_force is not None:
                self._open_doors(units)
            self._put(units)
            self._open_doors(units)
        except OSError as error:
            self._faults, self._idle = dict.fromkeys(wanted, error.strerror or str(error)), set()

    def _prepare(self) -> None:
        if self.capture.ours is None:
            message = "programs in the node's own network are told apart by cgroup: this needs cgroup2, and root"
            raise OSError(errno.ENOTSUP, message)
        if self._routes is None:
            config = self.capture.config
            self._routes = routing.Routes(self.capture.marks, config.service_range, config.dns.enabled)
        if self._routes.due():
            self._routes.lay()
        if self.table is None:
            owner = next(iter(self.capture.kept.take("host")), None)
            self.table = Table("the host", kept=owner)
            self.capture.kept.hold("host", [self.table.socket])

    def _look(self, wanted: Mapping[str, Workload]) -> tuple[Unit, ...]:
        """Return what the ruleset needs to know of the running units."""
        root = cgroup.mount()
        assert root is not None, "ours is in it"
        names = {workload.unit for workload in wanted.values()}
        uids = {name.removeprefix(POD) for name in names if name.startswith(POD)}
        folders, slices = cgroup.find_units(root, {name for name in names if not name.startswith(POD)})
        if uids:
            pods, more = cgroup.find_pods(root, uids)
            folders.update((f"{POD}{uid}", [folder]) for uid, folder in pods.items())
            slices += more
        self.folders = {str(folder) for folder in slices}
        units = []
        ours = Path(cgroup.current()).parts[1:]
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
            there = folders.get(workload.unit, [])
            if _is_pod(workload) and any(root.joinpath(*ours).is_relative_to(folder) for folder in there):
                self._faults[key] = "it is edgemesh's own pod, which is not captured; leave it outside the mesh"
                continue
            for folder in there:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    running[folder] = cgroup.identify(folder, root)
            if tuple(running) != member.cgroups:
                self._say(key, member, bool(running))
                member.cgroups = tuple(running)
            if running:
                probes = tuple(sorted({probe.port for probe in workload.probes})) if _is_pod(workload) else ()
                units.append(Unit(key, tuple(running.values()), member.ports, workload.exclusions, probes))
            elif key not in self._closed:
                self._faults[key] = f"{_called(workload)} does not run: it has no cgroup"
                self._idle.add(key)
        return tuple(units)

    def _say(self, key: str, member: _Member, runs: bool) -> None:
        unit = _called(member.workload)
        if key not in self._closed:
            log.info("%s of %s %s", unit, key, "is captured" if runs else "ended")
        elif runs:
            log.log(
                logging.INFO if _is_pod(member.workload) else logging.WARNING,  # a deleted pod ends in a moment
                "%s is closed: nothing names it any more; edgemesh release %s opens it",
                unit,
                key.partition("@")[0],
            )

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
        prober = None
        if any(unit.probes for unit in units) and self.capture.prober is not None:
            prober = self.capture.prober.group()
        if (units, prober) != self._in_force or self.table.lent:
            capture = self.capture
            self.table.put(
                host_ruleset(
                    capture.marks,
                    self.capture.ours,
                    units,
                    config.service_range,
                    config.dns.enabled,
                    capture.earlier,
                    prober,
                )
            )
            self._in_force = units, prober
        self.table.repair()

    def _open_doors(self, units: tuple[Unit, ...]) -> None:
        for unit in units:
            member = self._members[unit.key]
            if unit.key in self._closed or (member.doors is not None and not member.shut and not member.moved):
                continue
            given = self.capture.kept.take(member.name)
            doors, shut = sockets.open_doors(
                member.ports, 0, self.capture.config.dns.enabled, (*given, *(member.doors or ()))
            )
            for sock in given:
                sock.close()
            if member.doors is not None and shut == member.shut and not member.moved:
                doors.close()
                continue
            if shut and shut != member.shut:
                log.warning("%s of %s: %s", _called(member.workload), unit.key, shut)
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
                routing.remove()
            self.table.close()
        if self._routes is not None:
            self._routes.close()
        self._redirected.close()
        self.table = self._routes = self._in_force = None
        self.folders = set()
        self._faults, self._idle = {}, set()

    def conditions(self, looked_up: bool = False) -> dict[str, Condition]:
        """Return the condition of each unit, by key; `looked_up`: with what has to be looked up."""
        found = {key: self._failed(key, fault) for key, fault in self._faults.items()}
        if self.table is None or self._routes is None:
            return found
        packets: Counter[str] = Counter()
        if looked_up:
            of = [
                unit.key for unit in self._units_in_force() for _ in unit.cgroups
            ]  # one counting rule for each cgroup
            for key, count in zip(of, self.table.counts(), strict=False):
                packets[key] += count
        for key, member in self._members.items():
            if key not in found and key not in self._closed:
                processes = (pid for folder in member.cgroups for pid in cgroup.processes(folder)) if looked_up else ()
                found[key] = Condition(
                    captured=True,
                    where=_place(member.workload),
                    error="; ".join(filter(None, (member.shut, self._routes.fault, self._unprobed(member.workload)))),
                    gaps=self.table.gaps,
                    powers=capabilities.powers_of(processes),
                    udp_packets=packets[key],
                    since=member.since,
                    late=looked_up
                    and not _is_pod(member.workload)
                    and not all(began_captured(member.workload.unit, folder) for folder in member.cgroups),
                    owned=self.table.owned,
                )
        return found

    def _failed(self, key: str, fault: str) -> Condition:
        if key not in self._idle:
            return Condition(False, "", fault)
        workload = self._members[key].workload
        unit = workload.unit
        if _is_pod(workload):
            return Condition(False, _place(workload), fault, waiting=True)
        known = is_known(unit)
        return Condition(
            False,
            f"systemd unit {unit}",
            fault if known else f"{fault}, and systemd has no unit of that name",
            waiting=known,
        )

    def running(self) -> list[str]:
        """Return the keys of the workloads whose units run and are captured."""
        return [
            key
            for key, member in self._members.items()
            if member.cgroups and key not in self._faults and key not in self._closed
        ]

    def closed_in(self, unit: str) -> list[str]:
        """Return the key under which a unit is closed: one or none. A unit that does not run is not reported."""
        return [
            key
            for key, member in self._members.items()
            if key in self._closed and member.workload.unit == unit and member.cgroups
        ]

    def is_gone(self, unit: str) -> bool:
        """Return whether a closed unit was looked for, and has no cgroup."""
        there = [m for key, m in self._members.items() if key in self._closed and m.workload.unit == unit]
        return self._in_force is not None and bool(there) and not any(member.cgroups for member in there)

    def holds(self, key: str, number: int) -> bool:
        """Return whether the cgroup of that number is captured as this workload's."""
        return any(
            unit.key == key and any(found.id == number for found in unit.cgroups) for unit in self._units_in_force()
        )

    def captures(self, key: str, uid: str) -> bool:
        """Return whether the rules of this pod are in force, and its listeners open."""
        member = self._members.get(key)
        if member is None or member.doors is None or member.workload.unit != f"{POD}{uid}":
            return False
        return any(unit.key == key for unit in self._units_in_force())

    def _units_in_force(self) -> tuple[Unit, ...]:
        return self._in_force[0] if self._in_force is not None else ()

    def _unprobed(self, workload: Workload) -> str:
        if (
            not _is_pod(workload)
            or not workload.probes
            or (self._in_force is not None and self._in_force[1] is not None)
        ):
            return ""
        return "its declared probes are refused: no cgroup of this node is known as the prober's; NodeConfig probes says which"

    # sockets: the daemon is in the host's namespace already

    def towards(self, workload: Workload, caller: str, family: int, reuse: bool = False) -> socket.socket:
        if workload.key not in self._members:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), f"{workload.key} is not captured here")
        return sockets.towards(caller, family, self.capture.marks.local, reuse)

    def outwards(self, family: int, kind: int) -> socket.socket:
        return sockets.outwards(family, kind, 0 if self.capture.ours else self.capture.marks.bypass)

    def resolver_asked(self, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        return self._redirected.destination(client, listener)
