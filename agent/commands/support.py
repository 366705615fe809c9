"""support: everything about a cluster's mesh that helps to find a fault, in one archive, without its secrets.

What is collected: versions, the objects of the mesh, its pods and their events, each node's pages, and the last lines
of each daemon's log. Secrets are never read. What could hold one elsewhere is blanked by its name or shape; the archive
is for its owner alone, who should look at it before sending it.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import tarfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

import agent
from agent.commands import NO, OK, USAGE, cluster, mesh, nodes, options, terminal
from agent.commands.cluster import Mistake
from agent.kubernetes.api import ApiError, ApiServer, ApiUnreachable, path_of
from agent.kubernetes.discovery import Wanted, served
from policy.registry import KINDS
from policy.resources import plain

Document = Any

_PAGES = ("/status", "/certs", "/routes", "/connections", "/problems")
_MOST_FILE = 4 << 20  # bytes of one file in the archive
_MOST = 64 << 20  # bytes of all of them
_LINES = 2000  # of a log
_OBJECTS = 2000  # of one kind
_AT_ONCE = 8  # logs that are read at once
_BLANK = "(redacted)"
# Kinds that are not of the mesh, of which only what is in its own namespace is told.
_CORE = ("", "apps", "discovery.k8s.io")

# Names of fields whose value may be a secret, wherever they stand.
_SECRET_NAME = re.compile(
    r"(?i)(pass(word|wd|phrase)?|secret|token|credential|api[-_]?key|private[-_]?key|client[-_]?key|authorization|cookie)s?$"
)
# Fields that are named so and hold only the name of something.
_HARMLESS = frozenset(("metricsTokenFile", "automountServiceAccountToken", "secretName", "imagePullSecrets"))
# Shapes of secrets in text: PEM of anything private, JWTs, bearer and basic credentials, name=value pairs.
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|$)", re.S)
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(\.[A-Za-z0-9_-]*)?")
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
_PAIR = re.compile(
    r"(?i)\b([\w.-]*(?:pass(?:word|wd|phrase)?|secret|token|api[-_]?key|authorization|cookie))([\"']?\s*[=:]\s*[\"']?)([^\s\"'&,;)}\]]{4,})"
)
_K3S = re.compile(r"\bK10[0-9a-f]{20,}::\S+")  # a token that joins nodes
_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]+:)[^\s/@]+@", re.I)


def arguments(parser: ArgumentParser) -> None:
    verbs = options.verbs(parser, "support")
    summary = "collect what helps to find a fault of the mesh, without secrets, in one archive"
    made = verbs("bug-report", summary)
    said = "the archive (default: edgemesh-bug-report-DATE.tar.gz here)"
    made.add_argument("--out", metavar="FILE", default="", help=said)
    options.cluster(made)


def run(arguments: Namespace) -> int:
    """Return 1 when the archive could not be written, or holds nothing of the cluster."""
    if arguments.verb is None:
        terminal.complain("support needs a verb", "bug-report; edgemesh support --help says more")
        return USAGE
    return _REPORT(arguments)


async def report(arguments: Namespace, api: ApiServer) -> int:
    """Collect, and write the archive. What cannot be had is said in it, and keeps nothing else out."""
    now = time.time()
    archive = Archive(now)
    target = Path(arguments.out or time.strftime("edgemesh-bug-report-%Y%m%d-%H%M%S.tar.gz", time.gmtime(now)))
    namespace = cluster.mesh_namespace(arguments)
    archive.add("versions.json", await _versions(api))
    steps: Mapping[str, Callable[[], Awaitable[None]]] = {
        "mesh.json": lambda: _mesh(api, archive),
        "objects": lambda: _objects(api, archive),
        "namespace": lambda: _own(api, archive, namespace),
        "nodes": lambda: _nodes(api, archive, namespace),
        "logs": lambda: _logs(api, archive, namespace),
    }
    for name, step in steps.items():
        try:
            await step()
        except ApiError as error:
            archive.missing[name] = ": ".join(filter(None, cluster.refusal(error)))
        except (ApiUnreachable, Mistake) as error:
            archive.missing[name] = str(error)
    archive.add("missing.json", {**archive.missing, "left out for their size": archive.dropped})
    data = archive.close()
    try:
        _write(target, data)
    except OSError as error:
        raise Mistake(f"{target} cannot be written: {error.strerror}", "--out FILE names another place") from error
    print(f"{target}: {len(archive.names)} files, {len(data):,} bytes; for its owner alone")
    for name, why in archive.missing.items():
        print(f"  without {name}: {why}")
    print("Secrets are not in it as far as they can be told by their names and shapes. Look before you send it.")
    return OK if len(archive.names) > len(("versions.json", "missing.json")) else NO


class Archive:
    """A tar.gz in memory, bounded in size; everything that is added is redacted first."""

    def __init__(self, now: float) -> None:
        self._bytes = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._bytes, mode="w:gz")  # noqa: SIM115 - closed by `close`
        self._now = int(now)
        self._left = _MOST
        self.names: list[str] = []
        self.missing: dict[str, str] = {}
        self.dropped: list[str] = []

    def __repr__(self) -> str:
        return f"<Archive of {len(self.names)} files>"

    def add(self, name: str, document: Document) -> None:
        """Add text as it is, or anything else as JSON."""
        text = redacted_text(document) if isinstance(document, str) else json.dumps(redacted(document), indent=1)
        data = text.encode("utf-8", "replace")
        if len(data) > _MOST_FILE:
            data = data[-_MOST_FILE:] if isinstance(document, str) else data[:_MOST_FILE]
            self.dropped.append(f"{name}: all but {_MOST_FILE >> 20} MiB")
        if len(data) > self._left:
            self.dropped.append(name)
            return
        self._left -= len(data)
        info = tarfile.TarInfo(f"edgemesh-bug-report/{_file_name(name)}")
        info.size, info.mtime, info.mode = len(data), self._now, 0o600
        self._tar.addfile(info, io.BytesIO(data))
        self.names.append(name)

    def close(self) -> bytes:
        self._tar.close()
        return self._bytes.getvalue()


def redacted(found: Document, name: str = "") -> Document:
    """Return plain data without what may be a secret."""
    if isinstance(found, dict):
        if found.get("kind") == "Secret":
            return {"kind": "Secret", "metadata": {"name": (found.get("metadata") or {}).get("name", "")}}
        kept = {key: redacted(value, str(key)) for key, value in found.items() if key != "managedFields"}
        if set(found) >= {"name", "value"} and _is_secret(str(found["name"])):  # a variable of a container
            kept["value"] = _BLANK
        return kept
    if isinstance(found, list | tuple):
        # the word after an option that is named so is its value
        after = [False, *(isinstance(one, str) and one[:1] == "-" and _is_secret(one) for one in found)]
        return [_BLANK if secret else redacted(one, name) for secret, one in zip(after, found, strict=False)]
    if isinstance(found, str):
        if _is_secret(name) and found:
            return _BLANK
        if name == "kubectl.kubernetes.io/last-applied-configuration":
            return _BLANK  # the object once more, as text
        return redacted_text(found)
    return found


def redacted_text(text: str) -> str:
    """Return text without what has the shape of a secret."""
    text = _PEM.sub(_BLANK, text)
    text = _JWT.sub(_BLANK, text)
    text = _K3S.sub(_BLANK, text)
    text = _SCHEME.sub(rf"\1 {_BLANK}", text)
    text = _URL.sub(rf"\1{_BLANK}@", text)
    return _PAIR.sub(rf"\1\2{_BLANK}", text)


def _is_secret(name: str) -> bool:
    return name not in _HARMLESS and _SECRET_NAME.search(name) is not None


def _file_name(name: str) -> str:
    """Return a path below the archive's folder, whatever the names of nodes and pods are."""
    parts = [re.sub(r"[^A-Za-z0-9._-]", "_", part)[:100].lstrip(".") or "_" for part in name.split("/")]
    return "/".join(parts)


