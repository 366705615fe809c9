"""Upstream HTTP connections that rest between two requests, by caller and endpoint: never shared between callers.

A connection that was opened for one caller carries that caller's source address, and a server may bind what it knows to a
connection. So the key names the caller: its address, and the door that it came through, because workloads (systemd units) may
share an address. Nothing here waits and no task watches the idle connections: what a server did meanwhile (closed, or sent
something nobody asked for) shows when a connection is taken or swept.
"""

from __future__ import annotations

import select
from collections.abc import Iterable

import trio
from trio.abc import HalfCloseableStream

from nodeproxy.errors import Refused
from nodeproxy.http.h1 import Incoming, framed, write_request
from nodeproxy.http.h2_channel import Channel
from nodeproxy.http.message import CHUNKED, RequestHead, ResponseHead
from nodeproxy.http.sides import Body
from nodeproxy.http.wire import Wire
from nodeproxy.limits import Limits
from nodeproxy.stream import Peeked, Stream, abort, close_now
from policy.model import Endpoint

Key = tuple[str, str, Endpoint]  # the caller's address, the key of the workload whose door it came through, the endpoint


class Upstream:
    """sides.Server: one HTTP/1.1 connection to a server, with what was read from it. `rest`: where it goes when it may rest."""

    __slots__ = ("_chunked", "_out", "_poll", "_rest", "endpoint", "heard", "incoming", "key", "name", "since", "stream", "used", "wire")

    unprocessed = False  # HTTP/1.1 cannot say so

    def __init__(self, key: Key, stream: HalfCloseableStream, rest: Pool | None = None) -> None:
        self.key = key
        self.endpoint = key[2]
        self.name = str(key[2])
        self.stream = stream
        self.wire = Wire(stream)
        self.incoming = Incoming("upstream-broken")
        self.used = False
        self.heard = False
        self.since = 0.0  # when it came to rest, trio's clock
        self._rest = rest
        self._out = b""
        self._chunked = False
        self._poll: select.poll | None = None
        if isinstance(stream, trio.SocketStream):
            self._poll = select.poll()
            self._poll.register(stream.socket.fileno(), select.POLLIN)  # POLLHUP and POLLERR are always told

    def __repr__(self) -> str:
        return f"<Upstream {self.name} for {self.key[0]}, {'used' if self.used else 'new'}>"

    # sides.Server

    def begin(self, head: RequestHead, sent: bytes, host: bytes, forwarded_for: bytes) -> None:
        self.heard = False
        self._chunked = head.length == CHUNKED
        self._out = write_request(head, sent, host, forwarded_for)

    def add(self, piece: bytes, source: Body) -> None:
        self._out += framed(piece, source, self._chunked)

    async def flush(self) -> None:
        out, self._out = self._out, b""
        await self.send(out)

    async def next_response(self, method: bytes, limits: Limits) -> ResponseHead:
        incoming = self.incoming
        while True:
            if incoming.data and (response := incoming.response_head(method, limits)) is not None:
                return response
            data = await self.receive(limits.buffer_bytes)
            if not data:
                incoming.ended = True
                if not incoming.data:
                    raise Refused("upstream-broken", f"{self.name} closed the connection before it answered")
            self.heard = True
            incoming.feed(data)

    async def more(self, limits: Limits) -> None:
        data = await self.receive(limits.buffer_bytes)
        if data:
            self.incoming.feed(data)
        else:
            self.incoming.feed_end()

    def finish(self, reusable: bool) -> None:
        if reusable and not self.incoming.data and self._rest is not None:
            self.used = True
            self._rest.put(self, trio.current_time())
        else:
            self.close()

    def pipe(self) -> Stream:
        return Peeked(self.stream, self.incoming.rest())

    # at rest

    def quiet(self) -> bool:
        """Has the server neither closed nor sent anything since the last response? Costs one system call."""
        if self._poll is None:  # a tunnel's stream
            if isinstance(self.stream, Channel):
                # A connection that is ending waits for its last stream: one that rests would keep it beyond its certificates.
                return not self.stream.connection.ending and self.stream.ready() is None
            return True
        return not self._poll.poll(0)

    async def send(self, data: bytes) -> None:
        """Raises Refused "upstream-broken" when the server closed the connection."""
        try:
            await self.wire.send(data)
        except trio.BrokenResourceError as error:
            raise Refused("upstream-broken", f"{self.name} closed the connection") from error

    async def receive(self, max_bytes: int) -> bytes | bytearray:
        """b"" when the server ended its sending. Raises Refused "upstream-broken" when it reset the connection."""
        try:
            return await self.wire.receive(max_bytes)
        except trio.BrokenResourceError as error:
            raise Refused("upstream-broken", f"{self.name} reset the connection") from error

    def close(self) -> None:
        """After a whole response: bytes already sent still arrive."""
        close_now(self.stream)

    def abort(self) -> None:
        """Something was cut short: the server must not take a part of a request for the whole."""
        abort(self.stream)


