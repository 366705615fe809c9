"""Secrets and ConfigMaps that listeners name, from a Kubernetes API server: each is followed by its name.

Nothing is listed, and nothing else is watched: the rights are get and watch, and a person gives them in the namespace of
the Gateway by a RoleBinding, perhaps for single names. Where they are missing, the Problem says which binding to make.

A server that is away withdraws nothing, also from one start to the next (kept.py), and neither does a right that is gone:
what was read stays. An object that was deleted is gone at once.
"""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Callable

import msgspec
import trio
from msgspec import Struct

from agent.gateway.content import MOST_BYTES, Followed, Ref
from agent.gateway.kept import Kept
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of
from nodeproxy.backoff import Backoff

ROLE = "edgemesh-gateway-certificates"
_WATCH = 300  # seconds of one watch, at least; as much again by chance
_PAUSE = Backoff(1.0, 60.0, 1.0, 2.0)
_REFUSED = 30.0  # seconds until a right that was missing is looked for again


class _Metadata(Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Object(Struct, frozen=True, rename="camel"):
    metadata: _Metadata = _Metadata()
    data: dict[str, str] | None = None

    def content(self, kind: str) -> dict[str, bytes]:
        given = self.data or {}
        if kind == "ConfigMap":
            return {name: text.encode() for name, text in given.items()}
        return {name: base64.b64decode(text, validate=True) for name, text in given.items()}


class _Event(Struct):
    type: str
    object: msgspec.Raw


class Secrets:
    """Follows objects by name. `kept`: what outlives a restart. `leads`: whether we may write it. `chance`: of the waits."""

    def __init__(
        self,
        api: ApiServer,
        chance: Callable[[], float] = random.random,
        kept: Kept | None = None,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._api = api
        self._kept, self._leads = kept, leads
        self._before = kept.load() if kept is not None else {}  # what an earlier run has read
        self._chance = chance
        self._heard = False  # whether the server has said anything since the start
        self._wanted: frozenset[Ref] = frozenset()
        self._known: dict[Ref, Followed] = {}
        self._scopes: dict[Ref, trio.CancelScope] = {}
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<Secrets {len(self._wanted)} wanted>"

    def want(self, refs: frozenset[Ref]) -> None:
        """Follow these, and forget all others."""
        if refs == self._wanted:
            return
        self._wanted = refs
        self._known = {ref: known for ref, known in {**self._before, **self._known}.items() if ref in refs}
        self._before = {ref: known for ref, known in self._before.items() if ref not in refs}
        self._changed.set()

    def known(self, ref: Ref) -> Followed:
        return self._known.get(ref, Followed())

    async def run(self, told: Callable[[], None]) -> None:
        self._scopes.clear()
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                for ref in self._scopes.keys() - self._wanted:
                    self._scopes.pop(ref).cancel()
                self._save()
                for ref in sorted(self._wanted - self._scopes.keys()):
                    scope = self._scopes[ref] = trio.CancelScope()
                    nursery.start_soon(self._follow, ref, scope, told)
                await self._changed.wait()

    def _save(self) -> None:
        if self._kept is not None and self._heard and self._leads():
            self._kept.save(self._known)

    async def _follow(self, ref: Ref, scope: trio.CancelScope, told: Callable[[], None]) -> None:
        failures = 0

        def says(known: Followed) -> None:
            if ref in self._wanted and self._known.get(ref) != known:
                self._known[ref] = known
                self._before = {}  # the server is heard: what nobody wants now is not kept
                self._heard = True
                self._save()
                told()

        with scope:
            while True:
                pause = 0.0
                try:
                    await self._step(ref, says)
                    failures = 0
                    pause = 1.0
                except ApiError as error:
                    failures += 1
                    pause = error.retry_after or _PAUSE.after(failures, self._chance())
                    if error.status in (401, 403):
                        pause = _REFUSED * (0.5 + self._chance())
                        if self.known(ref).content is None:
                            says(Followed(None, "edgemesh may not read it", binding(ref)))
                    elif self.known(ref).content is None:
                        says(Followed(None, f"the API server refused to read it: {error}"))
                except ApiUnreachable:
                    failures += 1
                    pause = _PAUSE.after(failures, self._chance())
                    if self.known(ref).content is None:
                        says(Followed(None, "the API server cannot be reached"))
                except (msgspec.MsgspecError, ValueError):  # a message of theirs may show what was read
                    failures += 1
                    pause = _PAUSE.after(failures, self._chance())
                    says(Followed(None, "the API server's answer cannot be read"))
                if failures:
                    await self._api.wait_until_back(pause)
                else:
                    await trio.sleep(pause)

    async def _step(self, ref: Ref, says: Callable[[Followed], None]) -> None:
        """Read the object, and what becomes of it while a watch lasts. Raise ApiError, ApiUnreachable, ValueError."""
        plural = "secrets" if ref.kind == "Secret" else "configmaps"
        version = ""
        try:
            response = await self._api.request(
                "GET", path_of("v1", plural, ref.namespace, ref.name), most=2 * MOST_BYTES
            )
            found = msgspec.json.decode(response.body, type=_Object)
            version = found.metadata.resource_version
            says(_followed(ref, found))
        except ApiError as error:
            if error.status != 404:
                raise
            says(_missing(ref))
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={ref.name}",
            "timeoutSeconds": str(int(_WATCH * (1 + self._chance()))),
        }
        if version:
            query["resourceVersion"] = version
        async with self._api.watch(path_of("v1", plural, ref.namespace), query) as lines:
            async for line in lines:
                event = msgspec.json.decode(line, type=_Event)
                if event.type in ("ADDED", "MODIFIED"):
                    says(_followed(ref, msgspec.json.decode(event.object, type=_Object)))
                elif event.type == "DELETED":
                    says(_missing(ref))
                elif event.type == "ERROR":  # most often a version that the server has forgotten
                    return


def _followed(ref: Ref, found: _Object) -> Followed:
    try:
        return Followed(found.content(ref.kind), "")
    except binascii.Error:
        return Followed(None, "its data is not in base64")


def _missing(ref: Ref) -> Followed:
    return Followed(None, "it does not exist", f"kubectl get {ref.kind.lower()} --namespace {ref.namespace}")


def binding(ref: Ref) -> str:
    """Return what lets edgemesh read an object: the command that makes the binding."""
    return (
        f"kubectl create rolebinding {ROLE} --namespace {ref.namespace} --clusterrole {ROLE}"
        " --serviceaccount edgemesh-system:edgemesh-agent --serviceaccount edgemesh-system:edgemesh-server"
    )
