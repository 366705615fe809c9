"""Is a daemon fit to take over? Its own checks, before it may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

if TYPE_CHECKING:
    from agent.app import Node

_LAG = 1.0  # seconds that the loop may take to come round
_ROUNDS = 20


def identities(node: Node) -> list[str]:
    """Whom the node holds a certificate for that is good now, as SPIFFE ids."""
    keeper = node.keeper
    if keeper is None:
        return []
    now = keeper.clock.now()
    return sorted(held.spiffe for held in keeper.credentials() if held.not_after > now)


async def fault(node: Node, captured: Sequence[str], held: Sequence[str]) -> str:
    """Why `node` is not as good as the one that captured these workloads and held these certificates; "" when it is."""
    conditions = node.ground.conditions()
    snapshot = node.published.snapshot if node.published else None
    wanted = {workload.key for workload in snapshot.workloads} if snapshot else set()
    for key in captured:
        condition = conditions.get(key)
        if key in wanted and (condition is None or not condition.captured):
            return f"{key} is not captured: {condition.error if condition else 'it is not known'}"
        if key not in wanted:
            return f"{key} is in no manifest that this version reads"
    have = set(identities(node))
    for name in held:
        if name not in have:
            return f"the certificate of {name} is not there, or not good"
    for _ in range(_ROUNDS):
        began = trio.current_time()
        await trio.lowlevel.checkpoint()
        if trio.current_time() - began > _LAG:
            return "it is too slow here"
    from agent import probe

    return await probe.fault()
