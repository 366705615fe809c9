"""The keeper of the kernel side: finds where workloads run, opens their doors there, and keeps their rules in force.

Theory of operation. `want` says which workloads this node should capture; one task compares that with the namespaces that there
are: at each wish, at each change under /run/netns or of a unit's cgroup, and four times a second. For a namespace that appeared:
sockets first, then the rules in one transaction, then the doors are handed over, so that no packet is redirected to nothing. A
namespace that vanished or was replaced under its name is let go at once, because our sockets would keep it alive. A fault of one
workload becomes its condition, with what to do, and stops no other. Rules outlive us: only `release` of an open node, and cleanup,
take them away.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import trio
from msgspec import Struct

from agent import inotify
from agent.config import NodeConfig
from agent.kept import Kept
from agent.kernel import cgroup, netns, powers, sockets
from agent.kernel.condition import Condition
from agent.kernel.finder import Finder
from agent.kernel.place import Place
from agent.kernel.table import Table
from agent.kernel.units import Host
from nodeproxy.capture import Doors
from nodeproxy.ruleset import Cgroup, Marks
from policy.model import Workload

log = logging.getLogger("edgemesh.kernel")

POLL = 0.25  # seconds between looks at what namespaces there are
_GUARD = 0.02  # seconds between looks at a table that somebody else may change, while he does
_RETRY = 2.0  # seconds until a capture that failed is tried again; one that waits for its namespace costs nothing
_NODE_ADDRESSES = 5.0  # seconds between looks at the node's own addresses

Attach = Callable[[Workload, Doors], None]
Detach = Callable[[str], None]


class Capture(Struct, frozen=True):
    """What is the same for every workload of this node."""

    config: NodeConfig
    marks: Marks
    ours: Cgroup | None
    kept: Kept
    earlier: tuple[Cgroup, ...] = ()  # where doors that were kept were made, before the service was started again

    @property
    def mode(self) -> Literal["cgroup", "mark"]:
        return "cgroup" if self.ours else "mark"


class Ground:
    """nodeproxy.capture.Sockets, and the keeper of rules and doors. Everything here is synchronous but `run`."""

    def __init__(self, config: NodeConfig, own_cgroup: bool = True, kept: Kept | None = None, predecessor: int = 0) -> None:
        """`own_cgroup` False: stay in the cgroup that we are in, and know our sockets by a mark.

        `kept`: descriptors that outlive us. `predecessor`: the daemon that hands over to us, in the same cgroup; 0 = none.
        """
        own = cgroup.own(config.node, predecessor) if own_cgroup else None
        kept = kept or Kept()
        ours = own[0] if own else None
        self.capture = Capture(config, config.marks, ours, kept, kept.live_in(ours))
        self.host = Host(self.capture)
        self.settled = False  # what is wanted has been looked at once
        self._attach: Attach = _nobody
        self._detach: Detach = _nobody
        self._wanted: dict[str, Workload] = {}
        self._places: dict[str, Place] = {}
        self._faults: dict[str, str] = {}
        self._finder = Finder()
        self._retry: dict[str, float] = {}  # when what failed is tried again
        self._changed = trio.Event()
        self._node_addresses: frozenset[str] = frozenset()
        self._node_addresses_until = 0.0
        if own is None:
            log.warning("no cgroup of our own can be made: our sockets are known by a mark, which a workload with NET_RAW could set too")

    def __repr__(self) -> str:
        return f"<Ground {len(self._places)} namespaces, {self.host!r}>"

    def serve(self, attach: Attach, detach: Detach) -> None:
        """Who takes the doors of a workload that was captured, and hears that they close. Say so before `run`."""
        self._attach = self.host.attach = attach
        self._detach = self.host.detach = detach

    # the keeper

    def want(self, workloads: Iterable[Workload]) -> None:
        """The workloads of the newest snapshot; those of this node are captured."""
        node = self.capture.config.node
        self._wanted = {w.key: w for w in workloads if w.enrolled and (w.node == node or (not w.node and (w.netns or w.unit)))}
        self.settled = False
        self._changed.set()

    async def run(self) -> None:
        """Keep what is wanted true, until cancelled. Rules stay when it ends."""
        watch = _watch()
        guarded: set[Table] = set()
        async with trio.open_nursery() as nursery:
            if watch is not None:
                nursery.start_soon(self._listen, watch)
            while True:
                self._changed = trio.Event()
                for _ in self._steps():
                    await trio.lowlevel.checkpoint()  # a table takes the kernel milliseconds: calls move on in between
                for table in self._tables():
                    if not table.owned and table not in guarded:
                        guarded.add(table)
                        nursery.start_soon(self._guard, table, guarded)
                if watch is not None:
                    for folder in self.host.folders:
                        with contextlib.suppress(OSError):  # gone just now; the poll finds out
                            watch.watch(folder, inotify.CREATE | inotify.ONLYDIR)
                with trio.move_on_after(POLL):
                    await self._changed.wait()

    async def _listen(self, watch: inotify.Inotify) -> None:
        while True:
            await watch.events()
            # `ip netns add` makes the file first and mounts the namespace over it afterwards.
            for _ in range(10):
                self._changed.set()
                await trio.sleep(0.01)

    async def _guard(self, table: Table, guarded: set[Table]) -> None:
        """Put a table that somebody else may change in force again, at once when he does."""
        try:
            while True:
                await table.changed()
                try:
                    table.repair()
                except OSError as error:
                    log.warning("%r: %s; trying again", table, error)
                await trio.sleep(_GUARD)  # who changes it without end cannot keep us from everything else
        except trio.ClosedResourceError:
            pass  # we let go of it
        finally:
            guarded.discard(table)

    def _tables(self) -> Iterable[Table]:
        yield from (place.table for place in self._places.values())
        if self.host.table is not None:
            yield self.host.table

    def settle(self) -> None:
        """Make what there is what is wanted, once."""
        for _ in self._steps():
            pass

    def _steps(self) -> Iterator[None]:
        """The same in steps: what is slow is followed by a yield, and a newer wish ends it there."""
        wanted = self._wanted
        self._faults = {key: fault for key, fault in self._faults.items() if key in wanted}
        self._retry = {key: at for key, at in self._retry.items() if key in wanted}
        now = time.monotonic()
        self._finder.begin(now)
        paths: dict[str, str] = {}
        for key, workload in wanted.items():
            if not workload.unit:
                try:
                    paths[key] = self._path_of(workload)
                except OSError as error:
                    self._fail(key, error.strerror or str(error))
        ids = {key: netns.identity(path) for key, path in paths.items()}
        sought = set(ids.values())
        for key, place in list(self._places.items()):
            if ids.get(key) == place.namespace.id:
                place.namespace.path = paths[key]
                continue
            # Rules are taken away only where they are no longer wanted: not from a namespace that goes to another workload, and
            # not from one that lost its name, where processes may go on.
            there = netns.identity(place.namespace.path) == place.namespace.id
            self._let_go(key, remove=there and place.namespace.id not in sought)
        for key, path in paths.items():
            if key not in self._places and now < self._retry.get(key, 0.0):
                continue
            workload = wanted[key]
            try:
                if key in self._places:
                    doors = self._places[key].keep(workload)
                    if doors is not None:
                        self._attach(workload, doors)
                else:
                    self._take(workload, path)
                    yield
            except OSError as error:
                if error.errno != errno.ENOENT:
                    self._retry[key] = now + _RETRY
                self._fail(key, f"{path or 'no network namespace has its addresses'}: {error.strerror or error}")
            if self._wanted is not wanted:
                return
        self.host.settle({key: workload for key, workload in wanted.items() if workload.unit})
        self.settled = True

    def _path_of(self, workload: Workload) -> str:
        """Where a workload runs. Raises OSError when that cannot be told."""
        if workload.netns:
            return netns.path_of(workload.netns)
        # Found once, it is kept while it is there: nobody takes it over by claiming its address.
        place = self._places.get(workload.key)
        if place is not None and netns.identity(place.namespace.path) == place.namespace.id:
            return place.namespace.path
        return self._finder.path_of(workload)

    def _take(self, workload: Workload, path: str) -> None:
        if not path or not netns.is_namespace(path):
            raise FileNotFoundError(errno.ENOENT, "there is no such network namespace (yet)", path)
        key, which = workload.key, netns.identity(path)
        if which == netns.own():
            message = "this is the host's own network namespace, and its rules would cut the host off; name a systemdUnit instead"
            raise PermissionError(errno.EPERM, message, path)
        taken = next((p.workload.key for p in self._places.values() if p.namespace.id == which), None)
        if taken is not None:
            raise FileExistsError(errno.EEXIST, f"this namespace is {taken}'s already; a namespace holds one workload", path)
        place = Place(self.capture, workload, path)
        self._places[key] = place
        self._faults.pop(key, None)
        self._retry.pop(key, None)
        log.info("captured %s in %s%s", key, path, f", but {place.fault}" if place.fault else "")
        self._attach(workload, place.doors)

    def _fail(self, key: str, text: str) -> None:
        if self._faults.get(key) != text:
            log.warning("%s is not captured: %s", key, text)
            self._faults[key] = text

    def _let_go(self, key: str, remove: bool, keep: bool = False) -> None:
        """`keep`: its descriptors go on being kept, for the next start."""
        place = self._places.pop(key)
        self._detach(key)
        if remove:
            place.remove()
        if not keep:
            self.capture.kept.drop(place.name)
        place.close()
        log.info("let go of %s in %s", key, place.namespace.path)

    def release(self, open_node: bool) -> None:
        """At a stop: rules stay, unless the node is to be open without us."""
        for key in list(self._places):
            self._let_go(key, remove=open_node, keep=not open_node)
        self.host.release(open_node)

    def lend(self) -> None:
        """Another daemon works with our tables from now on, while our doors stay open. `run` must not run; when it runs again, all of them are put in force anew."""
        for table in self._tables():
            table.lend()

    def unit(self, name: str, number: int) -> tuple[bool, bool, str]:
        """Is a systemd unit of that name wanted here, is its cgroup of that number captured, and what is wrong, "" for nothing."""
        keys = [key for key, workload in self._wanted.items() if workload.unit == name]
        faults = self.host.conditions()
        wrong = "; ".join(faults[key].error for key in keys if key in faults and not faults[key].captured)
        return bool(keys), any(self.host.holds(key, number) for key in keys), wrong

    # what status tells

    def conditions(self) -> Mapping[str, Condition]:
        """Whether each workload of this node is captured, by key. Cheap."""
        found = {key: Condition(False, "", fault, mode=self.capture.mode) for key, fault in self._faults.items()}
        for key, place in self._places.items():
            found[key] = place.condition()
        found.update(self.host.conditions())
        return found

    def report(self) -> Mapping[str, Condition]:
        """The same with what has to be looked up: packets counted, powers held. Takes milliseconds."""
        found = dict(self.conditions())
        owners = {place.namespace.id: place.namespace.owner for place in self._places.values()}
        held = powers.powers_by_namespace(owners, owners)
        for key, place in self._places.items():
            found[key] = place.condition(held.get(place.namespace.id, ()), counted=True)
        found.update(self.host.conditions(looked_up=True))
        return found

    # sockets

    def towards(self, workload: Workload, caller: str, family: int) -> socket.socket:
        place = self._places.get(workload.key)
        return self.host.towards(workload, caller, family) if place is None else place.towards(caller, family)

    def outwards(self, workload: Workload, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        place = self._places.get(workload.key)
        return self.host.outwards(family, kind) if place is None else place.outwards(family, kind)

    def from_node(self, family: int) -> socket.socket:
        return sockets.outwards(family, socket.SOCK_STREAM, self._mark)

    def node_doors(self, addresses: Iterable[str]) -> tuple[list[socket.socket], str]:
        """Listening sockets of the node's own tunnel door, the caller's from now on; and what is wrong, "" for nothing."""
        kept = self.capture.kept
        given = kept.take("node")
        doors, fault = sockets.node_doors(addresses, self.capture.config.ports.tunnel, self._mark, given)
        for sock in given:
            sock.close()
        kept.hold("node", doors)
        return doors, fault

    @property
    def _mark(self) -> int:
        return 0 if self.capture.ours else self.capture.marks.bypass

    def resolver_asked(self, workload: Workload, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        place = self._places.get(workload.key)
        return self.host.resolver_asked(client, listener) if place is None else place.resolver_asked(client, listener)

    def node_addresses(self) -> frozenset[str]:
        now = time.monotonic()
        if now >= self._node_addresses_until:
            self._node_addresses = netns.addresses()
            self._node_addresses_until = now + _NODE_ADDRESSES
        return self._node_addresses


def _nobody(*_: object) -> None:
    raise RuntimeError("Ground.serve comes first")


def _watch() -> inotify.Inotify | None:
    """Changes under /run/netns; None where that cannot be watched, and the poll alone must do."""
    try:
        os.makedirs(netns.FOLDER, exist_ok=True)
        watch = inotify.Inotify()
        watch.watch(netns.FOLDER, inotify.CREATE | inotify.DELETE | inotify.MOVED_TO | inotify.MOVED_FROM)
        return watch
    except OSError as error:
        log.warning("cannot watch %s: %s; looking four times a second", netns.FOLDER, error.strerror)
        return None
