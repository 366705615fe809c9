"""Tasks that the daemon needs, and whose failure must not end it: a failed task is restarted, and status reports it
meanwhile.

Theory of operation. Any request to the kernel may fail for lack of a resource: no descriptor (EMFILE, ENFILE), no
memory (ENOMEM, ENOBUFS), no space (ENOSPC, EDQUOT), not yet (EAGAIN), interrupted (EINTR). In a task of the daemon's
own nursery that would end every connection of the node, and one caller's flood can cause it. So such a task runs inside
`keep`: it restarts after a pause, which grows while it continues to fail. A fault of edgemesh in such a task has no
wider effect either; it is logged with its traceback.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Awaitable, Callable

import trio

from nodeproxy.backoff import Backoff
from policy.model import Problem, Where

log = logging.getLogger("edgemesh.housekeeping")

# What the kernel lacks now, and may have again: the same call may soon succeed.
PASSING = frozenset(
    (
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EAGAIN,
        errno.EINTR,
        errno.EIO,
    )
)

_PAUSE = Backoff(1.0, 60.0)  # seconds before it restarts
_WELL = 10.0  # seconds that it has to run again before it counts as healthy


class Housekeeping:
    """The tasks of one daemon, and which of them are failing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._troubles: dict[str, tuple[str, float]] = {}  # by task: why it failed, and since when it runs again

    def __repr__(self) -> str:
        return f"<Housekeeping {self._troubles}>"

    @property
    def problems(self) -> list[Problem]:
        """The tasks that failed and have not run for a while since."""
        now = self._clock()
        return [
            Problem("error", Where(), what, f"it failed and is tried again: {why}", "the daemon's log says more")
            for what, (why, since) in self._troubles.items()
            if now - since < _WELL
        ]

    async def keep(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run `run` until it returns or is cancelled, and restart it whenever it fails.

        `what` names it in log and status.
        """
        failures = 0
        while True:
            began = self._clock()
            try:
                await run()
                self._troubles.pop(what, None)
                return
            except Exception as error:
                self._failed(what, error)
            except BaseExceptionGroup as group:
                faults, cancelled = group.split(Exception)
                if faults is not None:
                    self._failed(what, faults)
                if cancelled is not None:
                    raise cancelled from None
            failures = 1 if self._clock() - began > _PAUSE.most else failures + 1
            await trio.sleep(_PAUSE.after(failures))
            why, _ = self._troubles[what]
            self._troubles[what] = why, self._clock()

    def _failed(self, what: str, error: BaseException) -> None:
        leaves = _leaves(error)
        why = next((_words(leaf) for leaf in leaves), "")
        if all(_is_passing(leaf) for leaf in leaves):
            log.error("%s: %s; it is tried again", what, why)
        else:
            log.error("%s: a fault of edgemesh itself; it is tried again", what, exc_info=error)
        self._troubles[what] = why, float("inf")


def _leaves(error: BaseException) -> list[BaseException]:
    return (
        [leaf for one in error.exceptions for leaf in _leaves(one)]
        if isinstance(error, BaseExceptionGroup)
        else [error]
    )


def _is_passing(error: BaseException) -> bool:
    # Python raises a RuntimeError if the kernel refuses a thread (EAGAIN).
    return isinstance(error, OSError | MemoryError) or (
        isinstance(error, RuntimeError) and "start new thread" in str(error)
    )


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "no memory"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
