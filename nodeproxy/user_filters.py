"""Filters that a node's administrator wrote in Python: their files, and how one request's head is given to one.

A file is run only if nobody but root (or the account of the daemon) can have written it. Its class is made once, in a
thread, and its method `request` is called in threads: what it does cannot stop the daemon's loop. It gets a copy of the
head, and its changes count only when it returns in time. A thread that never returns keeps its place, of which each
filter has few: then further calls are late, which is what its settings say.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import trio
from msgspec import Meta, Struct

log = logging.getLogger("edgemesh.http")

PLACES = 4  # threads that one filter may occupy at once
MOST = 1 << 20  # bytes of a file
BODY = 65536  # bytes of an answer
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_QUIET = 60.0  # seconds between two lines in the log about one filter


class UserFilter(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A filter that is Python on this node: HTTPFilters name it (user)."""

    name: Annotated[str, Meta(min_length=1, max_length=63)]  # by which HTTPFilters name it
    module: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}\Z")]  # its file in filterCode, without .py
    class_name: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}\Z")]  # the class in that file
    # what becomes of a call when it fails or takes longer than timeout
    on_error: Literal["refuse", "pass"] = "refuse"
    timeout: Annotated[float, Meta(gt=0, le=10)] = 0.1  # seconds for one call


class Head:
    """What a filter sees of a request, and what it asks for: `set`, `add`, `remove`."""

    def __init__(self, method: str, target: str, host: str, caller: str, fields: Iterable[tuple[str, str]]) -> None:
        self.method = method
        self.target = target  # path and query, as they are sent to the server
        self.host = host
        self.caller = caller  # proved: "namespace/serviceaccount"; "" for none
        self.fields = list(fields)  # names in lower case, in order
        self.changes: list[tuple[str, str, str]] = []

    def get(self, name: str) -> str:
        """Return the values of a field, joined with ", "; "" if it is absent."""
        return ", ".join(value for field, value in self.fields if field == name.lower())

    def set(self, name: str, value: str) -> None:
        """Put a field in the place of all of that name."""
        self.changes.append(("set", str(name).lower(), str(value)))

    def add(self, name: str, value: str) -> None:
        """Put a field beside those of that name."""
        self.changes.append(("add", str(name).lower(), str(value)))

    def remove(self, name: str) -> None:
        """Take away all fields of that name."""
        self.changes.append(("remove", str(name).lower(), ""))


class UserFilters:
    """The filters of this node."""

    def __init__(self, filters: Iterable[UserFilter] = (), folder: str = "") -> None:
        self._folder = folder
        self._filters = {one.name: one for one in filters}
        self._made: dict[str, Any] = {}  # by name: the object, or the exception that there is instead
        self._limiters = {name: trio.CapacityLimiter(PLACES) for name in self._filters}
        self._told: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<UserFilters {', '.join(self._filters) or 'none'}>"

    def get(self, name: str) -> UserFilter | None:
        return self._filters.get(name)

    async def run(self, one: UserFilter, head: Head) -> tuple[int, bytes] | None:
        """Give a head to a filter. Return the answer that it gives in the place of the server, or None.

        Raise whatever it raises; trio.TooSlowError if it is late; ValueError for an answer that is none.
        """
        with trio.fail_after(one.timeout):
            said = await trio.to_thread.run_sync(
                self._call, one, head, abandon_on_cancel=True, limiter=self._limiters[one.name]
            )
        return _answer(said)

    def failed(self, one: UserFilter, error: Exception) -> None:
        """Log why a filter failed, now and then."""
        now = trio.current_time()
        if now - self._told.get(one.name, -_QUIET) >= _QUIET:
            self._told[one.name] = now
            what = "it took too long" if isinstance(error, trio.TooSlowError) else f"{type(error).__name__}: {error}"
            log.warning("filter %s of NodeConfig failed, and its calls %s: %s", one.name, one.on_error, what)

    def _call(self, one: UserFilter, head: Head) -> Any:
        """Run in a thread."""
        made = self._made.get(one.name)
        if made is None:
            try:
                made = load(self._folder, one)
            except Exception as error:
                made = error
            self._made[one.name] = made
        if isinstance(made, Exception):
            raise made
        return made.request(head)


def load(folder: str, one: UserFilter) -> Any:
    """Run the file of a filter, and return an object of its class. Raise ValueError, or what the file raises."""
    path = os.path.join(folder, f"{one.module}.py")
    if not folder or not _NAME.fullmatch(one.module):
        raise ValueError("NodeConfig filterCode names no folder")
    _trust(os.stat(folder), folder, stat.S_ISDIR)
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        _trust(os.fstat(file.fileno()), path, stat.S_ISREG)
        text = file.read(MOST + 1)
    if len(text) > MOST:
        raise ValueError(f"{path} has more than {MOST} bytes")
    module = types.ModuleType(f"edgemesh_filter_{one.module}")
    module.__file__ = path
    try:
        exec(compile(text, path, "exec"), module.__dict__)  # noqa: S102 - root wrote it
    except ImportError as error:
        hint = "edgemesh's one file has the modules of Python that edgemesh itself uses, and no others"
        raise ValueError(f"{path} imports what is not here: {error}; {hint}") from error
    made = getattr(module, one.class_name, None)
    if made is None:
        raise ValueError(f"{path} has no class {one.class_name}")
    return made()


def _trust(found: os.stat_result, path: str, kind: Any) -> None:
    if not kind(found.st_mode):
        raise ValueError(f"{path} is not what it has to be: a folder with files")
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise ValueError(f"{path} can be written by others than root: chown root, chmod go-w")


def _answer(said: Any) -> tuple[int, bytes] | None:
    """Return what `request` returned: None, a status, or a status and a body. Raise ValueError for anything else."""
    if said is None:
        return None
    status, body = said if isinstance(said, tuple) and len(said) == 2 else (said, b"")
    if isinstance(body, str):
        body = body.encode()
    if type(status) is not int or not 200 <= status <= 599 or not isinstance(body, bytes) or len(body) > BODY:
        raise ValueError(f"it returned {str(said)[:80]!r}: None, a status, or a status and a body are answers")
    return status, body
