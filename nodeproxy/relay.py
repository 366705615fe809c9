"""Copy bytes both ways between two streams, keeping half-close, until both ends are done, one breaks, or nothing moves.

Theory of operation: two tasks, one for each direction. When a side ends its sending, its end is passed on (`send_eof`) and the
other direction goes on. When a side breaks, both are aborted: a reset must not arrive as a clean end, or the peer would take a
part for the whole. Memory is one chunk a direction: the next read waits until the last chunk was taken (back-pressure).
One deadline serves both directions; it moves at most once a second, because moving it costs a heap operation.

Where both streams are plain sockets and the native lane runs, it does the same in C (native/relay.c), and tells how it ended; likewise
where one is a plain socket and the other a tunnel on a connection that the lane carries (native/tunnel.c).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from nodeproxy.errors import Refused
from nodeproxy.http.h2_channel import Channel
from nodeproxy.stream import Peeked, Stream, abort
from nodeproxy.telemetry.report import Record

if TYPE_CHECKING:
    from nodeproxy.lane import FastLane
    from nodeproxy.native import Linked


class _Idle:
    """The shared deadline of both directions."""

    __slots__ = ("moved", "scope", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.moved = trio.current_time()
        self.scope = trio.CancelScope(deadline=self.moved + timeout)

    def move(self) -> None:
        now = trio.current_time()
        if now - self.moved > 1.0 or self.timeout < 2.0:
            self.moved = now
            self.scope.deadline = now + self.timeout


async def relay(
    left: Stream,
    right: Stream,
    idle_timeout: float,
    record: Record | None = None,
    chunk: int = 65536,
    lane: FastLane | None = None,
) -> tuple[int, int]:
    """Relay until both directions ended; answer the bytes left to right and right to left.

    `record` is counted up as bytes move (bytes_in: left to right), so that a cancelled relay is counted too. The streams are
    left open for their owner, but aborted when one broke. Raises Refused("idle") when nothing moved for `idle_timeout` seconds,
    Refused("client-gone") or Refused("upstream-broken") when left or right was reset.
    """
    if lane is not None:
        left_socket, right_socket = _plain(left), _plain(right)
        if left_socket is not None and right_socket is not None:
            return await _lent(lane, left, right, left_socket, right_socket, idle_timeout, record)
        for socket, other in ((left_socket, right), (right_socket, left)):
            channel = _below(other)
            if socket is not None and isinstance(channel, Channel) and (linked := lane.may_tunnel(channel)) is not None:
                return await _tunnelled(lane, linked, left, right, channel, socket, idle_timeout, record)
    return await _relay(left, right, idle_timeout, record, chunk)


def _below(stream: Stream) -> Stream:
    return stream.stream if isinstance(stream, Peeked) else stream


def _plain(stream: Stream) -> trio.SocketStream | None:
    below = _below(stream)
    return below if isinstance(below, trio.SocketStream) else None


def _take_held(stream: Stream) -> bytes:
    return stream.take_held() if isinstance(stream, Peeked) else b""


async def _lent(
    lane: FastLane,
    left: Stream,
    right: Stream,
    left_socket: trio.SocketStream,
    right_socket: trio.SocketStream,
    idle_timeout: float,
    record: Record | None,
) -> tuple[int, int]:
    """In the native lane."""
    passed = await lane.relay(left_socket, right_socket, _take_held(left), _take_held(right), idle_timeout, record)
    if passed.what != lane.DONE:
        abort(left)
        abort(right)
        if passed.what == lane.IDLE:
            raise Refused("idle")
        detail = f"socket connection broken: {OSError(passed.error, os.strerror(passed.error))}"  # as trio says it
        raise Refused("client-gone" if passed.what == lane.LEFT_BROKEN else "upstream-broken", detail)
    return passed.left_to_right, passed.right_to_left


async def _tunnelled(
    lane: FastLane,
    linked: Linked,
    left: Stream,
    right: Stream,
    channel: Channel,
    socket: trio.SocketStream,
    idle_timeout: float,
    record: Record | None,
) -> tuple[int, int]:
    """In the native lane, one end a tunnel."""
    is_left = _below(left) is socket
    stream, other = (left, right) if is_left else (right, left)
    passed = await lane.tunnel(linked, channel, socket, is_left, _take_held(other), _take_held(stream), idle_timeout, record)
    if passed.what != lane.DONE:
        abort(left)
        abort(right)
        if passed.what == lane.IDLE:
            raise Refused("idle")
        if passed.what in (lane.LEFT_BROKEN, lane.RIGHT_BROKEN):
            detail = f"socket connection broken: {OSError(passed.error, os.strerror(passed.error))}"  # as trio says it
            raise Refused("client-gone" if passed.what == lane.LEFT_BROKEN else "upstream-broken", detail)
        raise Refused("upstream-broken" if is_left else "client-gone", channel.broken)
    return passed.left_to_right, passed.right_to_left


async def _relay(left: Stream, right: Stream, idle_timeout: float, record: Record | None, chunk: int) -> tuple[int, int]:
    """In Python."""
    counts = [0, 0]
    broken: list[Refused] = []
    idle = _Idle(idle_timeout)

    async def copy(source: Stream, sink: Stream, way: int) -> None:
        reading = True
        try:
            while True:
                reading = True
                data = await source.receive_some(chunk)
                reading = False
                if not data:
                    await sink.send_eof()
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
            # Which side broke: the one that we read from, or the one that we wrote to.
            broken.append(Refused("client-gone" if reading == (way == 0) else "upstream-broken", str(error)))
            idle.scope.cancel()

    with idle.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy, left, right, 0)
            nursery.start_soon(copy, right, left, 1)
    if idle.scope.cancelled_caught or broken:
        abort(left)
        abort(right)
        raise broken[0] if broken else Refused("idle")
    return counts[0], counts[1]
