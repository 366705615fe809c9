"""The source that asks a Kubernetes API server, by one list-and-watch for each kind.

Theory of operation. Until everything that the server serves has been listed once, nothing is sent: what was saved at the
last run stays in force, so that a node without its API server goes on as it was. Then one batch that is whole says all
there is, and afterwards each change is sent as it comes; the store puts changes that come together into one build.
Changes of fields that policy does not read are not sent at all.

A kind that the server refuses to list, or does not get ready, holds up the others for half a minute only. What the last
run knew of it stays in force. A node that has no last run goes on without it, unless its absence would open something
(_OPENS): then nothing is sent, and the node stays closed.

All nodes of a cluster may start at once, as after a power cut. Each waits a random time before it lists, the longer the
more nodes there were at the last run.

What was saved at the last run may be another cluster's: the node was moved, or the cluster was made anew. So before
anything else the server is asked who it is, by the UID of its Namespace kube-system. If it is another one, all that was
saved is withdrawn, and the node is closed until the new cluster is known.

A server that cannot be reached says nothing, and that withdraws nothing. Of the definitions of custom resources the
metadata is watched: a kind whose definition comes later is picked up then, and one whose definition was deleted has no
objects any more.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio
import trio.lowlevel
from msgspec import Struct

from agent.config.schema import API_VERSION, KIND, NodeConfig
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of, plural
from agent.kubernetes.discovery import DEFINITIONS, Served, Wanted, served, version_of
from agent.kubernetes.reflector import METADATA_ONE, Features, Figures, Reflector, Timing
from agent.sources import Change, Mark, Send
from agent.sources.kubernetes.shapes import Kept, decoder
from nodeproxy.backoff import Backoff
from policy.kinds.kubernetes import Nothing
from policy.model import Problem, Where
from policy.registry import KINDS, Kind, row_name
from policy.resources import CLUSTER, RawObject, plain
from policy.translate.gateway_parents import GROUP as GATEWAY_API

log = logging.getLogger("edgemesh.kubernetes")

# A Deployment is read as the template of a Workload, which is for programs without pods. AccessCerts concern the server
# alone that holds the lease, which follows them itself.
_NOT_READ = frozenset(("Deployment", "AccessCert"))
_OPTIONAL = frozenset(("ServiceAccount",))  # only for findings about names: a server that refuses it holds up nothing
# What is open where none of these is known: no pod is captured, egress is allowed, nobody is revoked or cut off, limits are
# defaults.
_OPENS = frozenset(("Pod", "Namespace", "MeshConfig", KIND, "Revocation", "Isolation"))
# Of these only what is on this node, or is it.
_OWN: Mapping[str, str] = {"Pod": "spec.nodeName", "Node": "metadata.name"}
_DEFINED = ("apiextensions.k8s.io", "CustomResourceDefinition")
_AGAIN = 600.0  # seconds after which the kinds are asked for in any case
_AGAIN_UNWATCHED = 60.0  # the same where we may not watch their definitions
_SETTLING = (0.5, 1.0, 2.0, 4.0)  # seconds after a definition has changed: the server takes a moment to serve it
_UNSERVED = 2.0  # seconds until a kind that the server names and does not have is asked for again
_TOLD = 10.0  # seconds without the server before it is a Problem
_PATIENCE = 30.0  # seconds for which kinds that cannot be listed hold up those that were
_SPREAD = 0.01  # seconds for each node over which the requests of all of them are spread: ten for a thousand
_SPREAD_UNKNOWN = 1.0  # seconds where it is not known how many there are
_TOGETHER = 1.0  # seconds at least, over which the watches of one node come back when the server does
_LOOK = 2.0  # seconds between looks at whether everything is synced, if nothing is heard
_FIRST = 2.0  # seconds to wait for the settings, at the first start of a node
_PAUSE = Backoff(0.8, 30.0, 1.0, 2.0)
_NO_LINES: Mapping[str, int] = {}
_ITSELF = path_of("v1", "namespaces", name="kube-system")


class _DefinitionMeta(Struct, frozen=True, rename="camel"):
    name: str = ""
    uid: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Definition(Struct, frozen=True):
    """A definition of a custom resource: its metadata, or its row of a table, which begins with the name."""

    metadata: _DefinitionMeta = _DefinitionMeta()
    cells: list[Any] | None = None


def _definition(raw: bytes | msgspec.Raw) -> _Definition:
    found = msgspec.json.decode(raw, type=_Definition)
    if found.cells and isinstance(found.cells[0], str):
        return _Definition(_DefinitionMeta(found.cells[0]))
    return found


class _Items(Struct):
    items: list[msgspec.Raw] = []


class Watched(Struct):
    """One kind while it is watched."""

    served: Served
    reflector: Reflector[Kept]
    scope: trio.CancelScope
    group: str
    optional: bool = False


def wanted(kinds: Mapping[str, Kind] = KINDS) -> dict[tuple[str, str], Wanted]:
    """Return the kinds to ask for, by group and kind."""
    found = {("edgemesh.io", KIND): Wanted(KIND, "edgemesh.io", (API_VERSION.partition("/")[2],))}
    for name, row in kinds.items():
        for group in () if name in _NOT_READ else (row.group, *row.also):
            found[group, plain(name)] = Wanted(plain(name), group, row.versions)
    return found


class Cluster:
    """The source. `timing`, `chance`: of the waits."""

    prefix = CLUSTER

    def __init__(
        self,
        api: ApiServer,
        *,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.api = api
        self._timing = timing
        self._chance = chance
        self._remembered: dict[str, RawObject] = {}  # by origin: what was saved at the last run
        self._mark = Mark()  # what was saved with it
        self._known: dict[str, RawObject] = {}  # by origin: what is to be said, and was, once `_whole`
        self._whole = False  # whether the batch that is whole was sent
        self._begin()

    def _begin(self) -> None:
        self._features = Features(spread=max(_TOGETHER, self._spread()))
        self._version = ""
        self._wanted = wanted()
        self._watched: dict[tuple[str, str], Watched] = {}
        self._served: dict[tuple[str, str], Served] = {}
        self._known = {}
        self._whole = False
        self._asked = False  # whether the kinds were asked for
        self._definitions: set[str] | None = None  # names; None: not known
        self._definition_figures = Figures()
        self._changed = trio.Event()  # a definition of a wanted group
        self._heard = trio.Event()  # something of the first lists
        self._versioned = trio.Event()  # the server's version is known
        self._until = -1.0  # trio's time from which kinds that cannot be listed hold up nothing; below 0: not set yet
        self._overdue = False  # whether that has come

    def __repr__(self) -> str:
        return f"<Cluster {self.place}, {len(self._known)} objects{'' if self._whole else ', not synced'}>"

    @property
    def place(self) -> str:
        return self.api.access.place

    @property
    def synced(self) -> bool:
        """Whether all that the server serves was listed since the start."""
        return self._whole

    def figures(self) -> Mapping[str, Figures]:
        """What was done for each kind that is watched."""
        found = {
            self._origin(*key[::-1], "")[len(CLUSTER) : -1]: one.reflector.figures for key, one in self._watched.items()
        }
        return {"CustomResourceDefinition": self._definition_figures, **found}

    def report(self) -> dict[str, Any]:
        """Return what status shows: whether the server is there, and what was exchanged."""
        reach = self.api.reach
        return {
            "place": self.place,
            "version": self._version,
            "connected": bool(reach.connected),
            "since": reach.since,
            "synced": self._whole,
            "error": reach.error,
            "error_at": reach.error_at,
            "requests": self.api.pace.requests,
            "failures": reach.failures,
            "delayed_seconds": round(self.api.pace.delayed, 3),
            "received_bytes": reach.received,
            "kinds": {
                kind: {"objects": one.objects, "received_bytes": one.received, "error": one.error}
                for kind, one in sorted(self.figures().items())
            },
        }

    def read(self) -> Sequence[Change]:
        """Return nothing: who starts does not wait for a server. What was saved at the last run is in force."""
        return ()

    def remember(self, objects: Sequence[RawObject], mark: Mark) -> None:
        self._remembered = {raw.where.file: raw for raw in objects}
        self._mark = Mark(mark.cluster, dict(mark.versions))

    def mark(self) -> Mark:
        versions = {one.served.path: one.reflector.version for one in self._watched.values() if one.reflector.version}
        return Mark(self._mark.cluster, {**self._mark.versions, **versions}) if self._whole else self._mark

    def first_settings(self) -> Sequence[RawObject]:
        """Return the NodeConfigs; () if the server does not answer within two seconds."""
        decode = decoder(KIND, API_VERSION, None)

        async def ask() -> list[RawObject]:
            api = ApiServer(self.api.access)  # its clock is that of this loop
            with trio.move_on_after(_FIRST):
                try:
                    listed = await api.get(path_of(API_VERSION, f"{KIND.lower()}s"), _Items)
                    found = map(decode, listed.items)
                    return [self._raw(self._origin(KIND, "edgemesh.io", one.metadata.name), one) for one in found]
                except (ApiError, ApiUnreachable, msgspec.MsgspecError) as error:
                    log.info("settings of the cluster: %s", error)
                finally:
                    await api.aclose()
            return []

        return trio.run(ask)

    async def run(self, send: Send, config: Callable[[], NodeConfig]) -> None:
        if self._whole:  # this is not the first time
            self._remembered, self._mark = self._known, self.mark()
        self._begin()
        await self._recognise(send)
        async with trio.open_nursery() as nursery:
            await trio.sleep(self._spread() * self._chance())
            nursery.start_soon(self._watch_definitions)
            nursery.start_soon(self._keep_asking, nursery, send, config)
            while not self._whole:
                with trio.move_on_after(_LOOK):
                    await self._heard.wait()
                self._heard = trio.Event()
                await trio.lowlevel.checkpoint()  # a reflector counts as synced after it has reported
                self._send_whole(send)

    def _spread(self) -> float:
        """Return the seconds over which the nodes of this cluster spread what they ask for at once."""
        begin = self._origin("MeshNode", "edgemesh.io", "")
        known = self._known if self._whole else self._remembered
        nodes = sum(origin.startswith(begin) for origin in known)
        return nodes * _SPREAD if nodes else _SPREAD_UNKNOWN

    async def _recognise(self, send: Send) -> None:
        """Ask which cluster this is. What was saved of another one is withdrawn."""
        failures = 0
        while True:
            try:
                said: _Definition = await self.api.get(_ITSELF, _Definition, accept=METADATA_ONE)
                break
            except ApiUnreachable:
                pass
            except ApiError as error:
                if error.status in (403, 404):  # it does not say; then it is taken for the one that it was
                    log.warning("%s does not say which cluster it is of: %s", self.place, error)
                    return
            failures += 1
            await trio.sleep(_PAUSE.after(failures, self._chance()))
        known, uid = self._mark.cluster, said.metadata.uid
        if self._remembered and not known:
            log.info(
                "what was saved at the last run does not say of which cluster it is: it is taken for that of %s",
                self.place,
            )
        if known and uid and known != uid:
            log.warning(
                "%s is of another cluster than at the last run (kube-system has UID %s, and had %s): what that one said"
                " is withdrawn, and this node is closed until this one is known",
                self.place,
                uid,
                known,
            )
            self._remembered = {}
            self._mark = Mark()
            send([Change(CLUSTER, (), gone=True, under=True)], False)
        self._mark = Mark(uid or known, self._mark.versions)

    # which kinds there are

    async def _keep_asking(self, nursery: trio.Nursery, send: Send, config: Callable[[], NodeConfig]) -> None:
        failures = 0
        while True:
            changed = self._changed
            try:
                await self._ask(nursery, send, config().node)
                failures = 0
            except (ApiError, ApiUnreachable) as error:
                failures += 1
                after = error.retry_after or 0.0 if isinstance(error, ApiError) else 0.0
                await trio.sleep(max(after, _PAUSE.after(failures, self._chance())))
                continue
            missing = self._not_yet_served()
            for pause in _SETTLING if missing else ():
                await trio.sleep(pause)
                await self._ask_quietly(nursery, send, config().node)
                if not self._not_yet_served():
                    break
            with trio.move_on_after(_AGAIN_UNWATCHED if self._definitions is None or missing else _AGAIN):
                await changed.wait()

    async def _ask_quietly(self, nursery: trio.Nursery, send: Send, node: str) -> None:
        try:
            await self._ask(nursery, send, node)
        except (ApiError, ApiUnreachable) as error:
            log.info("the kinds that are served: %s", error)

    async def _ask(self, nursery: trio.Nursery, send: Send, node: str) -> None:
        """Ask what is served, and watch that. Raise ApiError, ApiUnreachable."""
        if not self._asked:
            version = await version_of(self.api)
            self._version = version.text
            self._features.watch_list = version.watch_list
            self._features.ordered = version.ordered
            self._versioned.set()
            log.info("API server %s, %s", self.place, version.text)
        found = await served(self.api, self._wanted.values(), self._served)
        for key, one in self._served.items():
            if key not in found and not self._is_withdrawn(key):
                found[key] = one  # the server is starting, and has not read its definitions
        for key, watched in list(self._watched.items()):
            if found.get(key) != watched.served:
                watched.scope.cancel()
                del self._watched[key]
                if key not in found:
                    self._withdraw(send, watched.served.kind, watched.served.group)
        self._served = found
        self._asked = True
        for key, one in found.items():
            if key not in self._watched:
                self._watched[key] = self._reflect(one, node, send)
                nursery.start_soon(self._run_one, key, self._watched[key])

    def _is_defined(self, key: tuple[str, str]) -> bool:
        """Return whether a definition is there, as far as it is known; its name is the plural."""
        group, kind = key
        return self._definitions is not None and f"{plural(kind)}.{group}" in self._definitions

    def _is_withdrawn(self, key: tuple[str, str]) -> bool:
        """Return whether the definition of a kind is known to be gone. Kubernetes' own kinds have none."""
        built_in = key[0].endswith("k8s.io") and key[0] != GATEWAY_API
        return self._definitions is not None and not self._is_defined(key) and not built_in

    def _not_yet_served(self) -> list[str]:
        """Return the wanted kinds whose definition is there, and which the server does not serve."""
        return [key[1] for key in self._wanted if key not in self._served and self._is_defined(key)]

    async def _watch_definitions(self) -> None:
        """Keep the names of the definitions."""
        groups = {key[0] for key in self._wanted}

        def emit(changes: Sequence[tuple[str, _Definition | None]], is_list: bool) -> None:
            names = set(self._definitions or ())
            for name, one in changes:
                if name.partition(".")[2] in groups:
                    (names.discard if one is None else names.add)(name)
            if names != self._definitions or is_list:
                differ = self._definitions is not None and names != self._definitions
                self._definitions = names
                if differ or self._not_yet_served():
                    self._changed.set()
                    self._changed = trio.Event()

        reflector: Reflector[_Definition] = Reflector(
            self.api,
            DEFINITIONS,
            _definition,
            emit,
            features=self._features,
            tabled=True,
            timing=self._timing,
            chance=self._chance,
        )
        self._definition_figures = reflector.figures
        await self._versioned.wait()
        while True:
            try:
                await reflector.run()
            except ApiError as error:  # a server without definitions
                self._definition_figures.error = str(error)
                await trio.sleep(_AGAIN)

    # what they say

    def _reflect(self, one: Served, node: str, send: Send) -> Watched:
        row = KINDS.get(row_name(one.group, one.kind))
        query = {"fieldSelector": f"{_OWN[one.kind]}={node}"} if one.kind in _OWN and not one.group else {}

        def emit(changes: Sequence[tuple[str, Kept | None]], _: bool) -> None:
            self._take(one, send, changes, first=not reflector.synced.is_set())

        reflector: Reflector[Kept] = Reflector(
            self.api,
            one.path,
            decoder(one.kind, one.version, row),
            emit,
            features=self._features,
            query=query,
            metadata_only=row is not None and row.spec is Nothing,
            since=self._mark.versions.get(one.path, ""),
            timing=self._timing,
            chance=self._chance,
        )
        return Watched(one, reflector, trio.CancelScope(), one.group, one.kind in _OPTIONAL)

    async def _run_one(self, key: tuple[str, str], watched: Watched) -> None:
        with watched.scope:
            try:
                await watched.reflector.run()
            except ApiError as error:
                watched.reflector.figures.error = str(error)
                await trio.sleep(_UNSERVED)
                if self._watched.get(key) is watched:  # it is begun again when the server serves it
                    del self._watched[key]
                    self._mark.versions[watched.served.path] = watched.reflector.version
                self._changed.set()
                self._changed = trio.Event()

    def _origin(self, kind: str, group: str, key: str) -> str:
        row = KINDS.get(kind)
        named = f"{kind}.{group}" if row is not None and group != row.group else kind
        return f"{CLUSTER}{named}/{key}"

    def _raw(self, origin: str, kept: Kept) -> RawObject:
        return RawObject(kept.data, Where(origin), _NO_LINES)

    def _take(self, one: Served, send: Send, changes: Sequence[tuple[str, Kept | None]], first: bool) -> None:
        """Take what a reflector reports.

        `first`: the first list of this reflector. What an earlier one of the same kind knew and this list does not have
        was deleted in between.
        """
        said: list[Change] = []
        if first:
            there = {self._origin(one.kind, one.group, key) for key, _ in changes}
            begin = self._origin(one.kind, one.group, "")
            for origin in [name for name in self._known if name.startswith(begin) and name not in there]:
                del self._known[origin]
                said.append(Change(origin, (), gone=True))
        for key, kept in changes:
            origin = self._origin(one.kind, one.group, key)
            if kept is None:
                if self._known.pop(origin, None) is not None:
                    said.append(Change(origin, (), gone=True))
                continue
            before = self._known.get(origin)
            if before is not None and before.data == kept.data:
                continue  # a field that nobody reads
            raw = self._raw(origin, kept)
            self._known[origin] = raw
            said.append(Change(origin, (raw,)))
        if self._whole:
            if said:
                send(said, False)
        else:
            self._heard.set()

    def _withdraw(self, send: Send, kind: str, group: str) -> None:
        """Say that no object of a kind is there any more: its definition was deleted."""
        begin = self._origin(kind, group, "")
        gone = [origin for origin in self._known if origin.startswith(begin)]
        for origin in gone:
            del self._known[origin]
        if self._whole and gone:
            send([Change(origin, (), gone=True) for origin in gone], False)

    def _send_whole(self, send: Send) -> None:
        """Send all there is, once every kind was listed, or those that were not have had their time."""
        if self._whole or not self._asked:
            return
        lacking = self._lacking()
        now = trio.current_time()
        if self._until < 0 or not self.api.reach.connected:
            self._until = now + _PATIENCE
        self._overdue = bool(lacking) and now >= self._until
        if lacking and not (self._overdue and all(map(self._trouble, lacking)) and not self._holds(lacking)):
            return
        for key in lacking:
            begin = self._origin(key[1], key[0], "")
            self._known.update((name, raw) for name, raw in self._remembered.items() if name.startswith(begin))
        self._whole = True
        self._remembered = {}
        self._features.spread = max(_TOGETHER, self._spread())
        log.info(
            "synced with %s: %d objects%s",
            self.place,
            len(self._known),
            f", without {_names(lacking)}" if lacking else "",
        )
        send([Change(origin, (raw,)) for origin, raw in self._known.items()], True)

    def _lacking(self) -> set[tuple[str, str]]:
        """Return the kinds that should be known and were not listed yet."""
        if self._definitions is None and not self._definition_figures.error.startswith(("403", "404")):
            return {_DEFINED}  # what else lacks is not known
        found = {key for key in self._wanted if key not in self._served and self._is_defined(key)}
        for key in self._served:
            watched = self._watched.get(key)
            if watched is None or not (watched.reflector.synced.is_set() or watched.optional):
                found.add(key)
        return found

    def _trouble(self, key: tuple[str, str]) -> str:
        """Return why a kind is not known; "" if it is, or is just being listed."""
        if key == _DEFINED:
            return self._definition_figures.error
        watched = self._watched.get(key)
        return watched.reflector.figures.error if watched is not None else "it is defined, and not served"

    def _holds(self, lacking: Iterable[tuple[str, str]]) -> bool:
        """Return whether nothing may be sent without these: nothing is known of them, and that would open something."""
        return _DEFINED in lacking or (not self._has_last_run and any(kind in _OPENS for _, kind in lacking))

    @property
    def _has_last_run(self) -> bool:
        return bool(self._mark.versions or self._remembered)

    # what is wrong

    @property
    def problems(self) -> Sequence[Problem]:
        """For how long the server has been gone, and which kinds it refuses."""
        reach = self.api.reach
        found: list[Problem] = []
        where = Where(CLUSTER)
        if reach.connected is False and time.time() - reach.since > _TOLD:
            since = datetime.fromtimestamp(reach.since, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
            message = f"the API server {self.place} cannot be reached since {since}: {reach.error}"
            found.append(Problem("warning", where, "", message, "what it said last stays in force"))
        elif reach.connected:
            found += self._unread(where)
        return found

    def _unread(self, where: Where) -> Iterator[Problem]:
        """Yield which kinds cannot be read, what that means, and what to do; and what is read in a slow way."""
        lacking = self._lacking()
        for key in sorted({*lacking, *self._watched}, key=lambda key: key[::-1]):
            one = self._watched.get(key)
            error = self._trouble(key)
            optional = one is not None and one.optional
            if error.startswith(("403", "401")) or (key in lacking and self._overdue and error):
                title = f"{key[1]}.{key[0]}" if key[0] else key[1]
                message = f"{title} cannot be read: {error}; {self._meaning(key, optional)}"
                yield Problem("warning" if optional else "error", where, "", message, _what_to_do(title, error))
            elif one is not None and (slow := one.reflector.figures.slow):
                message = f"{key[1]}: {slow}; it is listed in pages"
                yield Problem("notice", where, "", message, "is the link to the API server slow, or is it overloaded?")
        if self._features.gave_up:
            message = f"lists in one stream were given up: {self._features.gave_up}; kinds are listed in pages"
            yield Problem("notice", where, "", message, "is the link to the API server slow, or is it overloaded?")

    def _meaning(self, key: tuple[str, str], optional: bool) -> str:
        if optional:
            return "some findings about names are not made"
        if not self._whole:
            if self._has_last_run:
                return "what was known at the last run stays in force"
            return "nothing of the cluster is in force before, and this node stays closed"
        begin = self._origin(key[1], key[0], "")
        if any(origin.startswith(begin) for origin in self._known):
            return "what is known of it stays in force"
        return "the rest is in force, and nothing of this kind is"


def _what_to_do(title: str, error: str) -> str:
    if error.startswith("401"):
        return "the API server does not take the token of edgemesh's account"
    if error.startswith("403"):
        return f"the rights of edgemesh's account lack get, list and watch of {title}: apply the add-on again"
    return f"kubectl get {title.lower()} -A shows whether the API server can list it; kubectl get crd, whether it is served"


def _names(keys: Iterable[tuple[str, str]]) -> str:
    return ", ".join(sorted(kind for _, kind in keys))
