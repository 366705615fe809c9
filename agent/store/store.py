"""Builds all objects that sources report into one snapshot after another, and passes each to one follower.

Theory of operation. `apply` only notes what an origin says now, and that something changed. `run` waits until no change
has come for a moment, builds in a thread, and passes on the result. One build and one hand-over happen at a time,
always of the newest state: a slow follower skips versions, it never queues them. The last good version of each object
is kept: in memory for as long as the object is broken, and in the state directory for a restart with broken or missing
files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import trio
from msgspec import Struct, structs

from agent.config.schema import NodeConfig
from agent.config.settings import Settings, is_node_config, waiting
from agent.sources import Change, Mark, manifest
from agent.sources.directory import SUFFIXES, Directory, file_read
from agent.store.disk import State
from agent.store.problems import told
from agent.system import gc_pause
from policy import lasting
from policy.build import Built
from policy.build import build as build_policy
from policy.decode import identify
from policy.enrolment import Marks
from policy.lint.findings import lint
from policy.model import Node, Problem, Where
from policy.resources import RawObject, key_of
from policy.snapshot import Snapshot

log = logging.getLogger("edgemesh.store")

_QUIET = 0.05  # seconds without a change before a build
_IMPATIENCE = 0.5  # seconds after which a build begins in spite of changes
_MOST_REST = 10.0  # seconds between two builds, however long they take

_FAULT = Problem(
    "error",
    Where(),
    "",
    "a fault of edgemesh itself while it read the policy; the policy before stays in force",
    "please report it with the daemon's log",
)

# Message and hint for a file that exists, had objects before and has none now.
_EMPTIED = (
    "there is no object in it any more: what it said before still holds",
    "write it again; or remove the file, if nothing that it said is to hold",
)

# The words by which policy's messages say that something is missing.
_MISSED = ("there is no ", " is nobody: ", "selects nothing: ")

Good = Mapping[str, RawObject]  # last good versions, by the key that policy gives an object
Addresses = Mapping[str, tuple[str, ...]]  # addresses of services, by key
Build = Callable[[Sequence[RawObject], Good, Addresses, NodeConfig, Sequence[Node]], Built]


class Published(Struct, frozen=True):
    """The result of one build.

    `number` counts builds from 1; `built` is seconds since the epoch, `took` seconds.
    """

    number: int
    objects: int  # number of objects
    snapshot: Snapshot
    problems: tuple[Problem, ...]
    config: NodeConfig
    built: float
    took: float
    kept: tuple[str, ...] = ()  # keys of objects in force that are in no manifest any more


Follow = Callable[[Published], Awaitable[None]]


def build(
    resources: Sequence[RawObject], good: Good, addresses: Addresses, config: NodeConfig, nodes: Sequence[Node]
) -> Built:
    """Return policy's build with the nodes' settings, and with the findings of lint."""
    built = build_policy(resources, good, addresses, config.node, config.service_range, nodes, config.gateway.addresses)
    return structs.replace(built, problems=tuple(sorted({*built.problems, *lint(built)})))


class Store:
    """All objects, by origin. Make it, call `apply` with what sources report, and `run` once."""

    def __init__(self, settings: Settings, state: State | None, build: Build = build, trust_domain: str = "") -> None:
        """Read `state` (None: nothing is remembered), so that a node without files starts with what it last knew."""
        self.settings = settings
        self.published: Published | None = None
        self.first_build = trio.Event()
        self._next_build = trio.Event()
        self._rests_until = 0.0  # by trio's clock: no build before
        self._saved = 0  # number of the newest build that is saved for a restart
        self.trust_domain = trust_domain  # trust domain of the mesh that this node belongs to; "": policy's default
        self._state = state
        self._saving = trio.Lock()
        self._build = build
        objects, self._addresses = state.load() if state else ([], {})
        self._good: Good = {key_of(*identify(raw)): raw for raw in objects if not is_node_config(raw)}
        settings.remember(objects)
        self._objects: dict[str, tuple[RawObject, ...]] = {}
        for raw in objects:
            self._objects[raw.where.file] = (*self._objects.get(raw.where.file, ()), raw)
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._fault: tuple[Problem, ...] = ()
        self._released: set[str] = set()  # keys of objects that the next build must forget
        self._changed = trio.Event()
        self._stale = False
        self.mark: Callable[[], Mark | None] = lambda: None  # what a remote source wants saved with its objects
        self._marked: Mark | None = None  # of what `published` was built from
        self.built: Sequence[RawObject] = ()  # what `published` was built from

    def __repr__(self) -> str:
        number = self.published.number if self.published else 0
        return (
            f"<Store {sum(map(len, self._objects.values()))} objects from {len(self._objects)} origins, build {number}>"
        )

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong at present."""
        found = {
            *self._fault,
            *(self._state.problems if self._state else ()),
            *(self.published.problems if self.published else ()),
        }
        return tuple(sorted(found))

    def where(self, workload: str) -> Where:
        """Return the place in the manifests that defines a workload, by its key."""
        raw = self._good.get(f"Workload {workload}") or self._good.get(f"Pod {workload}")
        return raw.where if raw else Where()

    def marks(self, namespace: str) -> Marks | None:
        """Return labels and annotations of a Namespace as the last build knew it; None when there is none."""
        raw = self._good.get(key_of("Namespace", "", namespace))
        return _marks(raw) if raw is not None else None

    def all_marks(self) -> dict[str, Marks]:
        """Return the same of all Namespaces, by name."""
        prefix = key_of("Namespace", "", "")
        return {key.removeprefix(prefix): _marks(raw) for key, raw in self._good.items() if key.startswith(prefix)}

    def apply(
        self, changes: Sequence[Change], whole: bool = False, owned: Callable[[str], bool] = lambda origin: True
    ) -> None:
        """Note what origins say now. `whole`: origins of `owned` that are not named say nothing any more."""
        if whole:
            named = {change.origin for change in changes}
            # Files in a directory that cannot be read are not named, but not gone either.
            closed = tuple(f"{change.origin}/" for change in changes if change.objects is None)
            self._objects = {
                origin: said
                for origin, said in self._objects.items()
                if origin in named or origin.startswith(closed) or not owned(origin)
            }
            self._problems = {
                origin: problems for origin, problems in self._problems.items() if origin in named or not owned(origin)
            }
        for change in changes:
            if change.under:
                self._forget(change.origin)
                continue
            problems = change.problems
            if change.gone or change.objects or (change.objects is not None and not self._objects.get(change.origin)):
                self._objects[change.origin] = change.objects or ()
            elif change.objects is not None:
                problems = (*problems, Problem("error", Where(change.origin), "", *_EMPTIED))
            self._problems[change.origin] = problems
            if not self._objects.get(change.origin) and not problems:
                self._objects.pop(change.origin, None)
                del self._problems[change.origin]
        self._stale = True
        self._changed.set()

    def _forget(self, begin: str) -> None:
        """Drop all that origins which begin so said, and what would stay in force of it."""
        self._objects = {origin: said for origin, said in self._objects.items() if not origin.startswith(begin)}
        self._problems = {origin: told for origin, told in self._problems.items() if not origin.startswith(begin)}
        self._released.update(key for key, raw in self._good.items() if raw.where.file.startswith(begin))

    def resume(self, owned: Callable[[str], bool]) -> None:
        """Build with what was saved at the last run, if it has something of these origins: their source may be away."""
        if any(owned(origin) for origin in self._objects):
            self.apply(())

    def release(self, name: str) -> tuple[str, ...]:
        """Release what stays in force though it is in no manifest any more.

        Return the keys; () when nothing of that name stays in force so.
        """
        kept = self.published.kept if self.published else ()
        keys = tuple(key for key in lasting.keys_of(name) if key in kept)
        if keys:
            self._released.update(keys)
            self._stale = True
            self._changed.set()
        return keys

    async def gone(self, keys: Collection[str]) -> None:
        """Wait for a build that keeps none of these objects, and until it is in force and saved."""
        while (
            self.published is None
            or self._saved < self.published.number
            or any(key in self.published.kept for key in keys)
        ):
            await self._next_build.wait()

    async def run(self, follow: Follow, running: NodeConfig | None = None) -> None:
        """Build and pass on until cancelled.

        `running`: the settings that the daemon started with, to report which changes wait for a restart.
        """
        while True:
            await self._quiet()
            self._stale = False
            objects, mark = self._now(), self.mark()
            published = await trio.to_thread.run_sync(self._make_quietly, objects, self._said(), running)
            if published is None:
                continue
            self.published, self.built = published, objects
            self._rests_until = trio.current_time() + min(published.took, _MOST_REST)
            await follow(published)
            self.first_build.set()
            self._marked = mark
            await self.save()
            self._saved = published.number
            self._next_build.set()
            self._next_build = trio.Event()

    async def save(self) -> None:
        """Write what a restart is to know, where that has changed, and if this daemon leads its node."""
        if self._state:
            async with self._saving:
                objects = [*self._good.values(), *self.settings.accepted]
                await trio.to_thread.run_sync(self._state.save, objects, self._addresses, self._marked)

    def make(self) -> Published | None:
        """Build once, in this thread, for commands that look once.

        Return None when the build failed by a fault of ours.
        """
        return self._make(self._now(), self._said(), None)

    async def _quiet(self) -> None:
        """Wait for a change, then until no change has come for a moment.

        The first build waits for the first change only. Between two builds passes the time that one took: where changes
        never stop, as in a cluster of a thousand nodes, builds leave half of the time to the traffic.
        """
        if not self._stale:
            self._changed = trio.Event()
            await self._changed.wait()
        if self.published is None:
            return
        await trio.sleep_until(self._rests_until)
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

    def _make_quietly(
        self, objects: Sequence[RawObject], said: Iterable[Problem], running: NodeConfig | None
    ) -> Published | None:
        with gc_pause.paused():
            return self._make(objects, said, running)

    def _make(
        self, objects: Sequence[RawObject], said: Iterable[Problem], running: NodeConfig | None
    ) -> Published | None:
        """Build once. Runs in a thread, one build at a time."""
        began, clock = time.time(), time.monotonic()
        released = self._released.copy()
        said = tuple(said)
        problems = [*said, *self.settings.read(objects, released)]
        config = self.settings.config
        if running is not None:
            problems += waiting(running, config)
        try:
            policies = [raw for raw in objects if not is_node_config(raw)]
            good = {key: raw for key, raw in self._good.items() if key not in released} if released else self._good
            built = self._build(policies, good, self._addresses, config, self.settings.nodes())
        except Exception:
            # A fault in policy must neither end the node's traffic nor open the node: what is in force stays in force.
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
        self._released -= released
        self._addresses = snapshot.addresses
        number = self.published.number + 1 if self.published else 1
        everything = {*problems, *_perhaps_unread(built.problems, said)}
        # a command that looks once shows all of them
        found = told(everything) if self._state else tuple(sorted(everything))
        return Published(
            number,
            len(objects),
            snapshot,
            found,
            config,
            began,
            time.monotonic() - clock,
            (*built.kept, *self.settings.kept),
        )


