"""A daemon's own checks before it takes over: is it fit to?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

if TYPE_CHECKING:
    from agent.admin.daemon import Daemon
    from agent.kernel.condition import Condition

_LAG = 1.0  # seconds that the loop may take for one turn
_ROUNDS = 20


def identities(daemon: Daemon) -> list[str]:
    """Return the SPIFFE IDs that the node holds a valid certificate for."""
    keeper = daemon.keeper
    if keeper is None:
        return []
    now = keeper.clock.now()
    return sorted(held.spiffe for held in keeper.credentials() if held.not_after > now)


async def fault(
    daemon: Daemon, conditions: Mapping[str, Condition], captured: Sequence[str], held: Sequence[str]
) -> str:
    """Return why `daemon` is not as good as the one that captured and held these; "" when it is.

    `captured`: workloads. `held`: identities with certificates. `conditions`: of the daemon's own workloads.
    """
    snapshot = daemon.published.snapshot if daemon.published else None
    wanted = {workload.key for workload in snapshot.workloads} if snapshot else set()
    for key in captured:
        condition = conditions.get(key)
        if key in wanted and (condition is None or not condition.captured):
            return f"{key} is not captured: {condition.error if condition else 'it is not known'}"
        if key not in wanted:
            return f"{key} is in no manifest that this version reads"
    have = set(identities(daemon))
    for name in held:
        if name not in have:
            return f"the certificate of {name} is not there, or not good"
    for _ in range(_ROUNDS):
        began = trio.current_time()
        await trio.lowlevel.checkpoint()
        if trio.current_time() - began > _LAG:
            return "it is too slow here"
    from agent.daemon import self_test

    return await self_test.fault()
