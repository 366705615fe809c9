"""A TCP port that a field of the NodeConfig names. One that is in use is tried again."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import trio

from agent.config.checks import parse_address
from agent.system.fd_store import FdStore
from nodeproxy.housekeeping import PASSING
from policy.model import Problem, Where

log = logging.getLogger("edgemesh")

NAMES = ("metrics", "health", "door")  # of the listeners
_AGAIN = 5.0  # seconds until a port that is in use is tried again


class TcpPort:
    """A listener at HOST:PORT; "": none."""

    def __init__(self, what: str, field: str, where: str, kept: FdStore) -> None:
        self._what = what  # the listener's name, also in the store of descriptors
        self._field = field
        self._where = where
        self._kept = kept
        self.address = parse_address(where)
        self._problem: Problem | None = None

    def problems(self) -> Iterator[Problem]:
        if self._problem is not None:
            yield self._problem

    async def listener(self, address: tuple[str, int]) -> trio.SocketListener:
        while (listener := self._open(address)) is None:  # noqa: ASYNC110 - no event says when a port is free
            await trio.sleep(_AGAIN)
        return listener

    def _open(self, address: tuple[str, int]) -> trio.SocketListener | None:
        """Return the listener; None while another process has that port."""
        try:
            listener = self._kept.listener(self._what, address, 16)
        except OSError as error:
            if error.errno in PASSING:
                raise
            message = f"no {self._what} on {self._where}: {error.strerror}; it is tried again"
            hint = f"stop what listens there, or set another {self._field} and restart"
            self._problem = Problem("warning", Where(), f"NodeConfig {self._field}", message, hint)
            return None
        if self._problem is not None:
            log.info("%s: served on %s now", self._what, self._where)
        self._problem = None
        return listener
