"""Watches a directory of manifests: what changes in it becomes a batch of Changes.

Theory of operation. inotify events say only *that* something happened; a scan finds out what. `Directory.scan` walks
the tree, reads the files whose signature (inode, size, times) is new, and returns what differs from the last scan. So a
lost event, a swapped symbolic link (a Kubernetes ConfigMap mount) and a file system without inotify need no special
treatment: the next scan, at the latest after the poll interval, finds the change. Scans run in a thread. A batch is the
result of one scan, and since files are often written several at a time, a scan waits until the directory has been quiet
for a moment.

One thing is known from events only: that a file was modified and its writer has not closed it. The last version of such
a file stays in force, since half a rule may grant more than the whole. If the writer never closes the file, it is read
some seconds after its last modification. Some writers are not seen: those that began before the watch, those that write
a link's target in another directory, and all where there is no inotify.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import trio
from msgspec import Struct

from agent.config.schema import NodeConfig
from agent.sources import Change, Send, manifest
from agent.sources.source import Options
from agent.system import gc_pause, inotify, state_files
from agent.system.inotify import Event, Inotify
from policy.model import Problem, Where

log = logging.getLogger("edgemesh.directory")

SUFFIXES = (".yaml", ".yml", ".json")
POLL = 2.0  # seconds between scans where nothing reports changes
# with inotify, a scan every so many polls: for links to files elsewhere, and file systems that other machines write
_UNHEARD = 15
_QUIET = 0.03  # seconds without an event before a scan
_IMPATIENCE = 0.3  # seconds after which a scan begins in spite of events
_PATIENCE = 10.0  # seconds after the last modification to wait for the writer to close the file
# seconds between reads of modification events, which are many: the kernel merges those that come meanwhile
_PAUSE = 0.01
_READS = 64  # reads of the queue at a time: it may be filled as fast as we empty it
_FRESH_NS = 50_000_000  # a file changed less than this ago may change again within the same tick of its time stamps
MAX_FILES = 10_000
MAX_TOTAL = 64 * 1024 * 1024  # bytes of all files; ten thousand objects take about a tenth of it
_REMEMBERED = 32 * 1024  # bytes up to which a file is remembered completely
_BLOCK, _DIGEST = 4096, 8  # of a larger file: bytes of each block, and of the remembered digest of a block
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR))
_NOWHERE = "it is a link to something that is not there"
_DEPTH = 16  # levels of nested directories

# After these events the name is a file without a known writer. A new file is empty, or a link to a complete one, until
# it is modified.
_SETTLED = inotify.CLOSE_WRITE | inotify.MOVED_FROM | inotify.MOVED_TO | inotify.CREATE | inotify.DELETE

# EXCL_UNLINK: a writer that still writes a replaced file causes no events under the name of the new one.
_MASK = (
    _SETTLED
    | inotify.MODIFY
    | inotify.EXCL_UNLINK
    | inotify.ATTRIB
    | inotify.DELETE_SELF
    | inotify.MOVE_SELF
    | inotify.ONLYDIR
)


_TOO_MUCH = (
    f"its files are larger than {MAX_TOTAL // 1024 // 1024} MiB together",
    "those that come last, by their names, are not read; what they said before still holds",
)


class _Whole(Struct, frozen=True):
    """A file in its last complete version: all of it, or for a large one a digest of each block."""

    size: int
    content: bytes
    blocks: bytes

    def was_cut_to(self, data: bytes) -> bool:
        """Return whether `data` is the beginning of this version and ends in the middle of a line.

        No editor leaves such a file, and no author means it, but a copy that broke off does: and what is left may still
        be well-formed, and grant more than the whole did. The end of a large file is compared by whole blocks; what
        follows the last whole block counts as cut off if no line ends there.
        """
        if not 0 < len(data) < self.size or data.endswith(b"\n"):
            return False
        if self.content:
            return self.content.startswith(data) and self.content[len(data)] not in b"\r\n"
        blocks = _blocks(data)
        return bool(blocks) and self.blocks.startswith(blocks)


class _Seen(Struct):
    """A file as it was at the last scan. `signature` None: read it again next time."""

    signature: tuple[int, ...] | None
    digest: bytes  # digest of its content, or of the reason why there is none
    whole: _Whole | None = None  # its last complete version, to recognise a file that was cut off


class Directory:
    """What was seen of a directory at the last scan.

    `hear` is called with every directory before it is listed, and returns a number for it. `is_open` is called after a
    file was read, with that number and the file's name, and returns whether a writer has not yet closed it.
    """

    def __init__(
        self,
        path: Path,
        hear: Callable[[str], int] = lambda _: -1,
        is_open: Callable[[int, str], bool] = lambda _watch, _name: False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self._hear = hear
        self._is_open = is_open
        self._watches: dict[str, int] = {}  # what `hear` returned in this scan
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._unlisted: dict[str, str] = {}  # paths that could not be read in this scan, and why
        self._told: dict[str, str] = {}  # the same in the last scan
        self.missing = ""  # why the directory itself cannot be listed
        self._looked = False
        self._excess: list[Problem] = []  # which limits the last scan exceeded
        self._rest = False  # whether parsing sleeps between slices, so that other threads can run

    def __repr__(self) -> str:
        return f"<Directory {self.path}, {len(self._seen)} files{', ' + self.missing if self.missing else ''}>"

    def look(self) -> tuple[list[Change], bool]:
        """Scan in slices, for a thread of a daemon."""
        self._rest = True
        with gc_pause.paused():
            return self.scan()

    def scan(self) -> tuple[list[Change], bool]:
        """Return what changed since the last scan, and whether these changes are the whole.

        They are at the first scan that could list everything. A directory that cannot be listed any more says nothing
        new: an unmounted disk is no change of policy.
        """
        origin = str(self.path)
        try:
            files = dict(self._files())
        except OSError as error:
            if self.missing == error.strerror:
                return [], False
            self.missing = error.strerror or str(error)
            hint = (
                "it is a file: give the directory that it is in"
                if self.path.is_file()
                else "create it, or give another directory"
            )
            hint += " with --config; what was in force stays in force"
            return [manifest.unreadable(origin, f"the directory cannot be read: {self.missing}", hint)], False
        changes = [manifest.gone(origin)] if self.missing else []
        self.missing = ""
        there, excess = set(files), list[Problem]()
        if len(files) > MAX_FILES:
            hint = "give a smaller directory with --config; files that were read before still hold"
            excess.append(Problem("error", Where(origin), "", f"more than {MAX_FILES} manifest files", hint))
            files = dict(sorted(files.items())[:MAX_FILES])
        changes += self._closed()
        for name in [name for name in self._seen if name not in there and not self._in_closed(name)]:
            del self._seen[name]
            changes.append(manifest.gone(_shown(name)))
        size = 0
        for name in sorted(files):
            size += min(files[name].st_size, manifest.MAX_BYTES + 1)  # no more than that of it is read
            if size > MAX_TOTAL:
                excess.append(Problem("error", Where(origin), "", *_TOO_MUCH))
                break
            if (change := self._look(name, files[name])) is not None:
                changes.append(change)
        if excess or self._excess:
            if excess != self._excess:
                changes.append(Change(origin, None, tuple(excess)) if excess else manifest.gone(origin))
            self._excess = excess
        whole, self._looked = not self._looked, True
        return changes, whole

    def _look(self, name: str, status: os.stat_result) -> Change | None:
        """Return what one file says, if that is new."""
        seen = self._seen.get(name)
        signature = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if seen is not None and seen.signature == signature:
            return None
        settled = abs(self._clock() - max(status.st_mtime_ns, status.st_ctime_ns)) > _FRESH_NS
        try:
            data = _read(name)
        except FileNotFoundError:  # removed since we listed the directory
            return None if self._seen.pop(name, None) is None else manifest.gone(_shown(name))
        except OSError as error:
            failure = f"cannot be read: {error.strerror}"
            if not self._is_new(name, None, failure.encode()):
                return None
            return manifest.unreadable(_shown(name), failure, "what it said before still holds; check its permissions")
        folder, entry = os.path.split(name)
        if self._is_open(self._watches.get(folder, -1), entry):
            # The first scan is the whole, so the file is named there: what it said before the daemon's start stays in
            # force.
            failure = "is being written"
            if self._looked or not self._is_new(name, None, failure.encode()):
                return None
            return manifest.unreadable(
                _shown(name), failure, "what it said before still holds; it is read when it is closed"
            )
        if not self._is_new(name, signature if settled else None, data):
            return None
        whole = seen.whole if seen is not None else None
        if whole is not None and whole.was_cut_to(data):
            self._seen[name].whole = whole
            return manifest.cut_off(_shown(name), data)
        self._seen[name].whole = _whole(data)
        return manifest.read(data, _shown(name), self._rest)

    def _is_new(self, name: str, signature: tuple[int, ...] | None, content: bytes) -> bool:
        """Remember what a file said. Return whether that differs from before."""
        before = self._seen.get(name)
        whole = before.whole if before is not None else None
        self._seen[name] = _Seen(signature, blake2b(content, digest_size=16).digest(), whole)
        return before is None or before.digest != self._seen[name].digest

    def _closed(self) -> Iterator[Change]:
        """Yield what is new of the paths that could not be read. What was read there before stays in force."""
        before, self._told = self._told, dict(self._unlisted)
        for name in sorted(before.keys() - self._told.keys()):
            self._seen.pop(name, None)  # if it is a file, it is read anew
            yield manifest.gone(_shown(name))
        for name, failure in sorted(self._told.items()):
            if before.get(name) != failure:
                hint = "what it said before still holds" + ("" if failure == _NOWHERE else "; check its permissions")
                yield manifest.unreadable(_shown(name), f"cannot be read: {failure}", hint)

    def _in_closed(self, name: str) -> bool:
        return any(name == folder or name.startswith(f"{folder}/") for folder in self._unlisted)

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield every manifest under the directory. Raise OSError only for the directory itself."""
        self._unlisted.clear()
        self._watches.clear()
        waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(str(self.path), ())]
        while waiting:
            folder, above = waiting.pop()
            try:
                self._watches[folder] = self._hear(folder)  # watched before it is listed, so that no change is missed
                with os.scandir(folder) as entries:
                    listed = list(entries)
            except OSError as error:
                if not above and folder == str(self.path):
                    raise
                if error.errno not in _GONE:
                    self._unlisted[folder] = error.strerror or str(error)
                continue
            for entry in listed:
                # Editors' own files (.x.swp, #x#, x~) and a ConfigMap mount's ..data are not manifests.
                if entry.name.startswith((".", "#")):
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    if entry.name.endswith(SUFFIXES) and (error.errno not in _GONE or entry.is_symlink()):
                        nowhere = _NOWHERE if error.errno in _GONE else error.strerror
                        self._unlisted[entry.path] = nowhere or str(error)
                    continue
                identity = (status.st_dev, status.st_ino)
                if stat.S_ISDIR(status.st_mode):
                    if identity not in above and len(above) < _DEPTH:
                        waiting.append((entry.path, (*above, identity)))
                elif stat.S_ISREG(status.st_mode) and entry.name.endswith(SUFFIXES):
                    yield entry.path, status


