"""What outlives a restart, in the state directory: the last good objects, and the addresses that services were given.

Written after every change of it and never otherwise (flash wears out), first to another name, flushed, then renamed over the old
file: whenever the power fails, one whole version is there. A state directory that cannot be written, or holds nonsense, costs what
it would have kept and nothing else: the node runs on with a Problem.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from policy.model import Problem, Where
from policy.resources import RawObject

LAST_GOOD = "last-good.json"
ADDRESSES = "addresses.json"
MAX_BYTES = 64 * 1024 * 1024  # of one file: ten thousand objects have about a tenth of it


class _Object(Struct, array_like=True):
    file: str
    line: int
    data: dict[str, Any]


class _LastGood(Struct):
    version: int
    objects: list[_Object]


class _Addresses(Struct):
    version: int
    addresses: dict[str, tuple[str, ...]]


class State:
    """One state directory. `load` once; then `save` as often as anything was built: it writes only what changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: tuple[Problem, ...] = ()  # of the last load or save
        self._written: dict[str, bytes] = {}  # digest by file name
        self._encoder = msgspec.json.Encoder(order="deterministic")

    def __repr__(self) -> str:
        return f"<State {self.path}{', failing' if self.problems else ''}>"

    def load(self) -> tuple[list[RawObject], dict[str, tuple[str, ...]]]:
        """The objects and addresses that were kept. Never raises; what cannot be read is empty, and a Problem."""
        problems: list[Problem] = []
        good = self._read(LAST_GOOD, _LastGood(1, []), problems)
        kept = self._read(ADDRESSES, _Addresses(1, {}), problems)
        self.problems = tuple(problems)
        return [_raw(item) for item in good.objects], kept.addresses

    def save(self, objects: Iterable[RawObject], addresses: Mapping[str, tuple[str, ...]]) -> None:
        """Keep these instead. Blocks until they are on the disk; what goes wrong is in `problems`."""
        problems: list[Problem] = []
        good = _LastGood(1, [_Object(raw.where.file, raw.where.line, raw.data) for raw in objects])
        self._write(LAST_GOOD, good, problems)
        self._write(ADDRESSES, _Addresses(1, dict(addresses)), problems)
        self.problems = tuple(problems)

    def _read(self, name: str, default: Any, problems: list[Problem]) -> Any:
        path = self.path / name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            value = msgspec.json.decode(data[: MAX_BYTES + 1], type=type(default))
        except FileNotFoundError:
            return default
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            hint = "it is written anew with the next change"
            problems.append(Problem("warning", Where(str(path)), "", f"cannot be read, and is left out: {error}", hint))
            return default
        self._written[name] = blake2b(data, digest_size=16).digest()
        return value

    def _write(self, name: str, value: Struct, problems: list[Problem]) -> None:
        data = self._encoder.encode(value)
        digest = blake2b(data, digest_size=16).digest()
        if self._written.get(name) == digest:
            return
        path = self.path / name
        if len(data) > MAX_BYTES:
            message = f"would be larger than {MAX_BYTES // 1024 // 1024} MiB and is not written"
            problems.append(Problem("warning", Where(str(path)), "", message, "a restart will know only what the files then say"))
            return
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(path, data)
        except OSError as error:
            self._written.pop(name, None)
            message = f"cannot be written: {error.strerror}"
            hint = "edgemesh runs on, but a restart will not remember; make the directory writable or set stateDir"
            problems.append(Problem("warning", Where(str(path)), "", message, hint))
            return
        self._written[name] = digest


def _replace(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that at every moment the old or the new content is there whole, on the disk too."""
    new = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # what a stop in the middle left, or a link that somebody laid
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def _raw(item: _Object) -> RawObject:
    where = Where(item.file, item.line)
    return RawObject(item.data, where, _OneLine(item.line))


class _OneLine(dict[str, int]):
    """Lines of an object of which only its own is known."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self._line = line

    def __missing__(self, path: str) -> int:
        return self._line
