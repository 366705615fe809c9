"""Asks the API server, without an event loop, what a Namespace says at this moment: for pods that begin while no daemon runs.

What the last daemon wrote may be out of date: a Namespace can have joined the mesh since. So before a pod is let speak the
API server is asked, as whoever the daemon is: in a cluster by the token that the kubelet keeps for our own pods, elsewhere
by the daemon's kubeconfig. No secret is copied. A pod's token is there as long as the pod is, also while its container is
down.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agent.kernel.sandbox import Sandbox
from policy.enrolment import Marks

if TYPE_CHECKING:
    from agent.kubernetes.access import Access
    from agent.nri.boot_files import Known

PODS = Path("/var/lib/kubelet/pods")
_VOLUMES = Path("volumes/kubernetes.io~projected")
_PATIENCE = 2.0  # seconds for a connection, and for each read
_MOST = (
    1 << 20
)  # bytes of an answer: etcd's bound of an object is 1.5 MiB, and labels and annotations are 256 KiB of it
_PODS = 64  # pods of ours that are remembered: on a node there is one, and for a moment its successor
_SYSTEM = "edgemesh-system"
_NAME = "app.kubernetes.io/name"
_META = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class UnansweredError(Exception):
    """Nobody answered; the message says why."""


class Inquiry:
    """One connection, made when something is asked, and kept. `met` may be called from another thread than `ask`."""

    def __init__(self, pods: Path = PODS) -> None:
        self._pods = pods
        self._uids: dict[str, str] = {}  # of our own pods, by sandbox
        self._connection: http.client.HTTPConnection | None = None
        self._through: tuple[Access, bytes] | None = None  # what the connection was made with

    def met(self, sandbox: Sandbox) -> None:
        """Take note of a sandbox, which may be that of our own pod."""
        ours = sandbox.namespace == _SYSTEM and (sandbox.labels or {}).get(_NAME) == "edgemesh"
        if ours and sandbox.uid.replace("-", "").isalnum():
            self._uids[sandbox.id] = sandbox.uid
            while len(self._uids) > _PODS:
                del self._uids[next(iter(self._uids))]

    def gone(self, sandbox_id: str) -> None:
        self._uids.pop(sandbox_id, None)

    def ask(self, known: Known, namespace: str) -> Marks | None:
        """Return what a Namespace says now; None: there is none. Raise UnansweredError."""
        from agent.kubernetes.access import AccessError

        why = "there is no token of a pod of ours"
        for access in self._accesses(known):
            try:
                status, body = self._get(access, f"/api/v1/namespaces/{quote(namespace, safe='')}")
                if status == 404:
                    return None
                if status == 200:
                    return _marks(body)
                why = f"{access.place} answers {status}"
            except AccessError as error:
                why = error.message
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = f"{access.place}: {error or type(error).__name__}"
            self._close()
        raise UnansweredError(why)

    def _accesses(self, known: Known) -> Iterator[Access]:
        from agent.kubernetes.access import AccessError, in_cluster, kubeconfig

        if known.kubeconfig:
            with contextlib.suppress(AccessError):
                yield kubeconfig([Path(name) for name in known.kubeconfig], known.context)
        host, _, port = known.server.rpartition(":")
        for uid in reversed(list(self._uids.values())):
            for folder in sorted((self._pods / uid / _VOLUMES).glob("kube-api-access-*")):
                with contextlib.suppress(AccessError):
                    yield in_cluster(host, port, folder)

    def _get(self, access: Access, path: str) -> tuple[int, bytes]:
        token = access.token.read().strip()
        headers = {"Accept": _META, "User-Agent": "edgemesh"}
        if token:
            headers["Authorization"] = f"Bearer {token.decode('ascii')}"
        through = access, access.roots.read() + access.certificate.read()
        kept = self._connection is not None and self._through == through
        if not kept:
            self._connect(access)
            self._through = through
        try:
            return self._exchange(access.prefix + path, headers)
        except (OSError, http.client.HTTPException):
            if not kept:
                raise
        self._connect(access)  # the server had closed that one
        self._through = through
        return self._exchange(access.prefix + path, headers)

    def _exchange(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        assert self._connection is not None
        self._connection.request("GET", path, headers=headers)
        answer = self._connection.getresponse()
        body = answer.read(_MOST + 1)
        if len(body) > _MOST:
            raise ValueError(f"an answer of more than {_MOST} bytes")
        return answer.status, body

    def _connect(self, access: Access) -> None:
        self._close()
        made = http.client.HTTPConnection(access.host, access.port, timeout=_PATIENCE)
        made.sock = socket.create_connection((access.host, access.port), _PATIENCE)
        try:
            if not access.plain:
                from agent.kubernetes.tls import context_of

                name = access.server_name or access.host
                made.sock = context_of(access).wrap_socket(made.sock, server_hostname=name)
        except BaseException:
            made.sock.close()
            raise
        self._connection = made

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._through = None


def _marks(body: bytes) -> Marks:
    """Raise ValueError."""
    found: Any = json.loads(body)
    metadata = found.get("metadata") if isinstance(found, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("an answer that is no object")  # noqa: TRY004 - the server is wrong, not the code
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if not isinstance(labels, dict) or not isinstance(annotations, dict):
        raise ValueError("an answer whose labels are none")  # noqa: TRY004
    return Marks(labels, annotations)
