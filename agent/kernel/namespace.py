"""One captured network namespace: its listeners, table and routes, and the sockets that the proxy dials from it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable

from msgspec import structs

from agent.kernel import capabilities, conntrack, netns, routing, sockets
from agent.kernel.condition import Condition
from agent.kernel.context import CaptureContext
from agent.kernel.ruleset import Probing, Ruleset, workload_ruleset
from agent.kernel.table import Table
from nodeproxy.capture import Doors, Ports
from policy.model import Workload


class CapturedNamespace:
    """One captured namespace, made whole or not at all.

    The constructor raises OSError and leaves nothing open (rules that were in force stay).
    """

    def __init__(self, capture: CaptureContext, workload: Workload, path: str, addresses: Iterable[str] = ()) -> None:
        """Capture the namespace at `path`, and go on using what an earlier daemon held there (CaptureContext.kept).

        `addresses`: those that the container runtime gave it. The API tells those of a pod seconds after it began,
        and the kubelet may probe it meanwhile.
        """
        self.capture = capture
        self._recorded = tuple(sorted(addresses))
        self.workload = workload
        self.since = time.time()
        with contextlib.ExitStack() as undo:
            self.namespace = netns.Namespace(path)
            undo.callback(self.namespace.close)
            given = capture.kept.take(self.name)
            undo.callback(capture.kept.give_back, self.name, given)
            owner = next((sock for sock in given if sock.family == socket.AF_NETLINK), None)
            self._probing = self._admit(workload, anew=True)
            if capture.prober is not None:
                undo.callback(capture.prober.forget, self.namespace)
            with self.namespace.entered():
                self.older = 0 if given else capabilities.established(structs.astuple(self._ports))
                self.doors, self._shut = self._open_doors(given)
                undo.callback(self.doors.close)
                self.table = Table(path, kept=owner.dup() if owner is not None else None)
                undo.callback(self.table.close)
                self.table.put(self._ruleset(workload, self._probing))
                self._routes = routing.Routes(capture.marks, capture.config.service_range, capture.config.dns.enabled)
                undo.callback(self._routes.close)
                self._routes.lay()
            undo.pop_all()
        self._redirected = conntrack.Redirected(self.namespace.entered)
        _close(given)  # their duplicates are in use
        self._hold()

    def __repr__(self) -> str:
        return f"<CapturedNamespace {self.workload.key} {self.namespace!r} {self.table!r}>"

    @property
    def fault(self) -> str:
        """What is wrong, and what to do; "" when nothing is wrong."""
        return "; ".join(filter(None, (self._shut, self._routes.fault)))

    def keep(self, workload: Workload, addresses: Iterable[str] = ()) -> Doors | None:
        """Follow a workload whose definition may have changed, and repair what another program changed. Raise OSError.

        `addresses`: as for the constructor; it may have been captured before the runtime recorded them.
        Return the listeners to serve from now on when one opened that could not open before, or when the tunnel port
        changed. The listeners handed out earlier may then be closed.
        """
        self._recorded = tuple(sorted(addresses))
        due = self._routes.due()
        probing = self._admit(workload, anew=due)
        if workload is not self.workload or self.table.lent or probing != self._probing:
            before, self.workload = self.workload, workload
            try:
                self.table.put(self._ruleset(workload, probing))
            except OSError:
                self.workload = before
                raise
            self._probing = probing
        self.table.repair()
        if due:
            with self.namespace.entered():
                self._routes.lay()
        moved = self._ports.tunnel != self._tunnel
        if not self._shut and not moved:
            return None
        with self.namespace.entered():
            doors, shut = self._open_doors(self.doors)
        if shut == self._shut and not moved:
            doors.close()
            return None
        self.doors, self._shut = doors, shut
        self._hold()
        return doors

    @property
    def name(self) -> str:
        """The name under which our descriptors are kept.

        A namespace's inode number is unique while the namespace is held open.
        """
        return f"namespace {self.namespace.id[1]}"

    def _hold(self) -> None:
        self.capture.kept.hold(self.name, (*self.doors, self.table.socket))

    @property
    def _ports(self) -> Ports:
        ports = self.capture.config.ports
        return structs.replace(ports, tunnel=self.workload.tunnel_port or ports.tunnel)

    def _open_doors(self, kept: Iterable[socket.socket]) -> tuple[Doors, str]:
        config = self.capture.config
        self._tunnel = self._ports.tunnel
        return sockets.open_doors(
            self._ports, 0 if self.capture.ours else self.capture.marks.bypass, config.dns.enabled, kept
        )

    def _admit(self, workload: Workload, anew: bool) -> Probing | None:
        prober = self.capture.prober
        if prober is None:
            return None
        if missing := tuple(address for address in self._recorded if address not in workload.addresses):
            workload = structs.replace(workload, addresses=(*workload.addresses, *missing))
        return prober.admit(self.namespace, workload, anew)

    def _ruleset(self, workload: Workload, probing: Probing | None) -> Ruleset:
        capture, config = self.capture, self.capture.config
        ranges, dns = config.service_range, config.dns.enabled
        return workload_ruleset(
            self._ports, capture.marks, capture.ours, workload.exclusions, ranges, dns, capture.earlier, probing
        )

    def condition(self, held: tuple[str, ...] = (), counted: bool = False) -> Condition:
        return Condition(
            captured=True,
            where=f"network namespace {self.namespace.path}",
            error=self.fault,
            powers=held,
            udp_packets=self.table.counted() if counted else 0,
            older_connections=self.older,
            gaps=self.table.gaps,
            since=self.since,
            mode=self.capture.mode,
            owned=self.table.owned,
        )

    def remove(self) -> None:
        """Remove our rules and routes."""
        self.table.remove()
        with contextlib.suppress(OSError), self.namespace.entered():
            routing.remove()

    def close(self) -> None:
        """Release the namespace; the rules stay in force. The listeners belong to the proxy."""
        self._routes.close()
        self._redirected.close()
        self.table.close()
        if self.capture.prober is not None:
            self.capture.prober.forget(self.namespace)
        self.namespace.close()

    # sockets

    def towards(self, caller: str, family: int, reuse: bool = False) -> socket.socket:
        with self.namespace.entered():
            return sockets.towards(caller, family, self.capture.marks.local, reuse)

    def outwards(self, family: int, kind: int) -> socket.socket:
        with self.namespace.entered():
            return sockets.outwards(family, kind, 0 if self.capture.ours else self.capture.marks.bypass)

    def resolver_asked(self, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        return self._redirected.destination(client, listener)


def _close(given: Iterable[socket.socket]) -> None:
    for sock in given:
        sock.close()
