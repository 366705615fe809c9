"""What stays captured or in force though no manifest names it any more: kept on disk until a person releases it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from agent.kernel import netns
from agent.store.disk import State
from agent.store.store import Store
from policy import lasting
from policy.model import Problem

if TYPE_CHECKING:
    from agent.kernel.capture import CaptureManager

log = logging.getLogger("edgemesh")


class Retention:
    """Joins the store, which keeps objects, and capture, which keeps places. `problems`: what cannot be written."""

    def __init__(self, store: Store, ground: CaptureManager, state: State) -> None:
        self._store, self._ground, self._state = store, ground, state
        self._remembered: tuple[object, object] | None = (dict(ground.remembered.places), dict(ground.finder.met))
        self._saving = trio.Lock()
        self.problems: tuple[Problem, ...] = ()

    async def release(self, name: str) -> tuple[str, ...]:
        """Release what stays in force though no manifest says it any more (policy/lasting.py).

        Return what that was; () when nothing has that name.
        """
        keys = self._store.release(name)
        if keys:
            await self._store.gone(keys)
        workload = name.removeprefix("Workload/").removeprefix("Pod/")
        places = [place for place, key in self._ground.closed().items() if key == workload]
        self._ground.let_go(workload)
        await self.remember()
        for one in (*keys, *places):
            log.warning("%s: a person let go of it", one)
        return (*(lasting.name_of(key) for key in keys), *places)

    def forget_lost(self) -> None:
        """Release each workload that no manifest names, that was found by its address, and whose namespace is gone.

        That namespace will not come back.
        """
        for key in self._store.published.kept if self._store.published else ():
            workload = key.partition(" ")[2]
            if (
                workload in self._ground.lost
                and key.startswith(("Workload ", "Pod "))
                and self._store.release(workload)
            ):
                log.info("%s is over: no manifest names it, and its network namespace is gone", workload)

    async def remember(self, anew: bool = False) -> None:
        """Write to the disk where workloads are captured, whenever that has changed. `anew`: also when it has not."""
        async with self._saving:
            now = dict(self._ground.remembered.places), dict(self._ground.finder.met)
            if self._state.mine and (anew or now != self._remembered):
                self.problems = await trio.to_thread.run_sync(self._save_remembered, *now)
                self._remembered = now if not self.problems else None

    def _save_remembered(self, places: Mapping[str, str], met: Mapping[int, frozenset[str]]) -> tuple[Problem, ...]:
        problems = self._state.save_places(places)
        return (*problems, *(self._state.save_met(netns.boot(), met) if met else ()))
