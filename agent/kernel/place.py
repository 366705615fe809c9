"""One captured network namespace: its doors, its table, its routes, and the sockets that the proxy dials from it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import structs

from agent.kernel import conntrack, netns, powers, route, sockets
from agent.kernel.condition import Condition
from agent.kernel.table import Table
from nodeproxy.capture import Doors, Ports
from nodeproxy.ruleset import Ruleset, workload_ruleset
from policy.model import Workload

if TYPE_CHECKING:
    from agent.kernel.ground import Capture


class Place:
    """Made whole or not at all: the constructor raises OSError and leaves nothing open (rules that were there stay)."""

    def __init__(self, capture: Capture, workload: Workload, path: str) -> None:
        """What an earlier daemon held here (Capture.kept) goes on being used."""
        self.capture = capture
        self.workload = workload
        self.since = time.time()
        with contextlib.ExitStack() as undo:
            self.namespace = netns.Namespace(path)
            undo.callback(self.namespace.close)
            given = capture.kept.take(self.name)
            undo.callback(capture.kept.give_back, self.name, given)
            owner = next((sock for sock in given if sock.family == socket.AF_NETLINK), None)
            with self.namespace.entered():
                self.older = 0 if given else powers.established(structs.astuple(self._ports))
                self.doors, self._shut = self._open_doors(given)
                undo.callback(self.doors.close)
                self.table = Table(path, kept=owner.dup() if owner is not None else None)
                undo.callback(self.table.close)
                self.table.put(self._ruleset(workload))
                self._routes = route.Routes(capture.marks, capture.config.service_range)
                undo.callback(self._routes.close)
                self._routes.lay()
            undo.pop_all()
        _close(given)  # duplicates of them are in use
        self._hold()

    def __repr__(self) -> str:
        return f"<Place {self.workload.key} {self.namespace!r} {self.table!r}>"

    @property
    def fault(self) -> str:
        """What is wrong, and what to do; "" when nothing is."""
        return "; ".join(filter(None, (self._shut, self._routes.fault)))

    def keep(self, workload: Workload) -> Doors | None:
        """Follow a workload whose meaning may have changed, and repair what somebody broke. Raises OSError.

        Answers the doors to serve from now on when one could be opened that could not before; those handed out earlier may close.
        """
        if workload is not self.workload or self.table.lent:
            before, self.workload = self.workload, workload
            try:
                self.table.put(self._ruleset(workload))
            except OSError:
                self.workload = before
                raise
        self.table.repair()
        if self._routes.due():
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
        """Under which our descriptors are kept: a namespace that somebody holds open has its number for itself."""
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
        return sockets.open_doors(self._ports, 0 if self.capture.ours else self.capture.marks.bypass, config.dns.enabled, kept)

    def _ruleset(self, workload: Workload) -> Ruleset:
        capture, config = self.capture, self.capture.config
        return workload_ruleset(
            self._ports, capture.marks, capture.ours, workload.exclusions, config.service_range, config.dns.enabled, capture.earlier
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
        """Take the rules and routes away."""
        self.table.remove()
        with contextlib.suppress(OSError), self.namespace.entered():
            route.remove()

    def close(self) -> None:
        """Let go of the namespace; the rules stay. The doors are the proxy's."""
        self._routes.close()
        self.table.close()
        self.namespace.close()

    # sockets

    def towards(self, caller: str, family: int) -> socket.socket:
        with self.namespace.entered():
            return sockets.towards(caller, family, self.capture.marks.local)

    def outwards(self, family: int, kind: int) -> socket.socket:
        with self.namespace.entered():
            return sockets.outwards(family, kind, 0 if self.capture.ours else self.capture.marks.bypass)

    def resolver_asked(self, client: tuple[str, int], listener: tuple[str, int]) -> tuple[str, int] | None:
        with self.namespace.entered():
            return conntrack.first_destination(client, listener)


def _close(given: Iterable[socket.socket]) -> None:
    for sock in given:
        sock.close()
