"""What the container runtime wrote of the pods of this node: which network namespace is whose.

Two records, both of root only, and both written before the first process of the pod runs. cni.py reads what libcni
caches (containerd, CRI-O and cri-dockerd use it); sandbox_files.py reads what the runtime keeps of each pod sandbox. A
third source is what the runtime tells at the moment (agent/nri), with the pod's labels. They are joined by the sandbox's
id. Where they name two pods for one sandbox, none is believed. A workload can change its addresses, and cannot change
these.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from msgspec import Struct

from agent.kernel import cni, netns, sandbox_files
from agent.kernel.sandbox import Sandbox

log = logging.getLogger("edgemesh.kernel")

Namespace = tuple[int, int]  # a network namespace by device and inode (netns.identity)

_AFTER = 1.0  # seconds after a change of a directory in which files that were made there may still be written
_MOST = 4096  # sandboxes that are remembered as announced
_AGAIN = 5.0  # seconds after which everything is read again though no directory changed


class Placed(Struct, frozen=True):
    """A sandbox, and its network namespace as it is now."""

    sandbox: Sandbox
    which: Namespace


class Sandboxes:
    """The pod sandboxes by id. `read` costs a system call for each directory where nothing changed."""

    def __init__(self, results: Path | None = None, folders: Iterable[sandbox_files.Layout] | None = None) -> None:
        self._cni = cni.Records(results)
        self._files = [sandbox_files.Files(layout) for layout in folders or sandbox_files.LAYOUTS]
        self._stamps: tuple[int, ...] = ()
        self._until = self._due = 0.0
        self._found: Mapping[str, Sandbox] = {}
        self._told: set[str] = set()
        self._believed: dict[str, Placed] = {}
        self._announced: dict[str, Sandbox] = {}

    def __repr__(self) -> str:
        return f"<Sandboxes {len(self._found)}>"

    @property
    def folders(self) -> list[Path]:
        """The directories where a new name may be a new pod."""
        return [self._cni.folder, *(files.layout.folder for files in self._files)]

    def announce(self, sandbox: Sandbox) -> None:
        """Take what the runtime tells of a sandbox at this moment."""
        self._announced[sandbox.id] = sandbox
        while len(self._announced) > _MOST:
            del self._announced[next(iter(self._announced))]
        self._due = 0.0

    def forget(self, sandbox_id: str) -> None:
        """Forget what was announced of a sandbox that is gone."""
        if self._announced.pop(sandbox_id, None) is not None:
            self._due = 0.0

    def read(self, now: float | None = None) -> Mapping[str, Sandbox]:
        """Return what is recorded. Never raises."""
        now = time.monotonic() if now is None else now
        stamps = tuple(_stamp(folder) for folder in self.folders)
        if stamps != self._stamps:
            self._stamps, self._until = stamps, now + _AFTER
        if now < self._until or now >= self._due or any(files.unread for files in self._files):
            self._due = now + _AGAIN
            self._found = self._join()
        return self._found

    def believed(self, now: float | None = None) -> Mapping[str, Placed]:
        """Return the sandboxes whose record can be believed, by id.

        The namespace exists, is not the node's own, and has one of the addresses that CNI gave. A record of before a
        reboot may name one that is another's by now. What was believed once stays so while the namespace is there,
        whatever addresses its processes remove.
        """
        before, self._believed = self._believed, {}
        for key, sandbox in self.read(now).items():
            which = netns.identity(sandbox.netns) if sandbox.netns else None
            if which is None or which == netns.own():
                continue
            known = before.get(key)
            if (known is not None and known.which == which) or _bears_out(sandbox):
                self._believed[key] = Placed(sandbox, which)
        return self._believed

    def _join(self) -> Mapping[str, Sandbox]:
        found: dict[str, Sandbox] = {}
        doubtful = set()
        for sandbox in chain(
            self._cni.sandboxes(), *(files.sandboxes() for files in self._files), self._announced.values()
        ):
            other = found.get(sandbox.id, sandbox)
            if other.name and sandbox.name and other.pod != sandbox.pod:
                doubtful.add(sandbox.id)
                self._doubt(sandbox, other)
            found[sandbox.id] = _joined(other, sandbox)
        return {key: sandbox for key, sandbox in found.items() if key not in doubtful}

    def _doubt(self, sandbox: Sandbox, other: Sandbox) -> None:
        if sandbox.id not in self._told:
            self._told.add(sandbox.id)
            log.warning(
                "sandbox %s is recorded for pod %s and for pod %s: neither is believed",
                sandbox.id,
                other.pod,
                sandbox.pod,
            )


def _joined(one: Sandbox, other: Sandbox) -> Sandbox:
    """Return what two records of one sandbox say together; where both say it, what `one` says."""
    if one is other:
        return one
    named = one if one.name else other
    return Sandbox(
        one.id,
        named.namespace,
        named.name,
        named.uid,
        one.netns or other.netns,
        one.addresses or other.addresses,
        one.networks or other.networks,
        max(one.made, other.made),
        one.labels if one.labels is not None else other.labels,
        one.annotations if one.annotations is not None else other.annotations,
    )


def _bears_out(sandbox: Sandbox) -> bool:
    """Return whether the namespace of a sandbox is one, and has an address that was given to it."""
    if not netns.is_namespace(sandbox.netns):
        return False
    return not sandbox.addresses or bool(sandbox.addresses & netns.inspect(sandbox.netns)[1])


def _stamp(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0
