"""The state of one workload's capture, for `status` (agent.admin.status.Condition)."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Condition(Struct, frozen=True):
    captured: bool
    where: str = ""  # the network namespace or the systemd unit
    error: str = ""  # what is wrong, and what to do
    gaps: int = 0  # how often another program changed our rules and they were restored
    # capabilities (NET_RAW, NET_ADMIN) by which some process of the workload can evade the capture of its own calls
    powers: tuple[str, ...] = ()
    udp_packets: int = 0  # UDP packets that passed: UDP is not captured
    # Connections that were open before the capture began. Those into the workload that connection tracking knew pass
    # until they end; others are reset.
    older_connections: int = 0
    since: float = 0.0  # seconds since the epoch
    late: bool = False  # the unit started without waiting until it was captured
    # How rules recognise our own sockets: by a cgroup that no other program can enter, or by a mark, which a process
    # with NET_RAW could set too.
    mode: Literal["cgroup", "mark"] = "cgroup"
    # the kernel refuses other programs' changes to our table; if false, changes are repaired and `gaps` counts them
    owned: bool = True
    waiting: bool = False  # not captured because the unit or pod is known not to run: there is nothing to capture
