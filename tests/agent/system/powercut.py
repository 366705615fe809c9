"""Every state that a power cut may leave, of one run of some code that changes files in one folder.

Theory of operation. `record` runs the code once and notes every step that it asks of the operating system. After each step the power
may fail. What is there then follows the rules that journaling file systems share: changes of names and modes last in their order, so a
number of the last ones may be lost, back to the last fsync of a directory (or, for a file's own, of the file); what was written to a
file since its last fsync is cut to any prefix, even if a later rename lasted. A killed process is the case in which nothing is lost.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

Tree = dict[str, tuple[str, int, Any]]  # path inside -> (kind, mode, inode or link's target)


class _Moment(Struct):
    """After one step: `trees[first:last + 1]` are those that may have lasted."""

    what: str
    first: int
    last: int
    contents: dict[int, bytes]
    unsynced: frozenset[int]


class State(Struct, frozen=True):
    """What is there when the power is back."""

    after: str  # the last step before the cut
    entries: tuple[tuple[str, str, int, Any], ...]  # path, kind, mode, a file's bytes or a link's target

    def write(self, folder: Path) -> None:
        for path, kind, mode, what in self.entries:
            at = folder / path
            if kind == "directory":
                at.mkdir()
                at.chmod(mode)
            elif kind == "link":
                at.symlink_to(what)
            else:
                at.write_bytes(what)
                at.chmod(mode)


class Cuts(Struct, frozen=True):
    """`states`: of a cut at any moment. `last`: of those that may be there once the code has returned."""

    states: list[State]
    last: list[State]


class _File:
    """An open file whose writes are steps."""

    def __init__(self, recorder: _Recorder, file: Any) -> None:
        self._recorder, self._file = recorder, file

    def write(self, data: bytes) -> int:
        written: int = self._file.write(data)
        self._file.flush()
        inode = os.fstat(self._file.fileno()).st_ino
        self._recorder.wrote(inode, self._recorder.contents.get(inode, b"") + data)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Recorder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trees: list[Tree] = []
        self.touched: list[set[object]] = []  # by tree: the directories or the inode that the step concerned
        self.contents: dict[int, bytes] = {}
        self.unsynced: set[int] = set()
        self.lasting = 0
        self.moments: list[_Moment] = []
        self.open_files: list[int] = []  # so that no inode is used twice
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                self.open_files.append(os.open(path, os.O_RDONLY))
                self.contents[path.stat().st_ino] = path.read_bytes()
        self.step("the beginning", set())

    def created(self, descriptor: int, path: object, folder: str) -> None:
        self.open_files.append(os.dup(descriptor))
        self.contents[os.fstat(descriptor).st_ino] = b""
        self.step(f"create {path}", {folder})

    def step(self, what: str, touched: set[object]) -> None:
        """Names or modes have changed."""
        tree: Tree = {}
        for path in sorted(self.folder.rglob("*")):
            found = path.lstat()
            mode = stat.S_IMODE(found.st_mode)
            name = str(path.relative_to(self.folder))
            if stat.S_ISLNK(found.st_mode):
                tree[name] = ("link", 0, os.readlink(path))
            elif stat.S_ISDIR(found.st_mode):
                tree[name] = ("directory", mode, None)
            else:
                tree[name] = ("file", mode, found.st_ino)
        self.trees.append(tree)
        self.touched.append(touched)
        self._moment(what)

    def wrote(self, inode: int, data: bytes) -> None:
        self.contents[inode] = data
        self.unsynced.add(inode)
        self._moment("write")

    def synced(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self.unsynced.discard(found.st_ino)
        whose: object = os.readlink(f"/proc/self/fd/{descriptor}") if stat.S_ISDIR(found.st_mode) else found.st_ino
        self.lasting = max([self.lasting, *(number for number, touched in enumerate(self.touched) if whose in touched)])
        self._moment("fsync")

    def _moment(self, what: str) -> None:
        self.moments.append(
            _Moment(what, self.lasting, len(self.trees) - 1, dict(self.contents), frozenset(self.unsynced))
        )

    def states(self, moments: Sequence[_Moment]) -> Iterator[State]:
        seen = set()
        for moment in moments:
            for tree in self.trees[moment.first : moment.last + 1]:
                for cut in (lambda data: data, lambda data: data[: len(data) // 2], lambda data: b""):
                    entries = []
                    for path, (kind, mode, what) in tree.items():
                        data = moment.contents.get(what, b"") if kind == "file" else what
                        entries.append(
                            (path, kind, mode, cut(data) if kind == "file" and what in moment.unsynced else data)
                        )
                    if tuple(entries) not in seen:
                        seen.add(tuple(entries))
                        yield State(moment.what, tuple(entries))


def record(monkeypatch: pytest.MonkeyPatch, folder: Path, modules: tuple[Any, ...], code: Callable[[], object]) -> Cuts:
    """`modules`: those of the code, whose open() is looked at too."""
    recorder = _Recorder(folder)

    def place(path: Any, dir_fd: int | None) -> str:
        """The directory that holds a name."""
        if dir_fd is not None:
            return os.readlink(f"/proc/self/fd/{dir_fd}")
        return os.path.dirname(os.path.abspath(path))

    def inside(*places: str) -> bool:
        return any(f"{at}/".startswith(f"{folder}/") for at in places)

    def names(patch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(os, name)

        def changed(*words: Any, **more: Any) -> Any:
            done = real(*words, **more)
            paths = words[:2] if name == "rename" else words[1:2] if name == "symlink" else words[:1]
            places = {place(path, more.get("dir_fd")) for path in paths}
            if inside(*places):
                recorder.step(f"{name} {' '.join(map(str, paths))}", set(places))
            return done

        patch.setattr(os, name, changed)

    real_open, real_fsync, real_fchmod = os.open, os.fsync, os.fchmod

    def opened(path: Any, flags: int, *words: Any, **more: Any) -> int:
        descriptor = real_open(path, flags, *words, **more)
        if flags & os.O_CREAT and inside(at := place(path, more.get("dir_fd"))):
            recorder.created(descriptor, path, at)
        return descriptor

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        recorder.synced(descriptor)

    def fchmod(descriptor: int, mode: int) -> None:
        real_fchmod(descriptor, mode)
        recorder.step("fchmod", {os.fstat(descriptor).st_ino})

    def open_file(path: Any, mode: str = "r", *words: Any, **more: Any) -> Any:
        file = builtins.open(path, mode, *words, **more)  # noqa: SIM115 - for who asked
        if "r" in mode:
            return file
        if not isinstance(path, int):
            assert "x" in mode, "what is there already would be cut before the new is whole"
            recorder.created(file.fileno(), path, place(path, None))
        return _File(recorder, file)

    try:
        with monkeypatch.context() as patch:
            for name in ("rename", "symlink", "unlink", "mkdir", "rmdir"):
                names(patch, name)
            patch.setattr(os, "open", opened)
            patch.setattr(os, "fsync", fsync)
            patch.setattr(os, "fchmod", fchmod)
            for module in modules:
                patch.setattr(module, "open", open_file, raising=False)
            code()
    finally:
        for descriptor in recorder.open_files:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    return Cuts(list(recorder.states(recorder.moments)), list(recorder.states(recorder.moments[-1:])))