def _whole(data: bytes) -> _Whole:
    small = len(data) <= _REMEMBERED
    return _Whole(len(data), data if small else b"", b"" if small else _blocks(data))


def _blocks(data: bytes) -> bytes:
    """Return a digest of each full block."""
    ends = range(_BLOCK, len(data) + 1, _BLOCK)
    return b"".join(blake2b(data[end - _BLOCK : end], digest_size=_DIGEST).digest() for end in ends)


def _shown(name: str) -> str:
    """Return a file's name as text that every encoder accepts, also when its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class ManifestDirectory:
    """A directory as a source."""

    prefix = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: _Look | None = None  # what `read` has read before `run`

    def __repr__(self) -> str:
        return f"<ManifestDirectory {self._path}>"

    @property
    def place(self) -> str:
        return str(self._path)

    def read(self) -> Sequence[Change]:
        look = _Look(self._path)
        with gc_pause.paused():
            look.changes, look.whole = look.directory.scan()
        self._read = look
        return look.changes

    async def run(self, send: Send, config: Callable[[], NodeConfig]) -> None:
        look, self._read = self._read, None
        await watch(self._path, send, lambda: config().poll_interval, look)


def source(options: Options) -> ManifestDirectory | None:
    """Make the source of the row in agent/sources/sources.py."""
    return ManifestDirectory(options.directory) if options.directory is not None else None


class _Look:
    """A directory, its events, and the result of the last scan that was not sent yet."""

    def __init__(self, path: Path) -> None:
        self.ears = _Ears()
        self.directory = Directory(path, self.ears.hear, self.ears.is_open)
        self.changes: list[Change] = []
        self.whole = False


async def watch(path: Path, send: Send, poll: Callable[[], float] = lambda: POLL, begun: _Look | None = None) -> None:
    """Send what the directory says, then whatever changes, until cancelled.

    The first batch has everything that exists. A directory that does not exist is waited for. `poll` returns the
    seconds between scans, and is called every time. `begun`: a scan that was made before.
    """
    look = begun or _Look(path)
    try:
        if begun is not None and (begun.changes or begun.whole):
            send(begun.changes, begun.whole)
            begun.changes = []
        while True:
            changes, whole = await trio.to_thread.run_sync(look.directory.look)
            if changes or whole:
                send(changes, whole)
            await look.ears.wait(poll(), there=not look.directory.missing)
    finally:
        look.ears.close()


class _Ears:
    """Events from inotify, or none where there is no inotify, so that changes are only found later."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queue: Inotify | None = None
        self._deaf = False  # some directory could not be watched
        # files that are being written, and until when to wait for each; the earliest first
        self._open: dict[tuple[int, str], float] = {}
        self._stirred = False  # an event came that requires a scan
        try:
            self._queue = Inotify()
        except OSError as error:
            log.warning("no inotify (%s); looking for changes every few seconds instead", error.strerror)

    def hear(self, folder: str) -> int:
        """Watch one directory. Return its number, or -1 when it cannot be watched. Called in a thread.

        Every scan calls it again, which costs one system call.
        """
        if self._queue is None:
            return -1
        try:
            return self._queue.watch(folder, _MASK)
        except FileNotFoundError:
            raise  # the directory cannot be listed either
        except OSError as error:
            if not self._deaf:
                log.warning(
                    "inotify cannot watch %s (%s); looking for changes every few seconds too", folder, error.strerror
                )
            self._deaf = True
            return -1

    def is_open(self, watch: int, name: str) -> bool:
        """Return whether this file was modified, up to now, and is not yet closed.

        Called in a thread, never during `wait`.
        """
        if self._queue is None:
            return False
        for _ in range(_READS):
            if not (events := self._queue.heard()):
                break
            self._note(events)
        until = self._open.get((watch, name))
        return until is not None and until > self._clock()

    async def wait(self, poll: float, there: bool) -> None:
        """Return when the next scan is due."""
        queue = self._queue
        if queue is None:
            await trio.sleep(poll)
            return
        with trio.move_on_after(poll * _UNHEARD if there and not self._deaf else poll):
            await self._stir(queue)
            with trio.move_on_after(_IMPATIENCE):
                while True:
                    with trio.move_on_after(_QUIET) as quiet:
                        await self._stir(queue)
                    if quiet.cancelled_caught:
                        return

    async def _stir(self, queue: Inotify) -> None:
        """Return when an event requires a scan, or when the wait for a file's writer is over.

        Modifications alone require none.
        """
        while not self._stirred:
            soonest = next(iter(self._open.values()), math.inf)
            with trio.move_on_after(max(0.0, soonest - self._clock())):
                self._note(await queue.events())
                if not self._stirred:
                    await trio.sleep(_PAUSE)
            while self._open and next(iter(self._open.values())) <= self._clock():
                del self._open[next(iter(self._open))]
                self._stirred = True
        self._stirred = False

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            file = (event.watch, event.name)
            if event.mask == inotify.MODIFY:
                self._open.pop(file, None)
                if event.name.endswith(SUFFIXES) and len(self._open) < MAX_FILES:
                    self._open[file] = self._clock() + _PATIENCE
                continue
            self._stirred = True
            if event.overflow:
                self._open.clear()  # the events that closed them may be lost
            elif event.ended:
                self._open = {file: until for file, until in self._open.items() if file[0] != event.watch}
            elif event.mask & _SETTLED:
                self._open.pop(file, None)

    def close(self) -> None:
        if self._queue is not None:
            self._queue.close()


def _read(name: str) -> bytes:
    """Return a file's bytes, at most one more than manifest.MAX_BYTES, which shows that it is too large.

    Never blocks. Raise OSError.
    """
    with state_files.opened(Path(name)) as file:
        return state_files.read_from(file, manifest.MAX_BYTES + 1)


def file_read(path: Path) -> Change:
    """Return what one file says now, whatever its suffix, for commands that are given files."""
    try:
        return manifest.read(_read(str(path)), _shown(str(path)))
    except OSError as error:
        return manifest.unreadable(_shown(str(path)), f"cannot be read: {error.strerror}")
