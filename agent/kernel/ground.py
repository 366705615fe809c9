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
from collections.abc import Callable, Iterable, Mapping

import trio
from msgspec import Struct

from agent import inotify
from agent.config import NodeConfig
from agent.kernel import cgroup, netns, powers
from agent.kernel.condition import Condition
from agent.kernel.place import Place
from agent.kernel.units import Host
from nodeproxy.capture import Doors
from nodeproxy.ruleset import Cgroup, Marks
from policy.model import Workload

log = logging.getLogger("edgemesh.kernel")

POLL = 0.25  # seconds between looks at what namespaces there are
_POLL_UNOWNED = 0.02  # where somebody could take our rules away: until the next look, what connects stays uncaptured
_RETRY = 2.0  # seconds until a capture that failed is tried again; one that waits for its namespace costs nothing
_NODE_ADDRESSES = 5.0  # seconds between looks at the node's own addresses

Attach = Callable[[Workload, Doors], None]
Detach = Callable[[str], None]


class Capture(Struct, frozen=True):
    """What is the same for every workload of this node."""

    config: NodeConfig
    marks: Marks
    ours: Cgroup | None


class Ground:
    """nodeproxy.capture.Sockets, and the keeper of rules and doors. Everything here is synchronous but `run`."""

    def __init__(self, config: NodeConfig, own_cgroup: bool = True) -> None:
        """`own_cgroup` False: stay in the cgroup that we are in, and know our sockets by a mark."""
        own = cgroup.own(config.node) if own_cgroup else None
        self.capture = Capture(config, config.marks, own[0] if own else None)
        self.host = Host(self.capture)
        self.settled = False  # what is wanted has been looked at once
        self._attach: Attach = _nobody
        self._detach: Detach = _nobody
        self._wanted: dict[str, Workload] = {}
        self._places: dict[str, Place] = {}
        self._faults: dict[str, str] = {}
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
        async with trio.open_nursery() as nursery:
            if watch is not None:
                nursery.start_soon(self._listen, watch)
            while True:
                self._changed = trio.Event()
                self.settle()
                if watch is not None:
                    for folder in self.host.folders:
                        with contextlib.suppress(OSError):  # gone just now; the poll finds out
                            watch.watch(folder, inotify.CREATE | inotify.ONLYDIR)
                owned = all(place.table.owned for place in self._places.values()) and self.host.owned
                with trio.move_on_after(POLL if owned else _POLL_UNOWNED):
                    await self._changed.wait()

    async def _listen(self, watch: inotify.Inotify) -> None:
        while True:
            await watch.events()
            # `ip netns add` makes the file first and mounts the namespace over it afterwards.
            for _ in range(10):
                self._changed.set()
                await trio.sleep(0.01)

    def settle(self) -> None:
        """Make what there is what is wanted, once."""
        for key in [key for key in self._places if key not in self._wanted]:
            self._let_go(key, remove=True)
        self._faults = {key: fault for key, fault in self._faults.items() if key in self._wanted}
        self._retry = {key: at for key, at in self._retry.items() if key in self._wanted}
        units: dict[str, Workload] = {}
        finder = _Finder()
        for key, workload in self._wanted.items():
            if workload.unit:
                units[key] = workload
                continue
            place = self._places.get(key)
            try:
                path = self._path_of(workload, place, finder)
            except OSError as error:
                self._fail(key, error.strerror or str(error))
                continue
            if place is not None and (path != place.namespace.path or netns.identity(path) != place.namespace.id):
                self._let_go(key, remove=False)
                place = None
            if place is None and key in self._retry and time.monotonic() < self._retry[key]:
                continue
            try:
                if place is not None:
                    place.keep(workload)
                else:
                    self._take(workload, path)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    self._retry[key] = time.monotonic() + _RETRY
                self._fail(key, f"{path or 'no network namespace has its addresses'}: {error.strerror or error}")
        self.host.settle(units)
        self.settled = True

    def _path_of(self, workload: Workload, place: Place | None, finder: _Finder) -> str:
        """Where a workload runs. Raises OSError when that cannot be told."""
        if workload.netns:
            return netns.path_of(workload.netns)
        # Found once, it is kept while it is there: nobody takes it over by claiming its address.
        return place.namespace.path if place is not None else finder.path_of(workload)

    def _take(self, workload: Workload, path: str) -> None:
        if not path or not netns.is_namespace(path):
            raise FileNotFoundError(errno.ENOENT, "there is no such network namespace (yet)", path)
        key = workload.key
        if netns.identity(path) == netns.identity("/proc/self/ns/net"):
            # Its rules would take every program of the host for this one workload.
            raise OSError(errno.EINVAL, "this is the host's own network namespace; name a systemd unit (systemdUnit) instead", path)
        taken = next((p.workload.key for p in self._places.values() if p.namespace.id == netns.identity(path)), None)
        if taken is not None:
            raise FileExistsError(errno.EEXIST, f"this namespace is {taken}'s already; a namespace holds one workload", path)
        place = Place(self.capture, workload, path)
        self._places[key] = place
        self._faults.pop(key, None)
        log.info("captured %s in %s%s", key, path, f", but {place.fault}" if place.fault else "")
        self._attach(workload, place.doors)

    def _fail(self, key: str, text: str) -> None:
        if self._faults.get(key) != text:
            log.warning("%s is not captured: %s", key, text)
            self._faults[key] = text

    def _let_go(self, key: str, remove: bool) -> None:
        place = self._places.pop(key)
        self._detach(key)
        if remove:
            place.remove()
        place.close()
        log.info("let go of %s in %s", key, place.namespace.path)

    def release(self, open_node: bool) -> None:
        """At a stop: rules stay, unless the node is to be open without us."""
        for key in list(self._places):
            self._let_go(key, remove=open_node)
        self.host.release(open_node)

    # what status tells

    def conditions(self) -> Mapping[str, Condition]:
        """Whether each workload of this node is captured, by key. Cheap."""
        found = {key: Condition(False, "", fault) for key, fault in self._faults.items()}
        for key, place in self._places.items():
            found[key] = place.condition()
        found.update(self.host.conditions())
        return found

    def report(self) -> Mapping[str, Condition]:
        """The same with what has to be looked up: packets counted, powers held. Takes milliseconds."""
        found = dict(self.conditions())
        held = powers.powers_by_namespace([place.namespace.id for place in self._places.values()])
        for key, place in self._places.items():
            found[key] = place.condition(held.get(place.namespace.id, ()), counted=True)
        return found

    # sockets

    def towards(self, workload: Workload, caller: str, family: int) -> socket.socket:
        place = self._places.get(workload.key)
        return self.host.towards(workload, caller, family) if place is None else place.towards(caller, family)

    def outwards(self, workload: Workload, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        place = self._places.get(workload.key)
        return self.host.outwards(family, kind) if place is None else place.outwards(family, kind)

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


class _Finder:
    """Namespaces by address, for pods: their namespaces have names that nobody tells us. Looked up at most once a round.

    A workload with NET_ADMIN can give itself any address, so an address that two namespaces have says nothing: who is found by
    it would be whoever claims it. Then neither is taken, and people are told.
    """

    def __init__(self) -> None:
        self._paths: dict[str, set[str]] | None = None

    def path_of(self, workload: Workload) -> str:
        """The namespace that alone has an address of this workload; "" for none. Raises OSError when several claim one."""
        if self._paths is None:
            self._paths = {}
            for path in netns.named():
                for address in netns.addresses_in(path):
                    self._paths.setdefault(address, set()).add(path)
        found = {path for address in workload.addresses for path in self._paths.get(address, ())}
        if len(found) > 1:
            names = ", ".join(sorted(found))
            raise OSError(errno.EEXIST, f"several network namespaces have its addresses: {names}; name the right one with netns")
        return next(iter(found), "")


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
