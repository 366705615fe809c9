"""The resolvers whose answers count where calls leave the mesh by name: those that somebody else than the caller named.

A workload chooses whom it asks, and may ask somebody who says what it likes.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from policy.model import Workload
from policy.snapshot import Snapshot

_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_NAMESPACES = Path("/etc/netns")  # ip-netns(8): NAME/resolv.conf is for the network namespace NAME
_MOST_BYTES, _MOST_FILES = 65536, 1024
_AGAIN = 10.0  # seconds until the files are read again: a DHCP client rewrites them
_CLUSTER = "kube-system/kube-dns"  # the Service of the cluster's DNS; k3s, kubeadm and CoreDNS' chart name it so


class TrustedResolvers:
    """Called with a workload, return the addresses of the resolvers that count for it."""

    def __init__(
        self,
        named: Collection[str],
        snapshot: Callable[[], Snapshot | None],
        files: Iterable[Path] = _FILES,
        namespaces: Path = _NAMESPACES,
    ) -> None:
        """`named`: by the NodeConfig, in the place of all others; empty: the others count."""
        self._named = frozenset(map(_canonical, named))
        self._snapshot = snapshot
        self._files = tuple(files)
        self._namespaces = namespaces
        self._read: frozenset[str] = frozenset()
        self._until = float("-inf")

    def __repr__(self) -> str:
        return f"<TrustedResolvers {', '.join(sorted(self._named or self._read)) or 'none'}>"

    def __call__(self, workload: Workload) -> Collection[str]:
        if self._named:
            return self._named
        now = time.monotonic()
        if now >= self._until:
            self._until = now + _AGAIN
            self._read = frozenset(self._found())
        snapshot = self._snapshot()
        service = None if snapshot is None else snapshot.service(_CLUSTER)
        found = self._read.union(() if service is None else service.addresses)
        # In a network namespace of its own a loopback address is the workload itself.
        return found if workload.unit else frozenset(one for one in found if not _is_loopback(one))

    def _found(self) -> Iterator[str]:
        try:
            names = sorted(os.listdir(self._namespaces))[:_MOST_FILES]
        except OSError:
            names = []
        # One by one: what is there may be taken away meanwhile
        for path in (*self._files, *(self._namespaces / name / "resolv.conf" for name in names)):
            try:
                with path.open("rb") as file:
                    text = file.read(_MOST_BYTES).decode("utf-8", "replace")
            except OSError:
                continue
            for line in text.splitlines():
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver" and (address := _canonical(words[1])):
                    yield address


def _canonical(text: str) -> str:
    """Return an address as the kernel tells it; "" if it is none."""
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return ""


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
