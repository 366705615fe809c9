"""Turns of the native lane and turns of trio: who works when.

One task waits for the lane's descriptor, as it would for any socket, and gives the lane no more than a slice of time for each turn of
trio's loop. Where the lane alone has work, going round that loop for each event costs more than the event. So when trio is about to
sleep and the lane was busy a moment ago, the lane works and waits in trio's place: trio tells of that moment (an instrument's
`before_io_wait`), and its own descriptor tells when somebody else has work, which ends the stay at once. Deadlines of trio's tasks
may come some milliseconds late: a stay that ends sooner than the sleep would is not told from none.
"""

from __future__ import annotations

import select
from collections.abc import Callable

import trio

from nodeproxy.native import CALL, QUIET, SILENT, Lane

SLICE = 500  # microseconds in each turn of the loop; without a bound others wait for tens of milliseconds
QUIET_FOR = 4000  # microseconds in which nothing came: trio sleeps itself
_LONGEST = 1.0  # seconds


class Drive(trio.abc.Instrument):
    def __init__(self, lane: Lane, collect: Callable[[], None]) -> None:
        self._lane, self._collect = lane, collect
        self._sleep = trio.CancelScope()  # of the task that drives
        self._busy = False
        self._others = -1
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> None:
        """Drive the lane until cancelled."""
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
            with trio.CancelScope() as self._sleep:
                await trio.lowlevel.wait_readable(lane.fileno())

    def stir(self) -> None:
        """There is something to send: the task looks, once for all that is queued in this turn of the loop."""
        self._sleep.cancel()

    def before_io_wait(self, timeout: float) -> None:
        """As trio.abc.Instrument: nobody can run, and trio would wait for so many seconds."""
        if timeout <= 0 or not self._busy or self._token is None:
            return
        told = self._lane.stay(int(min(timeout, _LONGEST) * 1e6), QUIET_FOR, SLICE, self._others)
        self._busy = told != QUIET
        if told == CALL:
            self._token.run_sync_soon(self.stir, idempotent=True)


def _others() -> int:
    """The descriptor that is readable when trio has work; -1 where this trio has none that we know.

    It is not promised by trio. Without it the lane has its turns only, which costs more.
    """
    runner = getattr(trio._core._run.GLOBAL_RUN_CONTEXT, "runner", None)
    epoll = getattr(getattr(runner, "io_manager", None), "_epoll", None)
    return epoll.fileno() if isinstance(epoll, select.epoll) else -1
