"""Connections to servers that speak HTTP/2, each shared by the requests of one caller, never by two (as http1_pool.py).

Theory of operation. A request that finds no connection with room makes one; requests that come meanwhile wait for the
same attempt. The task that moves its bytes runs in the nursery of `run`, not in the task of the request that made it,
because the connection outlives that. It ends by itself when it was not used for limits.pool_idle_timeout, or when the
server closes it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio
from trio.abc import HalfCloseableStream

from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Connection
from nodeproxy.h2.limits import Bounds
from nodeproxy.h2.transport import Transport
from nodeproxy.stream import abort
from policy.model import Endpoint

Args = TypeVarTuple("Args")

log = logging.getLogger("edgemesh.http")

Key = tuple[str, str, Endpoint]  # as in http1_pool.py
_LOOK = 5.0  # seconds between checks for idle connections


class Http2Pool:
    """HTTP/2 connections by caller and endpoint."""

    def __init__(
        self,
        bounds: Bounds,
        idle_timeout: float,
        transport: Callable[[object, Bounds], Transport | None] = lambda stream, bounds: None,
    ) -> None:
        """`transport`: what moves the bytes of a connection over this stream; None: the connection does so itself."""
        self.bounds = bounds
        self.idle_timeout = idle_timeout
        self._transport = transport
        self._open: dict[Key, list[Connection]] = {}
        self._dialling: dict[Key, trio.Lock] = {}
        self._carried: dict[Connection, int] = {}  # requests, where a connection may carry so many and no more
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<Http2Pool {sum(map(len, self._open.values()))} connections>"

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections alive until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(_LOOK)
                self.sweep(trio.current_time())

    async def get(
        self,
        key: Key,
        dial: Callable[[*Args], Awaitable[HalfCloseableStream]],
        *args: *Args,
        most: int | None = None,
    ) -> Connection:
        """Return a connection with room for one more request; `dial(*args)` makes the stream of a new one.

        `most`: requests that one connection may carry. Raise what `dial` raises.
        """
        found = await self._found(key, dial, *args, most=most)
        if most is not None:
            self._carried[found] = self._carried.get(found, 0) + 1
        return found

    async def _found(
        self, key: Key, dial: Callable[[*Args], Awaitable[HalfCloseableStream]], *args: *Args, most: int | None
    ) -> Connection:
        if (found := self._with_room(key, most)) is not None:
            return found
        lock = self._dialling.setdefault(key, trio.Lock())
        try:
            async with lock:
                if (found := self._with_room(key, most)) is not None:
                    return found
                return self._keep(key, await dial(*args))
        finally:
            if not lock.locked() and self._dialling.get(key) is lock:
                del self._dialling[key]

    def give(self, caller: str, door: str, endpoint: Endpoint, stream: HalfCloseableStream) -> None:
        """Take over a connection that has carried nothing yet (detection dialled it)."""
        self._keep((caller, door, endpoint), stream)

    def existing(self, key: Key) -> list[Connection]:
        """Return the open connections."""
        return self._open.get(key, [])

    def _keep(self, key: Key, stream: HalfCloseableStream) -> Connection:
        assert self._nursery is not None, "run() first"
        transport = self._transport(stream, self.bounds)
        connection = Connection(stream, client=True, bounds=self.bounds, name=str(key[2]), transport=transport)
        self._open.setdefault(key, []).append(connection)
        self._nursery.start_soon(self._carry, key, connection, stream)
        return connection

    def forget(self, addresses: frozenset[str], workload: str) -> None:
        """Close connections from or to these addresses, or of this workload."""
        for key, connections in list(self._open.items()):
            if (
                key[0].partition(" ")[0] in addresses
                or key[2].address in addresses
                or workload in (key[1], key[2].workload)
            ):
                for connection in connections:
                    connection.close()

    def sweep(self, now: float) -> None:
        for connections in self._open.values():
            for connection in connections:
                if not connection.streams and now - connection.idle_since > self.idle_timeout:
                    connection.drain()

    def _with_room(self, key: Key, most: int | None) -> Connection | None:
        for connection in list(self._open.get(key, ())):
            if most is not None and self._carried.get(connection, 0) >= most:
                if not connection.streams:
                    connection.drain()
            elif connection.room() > 0:
                return connection
        return None

    async def _carry(self, key: Key, connection: Connection, stream: object) -> None:
        """Carry one connection. Its streams tell its end, whatever it was, to the requests on it."""
        try:
            await connection.run()
        except (Refused, trio.BrokenResourceError) as error:
            log.debug("%r: %s", connection, error)
        except Exception:
            log.exception("%r", connection)
        finally:
            abort(stream)
            self._carried.pop(connection, None)
            connections = self._open[key]
            connections.remove(connection)
            if not connections:
                del self._open[key]
