"""Says on each policy object of the cluster whether it is in force: condition Accepted, or an Event where there is none.

A kind with a status gets a condition, an HTTPRoute those of each Service that is its parent (route_status.py). SMI's
kinds, which have no status, get an Event when something is wrong. What is
said comes from this server's own build, and only a change of it is written: within bounds in number per second and in
number of objects. Nothing depends on it: where it cannot be written, policy holds all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio
from msgspec import Struct, structs

from agent.cluster.gateway_status import Lacking, is_gateway, state_of, status_of
from agent.cluster.route_status import Parent, is_route, merged, ours, parents
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of, plural
from agent.kubernetes.events import Events
from policy.gateway import GatewayState
from policy.model import Problem
from policy.registry import KINDS, row_name
from policy.resources import CLUSTER, RawObject
from policy.snapshot import Snapshot

log = logging.getLogger("edgemesh.cluster")

LOOK = 2.0  # seconds between two looks at what was built
EACH = 0.2  # seconds between two objects
AGAIN = 10.0  # seconds after a failure of the API
MOST = 5000  # objects that are followed
_SHOWN = 5  # problems in one message
_MESSAGE = 1024  # characters
_SILENT = frozenset(("MeshNode",))  # written by the leader itself
_STATUS = ("openservicemesh.io", "flomesh.io", "edgemesh.io")  # groups whose kinds have a status, in our definitions
_ROOTS = "MeshRootCertificate"
_NOTHING: Lacking = {}

# A number that changes with each build, its objects as they were read, what is wrong with them, and what was built.
Policy = Callable[[], tuple[int, Sequence[RawObject], Iterable[Problem], Snapshot | None]]


class Verdict(Struct, frozen=True):
    accepted: bool
    reason: str  # one word in CamelCase
    message: str
    parents: tuple[Parent, ...] = ()  # of an HTTPRoute
    state: GatewayState | None = None  # of a Gateway, its class or its ListenerSet
    uid: str = ""  # of the object that this is about: another one of its name has nothing said of it yet
    generation: int = 0  # of that object, if its kind has a status


class _Place(Struct, frozen=True):
    version: str  # as in apiVersion
    kind: str
    namespace: str
    name: str

    @property
    def path(self) -> str:
        return path_of(self.version, plural(self.kind), self.namespace, self.name)


class _Metadata(Struct, frozen=True, rename="camel"):
    uid: str = ""
    resource_version: str = ""
    generation: int = 0


class _Object(Struct, frozen=True):
    metadata: _Metadata = _Metadata()
    status: msgspec.Raw = msgspec.Raw(b"{}")


def verdicts(
    objects: Iterable[RawObject],
    problems: Iterable[Problem],
    of_roots: Iterable[Problem],
    namespace: str,
    snapshot: Snapshot | None = None,
    lacking: Lacking = _NOTHING,
) -> dict[_Place, Verdict]:
    """Return what is to be said of each object that came from the API server, at most of MOST. Pure.

    `of_roots`: what is wrong with the MeshRootCertificate of edgemesh's own namespace. `lacking`: what this node lacks
    for listeners of Gateways.
    """
    wrong: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.where.file.startswith(CLUSTER) and problem.severity != "notice":
            wrong.setdefault(problem.where.file, []).append(problem)
    roots = [problem for problem in of_roots if problem.object == _ROOTS]
    found: dict[_Place, Verdict] = {}
    for raw in objects:
        place = _place(raw, snapshot)
        if place is None:
            continue
        if len(found) >= MOST:
            break
        its = wrong.get(raw.where.file, [])
        if place.kind == _ROOTS and place.namespace != namespace and not its:
            found[place] = Verdict(False, "NotRead", f"it counts in namespace {namespace} only")
        else:
            found[place] = _judged([*its, *(roots if place.kind == _ROOTS else ())])
        uid, generation = _about(raw)
        if not _may_have_status(place):
            generation = 0  # an Event is not told again because the object was edited
        found[place] = structs.replace(found[place], uid=uid, generation=generation)
        if snapshot is not None and is_route(place.version, place.kind):
            wrong_with = "" if found[place].accepted else found[place].message
            said = parents(raw, snapshot, wrong_with)
            found[place] = structs.replace(found[place], parents=said)
        elif snapshot is not None and is_gateway(place.version, place.kind):
            state = state_of(place.kind, place.namespace, place.name, snapshot, lacking)
            found[place] = structs.replace(found[place], state=state)
    return found


def _judged(problems: Sequence[Problem]) -> Verdict:
    ordered = sorted(problems, key=lambda one: (one.severity != "error", one))
    lines = [f"{one.message} ({one.hint})" if one.hint else one.message for one in ordered[:_SHOWN]]
    more = f"; and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    message = f"{'; '.join(lines)[: _MESSAGE - len(more)]}{more}"
    if any(one.severity == "error" for one in problems):
        return Verdict(False, "Invalid", message)
    if problems:
        return Verdict(True, "NotWhole" if all(one.unmet for one in problems) else "Doubtful", message)
    return Verdict(True, "InForce", "")


def _place(raw: RawObject, snapshot: Snapshot | None = None) -> _Place | None:
    """Return where an object is, if something is to be said of it."""
    if not raw.where.file.startswith(CLUSTER):
        return None
    kind, version, metadata = raw.data.get("kind"), raw.data.get("apiVersion"), raw.data.get("metadata")
    group = version.rpartition("/")[0] if isinstance(version, str) else ""
    row = KINDS.get(row_name(group, kind)) if isinstance(kind, str) else None
    if row is None or not isinstance(version, str) or not isinstance(metadata, dict) or kind in _SILENT:
        return None
    if is_route(version, kind) or is_gateway(version, kind):
        if snapshot is None or not _is_ours(raw, snapshot):
            return None  # it is, or is for, a Gateway of others
    elif not version.partition("/")[0].endswith((*_STATUS, "smi-spec.io")):
        return None
    namespace, name = metadata.get("namespace", ""), metadata.get("name")
    if not isinstance(name, str) or not name or not isinstance(namespace, str):
        return None
    return _Place(version, str(kind), namespace, name)


def _about(raw: RawObject) -> tuple[str, int]:
    """Return the object's uid and generation, as far as they are known."""
    metadata = raw.data["metadata"]
    uid, generation = metadata.get("uid"), metadata.get("generation")
    return uid if isinstance(uid, str) else "", generation if isinstance(generation, int) else 0


