"""Capture on this node: where workloads run, their listeners there, and their rules, kept in force.

Theory of operation. `want` says which workloads this node should capture. Rounds (rounds.py) compare that with the
namespaces that exist. For a namespace that appeared, the sockets are made first, then the rules are installed in one
transaction, then the listeners are handed to the proxy, so that no packet is redirected to a port without a listener.
What becomes of each namespace is a row of a table (places.py). One that vanished, or was replaced under its name, is
released at once, because our sockets would keep it alive. A fault of one workload becomes its condition, with advice,
and does not affect others. Rules outlive the daemon: only `release` of an open node and cleanup remove them. A place
that was captured and is no longer named is closed, not released (remembered.py).
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Set

import trio

from agent.config.schema import NodeConfig
from agent.kernel import capabilities, conntrack, netns, sockets
from agent.kernel.beginnings import Beginnings
from agent.kernel.condition import Condition
from agent.kernel.context import CaptureContext
from agent.kernel.gate import Gate
from agent.kernel.host import FIRST_PORT, LAST_PORT, Host
from agent.kernel.namespace import CapturedNamespace
from agent.kernel.node_prober import NodeProber
from agent.kernel.places import Attach, Detach, Facts, Places, there
from agent.kernel.pod_netns import PodNamespaces, differ
from agent.kernel.pods import Pods
from agent.kernel.remembered import Remembered, path_in, place_of, unit_in
from agent.kernel.rounds import Rounds
from agent.kernel.sandboxes import Namespace
from agent.kernel.table import Table
from agent.system import cgroup
from agent.system.fd_store import FdStore
from policy.model import POD, Problem, Workload

log = logging.getLogger("edgemesh.kernel")

_RETRY = 2.0  # seconds until a failed capture is tried again; a missing namespace is looked for in every round
_NODE_ADDRESSES = 5.0  # seconds for which the node's own addresses are cached

_NOWHERE = "no network namespace has its addresses"
_NEEDS = "edgemesh needs root's NET_ADMIN, SYS_ADMIN and SYS_PTRACE, and in a pod hostPID"


class CaptureManager:
    """Implements nodeproxy.capture.Sockets, and keeps rules and listeners.

    Everything here is synchronous except `run`.
    """

    def __init__(
        self,
        config: NodeConfig,
        own_cgroup: bool = True,
        kept: FdStore | None = None,
        predecessor: int = 0,
        places: Mapping[str, str] | None = None,
        met: Mapping[int, Iterable[str]] | None = None,
        kubernetes: bool = False,
    ) -> None:
        """`own_cgroup` False: stay in the present cgroup, and recognise our sockets by a mark.

        `kept`: descriptors that outlive us. `predecessor`: the daemon that hands over to us, in the same cgroup; 0 =
        none. `places`: the places captured before, with the workload of each (Remembered.places). `met`: namespaces
        that were seen before (PodNamespaces.met). `kubernetes`: the workloads of this node are pods.
        """
        outside = cgroup.enter_nodes() if own_cgroup else ""
        own = cgroup.own(config.node, predecessor) if own_cgroup else None
        kept = kept or FdStore()
        ours = own[0] if own else None
        self.capture = CaptureContext(
            config, config.marks, ours, kept, NodeProber(config, kept, outside, kubernetes), kept.live_in(ours)
        )
        self.host = Host(self.capture)
        # keys of the workloads that are found by address, and whose addresses no namespace has
        self.lost: frozenset[str] = frozenset()
        self.settled = False  # the present wish has been acted on once
        self._wanted: dict[str, Workload] = {}
        self.places = Places(self.capture)
        self.remembered = Remembered(places)
        self._unclosed: dict[str, str] = {}  # places that could not be closed though they should be, with the reason
        self._faults: dict[str, str] = {}
        self._idle: set[str] = set()  # keys of pods that have no sandbox
        self.finder = PodNamespaces(met)
        gated = config.kubernetes.gate == "on" or (kubernetes and config.kubernetes.gate == "auto")
        gate = Gate(kept, gated)
        # whether new pods may speak; None where no pods are expected
        self.pods = Pods(self.finder.sandboxes, gate, config.kubernetes.pod_ranges) if kubernetes or gated else None
        self._gate = gate
        # a task that runs while we keep the rules: what tells us of new pods
        self.beside: Callable[[], Awaitable[None]] = trio.sleep_forever
        self._retry: dict[str, float] = {}  # when a failed capture is tried again, by key
        runtimes = self.finder.sandboxes.folders if self.pods is not None else ()
        self._rounds = Rounds(self._steps, self._tables, lambda: runtimes, lambda: self.host.folders)
        self.beginnings = Beginnings(self, self.finder, self.places, self._rounds, self.pods)
        self._node_addresses: frozenset[str] = frozenset()
        self._lent_addresses: frozenset[str] = frozenset()
        self._node_addresses_until = 0.0
        if own is None:
            log.warning(
                "no cgroup of our own can be made: our sockets are known by a mark, which a workload with NET_RAW could set too"
            )

    def __repr__(self) -> str:
        return f"<CaptureManager {self.places!r}, {self.host!r}>"

    def serve(self, attach: Attach, detach: Detach) -> None:
        """Set the functions that receive a captured workload's listeners, and that are called when they close.

        Call it before `run`.
        """
        self.places.attach = self.host.attach = attach
        self.places.detach = self.host.detach = detach

    # keeping the wanted captures

    def want(self, workloads: Iterable[Workload]) -> None:
        """Take the workloads of the newest snapshot; those of this node are captured."""
        node, workloads = self.capture.config.node, tuple(workloads)
        self._wanted = {
            w.key: w for w in workloads if w.enrolled and (w.node == node or (not w.node and (w.netns or w.unit)))
        }
        self.remembered.look(workloads, self._wanted, node)
        self.settled = False
        self._rounds.call()

    async def run(self) -> None:
        """Keep the wanted captures until cancelled. Rules stay in force when it ends."""
        self._gate.clear()
        await self._rounds.run(self.beside)

    def _tables(self) -> Iterable[Table]:
        yield from (place.table for place in self.places)
        if self.host.table is not None:
            yield self.host.table
        if self.capture.prober is not None:
            yield from self.capture.prober.tables
        yield from self._gate.tables

    def settle(self) -> None:
        """Bring the captures in line with what is wanted, once."""
        for _ in self._steps():
            pass

    def _steps(self) -> Iterator[None]:
        """Do what `settle` does in steps.

        Each slow step is followed by a yield; if there is a newer wish then, the generator ends.
        """
        wanted = self._wanted
        self._faults = {key: fault for key, fault in self._faults.items() if key in wanted}
        self._retry = {key: at for key, at in self._retry.items() if key in wanted}
        self._idle = set()
        now = time.monotonic()
        self.finder.begin(now, any(not workload.unit and not workload.netns for workload in wanted.values()))
        paths: dict[str, str] = {}
        for key in self.remembered.in_order(wanted):
            workload = wanted[key]
            if not workload.unit:
                try:
                    paths[key] = self._path_of(workload)
                except OSError as error:
                    self._fail(key, error.strerror or str(error))
        self.lost = frozenset(key for key, path in paths.items() if not path)
        ids = {key: netns.identity(path) for key, path in paths.items()}
        sought = set(ids.values())
        self._move(paths, ids)
        yield from self._close_remembered(sought)
        for key, path in paths.items():
            if key not in self.places.served and now < self._retry.get(key, 0.0):
                continue
            workload = wanted[key]
            try:
                if key in self.places.served:
                    self.follow(self.places.served[key], workload)
                else:
                    self.take(workload, path)
                    yield
            except OSError as error:
                if error.errno != errno.ENOENT:
                    self._retry[key] = now + _RETRY
                if error.errno == errno.ENOENT and self.pods is not None and not workload.netns:
                    # It ended, or has not begun: there is nothing to capture, and what begins is mute.
                    self._fail(key, "the container runtime has no sandbox of it", logging.INFO)
                    self._idle.add(key)
                    continue
                why = error.strerror or str(error)
                if error.errno == errno.EPERM and _NEEDS not in why:
                    why = f"{why}; {_NEEDS}"
                where = path or ("its network namespace" if error.errno == errno.EPERM else _NOWHERE)
                self._fail(key, f"{where}: {why}")
            if self._wanted is not wanted:
                return
        if self.capture.prober is not None:
            self.capture.prober.settle()
        yield from self.beginnings.settle()
        closed = {unit: key for place, key in self.remembered.abandoned.items() if (unit := unit_in(place))}
        self.host.settle({key: workload for key, workload in wanted.items() if workload.unit}, closed)
        for unit in closed:
            if unit.startswith(POD) and self.host.is_gone(unit):
                self.remembered.forget(f"unit {unit}")
        for key in self.host.running():
            self.remembered.captured(wanted[key])
        self.remembered.done(wanted)
        self.settled = True

    def _move(self, paths: Mapping[str, str], ids: Mapping[str, Namespace | None]) -> None:
        """Move each place into the state that it belongs in now. `paths`, `ids`: of wanted workloads, by key."""
        sought = set(ids.values())
        for key, place in list(self.places.served.items()):
            named = ids.get(key) == place.namespace.id
            if named:
                place.namespace.path = paths[key]
            facts = Facts(
                there=there(place),
                named=named,
                sought=place.namespace.id in sought,
                released=self.remembered.is_released(key),
                pod=self.pods is not None and not place_of(place.workload),
            )
            move = self.places.move(place, facts)
            if move == "shut":
                _warn_of_closed(place.namespace.path, key)
            elif move == "shut early":
                # A pod was deleted, and its sandbox will be in a moment: that is no fault.
                log.info("%s is closed: its pod %s was deleted", place.namespace.path, key)
            elif move != "keep":
                log.info("let go of %s in %s", key, place.namespace.path)
        self.places.forget_passed(sought)
        waiting = self.pods.waiting().values() if self.pods is not None else ()
        outside = {netns.identity(one.netns) for one in waiting if self.pods and self.pods.enrols(one) is False}
        for which, place in list(self.places.shut.items()):
            path = place.namespace.path
            facts = Facts(
                there=there(place),
                sought=which in sought,
                released=not self.remembered.stays(place.workload, path),
                outside=which in outside,  # what is known of it has changed
            )
            early, move = which in self.places.early, self.places.move(place, facts)
            if move == "open" and not (early and facts.outside):
                log.warning("%s is open: a person let go of %s", path, place.workload.key)
            if move == "keep" and place.table.lent:
                try:
                    place.keep(place.workload)
                except OSError as error:  # the rules of the other daemon stay in force; the next round tries again
                    log.warning("%s: %s; trying again", path, error)

    def _close_remembered(self, sought: Set[Namespace | None]) -> Iterator[None]:
        """Close the places that an earlier daemon captured and that nothing names any more."""
        self._unclosed = {}
        taken = {*sought, *self.places.taken, netns.own()}
        for named, key in self.remembered.abandoned.items():
            path = path_in(named)
            if not path or not netns.is_namespace(path) or netns.identity(path) in taken:
                continue
            try:
                self.places.hold(self.remembered.workload(named), path, early=False)
            except OSError as error:
                self._unclosed[named] = error.strerror or str(error)
                continue
            _warn_of_closed(path, key)
            yield

    def _path_of(self, workload: Workload) -> str:
        """Return the path of the namespace in which a workload runs. Raise OSError when it cannot be determined."""
        if workload.netns:
            return netns.path_of(workload.netns)
        if path := self.finder.recorded(workload):
            return path
        # A namespace, once found, is kept while it exists: no other can take over by claiming its address. But it is not
        # that of another pod of the same name.
        place = self.places.served.get(workload.key)
        if place is not None and netns.identity(place.namespace.path) == place.namespace.id:
            return "" if differ(place.workload.uid, workload.uid) else place.namespace.path
        return self.finder.path_of(workload)

    def take(self, workload: Workload, path: str) -> None:
        if not netns.may_enter():
            raise PermissionError(errno.EPERM, f"network namespaces cannot be entered; {_NEEDS}", path)
        if not path or not netns.is_namespace(path):
            raise FileNotFoundError(errno.ENOENT, "there is no such network namespace (yet)", path)
        key, which = workload.key, netns.identity(path)
        if which == netns.own():
            message = "this is the host's own network namespace, and its rules would cut the host off; name a systemdUnit instead"
            raise PermissionError(errno.EPERM, message, path)
        taken = next((p.workload.key for p in self.places.served.values() if p.namespace.id == which), None)
        if taken is not None:
            raise FileExistsError(
                errno.EEXIST, f"this namespace is {taken}'s already; a namespace holds one workload", path
            )
        place = self.places.serve(workload, path, self.finder.given(which))
        self._faults.pop(key, None)
        self._retry.pop(key, None)
        self.remembered.captured(workload)
        level = logging.WARNING if place.fault else logging.INFO
        log.log(level, "captured %s in %s%s", key, path, f", but {place.fault}" if place.fault else "")
        self.places.attach(workload, place.doors)

    def wanted(self, key: str) -> Workload | None:
        return self._wanted.get(key)

    def in_node(self, pod: str, uid: str) -> bool:
        return self.capture.ours is None or self.host.captures(pod, uid)

    def follow(self, place: CapturedNamespace, workload: Workload) -> None:
        """Have a captured namespace follow what is known of its workload now. Raise OSError."""
        doors = place.keep(workload, self.finder.given(place.namespace.id))
        if doors is not None:
            self.places.attach(workload, doors)

    def _fail(self, key: str, text: str, level: int = logging.WARNING) -> None:
        if self._faults.get(key) != text:
            log.log(level, "%s is not captured: %s", key, text)
            self._faults[key] = text

    def release(self, open_node: bool) -> None:
        """Stop: rules stay in force, unless the node is to be open without us."""
        if self.capture.prober is not None:
            self.capture.prober.release(open_node)
        self.places.release(open_node)
        self._gate.release(open_node)
        self.host.release(open_node)

    def lend(self) -> None:
        """Let another daemon work with our tables, while our listeners stay open.

        `run` must not run meanwhile. When it runs again, it installs all tables anew.
        """
        for table in self._tables():
            table.lend()

    def unit(self, name: str, number: int) -> tuple[bool, bool, str]:
        """Return three facts of the systemd unit of that name.

        They are: whether it is wanted here, whether its cgroup of that number is captured, and what is wrong ("" for
        nothing).
        """
        keys = [key for key, workload in self._wanted.items() if workload.unit == name] + self.host.closed_in(name)
        faults = self.host.conditions()
        wrong = "; ".join(faults[key].error for key in keys if key in faults and not faults[key].captured)
        return bool(keys), any(self.host.holds(key, number) for key in keys), wrong

    # what `status` reports

    def conditions(self) -> Mapping[str, Condition]:
        """Return the condition of each workload of this node, by key. Cheap."""
        found = {
            key: Condition(False, "", fault, mode=self.capture.mode, waiting=key in self._idle)
            for key, fault in self._faults.items()
        }
        for key, place in self.places.served.items():
            found[key] = place.condition()
        found.update(self.host.conditions())
        return found

    def closed(self) -> Mapping[str, str]:
        """Return the places that are closed because no manifest names them any more, each with its former workload."""
        closed = self.places.closed
        paths = {place.namespace.path for place in closed}
        found = {
            place: key
            for place, key in self.remembered.abandoned.items()
            if path_in(place) in paths or (self.host.closed_in(unit_in(place)) and not self._ends(unit_in(place)))
        }
        found |= {f"netns {place.namespace.path}": place.workload.key for place in closed}
        return dict(sorted(found.items()))

    def _ends(self, unit: str) -> bool:
        """Return whether this is a pod that was deleted, and whose cgroup will be in a moment."""
        return self.pods is not None and unit.startswith(POD)

    def node_problems(self) -> Iterable[Problem]:
        """Yield the reasons why the node's prober is not recognised, or the gate not kept, as configured."""
        yield from self.capture.prober.problems() if self.capture.prober is not None else ()
        yield from self.pods.problems() if self.pods is not None else ()

    def unclosed(self) -> Mapping[str, str]:
        """Return the places that should be closed and are not, each with the reason."""
        return self._unclosed

    def let_go(self, key: str) -> bool:
        """Open what was captured for this workload and is no longer named, at a person's request.

        Return False if there is none.
        """
        had = any(of == key for of in self.remembered.abandoned.values()) or any(
            place.workload.key == key for place in self.places.shut.values()
        )
        if had or key not in self._wanted:  # a wanted workload in its own place has nothing to release, now or later
            self.remembered.release(key)
            self._rounds.call()
        return had

    def report(self) -> Mapping[str, Condition]:
        """Return the conditions with what has to be looked up: packets counted, capabilities held.

        Takes milliseconds.
        """
        found = dict(self.conditions())
        owners = {place.namespace.id: place.namespace.owner for place in self.places.served.values()}
        held = capabilities.powers_by_namespace(owners, owners)
        for key, place in self.places.served.items():
            found[key] = place.condition(held.get(place.namespace.id, ()), counted=True)
        found.update(self.host.conditions(looked_up=True))
        return found

    # sockets

    def towards(self, workload: Workload, caller: str, family: int, reuse: bool = False) -> socket.socket:
        place = self.places.served.get(workload.key)
        return (
            self.host.towards(workload, caller, family, reuse)
            if place is None
            else place.towards(caller, family, reuse)
        )

    def outwards(self, workload: Workload, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        place = self.places.served.get(workload.key)
        return self.host.outwards(family, kind) if place is None else place.outwards(family, kind)

    def from_node(self, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return sockets.outwards(family, kind, self._mark)

    def node_doors(self, addresses: Iterable[str]) -> tuple[list[socket.socket], str]:
        """Return the listening sockets of the node's own tunnel listener, and what is wrong ("": nothing).

        The caller owns the sockets.
        """
        kept = self.capture.kept
        given = kept.take("node")
        doors, fault = sockets.node_doors(addresses, self.capture.config.ports.tunnel, self._mark, given)
        for sock in given:
            sock.close()
        kept.hold("node", doors)
        return doors, fault

    def gateway_door(self, address: str, port: int) -> socket.socket:
        config, name = self.capture.config, f"gateway {address} {port}"
        given = self.capture.kept.take(name)
        if own := ours(config, port):
            for sock in given:
                sock.close()
            raise OSError(errno.EADDRINUSE, f"port {port} is edgemesh's own ({own})")
        sock = given[0] if given else sockets.gateway_door(address, port, self._mark)
        sock.setblocking(False)
        self.capture.kept.hold(name, [sock])
        return sock

    def close_gateway_door(self, address: str, port: int) -> None:
        self.capture.kept.hold(f"gateway {address} {port}", [])

    @property
    def _mark(self) -> int:
        return 0 if self.capture.ours else self.capture.marks.bypass

    def resolver_asked(
        self, workload: Workload, client: tuple[str, int], listener: tuple[str, int]
    ) -> tuple[str, int] | None:
        place = self.places.served.get(workload.key)
        return self.host.resolver_asked(client, listener) if place is None else place.resolver_asked(client, listener)

    def probers(self) -> frozenset[str]:
        known = self.capture.prober.addresses if self.capture.prober is not None else ()
        return self.node_addresses() if known is None else frozenset(known)

    def node_addresses(self) -> frozenset[str]:
        self._look_up_addresses()
        return self._node_addresses

    def lent_addresses(self) -> frozenset[str]:
        self._look_up_addresses()
        return self._lent_addresses

    def _look_up_addresses(self) -> None:
        now = time.monotonic()
        if now >= self._node_addresses_until:
            self._node_addresses = netns.addresses()
            self._lent_addresses = self._node_addresses | netns.routers()
            self._node_addresses_until = now + _NODE_ADDRESSES

    def before_nat(self, peer: tuple[str, int], dialled: tuple[str, int]) -> tuple[str, int] | None:
        return conntrack.first_source(peer, dialled)


def ours(config: NodeConfig, port: int) -> str:
    """Return for what edgemesh has this port of the node, or will have it; "" for nothing."""
    has = {
        config.ports.outbound: "ports.outbound",
        config.ports.inbound: "ports.inbound",
        config.ports.tunnel: "ports.tunnel",
        config.ports.dns: "ports.dns",
        _port_of(config.metrics_address): "metricsAddress",
        _port_of(config.health_address): "healthAddress",
        _port_of(config.authority.listen): "authority.listen",
    }
    if FIRST_PORT <= port < LAST_PORT:
        return "listeners of units"
    return has.get(port, "")


def _port_of(address: str) -> int:
    port = address.rpartition(":")[2]
    return int(port) if port.isdigit() else -1


def _warn_of_closed(path: str, key: str) -> None:
    log.warning(
        "%s is closed: it was captured for %s, and nothing names it any more; edgemesh release %s opens it",
        path,
        key,
        key,
    )
