"""A cluster in memory behind tests/agent/kubernetes/fake.py: objects that are read, listed and patched over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import trio

from agent.kubernetes.access import Access, Material
from tests.agent.kubernetes.fake import Answer, Asked, FakeServer, status

Page = Callable[[Asked, str], tuple[int, Any]]


class Cluster:
    """Objects by their path. It runs in a thread of its own, since a command has the loop of its own.

    `forbidden`: (verb, resource) -> refused with 403, as a real server words it. `pages`: what daemons answer through
    pods/proxy, by the pod's name. `down`: requests get no answer.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.forbidden: set[tuple[str, str]] = set()
        self.pages: dict[str, Page] = {}
        self.server = FakeServer(self._handle)
        self.tokens: list[dict[str, Any]] = []
        # What a controller does: called with "apply", "patch" or "delete", and the path, after each such request.
        self.changed: Callable[[str, str], None] = lambda verb, path: None
        self.logs: dict[str, str] = {}  # by pod
        self.groups: dict[str, dict[str, list[dict[str, Any]]]] = {}  # by group and version: resources
        self.broken_tokens = False  # there is no ServiceAccount to make them for

    @property
    def asked(self) -> list[Asked]:
        return self.server.asked

    @property
    def access(self) -> Access:
        return Access("127.0.0.1", self.server.port, "a test", plain=True, token=Material(b"of-a-person"))

    @property
    def kubeconfig(self) -> str:
        server = f"http://127.0.0.1:{self.server.port}"
        return json.dumps(
            {
                "current-context": "one",
                "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {"token": "of-a-person"}}],
            }
        )

    def add(self, path: str, **fields: Any) -> dict[str, Any]:
        """Add an object at /api/v1/namespaces/NS/pods/NAME, or as the path says."""
        pieces = path.strip("/").split("/")
        metadata = {"name": pieces[-1], "uid": path, **fields.pop("metadata", {})}
        if "namespaces" in pieces[:-2]:
            metadata["namespace"] = pieces[pieces.index("namespaces") + 1]
        made: dict[str, Any] = {"metadata": metadata, **fields}
        self.objects[path] = made
        return made

    def serves(self, path: str, kind: str) -> None:
        """Have discovery tell of a kind, by the path of its collection."""
        version, _, resource = path.removeprefix("/apis/").rpartition("/")
        group, _, number = version.partition("/")
        there = self.groups.setdefault(group, {}).setdefault(number, [])
        there.append({"name": resource, "kind": kind, "verbs": ["get", "list", "watch"]})

    def namespace(self, name: str, labels: dict[str, str] | None = None, **annotations: str) -> dict[str, Any]:
        return self.add(f"/api/v1/namespaces/{name}", metadata={"labels": labels or {}, "annotations": annotations})

    def pod(self, key: str, node: str = "n1", **fields: Any) -> dict[str, Any]:
        namespace, _, name = key.partition("/")
        spec = {"nodeName": node, "serviceAccountName": name, **fields.pop("spec", {})}
        return self.add(f"/api/v1/namespaces/{namespace}/pods/{name}", spec=spec, **fields)

    def daemon(self, node: str, page: Page | None = None, component: str = "agent", ready: bool = True) -> None:
        """Add edgemesh's pod on a node."""
        name = f"edgemesh-{component}-{node}"
        labels = {"app.kubernetes.io/name": "edgemesh", "app.kubernetes.io/component": component}
        self.pod(
            f"edgemesh-system/{name}",
            node,
            metadata={"labels": labels},
            spec={"containers": [{"name": "edgemesh", "image": "edgemesh.io/edgemesh:0.1.0"}]},
            status={
                "phase": "Running",
                "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": str(ready)}],
                "containerStatuses": [{"name": "edgemesh", "restartCount": 0}],
            },
        )
        if page is not None:
            self.pages[name] = page

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        scope, started = trio.CancelScope(), threading.Event()
        token: list[trio.lowlevel.TrioToken] = []

        async def main() -> None:
            token.append(trio.lowlevel.current_trio_token())
            with scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.server.run)
                    started.set()

        thread = threading.Thread(target=trio.run, args=(main,))
        thread.start()
        started.wait(10)
        try:
            yield self
        finally:
            token[0].run_sync_soon(scope.cancel)
            thread.join(10)

    # the server

    async def _handle(self, asked: Asked, answer: Answer) -> None:
        if asked.fields.get("authorization") != "Bearer of-a-person":
            await answer.send(401, status(401, "Unauthorized", "Unauthorized"))
            return
        code, value = self._answer(asked)
        await answer.send(code, value)

    def _answer(self, asked: Asked) -> tuple[int, Any]:
        pieces = asked.path.strip("/").split("/")
        if pieces == ["apis"]:
            groups = [{"name": g, "versions": [{"version": v} for v in there]} for g, there in self.groups.items()]
            return 200, {"groups": groups}
        if pieces[0] == "apis" and len(pieces) == 3:
            resources = self.groups.get(pieces[1], {}).get(pieces[2])
            return (404, status(404, "NotFound")) if resources is None else (200, {"resources": resources})
        rest = pieces[2:] if pieces[0] == "api" else pieces[3:]
        group = "" if pieces[0] == "api" else pieces[1] if len(pieces) > 1 else ""
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        resource = rest[0] if rest else ""
        part = rest[2] if len(rest) > 2 else ""
        verb = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}.get(asked.method, "")
        verb = verb or ("get" if len(rest) > 1 else "list")
        what = f"{resource}/{part}" if part else resource
        if (verb, what) in self.forbidden:
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            message = f'{what} is forbidden: User "ann" cannot {verb} resource "{what}" in API group "{group}" {where}'
            return 403, status(403, "Forbidden", message)
        if part == "proxy":
            return self._proxy(asked, rest)
        if part == "log":
            return 200, self.logs.get(rest[1], "").encode()
        if part == "token" and asked.method == "POST":
            return self._token(asked)
        found = self.objects.get(asked.path)
        if verb == "list":
            return 200, {"kind": "List", "metadata": {}, "items": self._list(asked, namespace, resource)}
        if verb == "patch" and "fieldManager" in asked.query:  # server-side apply, of a manager that owns all
            made = self.objects[asked.path] = {**(found or {}), **asked.json}
            self.changed("apply", asked.path)
            return 200, made
        if verb == "delete" and found is not None:
            del self.objects[asked.path]
            self.changed("delete", asked.path)
            return 200, {"kind": "Status"}
        if found is None:
            return 404, status(404, "NotFound", f'{resource} "{rest[1] if len(rest) > 1 else ""}" not found')
        if verb == "get" and part == "":
            return 200, found
        if verb == "patch":
            merge(found, asked.json)
            self.changed("patch", asked.path)
            return 200, found
        return 405, status(405, "MethodNotAllowed", "no")

    def _list(self, asked: Asked, namespace: str, resource: str) -> list[dict[str, Any]]:
        """List the objects of a collection; without a namespace, those of all namespaces."""
        prefix, _, _ = asked.path.partition("/namespaces/")
        prefix = prefix if namespace else asked.path.rpartition("/")[0]
        selector = dict(pair.split("=") for pair in asked.query.get("labelSelector", "").split(",") if pair)
        found = []
        for path, item in self.objects.items():
            parts = path.removeprefix(f"{prefix}/").split("/")
            own = item["metadata"].get("namespace", "")
            if not path.startswith(f"{prefix}/") or parts[-2] != resource or (namespace and own != namespace):
                continue
            labels = item["metadata"].get("labels") or {}
            if all(labels.get(name) == value for name, value in selector.items()):
                found.append(item)
        return found

    def _token(self, asked: Asked) -> tuple[int, Any]:
        if self.broken_tokens:
            return 404, status(404, "NotFound", 'serviceaccounts "edgemesh-viewer" not found')
        self.tokens.append({"path": asked.path, **asked.json["spec"]})
        claims = {"aud": asked.json["spec"]["audiences"]}
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        return 201, {"kind": "TokenRequest", "status": {"token": f"e30.{body}.signed"}}

    def _proxy(self, asked: Asked, rest: list[str]) -> tuple[int, Any]:
        _, pod, _ = rest[1].split(":")
        if pod not in self.pages:
            message = "error trying to reach service: dial tcp 10.0.0.1:15019: connect: connection refused"
            return 503, status(503, "ServiceUnavailable", message)
        return self.pages[pod](asked, "/" + "/".join(rest[3:]))


def merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    """Apply a merge patch (RFC 7396)."""
    for name, value in patch.items():
        if value is None:
            into.pop(name, None)
        elif isinstance(value, dict):
            if not isinstance(into.get(name), dict):
                into[name] = {}
            merge(into[name], value)
        else:
            into[name] = value
