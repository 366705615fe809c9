"""The node's own prober, recognised by the socket that dials.

The node's address would not do: NAT lends it to everything that the node forwards.

Theory of operation. Two tables in the node's namespace (agent/kernel/ruleset.py, `node_ruleset` and
`node_bridge_ruleset`) translate the prober's connections to an address of their own, and ensure that nothing else uses
that address. A workload's own table accepts the address only from interfaces whose other end is in the node's
namespace. The tables outlive us, as all rules do. They are in force before a workload accepts the address.

The prober is recognised by the strongest rule that the node supports; status names it:

    group     sockets made in the cgroup of the process that listens at `probes.listener` (the kubelet's 10250). sock_diag
              tells that cgroup. A restarted unit has another cgroup, so every round asks again. Such probes bypass our
              listeners: they work while no daemon runs, and at a declared port with any path
    process   any process of the node's namespace, where `probes.listener` is 0. Our listeners check each request
    address   anything with the node's address: only where the kernel lacks what the other two need
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from agent.kernel import netns, nft, routing
from agent.kernel.links import wires
from agent.kernel.netlink import NETLINK_NETFILTER, NLM_F_DUMP, Netlink, attributes
from agent.kernel.ruleset import NODE, NODE_BRIDGE, PROBER, ProbedBy, Probing, node_bridge_ruleset, node_ruleset
from agent.kernel.table import Table
from agent.system import cgroup
from policy.model import Problem, Where, Workload

if TYPE_CHECKING:
    from agent.config.schema import NodeConfig
    from agent.system.fd_store import FdStore

log = logging.getLogger("edgemesh.kernel")

Rule = Literal["group", "process", "address"]
WORDS: dict[Rule, str] = {
    "group": "sockets of the cgroup that listens at probes.listener",
    "process": "any process of the node",
    "address": "whoever has the node's address, which NAT lends to others",
}
KUBELET = 10250  # TCP port at which a kubelet listens
_RETRY = 2.0  # seconds until a failed step is tried again
_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY, _LISTEN, _CGROUP_ID = 20, 1 << 10, 21  # SOCK_DIAG_BY_FAMILY, TCPF_LISTEN, INET_DIAG_CGROUP_ID (Linux 5.9)
_MESSAGE = 72  # sizeof(struct inet_diag_msg)
# The errors of a kernel whose nftables socket expression has no cgroups (before 5.13).
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL)


class _Entry(Struct, frozen=True):
    """One captured namespace whose workload has declared probes."""

    addresses: tuple[str, ...]
    ports: tuple[int, ...]
    interfaces: tuple[str, ...]  # interfaces in that namespace
    ends: tuple[int, ...]  # indexes of their other ends, in the node's namespace
    https: str = ""  # the workload's key, if it declares an HTTPS probe


class NodeProber:
    """Keeps the two tables. Everything here is synchronous and happens in the node's own namespace."""

    def __init__(self, config: NodeConfig, kept: FdStore, outside: str = "", kubernetes: bool = False) -> None:
        """`outside`: why we are not in the node's cgroup namespace; "": we are. `kubernetes`: the node is a cluster's."""
        self._config, self._kept, self._outside = config, kept, outside
        named = config.probes.listener
        self._listener = (KUBELET if kubernetes else 0) if named is None else named
        self._entries: dict[tuple[int, int], _Entry] = {}
        self._tables: dict[str, Table] = {}
        self._by: ProbedBy | None = None
        self._reached = 0  # a cgroup that our rules can recognise
        self._retry = 0.0
        self._begun = False
        self.rule: Rule = "group" if self._listener else "process"
        self.fault = ""  # why a stronger rule is not in force
        self._bridge_fault = ""

    def __repr__(self) -> str:
        return f"<NodeProber {self.rule}, {len(self._entries)} workloads>"

    @property
    def tables(self) -> Iterator[Table]:
        return iter(self._tables.values())

    @property
    def addresses(self) -> tuple[str, ...] | None:
        """The addresses from which the prober reaches a listener; None: from the node's own."""
        return None if self.rule == "address" else PROBER

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong, as long as there is something to probe."""
        hint = "NodeConfig probes says who may probe; edgemesh's ARCHITECTURE.md, Capture, what it takes"
        for fault in filter(None, (self.fault, self._bridge_fault)) if self._entries else ():
            message = f"{fault}; declared probes are admitted from {WORDS[self.rule]}"
            yield Problem("warning", Where(), "NodeConfig probes", message, hint)
        for key in sorted(entry.https for entry in self._entries.values() if entry.https and self.rule != "group"):
            message = (
                "its HTTPS probe is refused: what is asked cannot be seen, and the prober is not known by its socket"
            )
            yield Problem("warning", Where(), f"Workload {key}", message, "NodeConfig probes: {listener: 10250}")

    def admit(self, namespace: netns.Namespace, workload: Workload, anew: bool) -> Probing | None:
        """Put in force how the prober reaches this workload, and return it; None: it does not.

        `anew`: read the interfaces again.
        """
        ports = tuple(sorted({probe.port for probe in workload.probes}))
        if not ports or not workload.addresses:
            self.forget(namespace)
            return None
        before = self._entries.get(namespace.id)
        if before is None or anew:
            interfaces, ends = wires(namespace)
        else:
            interfaces, ends = before.interfaces, before.ends
        https = workload.key if any(probe.kind == "https" for probe in workload.probes) else ""
        entry = _Entry(workload.addresses, ports, interfaces, ends, https)
        if entry != before:
            self._entries[namespace.id] = entry
            self._put()
        if self.rule == "address" or not interfaces or not self._tables:
            return None
        _answer(namespace, workload.addresses)
        return Probing(interfaces, ports, direct=self.rule == "group")

    def forget(self, namespace: netns.Namespace) -> None:
        """Forget a namespace that is no longer captured, or declares no probes any more."""
        if self._entries.pop(namespace.id, None) is not None:
            self._put()

    def settle(self) -> None:
        """At the end of every round, find out which process is the prober, and reinstall what is not in force."""
        if not self._begun:
            self._begun = True
            self._clear_leavings()
        if not self._entries:
            return
        lent = any(table.lent for table in self.tables)
        if self._who() != self._by or lent or (self.fault and time.monotonic() >= self._retry):
            self._put()
        for table in self.tables:
            with contextlib.suppress(OSError):
                table.repair()

    def release(self, open_node: bool) -> None:
        """Stop: the tables stay, unless the node is to be open."""
        for table in self.tables:
            if open_node:
                table.remove()
            table.close()
        self._tables, self._entries = {}, {}

    def group(self) -> int | None:
        """Return the cgroup whose sockets may probe what is in the node's own network; None: none is known."""
        by = self._by if self._entries else self._who()
        if by is None or by.group is None:
            return None
        if by.group != self._reached and not cgroup.reaches(by.group):  # looks at each cgroup of the node
            return None
        self._reached = by.group
        return by.group

    # parts

    def _who(self) -> ProbedBy | None:
        port = self._listener
        if not port:
            return ProbedBy()
        if self.rule != "group" and not self._retry <= time.monotonic():
            return self._by
        try:
            found = listening(port)
        except OSError:
            return self._by
        return ProbedBy(found.pop()) if len(found) == 1 else None

    def _put(self) -> None:
        self._retry = time.monotonic() + _RETRY
        if not self._entries:
            for table in self.tables:
                table.remove()
                table.close()
            for name in self._tables:
                self._kept.drop(_kept_name(name))
            self._tables = {}
            return
        before = self.rule, self.fault
        self._by, self.fault = self._who(), ""
        self.rule = "group" if self._listener else "process"
        if self._by is None:
            self.fault = f"not one cgroup of root listens at port {self._listener}, so nobody may probe now"
        self._bridge()
        try:
            if self._by is not None and self._by.group is not None and not cgroup.reaches(self._by.group):
                why = self._outside or "in a pod that takes hostPID"
                raise OSError(errno.EOPNOTSUPP, f"we are not in the node's cgroup namespace: {why}")
            self._node(self._by)
        except OSError as error:
            self.rule, self.fault = (
                "process",
                f"no rule of this daemon can tell the prober's cgroup ({error.strerror or error})",
            )
            try:
                if not self._listener or error.errno not in _UNSUPPORTED:
                    raise
                self._node(ProbedBy())
            except OSError as again:
                self.rule, self.fault = "address", f"no table can be put on the node: {again.strerror or again}"
        if (self.rule, self.fault) != before and self.fault:
            log.warning("%s; declared probes are admitted from %s", self.fault, WORDS[self.rule])

    def _node(self, by: ProbedBy | None) -> None:
        probes = sorted(
            {(address, port) for entry in self._entries.values() for address in entry.addresses for port in entry.ports}
        )
        self._table("inet").put(node_ruleset(self._config.marks, by, tuple(probes)))

    def _bridge(self) -> None:
        ends = sorted({end for entry in self._entries.values() for end in entry.ends})
        self._bridge_fault = ""
        try:
            self._table("bridge").put(node_bridge_ruleset(tuple(ends)))
        except OSError as error:
            why = error.strerror or error
            self._bridge_fault = f"frames between the ports of a bridge are not looked at ({why}), so a neighbour may forge the prober's address"

    def _table(self, family: Literal["inet", "bridge"]) -> Table:
        found = self._tables.get(family)
        if found is None:
            given = self._kept.take(_kept_name(family))
            kept = given[0] if given else None
            found = Table(f"the node ({family})", kept=kept, table=NODE if family == "inet" else NODE_BRIDGE)
            self._tables[family] = found
        self._kept.hold(_kept_name(family), [found.socket])
        return found

    def _clear_leavings(self) -> None:
        """Remove tables of an earlier daemon that are not needed now.

        Where they are needed they are replaced instead, and are in force at every moment.
        """
        with contextlib.suppress(OSError):
            for family, name in (("inet", NODE), ("bridge", NODE_BRIDGE)):
                if self._entries:
                    continue
                given = self._kept.take(_kept_name(family))
                with Netlink(NETLINK_NETFILTER) if not given else Netlink(NETLINK_NETFILTER, kept=given[0]) as sock:
                    if nft.exists(sock, name):
                        nft.install(sock, None, owned=False, name=name)


