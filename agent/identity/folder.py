"""The authority's folder on disk: one lock, whole-file writes, and access for its owner alone.

Every change holds the lock (flock(2)), by the daemon as well as by a command. Files are replaced whole
(agent/system/files.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from agent.system import state_files
from agent.system.files import make_directory, replace_file, sync_directory

log = logging.getLogger("edgemesh.authority")

_PATIENCE = 5.0  # seconds to wait for the lock: its holders need milliseconds, or a second on a slow card
_LOCK = "lock"

Stamp = tuple[int, int, int]  # inode, time of change, size


class FolderError(Exception):
    """The authority's folder cannot be used; the message says why and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Folder:
    """A folder. Names are paths inside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<Folder {self.path}>"

    def make(self) -> None:
        """Make the folder, or set its access to its owner alone. Raise FolderError."""
        try:
            make_directory(self.path, 0o700)
            if self.path.stat().st_mode & 0o077:
                log.warning("%s could be read by others; it is ours alone now", self.path)
                self.path.chmod(0o700)
        except OSError as error:
            raise self._error("cannot be made", self.path, error) from error

    def exists(self) -> bool:
        """Return whether there is such a folder. Raise FolderError when that cannot be found out."""
        try:
            return self.path.is_dir()
        except OSError as error:
            raise self._error("cannot be looked at", self.path, error) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock: no other process or thread changes anything meanwhile. Not to be nested. Raise FolderError."""
        path = self.path / _LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._error("cannot be opened", path, error) from error
        try:
            os.fchmod(descriptor, 0o600)
            self._take(descriptor, path)
            yield
        finally:
            os.close(descriptor)  # releases the lock

    def _take(self, descriptor: int, path: Path) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    message = f"{path} has been held by another process for {_PATIENCE:.0f} s"
                    raise FolderError(message, f"fuser {path} says which") from None
            time.sleep(0.01)

    def stamp(self, name: str) -> Stamp | None:
        """Return a value that changes whenever the file does; None when there is no file."""
        try:
            found = (self.path / name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self, name: str) -> bytes | None:
        """Return the content; None when there is no such file. Raise FolderError."""
        path = self.path / name
        try:
            return state_files.read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error("cannot be read", path, error) from error

    def replace(self, name: str, data: bytes) -> None:
        """Replace the file with `data`, on the disk, readable by us alone. Raise FolderError."""
        path = self.path / name
        try:
            make_directory(path.parent, 0o700)
            replace_file(path, data, 0o600)
            path.with_name(f"{path.name}.new").unlink(
                missing_ok=True
            )  # an earlier version that was killed while it wrote left a key there
        except OSError as error:
            raise self._error("cannot be written", path, error) from error

    def append(self, name: str, data: bytes) -> None:
        """Append `data`, on the disk. When it fails, a part of it may be there. Raise FolderError."""
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            raise self._error("cannot be written", path, error) from error

    def move(self, name: str, to: str) -> None:
        """Move a file. Raise FolderError."""
        old, new = self.path / name, self.path / to
        try:
            make_directory(new.parent, 0o700)
            old.rename(new)
            sync_directory(new.parent)
            sync_directory(old.parent)
        except OSError as error:
            raise self._error("cannot be moved", old, error) from error

    def remove(self, name: str) -> None:
        """Remove a file. Raise FolderError."""
        path = self.path / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error("cannot be removed", path, error) from error

    def _error(self, what: str, path: Path, error: OSError) -> FolderError:
        hint = "run as root, or give --state a directory of your own" if isinstance(error, PermissionError) else ""
        return FolderError(f"{path} {what}: {error.strerror}", hint)