def _write(target: Path, data: bytes) -> None:
    """Write the archive for its owner alone; an existing file is not replaced. Raise OSError."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)


# what is collected


async def _versions(api: ApiServer) -> Document:
    found = {"edgemesh": agent.__version__, "python": platform.python_version(), "machine": platform.machine()}
    try:
        return {**found, "server": await api.get("/version")}
    except ApiError as error:
        return {**found, "server": cluster.refusal(error)[0]}


async def _mesh(api: ApiServer, archive: Archive) -> None:
    archive.add("mesh.json", await mesh.look(api))


async def _objects(api: ApiServer, archive: Archive) -> None:
    """Add every object of the mesh's kinds, and the Namespaces."""
    wanted = [
        Wanted(plain(name), group, kind.versions)
        for name, kind in KINDS.items()
        if kind.group not in _CORE
        for group in (kind.group, *kind.also)
    ]
    wanted.append(Wanted("NodeConfig", "edgemesh.io", ("v1alpha1",)))
    kinds = {f"{one.kind}.{one.group}": one.path for one in (await served(api, wanted, {})).values()}
    kinds["Namespace"] = path_of("v1", "namespaces")
    for name, path in kinds.items():
        try:
            archive.add(f"objects/{name}.json", (await api.list(path))[:_OBJECTS])
        except ApiError as error:
            archive.missing[f"objects/{name}"] = cluster.refusal(error)[0]


