"""An API server in the memory of a test: a client without sockets, so that a test may let its clock jump.

It keeps versions as a real one does: a write that carries an older one is refused, and a watch tells every change.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import trio

from agent.http.client import JSON, Response
from agent.kubernetes.access import Access, Material
from agent.kubernetes.api import ApiError, ApiServer, Pairs, Query
from tests.agent.kubernetes.objects import merge

_PARTS = ("status", "approval")
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class MemoryApi(ApiServer):
    """`objects` by path. `writes`: verb and path of each. `fails`: called with verb and path; may raise."""

    def __init__(self) -> None:
        super().__init__(Access("127.0.0.1", 1, "a test", plain=True, token=Material(b"of-a-test")))
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str]] = []
        self.fails: Callable[[str, str], None] = lambda verb, path: None
        self._version = 100
        self._history: list[tuple[int, str, str, dict[str, Any]]] = []
        self._watchers: set[trio.MemorySendChannel[tuple[str, str, dict[str, Any]]]] = set()

    def add(self, path: str, **fields: Any) -> dict[str, Any]:
        """Add or replace an object, as somebody else would."""
        name = path.rpartition("/")[2]
        held = self.objects.get(path)
        metadata = {"uid": f"uid-{self._version}", **(held or {}).get("metadata", {}), **fields.pop("metadata", {})}
        made = {**fields, "metadata": {"name": name, **_namespace(path), **metadata}}
        self._keep(path, made, "MODIFIED" if held else "ADDED")
        return made

    def drop(self, path: str) -> None:
        """Remove an object, as somebody else would."""
        self._version += 1
        self._tell("DELETED", path, self.objects.pop(path))

    def _keep(self, path: str, made: dict[str, Any], event: str) -> None:
        self._version += 1
        made["metadata"]["resourceVersion"] = str(self._version)
        self.objects[path] = made
        self._tell(event, path, made)

    def _tell(self, event: str, path: str, made: dict[str, Any]) -> None:
        told = (event, path, copy.deepcopy(made))
        self._history.append((self._version, *told))
        for watcher in self._watchers:
            watcher.send_nowait(told)

    # the client

    async def request(
        self,
        method: str,
        path: str,
        query: Pairs | None = None,
        body: bytes | Any = b"",
        content_type: str = JSON,
        accept: str = JSON,
        *,
        most: int = 0,
        deadline: float = 0.0,
        fields: Query | None = None,
    ) -> Response:
        await trio.lowlevel.checkpoint()
        given = json.loads(body) if isinstance(body, bytes) and body else copy.deepcopy(body or None)
        verb = _VERBS[method]
        if method == "GET" and path not in self.objects and _is_collection(path):
            verb = "list"
        self.asked.append((verb, path))
        self.fails(verb, path)
        if verb in ("get", "list"):
            return Response(200, json.dumps(self._answer(verb, path, dict(query or ()), given)).encode())
        if dict(query or ()).get("dryRun") == "All":
            kept, told = copy.deepcopy(self.objects), self._tell
            self._tell = lambda event, path, made: None  # type: ignore[method-assign]
            try:
                return Response(200, json.dumps(self._answer(verb, path, {}, given)).encode())
            finally:
                self.objects, self._tell = kept, told  # type: ignore[method-assign]
        self.writes.append((verb, path))
        return Response(200, json.dumps(self._answer(verb, path, dict(query or ()), given)).encode())

    def _answer(self, verb: str, path: str, query: Mapping[str, str], given: Any) -> Any:
        if verb == "list":
            items = [one for where, one in self.objects.items() if _within(where, path) and _selected(one, query)]
            return {"metadata": {"resourceVersion": str(self._version)}, "items": items}
        if verb == "create":
            metadata = given.setdefault("metadata", {})
            metadata.setdefault("name", f"{metadata.get('generateName', '')}{self._version}")
            where = f"{path}/{metadata['name']}"
            if where in self.objects:
                raise ApiError(409, "AlreadyExists", f"{where} already exists")
            metadata.update(_namespace(where), uid=f"uid-{self._version}")
            self._keep(where, given, "ADDED")
            return given
        path, part = _split(path)
        held = self.objects.get(path)
        if held is None:
            raise ApiError(404, "NotFound", f"{path} not found")
        if verb == "get":
            return held
        if verb == "delete":
            self.drop(path)
            return {"kind": "Status"}
        for name in ("resourceVersion", "uid"):
            if (given.get("metadata") or {}).get(name) not in (None, held["metadata"][name]):
                raise ApiError(409, "Conflict", f"{path}: the object has been modified")
        made = copy.deepcopy(held)
        if verb == "patch":
            given.get("metadata", {}).pop("resourceVersion", None)
            merge(made, {"status": given.get("status")} if part else given)
        elif part:
            made["status"] = given.get("status", {})
        else:
            made = {**given, "metadata": {**given["metadata"], "name": held["metadata"]["name"]}}
            made["metadata"].update(_namespace(path), uid=held["metadata"]["uid"])
        self._keep(path, made, "MODIFIED")
        return made

    @contextlib.asynccontextmanager
    async def watch(
        self, path: str, query: Query | None = None, accept: str = JSON, account: Callable[[int], None] = lambda _: None
    ) -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        query = query or {}
        self.asked.append(("watch", path))
        self.fails("watch", path)
        send, receive = trio.open_memory_channel[tuple[str, str, dict[str, Any]]](10_000)
        if query.get("sendInitialEvents"):
            for where, one in list(self.objects.items()):
                if _within(where, path):
                    send.send_nowait(("ADDED", where, copy.deepcopy(one)))
            mark = {"resourceVersion": str(self._version), "annotations": {"k8s.io/initial-events-end": "true"}}
            send.send_nowait(("BOOKMARK", "", {"metadata": mark}))
        else:
            since = int(query.get("resourceVersion") or 0) or self._version
            for version, *told in self._history:
                if version > since:
                    send.send_nowait(tuple(told))  # type: ignore[arg-type]
        self._watchers.add(send)
        try:
            yield _Lines(receive, path, query)
        finally:
            self._watchers.discard(send)


class _Lines:
    def __init__(self, events: Any, path: str, query: Query) -> None:
        self.silence = 0.0
        self._events, self._path, self._query = events, path, query
        self._until = trio.current_time() + float(query.get("timeoutSeconds", "1e9"))

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> bytes:
        with trio.move_on_at(self._until):
            while True:
                event, where, one = await self._events.receive()
                if event == "BOOKMARK" or (_within(where, self._path) and _selected(one, self._query)):
                    return json.dumps({"type": event, "object": one}).encode()
        raise StopAsyncIteration


def _split(path: str) -> tuple[str, str]:
    """Return the path of an object and the part of it ("status") that is meant; "" for the whole."""
    above, _, last = path.rpartition("/")
    return (above, last) if last in _PARTS else (path, "")


def _is_collection(path: str) -> bool:
    rest = path.strip("/").split("/")
    rest = rest[2:] if rest[0] == "api" else rest[3:]
    return len(rest) == 1 or (len(rest) == 3 and rest[0] == "namespaces")


def _within(where: str, path: str) -> bool:
    """Return whether an object is of a collection; one without a namespace has the objects of all namespaces."""
    above, _, resource = path.rpartition("/")
    holder = where.rpartition("/")[0]
    if holder == path:
        return True
    return "/namespaces/" not in path and holder.startswith(f"{above}/namespaces/") and holder.endswith(f"/{resource}")


def _namespace(path: str) -> dict[str, str]:
    pieces = path.strip("/").split("/")
    at = pieces.index("namespaces") if "namespaces" in pieces[:-2] else -1
    return {"namespace": pieces[at + 1]} if at >= 0 else {}


def _selected(one: dict[str, Any], query: Mapping[str, str]) -> bool:
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        name, differs, wanted = term.partition("!=")
        if not differs:
            name, _, wanted = term.partition("=")
        value: Any = one
        for piece in name.split("."):
            value = (value or {}).get(piece)
        if ((value or "") == wanted) == bool(differs):
            return False
    return True
