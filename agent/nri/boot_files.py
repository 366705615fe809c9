"""What the runtime starts at boot, and what that knows: two files below /opt/nri, written by the daemon.

The program is /opt/nri/plugins/05-edgemesh. containerd starts every executable there, and ends for good when the name of
one is not NN-NAME. So a temporary file is never made in that folder: the new program is written beside it and renamed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.system import program, state_files
from agent.system.files import make_directory, replace_file, sync_directory

FOLDER = Path("/opt/nri")
INDEX_NAME = "05-edgemesh"
_NEW, _KNOWN = "edgemesh.new", "edgemesh.json"
_MOST = 16 << 20  # bytes of what is known; a thousand namespaces take about a hundred kilobytes


class Known(Struct):
    """What the program knows of the mesh. `namespaces`: labels and annotations of each that say what is of the mesh."""

    version: int = 1
    ranges: tuple[str, ...] = ()
    namespaces: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    server: str = ""  # HOST:PORT of the API server, which is asked with the token of our own pod; "": there is none
    kubeconfig: tuple[str, ...] = ()  # the files with which it is asked where the daemon is no pod
    context: str = ""  # of these


class BootFiles:
    """The two files. Everything blocks; what raises raises OSError."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self.program = folder / "plugins" / INDEX_NAME
        self._known = folder / _KNOWN

    def install(self) -> bool:
        """Put the program there, where it is not there in this version. Return whether it was written.

        The runtime takes it up at its next start.
        """
        make_directory(self.program.parent, 0o755)
        if self._is_current():
            return False
        new = self._folder / _NEW
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        try:
            if program.file is not None:
                shutil.copyfile(program.file, new)
            else:
                new.write_text(_script())
            new.chmod(0o755)
            descriptor = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            new.rename(self.program)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        sync_directory(self.program.parent)
        return True

    def _is_current(self) -> bool:
        try:
            if not os.access(self.program, os.X_OK):
                return False
            if program.file is None:
                return self.program.read_text() == _script()
            return _same(program.file, self.program)
        except (OSError, ValueError):
            return False

    def save(self, known: Known) -> None:
        """Write what the program is to know, where that has changed."""
        data = state_files.seal(msgspec.json.encode(known, order="deterministic"))
        with contextlib.suppress(OSError):
            if state_files.read(self._known, _MOST) == data:
                return
        make_directory(self._folder, 0o755)
        replace_file(self._known, data, 0o600)

    def load(self) -> Known:
        """Return what was written; nothing when it cannot be read."""
        try:
            return msgspec.json.decode(state_files.unseal(state_files.read(self._known, _MOST)), type=Known)
        except state_files.UNREADABLE:
            return Known()

    def remove(self) -> bool:
        """Remove both. Return whether the program was there."""
        there = os.path.lexists(self.program)
        for path in (self.program, self._known, self._folder / _NEW):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return there


def _script() -> str:
    """Return a program for an edgemesh that is no single file. Its environment has no PATH."""
    sources = shlex.quote(str(Path(__file__).resolve().parents[2]))
    return f"#!/bin/sh\ncd {sources} && exec {shlex.quote(sys.executable)} -m agent\n"


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with open(one, "rb") as left, open(other, "rb") as right:
        while True:
            part = left.read(1 << 20)
            if part != right.read(1 << 20):
                return False
            if not part:
                return True


def marks(labels: Mapping[str, str], annotations: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return those labels and annotations that say what is of the mesh."""
    return _ours(labels), _ours(annotations)


def _ours(found: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value for key, value in found.items() if key.partition("/")[0] in ("edgemesh.io", "openservicemesh.io")
    }