def _kept_name(family: str) -> str:
    return f"node table {family}"


def listening(port: int) -> set[int]:
    """Return the cgroups in which root made sockets that listen at a TCP port of this namespace. Raise OSError.

    It is the cgroup at the moment when the socket was made: moving its process later changes nothing.
    """
    found: set[int] = set()
    with Netlink(_SOCK_DIAG) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = (
                struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, _LISTEN) + struct.pack(">HH", port, 0) + bytes(44)
            )
            for body in netlink.ask("who listens", _BY_FAMILY, NLM_F_DUMP, request):
                (source,) = struct.unpack_from(">H", body, 4)
                (uid,) = struct.unpack_from("=I", body, 64)
                group = dict(attributes(body[_MESSAGE:])).get(_CGROUP_ID)
                if source == port and uid == 0 and group is not None:
                    found.update(struct.unpack("=Q", group))
    return found


def _answer(namespace: netns.Namespace, addresses: Iterable[str]) -> None:
    """Give a workload without a default route one to the prober's address.

    Its gateway is the address from which the node dials the workload.
    """
    for address in addresses:
        family, prober = (socket.AF_INET6, PROBER[1]) if ":" in address else (socket.AF_INET, PROBER[0])
        with contextlib.suppress(OSError):
            via = _source(family, address)
            with namespace.entered():
                try:
                    _source(family, prober)
                except OSError:
                    routing.add(prober, via)


def _source(family: int, address: str) -> str:
    """Return the local address from which another would be dialled. Raise OSError when there is no route."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 9))
        found: str = sock.getsockname()[0]
        return found
