"""Every object that a source told us of -> one snapshot after another, each handed to one follower.

Theory of operation. `apply` only notes what an origin says now and that something changed. `run` waits until it has been quiet for
a moment, builds in a thread, and hands over what came out. There is one build and one hand-over at a time, always of the newest
state: a slow follower skips versions, it never queues them. What an object said when it was last good is kept: in memory for
while it is broken, and in the state directory for a restart with broken files, or with none to be had.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import trio
from msgspec import Struct, structs

from agent.config import NodeConfig, Settings, is_node_config, waiting
from agent.sources import Change
from agent.sources.directory import Directory
from agent.state import State
from policy.build import Built
from policy.build import build as build_policy
from policy.model import Node, Problem, Where
from policy.resources import RawObject, identify, key_of
from policy.snapshot import Snapshot

log = logging.getLogger("edgemesh.store")

_QUIET = 0.05  # seconds without a change before a build
_IMPATIENCE = 0.5  # seconds after which we build anyway

_FAULT = Problem(
    "error",
    Where(),
    "",
    "a fault of edgemesh itself while it read the policy; the policy before stays in force",
    "please report it with the daemon's log",
)

Good = Mapping[str, RawObject]  # last good versions, by what policy calls an object
Addresses = Mapping[str, tuple[str, ...]]  # of services, by key
Build = Callable[[Sequence[RawObject], Good, Addresses, NodeConfig, Sequence[Node]], Built]


class Published(Struct, frozen=True):
    """What one build said. `number` counts builds from 1; `built` is seconds since the epoch, `took` seconds."""

    number: int
    objects: int  # how many there were
    snapshot: Snapshot
    problems: tuple[Problem, ...]
    config: NodeConfig
    built: float
    took: float


Follow = Callable[[Published], Awaitable[None]]


def build(resources: Sequence[RawObject], good: Good, addresses: Addresses, config: NodeConfig, nodes: Sequence[Node]) -> Built:
    """policy's build with what the nodes' settings say."""
    return build_policy(resources, good, addresses, config.node, config.service_range, nodes)


class Store:
    """All objects, by origin. Make it, `apply` what sources say, `run` it once."""

    def __init__(self, settings: Settings, state: State | None, build: Build = build) -> None:
        """Reads `state` (None: nothing is remembered), so that a node without its files starts with what it last knew."""
        self.settings = settings
        self.published: Published | None = None
        self.first_build = trio.Event()
        self.trust_domain = ""  # of the mesh that this node belongs to; "" leaves what policy assumes
        self._state = state
        self._build = build
        objects, self._addresses = state.load() if state else ([], {})
        self._good: Good = {key_of(*identify(raw)): raw for raw in objects if not is_node_config(raw)}
        settings.remember(objects)
        self._objects: dict[str, tuple[RawObject, ...]] = {}
        for raw in objects:
            self._objects[raw.where.file] = (*self._objects.get(raw.where.file, ()), raw)
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._fault: tuple[Problem, ...] = ()
        self._changed = trio.Event()
        self._stale = False

    def __repr__(self) -> str:
        number = self.published.number if self.published else 0
        return f"<Store {sum(map(len, self._objects.values()))} objects from {len(self._objects)} origins, build {number}>"

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong just now."""
        found = {*self._fault, *(self._state.problems if self._state else ()), *(self.published.problems if self.published else ())}
        return tuple(sorted(found))

    def apply(self, changes: Sequence[Change], whole: bool = False) -> None:
        """Note what origins say now. `whole`: origins that are not named say nothing any more."""
        if whole:
            named = {change.origin for change in changes}
            self._objects = {origin: objects for origin, objects in self._objects.items() if origin in named}
            self._problems = {origin: problems for origin, problems in self._problems.items() if origin in named}
        for change in changes:
            if change.objects is not None:
                self._objects[change.origin] = change.objects
            self._problems[change.origin] = change.problems
            if not self._objects.get(change.origin) and not change.problems:
                self._objects.pop(change.origin, None)
                del self._problems[change.origin]
        self._stale = True
        self._changed.set()

    async def run(self, follow: Follow, running: NodeConfig | None = None) -> None:
        """Build and hand over until cancelled. `running`: the settings that the daemon started with, to tell what waits for a restart."""
        while True:
            await self._quiet()
            self._stale = False
            published = await trio.to_thread.run_sync(self._make, self._now(), self._said(), running)
            if published is None:
                continue
            self.published = published
            await follow(published)
            self.first_build.set()
            if self._state:
                await trio.to_thread.run_sync(self._state.save, [*self._good.values(), *self.settings.accepted], self._addresses)

    def make(self) -> Published | None:
        """Build once, just here, for commands that look once; None when it failed by a fault of ours."""
        return self._make(self._now(), self._said(), None)

    async def _quiet(self) -> None:
        """Wait for a change, then until changes stop for a moment. The first build waits for nothing more than the first change."""
        if not self._stale:
            self._changed = trio.Event()
            await self._changed.wait()
        if self.published is None:
            return
        with trio.move_on_after(_IMPATIENCE):
            while True:
                self._changed = trio.Event()
                with trio.move_on_after(_QUIET) as quiet:
                    await self._changed.wait()
                if quiet.cancelled_caught:
                    return

    def _now(self) -> list[RawObject]:
        return [raw for origin in sorted(self._objects) for raw in self._objects[origin]]

    def _said(self) -> list[Problem]:
        return [problem for problems in self._problems.values() for problem in problems]

    def _make(self, objects: Sequence[RawObject], said: Iterable[Problem], running: NodeConfig | None) -> Published | None:
        """In a thread, one at a time."""
        began, clock = time.time(), time.monotonic()
        problems = [*said, *self.settings.read(objects)]
        config = self.settings.config
        if running is not None:
            problems += waiting(running, config)
        try:
            policies = [raw for raw in objects if not is_node_config(raw)]
            built = self._build(policies, self._good, self._addresses, config, self.settings.nodes())
        except Exception:
            # A fault in policy must neither take the node's traffic with it nor open it: what is in force stays in force.
            log.exception("building a snapshot of %d objects", len(objects))
            self._fault = (_FAULT,)
            return None
        self._fault = ()
        snapshot = built.snapshot
        if self.trust_domain and self.trust_domain != snapshot.mesh.trust_domain:
            mesh = structs.replace(snapshot.mesh, trust_domain=self.trust_domain)
            snapshot = structs.replace(snapshot, mesh=mesh)
        snapshot.warm()
        self._good = built.accepted
        self._addresses = snapshot.addresses
        number = self.published.number + 1 if self.published else 1
        found = tuple(sorted({*problems, *built.problems}))
        return Published(number, len(objects), snapshot, found, config, began, time.monotonic() - clock)


def look(directory: Path, node: str = "") -> Published:
    """What a daemon would make of a directory just now, with nothing remembered."""
    store = Store(Settings({"node": node} if node else {}), None)
    changes, whole = Directory(directory).scan()
    store.apply(changes, whole)
    published = store.make()
    if published is None:
        raise RuntimeError(_FAULT.message)  # the log has told which
    return published
