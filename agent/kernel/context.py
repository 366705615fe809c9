"""What the captures of all workloads of this node share."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from agent.config.schema import NodeConfig
from agent.kernel.node_prober import NodeProber
from agent.system.cgroup import Cgroup
from agent.system.fd_store import FdStore
from nodeproxy.capture import Marks


class CaptureContext(Struct, frozen=True):
    """What the captures of one daemon share."""

    config: NodeConfig
    marks: Marks
    ours: Cgroup | None  # our own cgroup, by which rules recognise our sockets; None: by the mark `marks.bypass`
    kept: FdStore  # descriptors that outlive this process
    prober: NodeProber | None = None
    earlier: tuple[Cgroup, ...] = ()  # cgroups of earlier starts of the service, in which kept listeners were made

    @property
    def mode(self) -> Literal["cgroup", "mark"]:
        return "cgroup" if self.ours else "mark"
