"""What outlives a restart, in the state directory.

It is: the last good objects, the addresses that services were assigned, and the places where workloads were captured. A
file is written after a change of its content and never otherwise, since flash wears out. Files are replaced whole
(agent/system/files.py). If the directory cannot be written, or holds unusable content, only what it would have kept is
lost: the node runs on with a Problem. Only the daemon that leads the node writes, so that one that is to take over and
fails leaves nothing behind.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from agent.sources import Mark
from agent.system import state_files
from agent.system.files import make_directory, replace_file
from policy.model import Problem, Where
from policy.resources import RawObject

LAST_GOOD = "last-good.json"
ADDRESSES = "addresses.json"
PLACES = "places.json"
NAMESPACES = "namespaces.json"
MAX_BYTES = 64 * 1024 * 1024  # bytes of one file; ten thousand objects take about a tenth of it


_PLACES_LOST = "a place that was captured before this start, and that no manifest names now, is not known for one any more: name all of them"


class _Object(Struct, array_like=True):
    file: str
    line: int
    data: dict[str, Any]


class _LastGood(Struct, omit_defaults=True):
    version: int
    objects: list[_Object]
    mark: Mark | None = None


class _Addresses(Struct):
    version: int
    addresses: dict[str, tuple[str, ...]]


class _Met(Struct):
    version: int
    boot: str
    met: dict[str, tuple[str, ...]]  # cookies as text, since keys of a JSON object are text


class _Places(Struct):
    version: int
    places: dict[str, str]


class State:
    """One state directory. Call `load` once, then `save` after every build: it writes only what changed."""

    def __init__(self, path: Path, mine: bool = True) -> None:
        """`mine`: no other daemon leads the node. Otherwise nothing is written before `claim`."""
        self.path = path
        self.mine = mine
        self._writing = threading.Lock()
        self._lost: tuple[Problem, ...] = ()  # problems that no later load repeats: the captured places
        self._last: tuple[Problem, ...] = ()  # problems of the last load or save
        self._written: dict[str, str] = {}  # digest by file name
        self.mark = Mark()  # of the objects that were loaded, or saved last
        self._loaded: tuple[list[RawObject], dict[str, tuple[str, ...]]] | None = None
        self._encoder = msgspec.json.Encoder(order="deterministic")

    def __repr__(self) -> str:
        return f"<State {self.path}{', failing' if self.problems else ''}>"

    def cede(self) -> None:
        """Write nothing any more: another daemon is to lead. `rest` waits for what is being written."""
        self.mine = False

    def rest(self) -> None:
        """Wait, blocking, until nothing is being written."""
        with self._writing:
            pass

    def claim(self) -> None:
        """Write from now on, whatever the file has: another daemon may have written it."""
        self._written.clear()
        self.mine = True

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be read or written.

        It includes losses that last as long as the daemon runs, and the problems of the last load or save.
        """
        return (*self._lost, *self._last)

    def load(self) -> tuple[list[RawObject], dict[str, tuple[str, ...]]]:
        """Return the objects and addresses that were kept.

        A file that cannot be read counts as empty, and is a Problem.

        The files are read once: until something is saved, a second call returns the same.
        """
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> tuple[list[RawObject], dict[str, tuple[str, ...]]]:
        problems: list[Problem] = []
        good = self._read(LAST_GOOD, _LastGood(1, []), problems)
        kept = self._read(ADDRESSES, _Addresses(1, {}), problems)
        self._last = tuple(problems)
        self.mark = good.mark or Mark()
        return [_raw(item) for item in good.objects], kept.addresses

    def save(
        self, objects: Iterable[RawObject], addresses: Mapping[str, tuple[str, ...]], mark: Mark | None = None
    ) -> None:
        """Keep these instead. Blocks until they are on the disk; `problems` has what went wrong.

        `mark`: of the objects; None: the one before. A newer one of the same cluster waits until the objects change.
        """
        self._loaded = None
        problems: list[Problem] = []
        good = _LastGood(1, [_Object(raw.where.file, raw.where.line, raw.data) for raw in objects], _said(self.mark))
        if mark is not None and (mark.cluster != self.mark.cluster or not self._is_written(LAST_GOOD, good)):
            self.mark = mark
            good.mark = _said(mark)
        self._write(LAST_GOOD, good, problems)
        self._write(ADDRESSES, _Addresses(1, dict(addresses)), problems)
        self._last = tuple(problems)

    def places(self) -> dict[str, str]:
        """Return the keys of captured workloads, by place. See agent.kernel.remembered."""
        problems: list[Problem] = []
        kept: _Places = self._read(PLACES, _Places(1, {}), problems)
        self._lost = (*self._lost, *(structs.replace(problem, hint=_PLACES_LOST) for problem in problems))
        return kept.places

    def save_places(self, places: Mapping[str, str]) -> tuple[Problem, ...]:
        """Keep these instead, and return what went wrong.

        Blocks until they are on the disk, as `save` does, and may be called while that runs.
        """
        problems: list[Problem] = []
        self._write(PLACES, _Places(1, dict(places)), problems)
        return tuple(problems)

    def met(self, boot: str) -> dict[int, tuple[str, ...]]:
        """Return the first addresses of this boot's network namespaces, by cookie. See agent.kernel.pod_netns."""
        problems: list[Problem] = []
        kept: _Met = self._read(NAMESPACES, _Met(1, "", {}), problems)
        self._lost = (*self._lost, *problems)
        if not boot or kept.boot != boot:
            return {}
        return {int(cookie): first for cookie, first in kept.met.items() if cookie.isascii() and cookie.isdigit()}

    def save_met(self, boot: str, met: Mapping[int, Iterable[str]]) -> tuple[Problem, ...]:
        """Keep these instead; otherwise as `save_places`."""
        problems: list[Problem] = []
        self._write(
            NAMESPACES, _Met(1, boot, {str(cookie): tuple(sorted(first)) for cookie, first in met.items()}), problems
        )
        return tuple(problems)

    def _read(self, name: str, default: Any, problems: list[Problem]) -> Any:
        path = self.path / name
        try:
            data = state_files.read(path, MAX_BYTES)
            value = msgspec.json.decode(state_files.unseal(data), type=type(default))
        except FileNotFoundError:
            return default
        except state_files.UNREADABLE as error:
            hint = "it is written anew with the next change"
            problems.append(
                Problem(
                    "warning", Where(str(path)), "", f"cannot be read, and is left out: {state_files.why(error)}", hint
                )
            )
            return default
        self._written[name] = state_files.digest_of(data)
        return value

    def _is_written(self, name: str, value: Struct) -> bool:
        return self._written.get(name) == state_files.digest_of(state_files.seal(self._encoder.encode(value)))

    def _write(self, name: str, value: Struct, problems: list[Problem]) -> None:
        data = state_files.seal(self._encoder.encode(value))
        with self._writing:
            if self.mine:
                self._put(name, data, problems)

    def _put(self, name: str, data: bytes, problems: list[Problem]) -> None:
        digest = state_files.digest_of(data)
        if self._written.get(name) == digest:
            return
        path = self.path / name
        if len(data) > MAX_BYTES:
            message = f"would be larger than {MAX_BYTES // 1024 // 1024} MiB and is not written"
            problems.append(
                Problem("warning", Where(str(path)), "", message, "a restart will know only what the files then say")
            )
            return
        try:
            make_directory(self.path, 0o700)
            replace_file(path, data, 0o600)
        except OSError as error:
            self._written.pop(name, None)
            message = f"cannot be written: {error.strerror}"
            hint = "edgemesh runs on, but a restart will not remember; make the directory writable or set stateDir"
            problems.append(Problem("warning", Where(str(path)), "", message, hint))
            return
        self._written[name] = digest


def _said(mark: Mark) -> Mark | None:
    return mark if mark != Mark() else None


def _raw(item: _Object) -> RawObject:
    where = Where(item.file, item.line)
    return RawObject(item.data, where, _OneLine(item.line))


class _OneLine(dict[str, int]):
    """The lines of an object of which only the first line is known."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self._line = line

    def __missing__(self, path: str) -> int:
        return self._line
