"""The gate: a table of the node by which a pod's interface is mute until it is known what the pod is.

The table (agent/kernel/ruleset.py, `gate_ruleset`) outlives the daemon, so a pod that begins while no daemon runs stays
mute. Known interfaces are captured pods' and those of pods outside the mesh. Interfaces that were there before the table
are known: their pods run already, and are captured as any running workload is.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from agent.kernel import links, nft
from agent.kernel.netlink import NETLINK_NETFILTER, Netlink
from agent.kernel.ruleset import GATE, gate_ruleset
from agent.kernel.table import Table
from policy.model import Problem, Where

if TYPE_CHECKING:
    from agent.system.fd_store import FdStore

log = logging.getLogger("edgemesh.kernel")

_KEPT = "node table gate"
_RETRY = 2.0  # seconds until a table that could not be put is tried again
_HINT = "NodeConfig kubernetes.gate says what it is for"


class Gate:
    """Keeps the table. Everything here is synchronous and happens in the node's own namespace."""

    def __init__(self, kept: FdStore | None = None, enabled: bool = True) -> None:
        """`enabled` False: there is no gate, and that of an earlier daemon is removed."""
        self._kept = kept
        self.enabled = enabled
        self._table: Table | None = None
        self._retry = 0.0
        self.known: set[int] = set()
        self.ranges: set[str] = set()
        self.fault = ""

    def __repr__(self) -> str:
        return f"<Gate {len(self.known)} known{f', {self.fault}' if self.fault else ''}>"

    @property
    def tables(self) -> Iterator[Table]:
        if self._table is not None:
            yield self._table

    @property
    def in_force(self) -> bool:
        return self._table is not None and not self.fault and bool(self.ranges)

    def pass_(self, indexes: Iterable[int]) -> None:
        """Let these interfaces speak. Takes effect with `put`."""
        self.known.update(indexes)

    def forget(self, indexes: Iterable[int]) -> None:
        """Forget interfaces that are gone. An index is not used again, so nothing depends on it."""
        self.known.difference_update(indexes)

    def put(self) -> None:
        """Put in force what is known, in one transaction. Never raises: `fault` says what is wrong."""
        self.begin()
        if self._table is None or (self.fault and time.monotonic() < self._retry):
            return
        try:
            self._table.put(gate_ruleset(tuple(sorted(self.known)), tuple(sorted(self.ranges))))
            self._table.repair()
            self.fault = ""
        except OSError as error:
            self._fail(error)

    def begin(self) -> None:
        """Take up the table that is there; without one, all that runs now is known."""
        if not self.enabled or self._table is not None or (self.fault and time.monotonic() < self._retry):
            return
        try:
            given = self._given()
            with Netlink(NETLINK_NETFILTER) as sock:
                there = nft.exists(sock, GATE)
                known = nft.interfaces(sock, GATE, "known") if there else links.to_other_namespaces("veth")
            self.known |= links.existing(known)
            self._table = Table("the node (gate)", kept=given, table=GATE)
            if self._kept is not None:
                self._kept.hold(_KEPT, [self._table.socket])
        except OSError as error:
            self._fail(error)

    def _given(self) -> socket.socket | None:
        """Return the netlink socket by which an earlier daemon held the table; None for none."""
        return next(iter(self._kept.take(_KEPT)), None) if self._kept is not None else None

    def _fail(self, error: OSError) -> None:
        self._retry = time.monotonic() + _RETRY
        fault = f"new pods cannot be kept mute: {error.strerror or error}"
        if fault != self.fault:
            log.warning("%s", fault)
        self.fault = fault

    def problems(self) -> Iterator[Problem]:
        if self.fault:
            yield Problem("warning", Where(), "NodeConfig kubernetes.gate", self.fault, _HINT)

    def release(self, open_node: bool) -> None:
        """Stop: the table stays, unless the node is to be open."""
        for table in self.tables:
            if open_node:
                table.remove()
                if self._kept is not None:
                    self._kept.drop(_KEPT)
            table.close()
        self._table = None

    def clear(self) -> None:
        """Remove the table of an earlier daemon where there is to be none. Never raises."""
        if self.enabled:
            return
        try:
            with Netlink(NETLINK_NETFILTER, kept=self._given()) as sock:
                if nft.exists(sock, GATE):
                    nft.install(sock, None, owned=False, name=GATE)
        except OSError as error:
            log.debug("whether an earlier daemon left a gate cannot be seen: %s", error)