def _marks(raw: RawObject) -> Marks:
    metadata = raw.data.get("metadata")
    found = metadata if isinstance(metadata, dict) else {}
    return Marks(*(_texts(found.get(name)) for name in ("labels", "annotations")))


def _texts(found: object) -> dict[str, str]:
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _perhaps_unread(found: Iterable[Problem], said: Iterable[Problem]) -> Iterator[Problem]:
    """Add a hint to problems about something missing: it may be in a file that cannot be read.

    Then repairing that file solves both problems.
    """
    unread = sorted({problem.where.file for problem in said if problem.severity == "error" and not problem.object})
    for problem in found:
        if unread and any(words in problem.message for words in _MISSED):
            more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
            hint = f"it may be in {unread[0]}{more}, which cannot be read"
            yield structs.replace(problem, hint=f"{problem.hint}; {hint}" if problem.hint else hint)
        else:
            yield problem


def look(places: Sequence[Path], node: str = "", text: bytes | None = None) -> Published:
    """Return what a daemon would build from these directories and files now, with nothing remembered.

    `text`: manifests from standard input.
    """
    store = Store(Settings({"node": node} if node else {}), None)
    changes = [] if text is None else [manifest.read(text, "standard input")]
    for place in places:
        if not place.exists():
            changes.append(
                manifest.unreadable(
                    str(place), "there is no such file or directory", "give a directory of manifests, or a file"
                )
            )
            continue
        changes += [file_read(place)] if place.is_file() or place.suffix in SUFFIXES else Directory(place).scan()[0]
    store.apply(changes, True)
    published = store.make()
    if published is None:
        raise RuntimeError(_FAULT.message)  # the log says which
    return published
