"""Copy bytes both ways between two streams, keeping half-close, until both ends are done, one breaks, or nothing moves.

Theory of operation: two tasks, one for each direction. When a side ends its sending, the relay passes the end on
(`send_eof`), and the other direction continues. When a side breaks, the relay aborts both: a reset must not arrive as a
clean end, or the peer would take a part for the whole. Memory is one chunk per direction: the next read waits until the
last chunk was taken (back-pressure). One clock serves both directions.

The fast path is tried first, and does the same where it can (fastpath/relays.py).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Collection

import trio

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import NO_FAST_PATH, FastPath
from nodeproxy.stream import Stream, abort, plain_socket
from nodeproxy.telemetry.record import Record

_SEGS_IN = 140  # struct tcp_info of linux/tcp.h: tcpi_segs_in, 32 bits (Linux 4.2)


class _Idle:
    """Ends both directions if nothing moves: no bytes, and no segments without bytes, which are TCP keepalives.

    gone_quiet in relay.c does the same.
    """

    __slots__ = ("moved", "over", "scope", "sockets", "timeout")

    def __init__(self, timeout: float, sockets: Collection[trio.SocketStream]) -> None:
        self.timeout = timeout
        self.sockets = sockets
        self.moved = trio.current_time()
        self.scope = trio.CancelScope()
        self.over = False

    def move(self) -> None:
        self.moved = trio.current_time()

    async def watch(self) -> None:
        while True:
            moved = self.moved
            await trio.sleep_until(moved + min(self.timeout / 8, 60.0))
            if self.moved != moved:
                continue
            heard = self._segments()
            await trio.sleep_until(moved + self.timeout)
            if self.moved != moved:
                continue
            if self._segments() == heard:
                break
            self.moved = trio.current_time()
        self.over = True
        self.scope.cancel()

    def _segments(self) -> int:
        """Return the number of segments received so far."""
        try:
            infos = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256) for one in self.sockets]
        except OSError:
            return 0  # no TCP
        return sum(int.from_bytes(info[_SEGS_IN : _SEGS_IN + 4], sys.byteorder) for info in infos)


async def relay(
    left: Stream,
    right: Stream,
    idle_timeout: float,
    record: Record | None = None,
    chunk: int = 65536,
    fast: FastPath[Conn] = NO_FAST_PATH,
) -> tuple[int, int]:
    """Relay until both directions ended. Return the number of bytes left to right and right to left.

    `record` is counted up as bytes move (bytes_in: left to right), so that a cancelled relay is counted too. The
    streams are left open for their owner, but aborted if one broke. Raise Refused("idle") if nothing moved for
    `idle_timeout` seconds, Refused("client-gone") or Refused("upstream-broken") if left or right was reset.
    """
    passed = await fast.relay(left, right, idle_timeout, record)
    if passed is not None:
        return passed
    return await _relay(left, right, idle_timeout, record, chunk)


async def _relay(
    left: Stream, right: Stream, idle_timeout: float, record: Record | None, chunk: int
) -> tuple[int, int]:
    """Relay on the slow path."""
    counts = [0, 0]
    broken: list[Refused] = []
    idle = _Idle(idle_timeout, [one for one in (plain_socket(left), plain_socket(right)) if one is not None])
    running = 2

    async def copy(source: Stream, sink: Stream, way: int) -> None:
        nonlocal running
        reading = True
        try:
            while True:
                reading = True
                data = await source.receive_some(chunk)
                reading = False
                if not data:
                    await sink.send_eof()
                    running -= 1
                    if not running:
                        watching.cancel()
                    return
                await sink.send_all(data)
                counts[way] += len(data)
                if record is not None:
                    if way == 0:
                        record.bytes_in += len(data)
                    else:
                        record.bytes_out += len(data)
                idle.move()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # Which side broke: the one that was read, or the one that was written.
            broken.append(Refused("client-gone" if reading == (way == 0) else "upstream-broken", str(error)))
            idle.scope.cancel()

    with idle.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy, left, right, 0)
            nursery.start_soon(copy, right, left, 1)
            with trio.CancelScope() as watching:
                await idle.watch()
    if idle.over or broken:
        abort(left)
        abort(right)
        raise broken[0] if broken else Refused("idle")
    return counts[0], counts[1]
