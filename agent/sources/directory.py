"""A directory of manifests, watched: whatever changes in it becomes a batch of Changes.

Theory of operation. Events of inotify say only *that* something happened; what happened is found by looking: `Directory.scan` walks
the tree, reads the files whose signature (inode, size, times) is new, and answers what differs from its last look. So a lost event,
a swapped symbolic link (a Kubernetes ConfigMap mount) and a file system without inotify all need nothing special: the next look,
at the latest after the poll interval, finds them. Looking happens in a thread; a batch is what one look found, and since files are
often written several at a time, a look waits until the directory has been quiet for a moment.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import trio
from msgspec import Struct

from agent import inotify
from agent.inotify import Inotify
from agent.sources import Change, Send, manifest

log = logging.getLogger("edgemesh.directory")

SUFFIXES = (".yaml", ".yml", ".json")
POLL = 2.0  # seconds between looks where nothing tells us of changes
_UNHEARD = 15  # with inotify, every so many polls: for links to files elsewhere, and file systems that others write
_QUIET = 0.03  # seconds without an event before we look
_IMPATIENCE = 0.3  # seconds after which we look anyway
_FRESH_NS = 50_000_000  # a file changed less than this ago may change again within the same tick of its time stamps
MAX_FILES = 10_000
_DEPTH = 16  # directories inside directories

# Not MODIFY: a file that is being rewritten is looked at when its writer closes it, not when it is empty.
_MASK = (
    inotify.CLOSE_WRITE
    | inotify.MOVED_FROM
    | inotify.MOVED_TO
    | inotify.CREATE
    | inotify.DELETE
    | inotify.ATTRIB
    | inotify.DELETE_SELF
    | inotify.MOVE_SELF
    | inotify.ONLYDIR
)


class _Seen(Struct):
    """A file as it was at the last look. `signature` None: look at it again next time."""

    signature: tuple[int, ...] | None
    digest: bytes  # of its content, or of why there is none


class Directory:
    """What was seen of a directory at the last look. `hear` is called with every directory before it is listed."""

    def __init__(self, path: Path, hear: Callable[[str], None] = lambda _: None, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._hear = hear
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self.missing = ""  # why the directory itself cannot be listed
        self._looked = False

    def __repr__(self) -> str:
        return f"<Directory {self.path}, {len(self._seen)} files{', ' + self.missing if self.missing else ''}>"

    def scan(self) -> tuple[list[Change], bool]:
        """What changed since the last look, and whether these changes are the whole (the first look that could list everything).

        A directory that cannot be listed any more says nothing new: an unmounted disk is no change of policy.
        """
        origin = str(self.path)
        try:
            files = dict(self._files())
        except OSError as error:
            if self.missing == error.strerror:
                return [], False
            self.missing = error.strerror or str(error)
            hint = "create it, or give another directory with --config; what was in force stays in force"
            return [manifest.unreadable(origin, f"the directory cannot be read: {self.missing}", hint)], False
        changes = [Change(origin, ())] if self.missing else []
        self.missing = ""
        if len(files) > MAX_FILES:
            changes.append(manifest.unreadable(origin, f"more than {MAX_FILES} manifest files", "give a smaller directory with --config"))
            files = dict(sorted(files.items())[:MAX_FILES])
        for name in [name for name in self._seen if name not in files]:
            del self._seen[name]
            changes.append(Change(_shown(name), ()))
        for name in sorted(files):
            if (change := self._look(name, files[name])) is not None:
                changes.append(change)
        whole, self._looked = not self._looked, True
        return changes, whole

    def _look(self, name: str, status: os.stat_result) -> Change | None:
        """What one file says, if that is new."""
        seen = self._seen.get(name)
        signature = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if seen is not None and seen.signature == signature:
            return None
        settled = abs(self._clock() - max(status.st_mtime_ns, status.st_ctime_ns)) > _FRESH_NS
        try:
            data = _read(name)
        except FileNotFoundError:  # between our listing and now
            return None if self._seen.pop(name, None) is None else Change(_shown(name), ())
        except OSError as error:
            failure = f"cannot be read: {error.strerror}"
            if not self._is_new(name, None, failure.encode()):
                return None
            return manifest.unreadable(_shown(name), failure, "what it said before still holds; check its permissions")
        return manifest.read(data, _shown(name)) if self._is_new(name, signature if settled else None, data) else None

    def _is_new(self, name: str, signature: tuple[int, ...] | None, content: bytes) -> bool:
        """Remember what a file said, and whether that differs from before."""
        before = self._seen.get(name)
        self._seen[name] = _Seen(signature, blake2b(content, digest_size=16).digest())
        return before is None or before.digest != self._seen[name].digest

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Every manifest under the directory. Raises OSError only for the directory itself."""
        waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(str(self.path), ())]
        while waiting:
            folder, above = waiting.pop()
            try:
                self._hear(folder)  # before it is listed, so that nothing is missed in between
                with os.scandir(folder) as entries:
                    listed = list(entries)
            except OSError:
                if not above and folder == str(self.path):
                    raise
                continue  # it went away while we looked, or is not for us to read
            for entry in listed:
                # Editors' own files (.x.swp, #x#, x~) and a ConfigMap mount's ..data are not manifests.
                if entry.name.startswith((".", "#")):
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    continue  # gone, or a link to nowhere
                identity = (status.st_dev, status.st_ino)
                if stat.S_ISDIR(status.st_mode):
                    if identity not in above and len(above) < _DEPTH:
                        waiting.append((entry.path, (*above, identity)))
                elif stat.S_ISREG(status.st_mode) and entry.name.endswith(SUFFIXES):
                    yield entry.path, status


