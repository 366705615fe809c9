"""The authority's keys in the Secret, and the roots that it publishes in the ConfigMap.

The first holder of the lease makes the Secret, if there is none, and nobody ever overwrites it but a rotation, with the
version that it read. Where the ConfigMap is there and the Secret is not, the key is lost: a new one made silently would
cut off every node that trusts the old root, so nothing is signed until a person decides.
"""

from __future__ import annotations

import logging
import secrets as chance
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any

from agent.identity.authority import ca
from agent.identity.authority.ca import Issuer
from agent.identity.authority.state import AuthorityState
from agent.identity.csr import Unusable
from agent.identity.folder import FolderError
from agent.identity.kubernetes import objects
from agent.identity.kubernetes.memory import MemoryFolder, key_of, path_of
from agent.identity.protocol import Bundle
from agent.kubernetes.api import ApiError, ApiServer
from agent.kubernetes.api import path_of as api_path

log = logging.getLogger("edgemesh.authority")

_MANAGED = {"app.kubernetes.io/name": "edgemesh"}


class ClusterState:
    """The Secret and the ConfigMap of one cluster. `folder` is what the authority works on."""

    def __init__(self, api: ApiServer, namespace: str, clock: Callable[[], float]) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self.folder = MemoryFolder(f"Secret {namespace}/{objects.SECRET}", gap=clock())
        self._version = ""  # resourceVersion of the Secret that was read

    def __repr__(self) -> str:
        return f"<ClusterState of {self._namespace}, Secret at {self._version or 'nothing'}>"

    async def open(self, trust_domain: str, issuer: Issuer | None = None, wrong: Exception | None = None) -> None:
        """Read the Secret, and make it where there is neither Secret nor ConfigMap. `issuer`: None for a fresh root.

        `wrong`: what a person gave cannot be used; then nothing is made, since a mesh does not change its root at once.
        Raise FolderError when the key is lost or cannot be read; ApiError, ApiUnreachable.
        """
        if await self.refresh():
            return
        if await self.roots() is not None:
            raise FolderError(
                f"Secret {self._namespace}/{objects.SECRET} with the mesh's key is gone, and nodes trust the root in ConfigMap "
                f"{objects.ROOTS}: nothing is signed",
                f"restore the Secret from a backup; or begin anew: kubectl --namespace {self._namespace} delete configmap {objects.ROOTS}",
            )
        if wrong is not None:
            raise FolderError(f"this mesh has no root yet, and waits for the one that it is given: {wrong}")
        folder = MemoryFolder("new")
        made = AuthorityState(folder, self._clock)
        try:
            fresh = issuer or ca.make_root(trust_domain, self._clock(), ca.serial(chance.token_bytes(16)))
            made.create(fresh, trust_domain)
        except Unusable as error:
            raise FolderError(f"no root can be made: {error}") from error
        try:
            await self._api.create(
                api_path("v1", "secrets", self._namespace),
                {"apiVersion": "v1", "kind": "Secret", "metadata": _named(objects.SECRET), "data": _data(folder)},
            )
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        else:
            self.folder.begin()
            log.warning("a new authority of %s is in Secret %s/%s", trust_domain, self._namespace, objects.SECRET)
        if not await self.refresh():
            raise FolderError(f"Secret {self._namespace}/{objects.SECRET} is gone right after it was made")

    async def refresh(self) -> bool:
        """Read the Secret again. Return False when it is not there. Raise FolderError, ApiError, ApiUnreachable."""
        try:
            found: objects.SecretObject = await self._api.get(objects.secret(self._namespace), objects.SecretObject)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        if found.metadata.resource_version != self._version:
            try:
                files = {path_of(key): b64decode(value, validate=True) for key, value in (found.data or {}).items()}
            except ValueError as error:
                raise FolderError(f"Secret {self._namespace}/{objects.SECRET} cannot be read: no base64") from error
            self.folder.load(files)
            self._version = found.metadata.resource_version
        return True

    async def save(self) -> None:
        """Write the folder to the Secret, if that is still what was read.

        Raise ApiError (409: it is not), ApiUnreachable. Then the next `refresh` takes back what the Secret has.
        """
        read, self._version = self._version, ""
        metadata = {**_named(objects.SECRET), "namespace": self._namespace, "resourceVersion": read}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": _data(self.folder)}
        written = await self._api.replace(objects.secret(self._namespace), body)
        self._version = str(written["metadata"]["resourceVersion"])

    async def publish(self, bundle: Bundle, notes: Mapping[str, str] | None = None) -> bool:
        """Write the roots to the ConfigMap where it says something else. Return whether it did.

        `notes`: annotations; others stay.
        """
        data = {
            objects.TRUST_DOMAIN: bundle.trust_domain,
            objects.ISSUER: bundle.issuer,
            objects.ROOTS_PEM: "".join(f"{root.strip()}\n" for root in bundle.roots),
        }
        held = await self.roots()
        before = held.metadata.annotations if held is not None else {}
        after = {**before, **(notes or {})}
        if held is not None and held.data == data and before == after:
            return False
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**_named(objects.ROOTS), **({"annotations": after} if after else {})},
            "data": data,
        }
        if held is None:
            await self._api.create(api_path("v1", "configmaps", self._namespace), body)
        else:
            body["metadata"]["resourceVersion"] = held.metadata.resource_version
            await self._api.replace(objects.roots(self._namespace), body)
        return True

    async def roots(self) -> objects.RootsMap | None:
        """Return the ConfigMap; None: there is none. Raise ApiError, ApiUnreachable."""
        try:
            found: objects.RootsMap = await self._api.get(objects.roots(self._namespace), objects.RootsMap)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "labels": _MANAGED}


def _data(folder: MemoryFolder) -> dict[str, str]:
    return {key_of(path): b64encode(data).decode() for path, data in folder.files().items()}
