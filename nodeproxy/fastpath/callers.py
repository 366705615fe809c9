"""Connections of callers that are lent between two requests, and the tasks that wait for them."""

from __future__ import annotations

from typing import Any

import outcome
import trio

from nodeproxy.context import Conn
from nodeproxy.fastpath.engine import Engine
from nodeproxy.fastpath.flows import Plan
from nodeproxy.fastpath.loop import SLICE
from nodeproxy.native import SILENT, Given


class Callers:
    """Lent connections, by the number of their Conn."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[int, tuple[trio.lowlevel.Task | None, Any]] = {}
        self._given: dict[int, Given] = {}

    def __repr__(self) -> str:
        return f"<Callers {len(self._waiting)} lent>"

    def recall(self) -> None:
        """Take each connection back as soon as no request is in progress on it."""
        for _, carried in list(self._waiting.values()):
            carried.recall()

    def back(self, given: Given) -> None:
        """Wake the task whose connection has come back."""
        task, _ = self._waiting.pop(given.caller, (None, None))
        if task is None:
            self._given[given.caller] = given
        else:
            trio.lowlevel.reschedule(task, outcome.Value(given))

    async def carry(self, conn: Conn, plan: Plan, stream: trio.SocketStream, data: bytes) -> Given:
        """Lend a caller's connection. Return what comes back, after any number of requests.

        On cancellation the connection comes back at once, and `left` tells what was in progress.
        """
        plan.refill()
        carried = self._engine.lane.carry(conn.id, stream.socket.fileno(), plan.native, data)
        self._waiting[conn.id] = (None, carried)
        try:
            if data:
                if self._engine.lane.turn(SLICE) == SILENT:
                    self._engine.stir()  # no event reports the work that is left
                self._engine.collect()
            given = self._given.pop(conn.id, None)
            if given is not None:
                await trio.lowlevel.checkpoint()
                return given
            self._waiting[conn.id] = (trio.lowlevel.current_task(), carried)

            def abort(_: Any) -> trio.lowlevel.Abort:
                self._waiting[conn.id] = (None, carried)  # the task wakes up by itself, and only once
                return trio.lowlevel.Abort.SUCCEEDED

            result: Given = await trio.lowlevel.wait_task_rescheduled(abort)
            return result
        finally:
            self._waiting.pop(conn.id, None)
            left = carried.drop()
            if left is not None:
                self._given[conn.id] = left
            self._engine.collect()

    def left(self, conn: Conn) -> Given | None:
        """Return what was in progress when the connection was cut."""
        return self._given.pop(conn.id, None)
