"""What is installed: STATE/releases has one directory for each release, and `current` is a link to one of them.

Every step leaves the old state or the new one, whenever the power fails. A release is written to a temporary directory,
flushed (fsync) and then renamed; `current` is replaced by one rename. A damaged release is repaired in place, file by
file, since it may be the installed one. What was begun and not finished has a name that begins with a dot; the next
step removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from agent.ota.bundle import File, Manifest
from agent.system import state_files
from agent.system.files import make_directory, replace_file, replace_link, sync_directory

FOLDER = "releases"
PROGRAM = "edgemesh"
_CURRENT, _PREVIOUS = "current", "previous"
_MANIFEST = "manifest.json"
_BLOCK = 1 << 20
_MOST = 4 << 20  # bytes of a manifest, and of the history, at most
_MOST_HISTORY = 200  # lines of the history that are kept


class ReleaseError(Exception):
    """The releases cannot be read or changed; the message says what and why."""


class AlteredError(ReleaseError):
    """The bytes differ from those that were signed."""


class Releases:
    """The directory STATE/releases. Every method raises ReleaseError."""

    def __init__(self, state: Path) -> None:
        self.folder = state / FOLDER

    def __repr__(self) -> str:
        return f"<Releases in {self.folder}>"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock that keeps other processes from changing the releases."""
        with self._told(str(self.folder)):
            make_directory(self.folder, 0o755)
            lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            why = "another update is under way" if isinstance(error, BlockingIOError) else error.strerror
            raise ReleaseError(f"{self.folder}: {why}") from error
        try:
            yield
        finally:
            os.close(lock)

    @property
    def program(self) -> Path:
        """The path of the installed edgemesh, whichever release that is."""
        return self.folder / _CURRENT / PROGRAM

    def current(self) -> str:
        """Return the name of the installed release; "" for none."""
        # An unreadable link must not pass for none: prune would remove the release.
        return self._read(_CURRENT)

    def previous(self) -> str:
        """Return the name of the release before, to go back to; "" for none."""
        return self._read(_PREVIOUS)

    def manifest(self, name: str) -> Manifest | None:
        try:
            return msgspec.json.decode(state_files.read(self._path(name) / _MANIFEST, _MOST), type=Manifest)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def stage(self, source: BinaryIO, file: File, manifest: Manifest) -> str:
        """Put a release beside the installed one, and return its name.

        `source` is positioned at the file. The file is checked byte for byte.
        """
        name = _name(manifest, file)
        at, new = self._path(name), self.folder / f".{name}.new"
        with self._told(name):
            make_directory(self.folder, 0o755)
            self._sweep()
            if self._is_whole(at / PROGRAM, file) and os.access(at / PROGRAM, os.X_OK):
                replace_file(at / _MANIFEST, msgspec.json.encode(manifest), 0o644)
                return name
            free = shutil.disk_usage(self.folder).free
            if free < file.size + (8 << 20):
                raise ReleaseError(
                    f"{self.folder}: {free >> 20} MiB are free, and edgemesh {manifest.version} needs {(file.size >> 20) + 8}"
                )
            new.mkdir(mode=0o755)
            digest = hashlib.sha256()
            with open(new / PROGRAM, "xb") as out:
                left = file.size
                while left and (block := source.read(min(_BLOCK, left))):
                    digest.update(block)
                    out.write(block)
                    left -= len(block)
                if left:
                    raise AlteredError(f"it is cut off: {left} bytes of the file for {file.family} are missing")
                if digest.hexdigest() != file.sha256:
                    raise AlteredError(f"its file for {file.family} is not the one that was signed")
                out.flush()
                os.fchmod(out.fileno(), 0o755)
                os.fsync(out.fileno())
            replace_file(new / _MANIFEST, msgspec.json.encode(manifest), 0o644)
            if at.is_dir():  # it is damaged, since `_is_whole` was false
                for part in (PROGRAM, _MANIFEST):
                    (new / part).rename(at / part)
                sync_directory(at)
                new.rmdir()
            else:
                new.rename(at)
                sync_directory(self.folder)
        return name

    def adopt(self, program: Path, manifest: Manifest) -> str:
        """Stage a release from a file that exists already: the one that `edgemesh setup` was started from."""
        with self._told(str(program)), program.open("rb") as source:
            file = File(
                manifest.files[0].family, program.stat().st_size, hashlib.file_digest(source, "sha256").hexdigest()
            )
            source.seek(0)
            name = _name(manifest, file)
            if self.manifest(name) is not None and self._is_whole(self._path(name) / PROGRAM, file):
                return name  # keep its bundle's manifest, if it came in a bundle
            return self.stage(source, file, msgspec.structs.replace(manifest, files=(file,)))

    def command(self, name: str) -> list[str]:
        """Return the command line of a release, after checking its bytes again."""
        manifest = self.manifest(name) if name else None
        path = self._path(name) / PROGRAM
        if manifest is None or not any(self._is_whole(path, file) for file in manifest.files):
            raise ReleaseError(f"there is no release {name!r} here, or it is damaged")
        return [str(path)]

    def switch(self, name: str) -> None:
        """Make a release the installed one. The one before stays, to go back to."""
        before = self.current()
        if name == before:
            return
        with self._told(name):
            if before:
                self._link(_PREVIOUS, before)
            self._link(_CURRENT, name)

    def restore(self, current: str, previous: str) -> None:
        """Set both links as they were; "" = there was none."""
        with self._told(current or "no release"):
            for link, name in ((_CURRENT, current), (_PREVIOUS, previous)):
                if name == self._read(link):
                    continue
                if name:
                    self._link(link, name)
                else:
                    (self.folder / link).unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove all releases but the installed one and the one before."""
        with self._told("old releases"):
            self._sweep()
            keep = {self.current(), self.previous()}
            for path in self.folder.iterdir():
                if path.is_dir() and not path.is_symlink() and path.name not in keep:
                    shutil.rmtree(path)

    # history

    def record(self, what: str, version: str, outcome: str) -> None:
        """Append a line to the history."""
        line = {"time": int(time.time()), "what": what, "version": version, "outcome": outcome}
        path = self.folder / "history"
        with self._told(str(path)):
            make_directory(self.folder, 0o755)
            lines = [*self._lines(), json.dumps(line)][-_MOST_HISTORY:]
            replace_file(path, "".join(f"{text}\n" for text in lines).encode(), 0o644)

    def history(self) -> list[dict[str, Any]]:
        """Return the history, oldest first, without lines that make no sense."""
        found = []
        for line in self._lines():
            with contextlib.suppress(ValueError, RecursionError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def _lines(self) -> list[str]:
        """Return the lines of the history; none where it cannot be read, since no decision depends on it."""
        try:
            return state_files.read(self.folder / "history", _MOST).decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    # files

    def _path(self, name: str) -> Path:
        if not name or "/" in name or name.startswith("."):
            raise ReleaseError(f"{name!r} is no name of a release")
        return self.folder / name

    def _read(self, link: str) -> str:
        with self._told(link), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.readlink(self.folder / link)
        return ""

    def _link(self, link: str, name: str) -> None:
        replace_link(self.folder / link, name)

    def _sweep(self) -> None:
        for path in self.folder.glob(".*.new"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    @staticmethod
    def _is_whole(path: Path, file: File) -> bool:
        try:
            with path.open("rb") as source:
                return (
                    os.fstat(source.fileno()).st_size == file.size
                    and hashlib.file_digest(source, "sha256").hexdigest() == file.sha256
                )
        except OSError:
            return False

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ReleaseError(f"{error.filename or what}: {error.strerror}") from error


def _name(manifest: Manifest, file: File) -> str:
    return f"{manifest.version}-{file.sha256[:12]}"
