"""Idle upstream HTTP connections, by caller and endpoint: never shared between callers.

A connection carries the source address of the caller for which it was opened, and a server may bind state to a
connection. So the key names the caller: its address and its workload, because workloads (systemd units) may share an
address. Nothing here waits and no task watches the idle connections. When a server closed one, or sent something
unasked, that shows when the connection is taken or swept.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Callable, Iterable

import trio
from trio.abc import HalfCloseableStream

from nodeproxy.codec.http1 import Incoming, framed, write_request
from nodeproxy.codec.message import CHUNKED, Body, RequestHead, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.h2.stream import Channel
from nodeproxy.limits import Limits
from nodeproxy.stream import Peeked, Stream, Wire, abort, close_now, plain_socket
from policy.model import Endpoint

# The caller's address, the key of its workload, the endpoint.
Key = tuple[str, str, Endpoint]


class Upstream:
    """sides.Server: one HTTP/1.1 connection to a server, and what was read from it. `rest`: called when it is idle."""

    __slots__ = (
        "_chunked",
        "_out",
        "_poll",
        "_reset",
        "_rest",
        "endpoint",
        "heard",
        "incoming",
        "key",
        "name",
        "served",
        "since",
        "stream",
        "used",
        "wire",
    )

    unprocessed = False  # HTTP/1.1 cannot say so
    says_enough_late = False

    def __init__(self, key: Key, stream: HalfCloseableStream, rest: Pool | None = None) -> None:
        self.key = key
        self.endpoint = key[2]
        self.name = str(key[2])
        self.stream = stream
        self.wire = Wire(stream)
        self.incoming = Incoming("upstream-broken")
        self.used = False
        self.heard = False
        self.served = 0
        self.since = 0.0  # when it became idle, trio's clock
        self._reset = False
        self._rest = rest
        self._out = b""
        self._chunked = False
        self._poll: select.poll | None = None
        if (socket := plain_socket(stream)) is not None:
            self._poll = select.poll()
            self._poll.register(socket.socket.fileno(), select.POLLIN)  # POLLHUP and POLLERR are always reported

    def __repr__(self) -> str:
        return f"<Upstream {self.name} for {self.key[0]}, {'used' if self.used else 'new'}>"

    # sides.Server

    def begin(self, head: RequestHead, sent: bytes, host: bytes, forwarded_for: bytes) -> None:
        self.heard = False
        self.served += 1
        self._chunked = head.length == CHUNKED
        self._out = write_request(head, sent, host, forwarded_for)

    def add(self, piece: bytes, source: Body) -> None:
        self._out += framed(piece, source, self._chunked)

    async def open(self) -> None:
        return  # its first bytes take the whole connection

    def on_enough(self, call: Callable[[], None]) -> None:
        return  # a write finds out

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

    # while idle

    def quiet(self) -> bool:
        """Return whether the server has neither closed nor sent anything since the last response.

        Costs one system call.
        """
        if self._poll is None:  # a tunnel's stream
            if isinstance(self.stream, Channel):
                # A connection that is ending waits for its last stream: an idle one would keep it beyond its
                # certificates.
                return not self.stream.connection.ending and self.stream.ready() is None
            return True
        try:
            return not self._poll.poll(0)
        except OSError:  # out of memory: do not rely on this connection
            return False

    async def send(self, data: bytes) -> None:
        """Send bytes. Raise Refused "upstream-broken" when the server closed the connection."""
        try:
            await self.wire.send(data)
        except trio.BrokenResourceError as error:
            # A failed write clears the error, and a read would then report an end (EPIPE: the server had ended sending
            # before).
            self._reset = self._reset or getattr(error.__cause__, "errno", None) != errno.EPIPE
            raise Refused("upstream-broken", f"{self.name} closed the connection") from error

    async def receive(self, max_bytes: int) -> bytes | bytearray:
        """Return bytes; b"" when the server ended sending.

        Raise Refused "upstream-broken" when it reset the connection.
        """
        try:
            data = await self.wire.receive(max_bytes)
            if data or not self._reset:
                return data
            raise trio.BrokenResourceError
        except trio.BrokenResourceError as error:
            raise Refused("upstream-broken", f"{self.name} reset the connection") from error

    def close(self) -> None:
        """Close after a whole response: bytes already sent still arrive."""
        close_now(self.stream)

    def abort(self) -> None:
        """Reset after an incomplete message: the server must not take a part of a request for the whole."""
        abort(self.stream)


class Pool:
    """Idle upstream connections; the most recently used is taken first. Times are seconds of trio's clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._idle: dict[Key, list[Upstream]] = {}
        self._doors: dict[str, dict[Upstream, None]] = {}  # by the caller's workload, the longest idle first

    def __repr__(self) -> str:
        return f"<Pool {len(self)} idle for {len(self._idle)} callers and endpoints>"

    def __len__(self) -> int:
        return sum(map(len, self._doors.values()))

    def take(self, key: Key, now: float) -> Upstream | None:
        """Return a connection that can carry a request now, or None. The caller owns it until it is put back."""
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
        """Keep a connection whose last response was read whole. The one that was idle longest makes room."""
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
        """Close idle connections from or to these addresses, or of this workload, which is gone or has changed.

        It may have had other addresses before.
        """
        gone = frozenset(addresses)
        self._close(
            key
            for key in self._idle
            if key[0].partition(" ")[0] in gone
            or key[2].address in gone
            or (workload and workload in (key[1], key[2].workload))
        )

    def sweep(self, now: float) -> None:
        """Close connections that were idle too long, or that the server closed meanwhile."""
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
