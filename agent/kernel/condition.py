"""How the capture of one workload stands, for `status` (agent.status.Condition)."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Condition(Struct, frozen=True):
    captured: bool
    where: str = ""  # the network namespace or the unit
    error: str = ""  # what is wrong, and what to do
    gaps: int = 0  # how often somebody took our rules away, and we put them back
    powers: tuple[str, ...] = ()  # NET_RAW, NET_ADMIN: what some process there holds to get around the capture of its own calls
    udp_packets: int = 0  # that passed: UDP is not captured
    # Open before the capture began. Calls into the workload that connection tracking knew pass until they end; others are reset.
    older_connections: int = 0
    since: float = 0.0  # seconds since the epoch
    late: bool = False  # a unit that did not wait at its start until it was captured
    # How our own sockets are known: by a cgroup that nobody else can enter, or by a mark that who holds NET_RAW could set too.
    mode: Literal["cgroup", "mark"] = "cgroup"
    owned: bool = True  # the kernel refuses foreign changes to our table; else they are repaired, and `gaps` counts them
