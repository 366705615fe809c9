"""The fast path for opaque bytes, between two sockets or a socket and a tunnel; same outcome as protocols/relay.py.

Both ends are lent until both directions have ended, one end broke, or nothing moved for too long (native/relay.c,
native/tunnel.c). Then the fast path reports how the relay ended and how many bytes moved each way.
"""

from __future__ import annotations

import os
from typing import Any

import outcome
import trio

from nodeproxy.errors import Refused
from nodeproxy.fastpath.engine import Engine
from nodeproxy.fastpath.links import Links
from nodeproxy.h2.limits import Code
from nodeproxy.h2.stream import Channel
from nodeproxy.native import (
    DONE,
    IDLE,
    LEFT_BROKEN,
    RIGHT_BROKEN,
    STREAM_LOST,
    STREAM_RESET,
    STREAM_SHUT,
    STREAM_WRONG,
    Linked,
    Passed,
    Relayed,
    Tunnelled,
)
from nodeproxy.stream import Peeked, Stream, abort, broke, plain_socket, take_held
from nodeproxy.telemetry.record import Record


class _Relay:
    """A relay in progress, and how far its record was updated."""

    __slots__ = ("left_to_right", "record", "relayed", "right_to_left", "task")

    def __init__(self, relayed: Relayed | Tunnelled, record: Record | None) -> None:
        self.relayed = relayed
        self.record = record
        self.left_to_right = self.right_to_left = 0
        self.task: trio.lowlevel.Task | None = None  # the task that waits for the end

    def count(self, left_to_right: int, right_to_left: int) -> None:
        if self.record is not None:
            self.record.bytes_in += left_to_right - self.left_to_right
            self.record.bytes_out += right_to_left - self.right_to_left
        self.left_to_right, self.right_to_left = left_to_right, right_to_left


