"""Connections to servers that speak HTTP/2: each is shared by the requests of one caller, as pool.py keeps those of HTTP/1.1 apart.

Theory of operation. A connection is made by the first request that finds none with room; requests that come meanwhile wait for the
same attempt. Its pump runs in the nursery of `run`, not in the task of the request that made it, because it outlives that. It ends by
itself when nobody used it for limits.pool_idle_timeout, or when the server closes it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio
from trio.abc import HalfCloseableStream

from nodeproxy.errors import Refused
from nodeproxy.http.h2 import Connection
from nodeproxy.http.h2_bounds import Bounds
from nodeproxy.native import AVAILABLE
from nodeproxy.stream import abort
from nodeproxy.upstream.connect import caller_key, dial
from policy.model import Endpoint

if AVAILABLE:
    from nodeproxy.linked import plain_carrier

if TYPE_CHECKING:
    from nodeproxy.context import Conn, Pick
    from nodeproxy.lane import FastLane

log = logging.getLogger("edgemesh.http")

Key = tuple[str, str, Endpoint]  # as in pool.py
_LOOK = 5.0  # seconds between looks at what is idle


class Shared:
    """HTTP/2 connections by caller and endpoint."""

    def __init__(self, bounds: Bounds, idle_timeout: float) -> None:
        self.bounds = bounds
        self.idle_timeout = idle_timeout
        self.lane: FastLane | None = None  # which carries them, where it can
        self._open: dict[Key, list[Connection]] = {}
        self._dialling: dict[Key, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<Shared {sum(map(len, self._open.values()))} connections>"

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections going until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(_LOOK)
                self.sweep(trio.current_time())

    async def get(self, conn: Conn, pick: Pick) -> Connection:
        """A connection with room for one more request. Raises Refused, as dial does."""
        key = (caller_key(conn, pick.endpoint), conn.workload.key, pick.endpoint)
        if (found := self._with_room(key)) is not None:
            return found
        lock = self._dialling.setdefault(key, trio.Lock())
        try:
            async with lock:
                if (found := self._with_room(key)) is not None:
                    return found
                return self._keep(key, await dial(conn, pick))
        finally:
            if not lock.locked() and self._dialling.get(key) is lock:
                del self._dialling[key]

    def give(self, caller: str, door: str, endpoint: Endpoint, stream: HalfCloseableStream) -> None:
        """Take over a connection that has carried nothing yet (detection dialled it)."""
        self._keep((caller, door, endpoint), stream)

    def existing(self, key: Key) -> list[Connection]:
        """Those that are open."""
        return self._open.get(key, [])

    def _keep(self, key: Key, stream: HalfCloseableStream) -> Connection:
        assert self._nursery is not None, "run() first"
        carrier = plain_carrier(self.lane, stream, self.bounds) if AVAILABLE else None
        connection = Connection(stream, client=True, bounds=self.bounds, name=str(key[2]), carrier=carrier)
        self._open.setdefault(key, []).append(connection)
        self._nursery.start_soon(self._carry, key, connection, stream)
        return connection

    def forget(self, addresses: frozenset[str], workload: str) -> None:
        """Close what leads to these addresses, or this workload, or comes from them."""
        for key, connections in list(self._open.items()):
            if key[0].partition(" ")[0] in addresses or key[2].address in addresses or workload in (key[1], key[2].workload):
                for connection in connections:
                    connection.close()

    def sweep(self, now: float) -> None:
        for connections in self._open.values():
            for connection in connections:
                if not connection.streams and now - connection.idle_since > self.idle_timeout:
                    connection.drain()

    def _with_room(self, key: Key) -> Connection | None:
        return next((c for c in self._open.get(key, ()) if c.room() > 0), None)

    async def _carry(self, key: Key, connection: Connection, stream: object) -> None:
        """The life of one connection. Its end, whatever it was, is told to the requests on it by their streams."""
        try:
            await connection.run()
        except (Refused, trio.BrokenResourceError) as error:
            log.debug("%r: %s", connection, error)
        except Exception:
            log.exception("%r", connection)
        finally:
            abort(stream)
            connections = self._open[key]
            connections.remove(connection)
            if not connections:
                del self._open[key]
