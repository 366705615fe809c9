"""The addresses that the container runtime gave each pod's namespace, from the results that libcni caches (`cacheAdd`).

There is one file for each attachment below /var/lib/cni/results. It holds the namespace's path, the addresses that the
plugins assigned, and the pod's namespace, name and uid, which the runtime passed to the plugins. Only root can write
there, so this is a record that the pod itself cannot change. Files from before a reboot may be left over; they name
namespaces that do not exist.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct, field

from agent.kernel.sandbox import Sandbox, plain

FOLDER = Path("/var/lib/cni/results")
_MOST = 4096  # files that are read; a node usually has 110 pods
_LONGEST = 1 << 20  # bytes that are read of one file


class _Ip(Struct, frozen=True):
    address: str = ""


class _Result(Struct, frozen=True):
    ips: tuple[_Ip, ...] = ()


class _Told(Struct, frozen=True):
    """What the runtime passes to plugins that ask for it; containerd 2 does, whether one asks or not."""

    annotations: dict[str, str] | None = field(name="io.kubernetes.cri.pod-annotations", default=None)


class _Cached(Struct, frozen=True, rename="camel"):
    netns: str = ""
    result: _Result = _Result()
    container_id: str = ""
    cni_args: tuple[tuple[str, str], ...] | None = ()
    capability_args: _Told | None = None


class Records:
    """The cached results. A file that has not changed is read once."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or FOLDER
        self._read: dict[str, tuple[tuple[int, int, int], Sandbox | None]] = {}

    def __repr__(self) -> str:
        return f"<Records of {self.folder}, {len(self._read)} files>"

    def sandboxes(self) -> Iterable[Sandbox]:
        """Return what was written of each sandbox, all of its attachments together. Never raises."""
        before, self._read = self._read, {}
        found: dict[str, Sandbox] = {}
        try:
            with os.scandir(self.folder) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")][:_MOST]
        except OSError:
            return ()
        for entry in listed:
            try:
                status = entry.stat()
                signature = (status.st_ino, status.st_size, status.st_mtime_ns)
                seen = before.get(entry.path)
                if seen is None or seen[0] != signature:
                    seen = (signature, _parse(entry.path, status.st_mtime_ns))
            except OSError:
                continue  # it was removed meanwhile
            self._read[entry.path] = seen
            sandbox = seen[1]
            if sandbox is None:
                continue
            other = found.get(sandbox.id)
            if other is not None and other.netns == sandbox.netns:
                addresses, networks = other.addresses | sandbox.addresses, other.networks | sandbox.networks
                sandbox = msgspec.structs.replace(sandbox, addresses=addresses, networks=networks)
            found[sandbox.id] = sandbox
        return found.values()


def _parse(path: str, made: int) -> Sandbox | None:
    with open(path, "rb") as file:
        data = file.read(_LONGEST)
    try:
        cached = msgspec.json.decode(data, type=_Cached)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not cached.netns.startswith("/"):
        return None
    said = dict(cached.cni_args or ())
    addresses, networks = _addresses(cached)
    return Sandbox(
        cached.container_id or path,
        said.get("K8S_POD_NAMESPACE", ""),
        said.get("K8S_POD_NAME", ""),
        said.get("K8S_POD_UID", ""),
        plain(cached.netns),
        addresses,
        networks,
        made,
        annotations=cached.capability_args.annotations if cached.capability_args else None,
    )


def _addresses(cached: _Cached) -> tuple[frozenset[str], frozenset[str]]:
    addresses, networks = set(), set()
    for ip in cached.result.ips:
        try:
            interface = ipaddress.ip_interface(ip.address)
        except ValueError:
            continue
        if interface.is_loopback or interface.is_link_local:
            continue  # every namespace has these
        addresses.add(str(interface.ip))
        networks.add(str(interface.network))
    return frozenset(addresses), frozenset(networks)