def _may_have_status(place: _Place) -> bool:
    return (
        is_route(place.version, place.kind)
        or is_gateway(place.version, place.kind)
        or place.version.partition("/")[0].endswith(_STATUS)
    )


def _is_silent(verdict: Verdict) -> bool:
    """Return whether there is nothing to tell in an Event."""
    return (verdict.accepted, verdict.reason) == (True, "InForce")


def _is_ours(raw: RawObject, snapshot: Snapshot) -> bool:
    metadata = raw.data["metadata"]
    namespace, name = metadata.get("namespace") or "", metadata.get("name")
    if not isinstance(name, str) or not isinstance(namespace, str):
        return False
    if is_route(raw.data["apiVersion"], raw.data["kind"]):
        return bool(ours(raw, snapshot))
    return state_of(raw.data["kind"], namespace, name, snapshot, _NOTHING) is not None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class VerdictWriter:
    """Keeps what is said on the objects. `run` while the lease is ours; each begins with nothing known."""

    def __init__(
        self,
        api: ApiServer,
        events: Events,
        policy: Policy,
        of_roots: Callable[[], Iterable[Problem]] = tuple,
        namespace: str = "",
        lacking: Callable[[], Lacking] = dict,
    ) -> None:
        self._api = api
        self._events = events
        self._policy = policy
        self._of_roots = of_roots
        self._namespace = namespace
        self._lacking = lacking
        self._said: dict[_Place, Verdict] = {}
        self._statusless: set[str] = set()  # kinds without a status, by apiVersion and kind
        self.trouble = ""  # why something is not said
        self.writes = 0

    def __repr__(self) -> str:
        return f"<VerdictWriter of {len(self._said)} objects>"

    async def run(self) -> None:
        """Look and write until cancelled."""
        done: object = None  # what was said whole
        while True:
            number, objects, problems, snapshot = self._policy()
            roots, lacking = tuple(self._of_roots()), dict(self._lacking())
            if number and done != (number, roots, lacking):
                wanted = await trio.to_thread.run_sync(
                    verdicts, objects, tuple(problems), roots, self._namespace, snapshot, lacking
                )
                if await self._tell(wanted):
                    done = (number, roots, lacking)
            await trio.sleep(LOOK)

    async def _tell(self, wanted: Mapping[_Place, Verdict]) -> bool:
        """Write what differs from what was said last. What is gone is forgotten. Return whether all was said."""
        whole = True
        for place in self._said.keys() - wanted.keys():
            del self._said[place]
        for place, verdict in wanted.items():
            if self._said.get(place) == verdict:
                continue
            if self._has_no_status(place) and _is_silent(verdict):
                self._said[place] = verdict  # silence says that it is in force
                continue
            await trio.sleep(EACH)
            try:
                if not await self._say(place, verdict):
                    await trio.sleep(AGAIN)
                    return False
                self.trouble = ""
            except (ApiError, ApiUnreachable, msgspec.MsgspecError) as error:
                status = error.status if isinstance(error, ApiError) else 0
                if status == 404:
                    self._said[place] = verdict  # it is gone; the build will tell
                elif status == 409:  # somebody has changed it; the next look reads it again
                    whole = False
                else:
                    told = (
                        f"what edgemesh says of {place.kind} {place.namespace}/{place.name} cannot be written: {error}"
                    )
                    if not self.trouble:
                        log.warning("%s", told)
                    self.trouble = told
                    await trio.sleep(AGAIN)
                    return False  # the build may be another one by now
            else:
                self._said[place] = verdict
        return whole

    def _has_no_status(self, place: _Place) -> bool:
        return not _may_have_status(place) or f"{place.version} {place.kind}" in self._statusless

    async def _say(self, place: _Place, verdict: Verdict) -> bool:
        """Return whether it was said: an Event is not when there were many. Raise ApiError, ApiUnreachable, MsgspecError."""
        found: _Object = await self._api.get(place.path, _Object)
        if not self._has_no_status(place):
            try:
                if verdict.state is not None:
                    await self._gateway(place, verdict, verdict.state, found)
                elif is_route(place.version, place.kind):
                    await self._parents(place, verdict, found)
                else:
                    await self._condition(place, verdict, found)
                return True
            except ApiError as error:
                if error.status != 404:
                    raise
            self._statusless.add(f"{place.version} {place.kind}")  # as others define it
        if _is_silent(verdict):
            return True
        about = {
            "apiVersion": place.version,
            "kind": place.kind,
            "namespace": place.namespace,
            "name": place.name,
            "uid": found.metadata.uid,
        }
        told = await self._events.tell(about, verdict.reason, verdict.message)
        self.writes += told
        return told

    async def _parents(self, place: _Place, verdict: Verdict, found: _Object) -> None:
        status = msgspec.json.decode(found.status, type=dict[str, Any])
        said = merged(status.get("parents"), verdict.parents, verdict.generation or found.metadata.generation, _now())
        if said == status.get("parents"):
            return
        body = {"metadata": {"resourceVersion": found.metadata.resource_version}, "status": {"parents": said}}
        await self._api.patch(f"{place.path}/status", body)
        self.writes += 1

    async def _gateway(self, place: _Place, verdict: Verdict, state: GatewayState, found: _Object) -> None:
        held = msgspec.json.decode(found.status, type=dict[str, Any])
        wrong = "" if verdict.accepted else verdict.message
        said = status_of(place.kind, state, wrong, held, verdict.generation or found.metadata.generation, _now())
        if all(held.get(name) == value for name, value in said.items()):
            return
        body = {"metadata": {"resourceVersion": found.metadata.resource_version}, "status": said}
        await self._api.patch(f"{place.path}/status", body)
        self.writes += 1

    async def _condition(self, place: _Place, verdict: Verdict, found: _Object) -> None:
        status = msgspec.json.decode(found.status, type=dict[str, Any])
        held = [one for one in status.get("conditions") or () if isinstance(one, dict)][:50]
        others = [one for one in held if one.get("type") != "Accepted"]
        before = next((one for one in held if one.get("type") == "Accepted"), {})
        said = "True" if verdict.accepted else "False"
        made = {
            "type": "Accepted",
            "status": said,
            "reason": verdict.reason,
            "message": verdict.message,
            "observedGeneration": verdict.generation or found.metadata.generation,
        }
        if all(before.get(name) == value for name, value in made.items()):
            return
        since = before.get("lastTransitionTime") if before.get("status") == said else None
        made["lastTransitionTime"] = since or _now()
        body = {
            "metadata": {"resourceVersion": found.metadata.resource_version},
            "status": {"conditions": [*others, made]},
        }
        await self._api.patch(f"{place.path}/status", body)
        self.writes += 1
