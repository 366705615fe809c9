"""What a container runtime keeps of each pod sandbox in files: containerd (k3s's and others), CRI-O, cri-dockerd.

containerd and CRI-O have the OCI configuration of each sandbox with annotations that name the pod; it is there before a
container of the pod is made. docker has a file of its own with the same in labels. Of the four layouts containerd's two
were seen; the others are as their sources write them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agent.kernel.sandbox import Sandbox, plain

_MOST = 16384  # containers of one node that are looked at: pods of 110 with a few containers each are under a thousand
_LONGEST = 4 << 20  # bytes that are read of one file
_TRIES = 200  # reads of a file that is not there or not whole, until its container is left out


class Layout(Struct, frozen=True):
    """Where a runtime keeps its containers: one folder for each, with a file in it that `parse` reads."""

    folder: Path
    file: str
    parse: Callable[[str, bytes, int], Sandbox | None]


class _Namespace(Struct, frozen=True):
    type: str = ""
    path: str = ""


class _Linux(Struct, frozen=True):
    namespaces: tuple[_Namespace, ...] = ()


class _Oci(Struct, frozen=True):
    annotations: dict[str, str] = {}
    linux: _Linux = _Linux()


class _DockerConfig(Struct, frozen=True, rename="pascal"):
    labels: dict[str, str] | None = None


class _DockerNetwork(Struct, frozen=True, rename="pascal"):
    sandbox_key: str = ""


class _Docker(Struct, frozen=True, rename="pascal"):
    config: _DockerConfig = _DockerConfig()
    network_settings: _DockerNetwork = _DockerNetwork()


def _oci(name: str, data: bytes, made: int) -> Sandbox | None:
    found = msgspec.json.decode(data, type=_Oci)
    said = found.annotations
    path = next((one.path for one in found.linux.namespaces if one.type == "network"), "")
    if said.get("io.kubernetes.cri.container-type") == "sandbox":
        prefix = "io.kubernetes.cri.sandbox-"
    elif said.get("io.kubernetes.cri-o.ContainerType") == "sandbox":
        prefix = "io.kubernetes.pod."
    else:
        return None
    return _sandbox(name, said, prefix, path, made)


def _docker(name: str, data: bytes, made: int) -> Sandbox | None:
    found = msgspec.json.decode(data, type=_Docker)
    said = found.config.labels or {}
    if said.get("io.kubernetes.docker.type") != "podsandbox":
        return None
    if not found.network_settings.sandbox_key:
        raise ValueError("it has not been started yet")
    return _sandbox(name, said, "io.kubernetes.pod.", found.network_settings.sandbox_key, made)


def _sandbox(name: str, said: dict[str, str], prefix: str, path: str, made: int) -> Sandbox | None:
    namespace, pod = said.get(f"{prefix}namespace", ""), said.get(f"{prefix}name", "")
    if not namespace or not pod:
        return None
    return Sandbox(name, namespace, pod, said.get(f"{prefix}uid", ""), plain(path), made=made)


LAYOUTS = (
    Layout(Path("/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io"), "config.json", _oci),
    Layout(Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io"), "config.json", _oci),
    Layout(Path("/run/containers/storage/overlay-containers"), "userdata/config.json", _oci),
    Layout(Path("/var/lib/docker/containers"), "config.v2.json", _docker),
)


class Files:
    """The sandboxes of one layout. Each file is read once: a runtime writes it when it makes the container."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.unread: dict[str, int] = {}  # containers whose file was not there or not whole, with the number of tries
        self._read: dict[str, Sandbox | None] = {}

    def __repr__(self) -> str:
        return f"<Files of {self.layout.folder}, {len(self._read)} read>"

    def sandboxes(self) -> Iterable[Sandbox]:
        """Return what is recorded now. Never raises."""
        try:
            names = set(os.listdir(self.layout.folder)[:_MOST])
        except OSError:
            names = set()
        self._read = {name: found for name, found in self._read.items() if name in names}
        self.unread = {name: tries for name, tries in self.unread.items() if name in names and tries < _TRIES}
        for name in names - self._read.keys():
            try:
                self._read[name] = self._parse(name)
                self.unread.pop(name, None)
            except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
                self.unread[name] = self.unread.get(name, 0) + 1
                if self.unread[name] >= _TRIES:
                    self._read[name] = None
        return [found for found in self._read.values() if found is not None]

    def _parse(self, name: str) -> Sandbox | None:
        path = self.layout.folder / name / self.layout.file
        with open(path, "rb") as file:
            data: Any = file.read(_LONGEST)
            made = os.fstat(file.fileno()).st_mtime_ns
        return self.layout.parse(name, data, made)