async def _own(api: ApiServer, archive: Archive, namespace: str) -> None:
    """Add what is in the mesh's own namespace, and its certificate requests. Never Secrets."""
    kinds = {
        "pods": path_of("v1", "pods", namespace),
        "daemonsets": path_of("apps/v1", "daemonsets", namespace),
        "configmaps": path_of("v1", "configmaps", namespace),
        "events": path_of("v1", "events", namespace),
        "leases": path_of("coordination.k8s.io/v1", "leases", namespace),
        "requests": path_of("certificates.k8s.io/v1", "certificatesigningrequests"),
    }
    for name, path in kinds.items():
        try:
            found = (await api.list(path))[-_OBJECTS:]
        except ApiError as error:
            archive.missing[f"namespace/{name}"] = cluster.refusal(error)[0]
            continue
        if name == "requests":
            found = [one for one in found if str((one.get("spec") or {}).get("signerName")).startswith("edgemesh.io/")]
        archive.add(f"namespace/{name}.json", found)


async def _nodes(api: ApiServer, archive: Archive, namespace: str) -> None:
    """Add the pages of every node."""
    for page in _PAGES:
        for answer in await nodes.ask(api, namespace, page):
            name = f"nodes/{answer.node}/{page.removeprefix('/')}.json"
            archive.add(name, answer.document if not answer.error else {"error": answer.error, "hint": answer.hint})


async def _logs(api: ApiServer, archive: Archive, namespace: str) -> None:
    """Add the last lines of every daemon's log, and of the one before it where it was restarted."""
    turns = trio.CapacityLimiter(_AT_ONCE)

    async def one(pod: str, before: bool) -> None:
        query = {"tailLines": str(_LINES), "limitBytes": str(_MOST_FILE), "previous": str(before).lower()}
        name = f"logs/{pod}{'-before' if before else ''}.log"
        try:
            async with turns:
                path = path_of("v1", "pods", namespace, pod, "log")
                response = await api.request("GET", path, query, accept="*/*", most=_MOST_FILE + 4096)
        except ApiError as error:
            archive.missing[name] = cluster.refusal(error)[0]
        except ApiUnreachable as error:
            archive.missing[name] = str(error)
        else:
            archive.add(name, response.body.decode("utf-8", "replace"))

    async with trio.open_nursery() as nursery:
        for pod in await cluster.daemons(api, namespace):
            nursery.start_soon(one, pod["metadata"]["name"], False)
            if cluster.restarts(pod):
                nursery.start_soon(one, pod["metadata"]["name"], True)


_REPORT: Callable[[Namespace], int] = cluster.asking(report)