def _shown(name: str) -> str:
    """A file's name as text that every encoder takes, also when its bytes are no UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


async def watch(path: Path, send: Send, poll: Callable[[], float] = lambda: POLL) -> None:
    """Send what the directory says, then whatever changes, until cancelled. `poll`: seconds between looks, asked every time.

    The first batch says everything that is there. A directory that does not exist is waited for.
    """
    ears = _Ears()
    try:
        directory = Directory(path, ears.hear)
        while True:
            changes, whole = await trio.to_thread.run_sync(directory.scan)
            if changes or whole:
                send(changes, whole)
            await ears.wait(poll(), there=not directory.missing)
    finally:
        ears.close()


class _Ears:
    """Inotify where there is one; silence otherwise, which only makes changes show later."""

    def __init__(self) -> None:
        self._queue: Inotify | None = None
        self._deaf = False  # some directory could not be watched
        try:
            self._queue = Inotify()
        except OSError as error:
            log.warning("no inotify (%s); looking for changes every few seconds instead", error.strerror)

    def hear(self, folder: str) -> None:
        """Watch one directory; asked again at every look, which costs one system call. Called in a thread."""
        if self._queue is None:
            return
        try:
            self._queue.watch(folder, _MASK)
        except FileNotFoundError:
            raise  # there will be nothing to list either
        except OSError as error:
            if not self._deaf:
                log.warning("inotify cannot watch %s (%s); looking for changes every few seconds too", folder, error.strerror)
            self._deaf = True

    async def wait(self, poll: float, there: bool) -> None:
        """Return when it is time to look."""
        queue = self._queue
        if queue is None:
            await trio.sleep(poll)
            return
        with trio.move_on_after(poll * _UNHEARD if there and not self._deaf else poll):
            await queue.events()
            with trio.move_on_after(_IMPATIENCE):
                while True:
                    with trio.move_on_after(_QUIET) as quiet:
                        await queue.events()
                    if quiet.cancelled_caught:
                        return

    def close(self) -> None:
        if self._queue is not None:
            self._queue.close()


def _read(name: str) -> bytes:
    """A file's bytes, one more than manifest.MAX_BYTES at most: enough to be told that it is too large."""
    # NONBLOCK: what was a file a moment ago may be a FIFO now, whose opening waits for a writer.
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(manifest.MAX_BYTES + 1)


def read(path: Path) -> list[Change]:
    """What the directory says just now, for commands that look once."""
    return Directory(path).scan()[0]
