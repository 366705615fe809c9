"""The authority's folder on disk: one lock, files that are whole at every moment, and nobody else's to read.

Every change holds the lock (flock(2)), the daemon's as well as a command's. A file is replaced by renaming a new one over it that
is already on the disk, so whenever the power fails one whole version is there. Modes are set, not left to the umask.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("edgemesh.authority")

MAX_BYTES = 64 * 1024 * 1024  # of one file
_PATIENCE = 5.0  # seconds to wait for the lock: its holders need milliseconds, and a slow card a second
_LOCK = "lock"

Stamp = tuple[int, int, int]  # inode, time of change, size


class FolderError(Exception):
    """The authority's folder cannot be used; the message says why and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Folder:
    """One folder. Names are paths inside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<Folder {self.path}>"

    def make(self) -> None:
        """Make it, or make it ours alone. Raises FolderError."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(self.path)
            if self.path.stat().st_mode & 0o077:
                log.warning("%s could be read by others; it is ours alone now", self.path)
                self.path.chmod(0o700)
        except OSError as error:
            raise self._error("cannot be made", self.path, error) from error

    def exists(self) -> bool:
        """Raises FolderError when that cannot be known."""
        try:
            return self.path.is_dir()
        except OSError as error:
            raise self._error("cannot be looked at", self.path, error) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes anything meanwhile, another thread of ours neither. Not to be nested. Raises FolderError."""
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
            os.close(descriptor)  # lets go of the lock

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
        """Changes whenever the file does; None when there is none."""
        try:
            found = (self.path / name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self, name: str) -> bytes | None:
        """None when there is no such file. Raises FolderError."""
        path = self.path / name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error("cannot be read", path, error) from error
        if len(data) > MAX_BYTES:
            raise FolderError(f"{path} is larger than {MAX_BYTES // 1024 // 1024} MiB", "it was not written by edgemesh")
        return data

    def replace(self, name: str, data: bytes) -> None:
        """Put `data` there, on the disk, readable by us alone. Raises FolderError."""
        path = self.path / name
        new = path.with_name(f"{path.name}.new")
        try:
            _make(path.parent)
            with contextlib.suppress(FileNotFoundError):
                new.unlink()  # what a stop in the middle left, or a link that somebody laid
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            new.rename(path)
            _flush(path.parent)
        except OSError as error:
            raise self._error("cannot be written", path, error) from error

    def append(self, name: str, data: bytes) -> None:
        """Put `data` at the end, on the disk. When it fails a part of it may be there. Raises FolderError."""
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
        """Raises FolderError."""
        old, new = self.path / name, self.path / to
        try:
            _make(new.parent)
            old.rename(new)
            _flush(new.parent)
            _flush(old.parent)
        except OSError as error:
            raise self._error("cannot be moved", old, error) from error

    def remove(self, name: str) -> None:
        """Raises FolderError."""
        path = self.path / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error("cannot be removed", path, error) from error

    def _error(self, what: str, path: Path, error: OSError) -> FolderError:
        hint = "run as root, or give --state a directory of your own" if isinstance(error, PermissionError) else ""
        return FolderError(f"{path} {what}: {error.strerror}", hint)


def _make(folder: Path) -> None:
    """Ours alone; a umask may have taken away even our own rights."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    folder.chmod(0o700)


def _flush(folder: Path) -> None:
    """Put what the folder holds, a rename above all, on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
