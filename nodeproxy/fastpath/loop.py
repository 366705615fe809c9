"""When the fast path runs, and when trio does.

One task waits for the fast path's descriptor, as for any socket. It gives the fast path no more than a slice of time in
each turn of trio's loop. Where only the fast path has work, a turn of that loop costs more than the event. So when trio
is about to sleep and the fast path was busy a moment ago, the fast path works and waits in trio's place. Trio reports
that moment (an instrument's `before_io_wait`). Trio's own descriptor shows when another task has work, which ends the
stay at once. Deadlines of trio's tasks may fire some milliseconds late, because a stay that ends before its deadline
looks like no stay at all.
"""

from __future__ import annotations

import select
from collections.abc import Callable

import trio

from nodeproxy.native import CALL, QUIET, SILENT, Lane

SLICE = 500  # microseconds in each turn of the loop; without a bound others wait for tens of milliseconds
QUIET_FOR = 4000  # microseconds without events, after which trio sleeps itself
_LONGEST = 1.0  # seconds
_LACKING = 0.005  # seconds between two turns where the kernel does not wake this task


class Drive(trio.abc.Instrument):
    def __init__(self, lane: Lane, collect: Callable[[], None]) -> None:
        self._lane, self._collect = lane, collect
        self._sleep = trio.CancelScope()  # of the driving task
        self._busy = False
        self._others = -1
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> None:
        """Drive the fast path until cancelled."""
        self._others = _others()
        if self._others < 0:
            return await self._turns()
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self)
        try:
            await self._turns()
        finally:
            trio.lowlevel.remove_instrument(self)

    async def _turns(self) -> None:
        lane, turn = self._lane, self._lane.turn
        while True:
            more = turn(SLICE)
            self._busy = True
            if lane.pending:
                self._collect()
            if more == SILENT:
                await trio.lowlevel.checkpoint()
                continue
            try:
                with trio.CancelScope() as self._sleep:
                    await trio.lowlevel.wait_readable(lane.fileno())
            except OSError:  # the kernel cannot watch it for now (ENOMEM, ENOSPC): its turns go on
                await trio.sleep(_LACKING)

    def stir(self) -> None:
        """Wake the task: there is something to send. It looks once for all that is queued in this turn of the loop."""
        self._sleep.cancel()

    def before_io_wait(self, timeout: float) -> None:
        """Called as trio.abc.Instrument: no task can run, and trio would wait for this many seconds."""
        if timeout <= 0 or not self._busy or self._token is None:
            return
        told = self._lane.stay(int(min(timeout, _LONGEST) * 1e6), QUIET_FOR, SLICE, self._others)
        self._busy = told != QUIET
        if told == CALL:
            self._token.run_sync_soon(self.stir, idempotent=True)


def _others() -> int:
    """Return the descriptor that is readable when trio has work; -1 where this trio has none that is known.

    Trio does not promise it. Without it the fast path has only its turns, which costs more.
    """
    runner = getattr(trio._core._run.GLOBAL_RUN_CONTEXT, "runner", None)
    epoll = getattr(getattr(runner, "io_manager", None), "_epoll", None)
    return epoll.fileno() if isinstance(epoll, select.epoll) else -1
