"""How the capture of one workload stands, for `status` (agent.status.Condition)."""

from __future__ import annotations

from msgspec import Struct


class Condition(Struct, frozen=True):
    captured: bool
    where: str = ""  # the network namespace or the unit
    error: str = ""  # what is wrong, and what to do
    gaps: int = 0  # how often somebody took our rules away, and we put them back
    powers: tuple[str, ...] = ()  # NET_RAW, NET_ADMIN: what some process there holds to get around the capture of its own calls
    udp_packets: int = 0  # that passed: UDP is not captured
    older_connections: int = 0  # that were open before the capture began, and pass until they end
