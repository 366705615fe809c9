"""One captured network namespace: its doors, its table, its routes, and the sockets that the proxy dials from it."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from agent.kernel import conntrack, netns, powers, route, sockets
from agent.kernel.condition import Condition
from agent.kernel.table import Table
from nodeproxy.ruleset import Ruleset, workload_ruleset
from policy.model import Workload

if TYPE_CHECKING:
    from agent.kernel.ground import Capture

# SYNs of our transparent sockets carry the mark to the server's answers (tcp_fwmark_accept), and to the resets of a server
# that does not listen (fwmark_reflect); without the latter a closed port looks like one that never answers.
SYSCTLS = ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect")


class Place:
    """Made whole or not at all: the constructor raises OSError and leaves nothing open (rules that were there stay)."""

    def __init__(self, capture: Capture, workload: Workload, path: str) -> None:
        self.capture = capture
        self.workload = workload
        self.since = time.time()
        config = capture.config
        with contextlib.ExitStack() as undo:
            self.namespace = netns.Namespace(path)
            undo.callback(self.namespace.close)
            with self.namespace.entered():
                mark = 0 if capture.ours else capture.marks.bypass
                self.older = powers.established(_numbers(capture))
                self.doors, self.fault = sockets.open_doors(config.ports, mark, config.dns.enabled)
                undo.callback(self.doors.close)
                self.table = Table(path)
                undo.callback(self.table.close)
                self.table.put(self._ruleset())
                # What fails from here on leaves the workload closed, not open: it is a fault to tell, not one to give up for.
                try:
                    route.up_loopback()
                    route.install(capture.marks, config.service_range)
                    prepare_sysctls()
                except OSError as error:
                    self.fault = f"{self.fault}; {error}".lstrip("; ")
            undo.pop_all()

    def __repr__(self) -> str:
        return f"<Place {self.workload.key} {self.namespace!r} {self.table!r}>"

    def _ruleset(self) -> Ruleset:
        capture, config = self.capture, self.capture.config
        return workload_ruleset(
            config.ports, capture.marks, capture.ours, self.workload.exclusions, config.service_range, config.dns.enabled
        )

    def keep(self, workload: Workload) -> None:
        """Follow a workload whose meaning may have changed, and repair what somebody broke. Raises OSError."""
        if workload is not self.workload:
            self.workload = workload
            self.table.put(self._ruleset())
        self.table.repair()

    def condition(self, held: tuple[str, ...] = (), counted: bool = False) -> Condition:
        return Condition(
            captured=True,
            where=f"network namespace {self.namespace.path}",
            error=self.fault,
            powers=held,
            udp_packets=self.table.counted() if counted else 0,
            older_connections=self.older,
            gaps=self.table.gaps,
        )

    def remove(self) -> None:
        """Take the rules and routes away."""
        self.table.remove()
        with contextlib.suppress(OSError), self.namespace.entered():
            route.remove()

    def close(self) -> None:
        """Let go of the namespace; the rules stay. The doors are the proxy's."""
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


def prepare_sysctls() -> None:
    """In the namespace that the calling thread is in. Raises OSError."""
    for name in SYSCTLS:
        with contextlib.suppress(FileNotFoundError):  # no IPv6 here
            netns.sysctl(name, "1")


def _numbers(capture: Capture) -> tuple[int, ...]:
    ports = capture.config.ports
    return (ports.outbound, ports.inbound, ports.tunnel, ports.dns)
