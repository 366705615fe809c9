"""Every call that some code makes of the kernel, and the same run again with one of them failing.

Theory of operation. Python tells a profiler of each C function before it is called (sys.setprofile), and what the profiler raises comes out
of that call, in its place. So a run is recorded once: which functions of the modules that speak to the kernel were called, and from
which line. Then each of these places fails once, with what the kernel may say there when it lacks something. What waits in trio's own
epoll is left alone: the kernel has no such answer for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any
from unittest import mock

from msgspec import Struct
from trio._core import _thread_cache

_KERNEL = frozenset(("posix", "_socket", "select", "fcntl", "_io", "_posixsubprocess"))
_METHODS = ("socket", "epoll", "FileIO", "BufferedReader", "BufferedWriter")
# What cannot fail so (close(2) may say EINTR, and has closed), asks nothing of the kernel, or is this process's own memory.
_EXEMPT = frozenset(
    """
    __enter__ __exit__ CMSG_LEN CMSG_SPACE WIFSTOPPED BytesIO StringIO close closed cpu_count detach fileno fsdecode fsencode fspath
    getblocking getcwd getdefaulttimeout getpid getppid getrandom gettimeout get_inheritable has_dualstack inet_aton inet_ntoa inet_ntop
    inet_pton isatty kill poll readable register_at_fork seekable setblocking settimeout strerror text_encoding unregister urandom
    writable
    """.split()  # noqa: SIM905 - a list of one word to a line says no more
)


class Place(Struct, frozen=True, order=True):
    """Where a function that speaks to the kernel is called: the innermost line of edgemesh, and the function."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


class Lacks:
    """`fails` None: only record. Otherwise the first call at that place raises `number`."""

    def __init__(self, fails: Place | None = None, number: int = errno.EMFILE) -> None:
        self.fails, self.number = fails, number
        self.seen: dict[Place, int] = {}
        self.failed = False

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Lacks]:
        # Only threads that begin now are told of: those that trio kept idle from an earlier test would do the work unseen.
        with mock.patch.object(_thread_cache, "THREAD_CACHE", _thread_cache.ThreadCache()):
            sys.setprofile(self._told)
            threading.setprofile(self._told)
            try:
                yield self
            finally:
                threading.setprofile(None)
                sys.setprofile(None)

    def _told(self, frame: FrameType, event: str, what: Any) -> None:
        if (
            event == "call"
            and frame.f_code.co_name == "__init__"
            and frame.f_code.co_filename.endswith("/socket.py")
            and frame.f_locals.get("fileno") is None
        ):
            self._at(frame.f_back, "socket")
        elif event == "c_call" and _speaks_to_the_kernel(what):
            self._at(frame, what.__name__)

    def _at(self, frame: FrameType | None, function: str) -> None:
        trio_s: FrameType | None = None
        while frame is not None:
            file = frame.f_code.co_filename
            if (
                f"{os.sep}tests{os.sep}" in file
                or file.startswith("<frozen importlib")
                or file.endswith("_wakeup_socketpair.py")
            ):
                return
            if trio_s is None and file.endswith(
                (f"trio{os.sep}_socket.py", f"trio{os.sep}_highlevel_open_tcp_listeners.py")
            ):
                trio_s = frame
            if f"{os.sep}agent{os.sep}" in file or f"{os.sep}nodeproxy{os.sep}" in file:
                break
            frame = frame.f_back
        frame = frame or trio_s  # a task that trio made for us has no line of ours
        if frame is None:
            return
        place = Place(os.sep.join(frame.f_code.co_filename.split(os.sep)[-3:]), frame.f_lineno, function)
        self.seen[place] = self.seen.get(place, 0) + 1
        if place == self.fails and not self.failed:
            self.failed = True
            raised = (
                RuntimeError("can't start new thread")
                if function == "start_new_thread"
                else OSError(self.number, os.strerror(self.number))
            )
            # A profiler that raises is taken away by Python; it has done what it was for.
            raise raised


def _speaks_to_the_kernel(what: Any) -> bool:
    name = getattr(what, "__name__", "")
    if name in _EXEMPT:
        return False
    module = getattr(what, "__module__", None)
    if module in _KERNEL or (module == "_thread" and name == "start_new_thread"):
        return True
    return type(getattr(what, "__self__", None)).__name__ in _METHODS