class Pool:
    """Idle upstream connections, the most recently used taken first. Times are seconds of trio's clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._idle: dict[Key, list[Upstream]] = {}
        self._doors: dict[str, dict[Upstream, None]] = {}  # by the caller's door, the one that rested longest first

    def __repr__(self) -> str:
        return f"<Pool {len(self)} idle for {len(self._idle)} callers and endpoints>"

    def __len__(self) -> int:
        return sum(map(len, self._doors.values()))

    def take(self, key: Key, now: float) -> Upstream | None:
        """A connection that can carry a request now, or None. The caller owns it until it is put back."""
        idle = self._idle.get(key)
        while idle:
            upstream = idle.pop()
            self._left(upstream)
            if not idle:
                del self._idle[key]
            if now - upstream.since <= self.limits.pool_idle_timeout and upstream.quiet():
                return upstream
            upstream.close()
        return None

    def put(self, upstream: Upstream, now: float) -> None:
        """Let a connection rest whose last response was read whole. The one that rested longest makes room."""
        upstream.since = now
        idle = self._idle.setdefault(upstream.key, [])
        idle.append(upstream)
        door = self._doors.setdefault(upstream.key[1], {})
        door[upstream] = None
        if len(idle) > self.limits.pool_idle_per_endpoint:
            self._drop(idle[0])
        elif len(door) > self.limits.pool_idle_per_workload:
            self._drop(next(iter(door)))

    def give(self, caller: str, door: str, endpoint: Endpoint, stream: HalfCloseableStream) -> None:
        """Take over a connection that has carried nothing yet (detection dialled it)."""
        self.put(Upstream((caller, door, endpoint), stream, self), trio.current_time())

    def forget(self, addresses: Iterable[str], workload: str = "") -> None:
        """Close what rests from or to these addresses, or this workload, which may have had others: it is gone or has changed."""
        gone = frozenset(addresses)
        self._close(
            key
            for key in self._idle
            if key[0].partition(" ")[0] in gone or key[2].address in gone or (workload and workload in (key[1], key[2].workload))
        )

    def sweep(self, now: float) -> None:
        """Close what rested too long, or whose server closed it meanwhile."""
        for key, idle in list(self._idle.items()):
            kept = []
            for upstream in idle:
                if now - upstream.since <= self.limits.pool_idle_timeout and upstream.quiet():
                    kept.append(upstream)
                else:
                    self._left(upstream)
                    upstream.close()
            if kept:
                self._idle[key] = kept
            else:
                del self._idle[key]

    def close(self) -> None:
        self._close(self._idle)

    def _close(self, keys: Iterable[Key]) -> None:
        for key in list(keys):
            for upstream in self._idle.pop(key):
                self._left(upstream)
                upstream.close()

    def _drop(self, upstream: Upstream) -> None:
        idle = self._idle[upstream.key]
        idle.remove(upstream)
        if not idle:
            del self._idle[upstream.key]
        self._left(upstream)
        upstream.close()

    def _left(self, upstream: Upstream) -> None:
        door = self._doors[upstream.key[1]]
        del door[upstream]
        if not door:
            del self._doors[upstream.key[1]]
