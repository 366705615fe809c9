"""The authority's folder in memory: what the Secret holds, as the files that AuthorityState reads and writes.

The journal is not among them. It would outgrow a Secret, and it decides no request here: a node proves itself by its
pod's token, never by an older certificate. The holder of the lease keeps it in its memory; a new holder begins with a
gap, so that a root is retired only after all certificates that may be missing in it have ended.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from agent.identity.authority import journal
from agent.identity.folder import Folder, FolderError, Stamp


class MemoryFolder(Folder):
    """A folder without a disk.

    `files`: its content by path; a Secret's keys have a dot where these have a slash. `gap`: until when certificates
    may have been issued that its journal does not know.
    """

    def __init__(self, name: str, files: Mapping[str, bytes] | None = None, gap: float = 0.0) -> None:
        super().__init__(Path(name))
        self._lock = threading.Lock()
        self._files: dict[str, bytes] = {}
        self._numbers: dict[str, int] = {}
        self._number = 0
        self._gap = gap
        self._journal = False  # whether the journal of this process has begun
        self.load(files or {})

    def __repr__(self) -> str:
        return f"<MemoryFolder {self.path} of {len(self._files)} files>"

    def load(self, files: Mapping[str, bytes]) -> None:
        """Take another content. What did not change keeps its stamp."""
        for name in {*self._files, *files}:
            if self._files.get(name) != files.get(name):
                self._set(name, files.get(name))

    def begin(self) -> None:
        """Note that the authority was made here and now: nothing that was issued is missing in its journal."""
        self._journal = True

    def files(self) -> dict[str, bytes]:
        return dict(self._files)

    def make(self) -> None:
        """Nothing is to be made."""

    def exists(self) -> bool:
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of this process. Across processes the Secret's resourceVersion takes its place."""
        with self._lock:
            yield

    def stamp(self, name: str) -> Stamp | None:
        if name == journal.FILE:
            return (0, 0, 0)  # never read again: `Journal` itself is what there is
        return (0, self._numbers[name], 0) if name in self._files else None

    def read(self, name: str) -> bytes | None:
        if name == journal.FILE:
            if self._journal:
                return b""
            return msgspec.json.encode(journal.Gap(self._gap)) + b"\n" if self._gap else None
        return self._files.get(name)

    def replace(self, name: str, data: bytes) -> None:
        if name == journal.FILE:
            self._journal = True
        elif name != journal.DAMAGED:
            self._set(name, data)

    def append(self, name: str, data: bytes) -> None:
        if name != journal.FILE:
            raise FolderError(f"{self.path}/{name} is no journal")

    def move(self, name: str, to: str) -> None:
        if name not in self._files:
            raise FolderError(f"{self.path}/{name} is not there")
        self._set(to, self._files[name])
        self._set(name, None)

    def remove(self, name: str) -> None:
        self._set(name, None)

    def _set(self, name: str, data: bytes | None) -> None:
        if data is None:
            self._files.pop(name, None)
            return
        self._number += 1
        self._files[name], self._numbers[name] = data, self._number


def key_of(path: str) -> str:
    """Return the Secret's key of a file: keys have no slash."""
    return path.replace("/", ".", 1)


def path_of(key: str) -> str:
    """Return the file of a Secret's key."""
    from agent.identity.authority.state import ISSUERS, RETIRED

    head, _, rest = key.partition(".")
    return f"{head}/{rest}" if head in (ISSUERS, RETIRED) and rest else key