class Relays:
    """Relays of the fast path."""

    def __init__(self, engine: Engine, links: Links) -> None:
        self._engine = engine
        self._links = links
        self._relays: dict[int, _Relay] = {}
        self._passed: dict[int, Passed] = {}

    def __repr__(self) -> str:
        return f"<Relays {len(self._relays)} under way>"

    async def relay(
        self, left: Stream, right: Stream, idle_timeout: float, record: Record | None
    ) -> tuple[int, int] | None:
        """Relay until both directions ended; None: the fast path cannot. Raise Refused as protocols/relay.py does."""
        if broke(left) or broke(right):
            return None
        left_socket, right_socket = plain_socket(left), plain_socket(right)
        if left_socket is not None and right_socket is not None:
            passed = await self._pass_on(
                left_socket, right_socket, take_held(left), take_held(right), idle_timeout, record
            )
            return _outcome(passed, left, right)
        for socket, other in ((left_socket, right), (right_socket, left)):
            channel = other.stream if isinstance(other, Peeked) else other
            if (
                socket is not None
                and isinstance(channel, Channel)
                and (linked := self._links.lends(channel)) is not None
            ):
                return await self._tunnelled(linked, left, right, channel, socket, idle_timeout, record)
        return None

    async def _tunnelled(
        self,
        linked: Linked,
        left: Stream,
        right: Stream,
        channel: Channel,
        socket: trio.SocketStream,
        idle_timeout: float,
        record: Record | None,
    ) -> tuple[int, int]:
        """Relay where one end is a tunnel."""
        is_left = plain_socket(left) is socket
        stream, other = (left, right) if is_left else (right, left)
        passed = await self._tunnel(
            linked, channel, socket, is_left, take_held(other), take_held(stream), idle_timeout, record
        )
        if passed.what not in (DONE, IDLE, LEFT_BROKEN, RIGHT_BROKEN):
            abort(left)
            abort(right)
            raise Refused("upstream-broken" if is_left else "client-gone", channel.broken)
        return _outcome(passed, left, right)

    async def _pass_on(
        self,
        left: trio.SocketStream,
        right: trio.SocketStream,
        left_held: bytes,
        right_held: bytes,
        idle_timeout: float,
        record: Record | None = None,
    ) -> Passed:
        """Lend two connections until both have ended, one broke, or nothing moved; `held` was read from them before.

        On cancellation they come back at once, and `record` has the bytes that passed. Until then the record is updated
        once a second.
        """
        number = self._engine.next_id()
        relayed = self._engine.lane.relay(
            number, left.socket.fileno(), right.socket.fileno(), left_held, right_held, idle_timeout
        )
        return await self._until_over(number, relayed, record)

    async def _tunnel(
        self,
        linked: Linked,
        channel: Channel,
        stream: trio.SocketStream,
        left: bool,
        channel_held: bytes,
        stream_held: bytes,
        idle_timeout: float,
        record: Record | None = None,
    ) -> Passed:
        """As `_pass_on`, between a tunnel that `links` just returned and a socket.

        `left`: the tunnel is the caller's end.
        """
        number = self._engine.next_id()
        arrived, window, untold = channel.lend()
        try:
            tunnelled = self._engine.lane.tunnel(
                number,
                linked,
                channel.id,
                stream.socket.fileno(),
                left,
                channel_held + arrived,
                len(arrived),
                window,
                untold,
                stream_held,
                idle_timeout,
            )
            self._engine.stir()
            passed = await self._until_over(number, tunnelled, record)
        finally:
            channel.take_back()
        if passed.what == DONE:
            channel.passed()
        elif passed.what == STREAM_RESET:
            channel.reset(passed.error)
        elif passed.what == STREAM_WRONG:
            channel.lose(f"the peer broke HTTP/2 on this stream (error code {passed.error})")
        elif passed.what == STREAM_SHUT:
            channel.abort(Code.CANCEL)
            channel.lose(f"the peer opened no window for {channel.connection.bounds.stall:g} s")
        elif passed.what == STREAM_LOST and not channel.broken:
            channel.lose(channel.connection.why_ended())
        return passed

    async def _until_over(self, number: int, relayed: Relayed | Tunnelled, record: Record | None) -> Passed:
        relay = self._relays[number] = _Relay(relayed, record)
        try:
            if self._engine.lane.pending:
                self._engine.collect()
            passed: Passed | None = self._passed.pop(number, None)
            if passed is None:
                relay.task = trio.lowlevel.current_task()

                def abort(_: Any) -> trio.lowlevel.Abort:
                    relay.task = None  # the task wakes up by itself, and only once
                    return trio.lowlevel.Abort.SUCCEEDED

                passed = await trio.lowlevel.wait_task_rescheduled(abort)
            else:
                await trio.lowlevel.checkpoint()
            return passed
        finally:
            del self._relays[number]
            self._passed.pop(number, None)
            counts = relayed.drop()
            if counts is not None:
                relay.count(*counts)

    def ended(self, passed: Passed) -> None:
        """Finish a relay or tunnel that is over."""
        relay = self._relays[passed.number]
        relay.count(passed.left_to_right, passed.right_to_left)
        if relay.task is None:
            self._passed[passed.number] = passed
        else:
            trio.lowlevel.reschedule(relay.task, outcome.Value(passed))
            relay.task = None

    def count(self) -> None:
        """Update the records with the bytes that passed so far."""
        for number, left_to_right, right_to_left in self._engine.lane.moved():
            self._relays[number].count(left_to_right, right_to_left)


def _outcome(passed: Passed, left: Stream, right: Stream) -> tuple[int, int]:
    if passed.what == DONE:
        return passed.left_to_right, passed.right_to_left
    abort(left)
    abort(right)
    if passed.what == IDLE:
        raise Refused("idle")
    detail = f"socket connection broken: {OSError(passed.error, os.strerror(passed.error))}"  # in trio's words
    raise Refused("client-gone" if passed.what == LEFT_BROKEN else "upstream-broken", detail)
