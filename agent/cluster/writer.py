"""Writes a MeshNode for each Node: at once when it changes, and then at most once a second; never without a change.

Each write carries the version that was read. So of two writers one is refused, reads again, and finds nothing to do.
What somebody else wrote into a MeshNode is replaced by what is so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import trio
from msgspec import Struct

from agent.cluster.mesh_nodes import MeshNodes, Metadata, Namespace, Node, Pod
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of
from agent.kubernetes.reflector import Emit, Features, Reflector
from policy.kinds.edgemesh import MeshNode

log = logging.getLogger("edgemesh.cluster")

VERSION = "edgemesh.io/v1alpha1"
EACH = 1.0  # seconds between two writes of one MeshNode
AGAIN = 2.0  # seconds after a failure
ABSENT = 15.0  # seconds until the kind is looked for again where it is not served
AT_ONCE = 4
_MANAGED = {"app.kubernetes.io/name": "edgemesh"}


class _Written(Struct, frozen=True):
    """A MeshNode as it is. Its fields are read later: what somebody else wrote into it may be anything."""

    metadata: Metadata = Metadata()
    spec: msgspec.Raw = msgspec.Raw(b"{}")

    def says(self, spec: MeshNode) -> bool:
        """Return whether it says this. Compared by meaning: the API server fills in fields that have a default."""
        try:
            return msgspec.json.decode(self.spec, type=MeshNode) == spec
        except msgspec.MsgspecError:
            return False


class MeshNodeWriter:
    """Keeps the MeshNodes of a cluster. `run` while the lease is ours; each begins with nothing known."""

    def __init__(self, api: ApiServer, tunnel_port: int) -> None:
        self._api = api
        self._tunnel_port = tunnel_port
        self.cluster = MeshNodes(tunnel_port)
        self.trouble = ""  # why MeshNodes may be out of date
        self.writes = 0
        self.current = False  # whether each MeshNode said what was known, when we last looked
        self._written: dict[str, _Written] = {}  # MeshNodes as they are
        self._due: dict[str, float] = {}  # by node: when it may be written again
        self._woken = trio.Event()

    def __repr__(self) -> str:
        return f"<MeshNodeWriter {len(self._written)} written, {len(self.cluster.changed)} to look at>"

    async def run(self) -> None:
        """Follow the cluster and write, until cancelled."""
        self.cluster = MeshNodes(self._tunnel_port)
        self._written.clear()
        self.current = False
        features = Features(watch_list=True)
        running = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
        kinds: list[tuple[str, type[Any], Callable[[str, Any], None], dict[str, str]]] = [
            (path_of("v1", "nodes"), Node, self.cluster.node, {}),
            (path_of("v1", "namespaces"), Namespace, self.cluster.namespace, {}),
            (path_of("v1", "pods"), Pod, self.cluster.pod, running),
            (path_of(VERSION, "meshnodes"), _Written, self._own, {}),
        ]
        reflectors = [
            Reflector(
                self._api, path, msgspec.json.Decoder(shape).decode, self._each(take), features=features, query=query
            )
            for path, shape, take, query in kinds
        ]
        async with trio.open_nursery() as nursery:
            for reflector in reflectors:
                nursery.start_soon(self._follow, reflector)
            for reflector in reflectors:
                await reflector.synced.wait()
            self.trouble = ""
            while True:
                self._woken = trio.Event()
                pause = await self._pass()
                self.current = not self.cluster.changed
                with trio.move_on_after(pause):
                    await self._woken.wait()

    async def _follow(self, reflector: Reflector[Any]) -> None:
        while True:
            try:
                await reflector.run()
            except ApiError as error:  # the kind is not served yet
                self.trouble = f"MeshNodes cannot be written: {error}"
                log.error("%s\n  kubectl apply -f edgemesh.yaml brings the kind MeshNode", self.trouble)
                await trio.sleep(ABSENT)

    # what the reflectors report

    def _each(self, take: Callable[[str, Any], None]) -> Emit[Any]:
        """Return what a reflector calls: it has `take` called with the key and object of each change, None for gone."""

        def emit(changes: Sequence[tuple[str, Any]], _: bool) -> None:
            for key, one in changes:
                take(key, one)
            self._woken.set()

        return emit

    def _own(self, name: str, written: _Written | None) -> None:
        if written is None:
            self._written.pop(name, None)
        else:
            self._written[name] = written
        self.cluster.changed.add(name)

    # writing

    async def _pass(self) -> float:
        """Write what is due. Return the seconds until something is due again."""
        now = trio.current_time()
        due = [name for name in self.cluster.changed if self._due.get(name, 0.0) <= now]
        limit = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for name in due:
                self.cluster.changed.discard(name)
                nursery.start_soon(self._write, name, limit)
        waiting = [self._due.get(name, 0.0) for name in self.cluster.changed]
        return max(0.0, min(waiting) - trio.current_time()) if waiting else float("inf")

    async def _write(self, name: str, limit: trio.CapacityLimiter) -> None:
        """Make the MeshNode of one node what it should be, if it is not."""
        async with limit:
            spec, written = self.cluster.spec(name), self._written.get(name)
            if spec is None and written is None:
                return
            if spec is not None and written is not None and written.says(msgspec.convert(spec, MeshNode)):
                return
            self._due[name] = trio.current_time() + EACH
            path = path_of(VERSION, "meshnodes", "", name)
            try:
                if spec is None:
                    self._due.pop(name)
                    await self._api.delete(path)
                elif written is None:
                    self._note(name, await self._api.create(path_of(VERSION, "meshnodes"), _object(name, "", spec)))
                else:
                    version = written.metadata.resource_version
                    self._note(name, await self._api.replace(path, _object(name, version, spec)))
                self.writes += 1
                self.trouble = ""
            except (ApiError, ApiUnreachable, msgspec.MsgspecError) as error:
                if not (isinstance(error, ApiError) and error.status in (404, 409)):  # the watch will tell
                    self.trouble = f"MeshNode {name} cannot be written: {error}"
                    log.warning("%s", self.trouble)
                self._due[name] = trio.current_time() + AGAIN
                self.cluster.changed.add(name)

    def _note(self, name: str, made: dict[str, Any]) -> None:
        """Note what was written, before the watch tells, so that the next write has its version."""
        self._written[name] = msgspec.json.decode(msgspec.json.encode(made), type=_Written)


def _object(name: str, version: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": _MANAGED}
    if version:
        metadata["resourceVersion"] = version
    return {"apiVersion": VERSION, "kind": "MeshNode", "metadata": metadata, "spec": spec}
