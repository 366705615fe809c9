"""Certificates of listeners from a folder, on boxes without Kubernetes: FOLDER/NAMESPACE/NAME/tls.crt and tls.key.

So a Secret that a Gateway names is a folder of that name, as Kubernetes mounts one, and a ConfigMap with roots is one
with ca.crt. A key that others may read is not used. Files are looked at every few seconds; a half-written pair does not
fit together and is not taken, so the one before stays until the pair is whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import trio

from agent.gateway.content import CERTIFICATE, KEY, MOST_BYTES, ROOTS, Followed, Ref
from agent.system import state_files

_NAMES = (CERTIFICATE, KEY, ROOTS)


class Files:
    """Follows folders by name. `every`: seconds between two looks."""

    def __init__(self, folder: Path, every: Callable[[], float]) -> None:
        self._folder = folder
        self._every = every
        self._wanted: frozenset[Ref] = frozenset()
        self._known: dict[Ref, Followed] = {}

    def __repr__(self) -> str:
        return f"<Files {self._folder}, {len(self._wanted)} wanted>"

    def want(self, refs: frozenset[Ref]) -> None:
        self._wanted = refs
        self._known = {ref: self._known[ref] if ref in self._known else self._read(ref) for ref in refs}

    def known(self, ref: Ref) -> Followed:
        return self._known.get(ref, Followed())

    async def run(self, told: Callable[[], None]) -> None:
        while True:
            await trio.sleep(self._every())
            found = {ref: self._read(ref) for ref in self._wanted}
            if found != self._known:
                self._known = found
                told()

    def _read(self, ref: Ref) -> Followed:
        folder = self._folder / ref.namespace / ref.name
        if not {ref.namespace, ref.name}.isdisjoint(("", ".", "..")) or "/" in ref.namespace + ref.name:
            return Followed(None, "its name is no name of a folder")
        content = dict[str, bytes]()
        for name in _NAMES:
            path = folder / name
            try:
                with state_files.opened(path) as file:
                    mode = os.fstat(file.fileno()).st_mode
                    if name == KEY and stat.S_IMODE(mode) & 0o077:
                        return Followed(None, f"{path} can be read by others", f"chmod 600 {path}")
                    data = state_files.read_from(file, MOST_BYTES + 1)
            except FileNotFoundError:
                continue
            except OSError as error:
                return Followed(None, f"{path} cannot be read: {error.strerror or error}")
            if len(data) > MOST_BYTES:
                return Followed(None, f"{path} has more than {MOST_BYTES >> 20} MiB")
            content[name] = data
        if not content:
            return Followed(None, f"{folder} holds no {CERTIFICATE} and {KEY}", "put the certificate and its key there")
        return Followed(content, "")
