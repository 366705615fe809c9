"""A caller, servers and a route in memory around one real exchange: nothing here opens a socket or looks at a clock."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, cast

import h11
import pytest
import trio
from trio.abc import HalfCloseableStream
from trio.testing import lockstep_stream_pair, memory_stream_pair

from nodeproxy.capture import Ports
from nodeproxy.context import Conn, Context
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds
from nodeproxy.interfaces import Pick
from nodeproxy.limits import Limits
from nodeproxy.protocols.http import attempt
from nodeproxy.protocols.http.room import serve_http
from nodeproxy.stream import Peeked, abort, close_now
from nodeproxy.telemetry.record import Record
from nodeproxy.upstream.balance import Live
from nodeproxy.upstream.http1_pool import Pool
from nodeproxy.upstream.http2_pool import Http2Pool
from policy.model import Endpoint, Mesh, Request, Workload
from policy.route import Filter, Retry, Timeouts
from policy.snapshot import Snapshot
from policy.upstream import ServiceBounds

BUYER = Workload("shop", "buyer", "buyer", ("10.0.0.1",))
STORE = Workload("shop", "store", "store", ("10.0.0.2",))
FIRST = Endpoint("10.0.0.2", 8080, STORE.key)
SECOND = Endpoint("10.0.0.3", 8080, STORE.key)


class Pipe(HalfCloseableStream):
    """One end of a connection in memory that can also be closed or reset without waiting, as a socket can."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.peer: Pipe
        self.was_reset = False  # by the peer
        self.closed = False
        self.got = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.inner.receive_some(max_bytes)
        if not data and self.was_reset:
            raise trio.BrokenResourceError("reset")
        self.got += len(data)
        return cast(bytes, data)

    def close(self) -> None:
        self.closed = True
        self.inner.send_stream.close()
        self.inner.receive_stream.close()

    def abort(self) -> None:
        self.peer.was_reset = True
        self.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


def pipes(lockstep: bool = False) -> tuple[Pipe, Pipe]:
    left, right = map(Pipe, lockstep_stream_pair() if lockstep else memory_stream_pair())
    left.peer, right.peer = right, left
    return left, right


class FakeRoute:
    """Picks the first endpoint that was not tried. Tests set `refuse` to a Refused, or to a function of the request."""

    def __init__(self) -> None:
        self.endpoints = [FIRST]
        self.refuse: Refused | Callable[[Request], Refused | None] | None = None
        self.requests: list[Request] = []
        self.elsewhere = "warehouse"
        self.protocol: Any = ""
        self.filters: tuple[Filter, ...] = ()  # of the rule that is taken
        self.timeouts: Timeouts | None = None  # of that rule
        self.retry: Retry | None = None
        self.upstream: ServiceBounds | None = None  # of the chosen Service
        self.judged: list[Request] = []  # what filters have made of requests
        self.refuse_sent: Refused | None = None  # what that is refused with

    def pick(self, request: Request | None, tried: Collection[Endpoint] = (), backend: str = "") -> Pick:
        assert request is not None
        self.requests.append(request)
        refused = self.refuse(request) if callable(self.refuse) else self.refuse
        if refused is not None:
            raise refused
        for endpoint in self.endpoints:
            if endpoint not in tried:
                rule = "TrafficTarget shop/t"
                own = (self.protocol, self.filters, self.timeouts)
                return Pick(
                    endpoint, STORE, "shop/store", rule, True, None, *own, retry=self.retry, upstream=self.upstream
                )
        raise Refused("no-endpoint", "shop/store")

    def still_allows(self, pick: Pick, request: Request | None) -> bool:
        return True

    def spread(self) -> None:
        return None  # the slow path's

    def ruled(self) -> None:
        return None

    def rule(self, request: Request) -> int:
        return -1

    def refuses(self, endpoint: Endpoint, request: Request, via: str = "") -> Refused | None:
        self.judged.append(request)
        return self.refuse_sent

    def crosses(self, workload: Workload, endpoint: Endpoint) -> bool:
        return False

    def misdirected(self, host: str) -> bool:
        return host == self.elsewhere


Server = Callable[[Pipe], Awaitable[None]]


class House:
    """Everything around one accepted connection. `caller` is the caller's end; servers are scripts, one for each dial."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.records: list[Record] = []
        self.route = FakeRoute()
        self.limits = Limits()
        self.lockstep = False
        self.servers: list[Server | Refused] = []  # the last one serves all further dials
        self.dialled: list[Endpoint] = []
        self.upstreams: list[Pipe] = []
        self.context = Context(
            Snapshot("here", Mesh()),
            cast(Any, None),
            Live(0),
            Pool(self.limits),
            self.limits,
            Ports(),
            self.records.append,
        )
        self.done = trio.Event()
        self.failure: Exception | None = None
        self.caller: Pipe
        self.conn: Conn

    @property
    def protocol(self) -> str:
        """What the server's Service port declares."""
        return str(self.route.protocol)

    @protocol.setter
    def protocol(self, value: str) -> None:
        self.route.protocol = value

    def limit(self, **values: Any) -> None:
        self.limits = Limits(**values)
        self.context.limits = self.context.pool.limits = self.limits

    def connect(self, held: bytes = b"") -> Pipe:
        """A caller connects; the exchange runs until it ends, and how it ended is in `failure`."""
        self.caller, ours = pipes(self.lockstep)
        self.conn = Conn(
            self.context, Peeked(ours, held), BUYER, "outbound", ("10.0.0.1", 40000), ("10.1.0.1", 80), 0.0
        )
        self.done = trio.Event()
        self.failure = None
        self.nursery.start_soon(self._run, self.conn, ours, self.done)
        return self.caller

    async def _run(self, conn: Conn, ours: Pipe, done: trio.Event) -> None:
        try:
            with conn.scope:
                await serve_http(conn, self.route)
        except (Refused, trio.BrokenResourceError) as error:
            self.failure = error
        finally:
            if self.failure is None and not conn.scope.cancelled_caught:
                close_now(ours)
            else:
                abort(ours)
            done.set()

    async def dial(self, conn: Conn, pick: Pick) -> Pipe:
        server = self.servers[min(len(self.dialled), len(self.servers) - 1)]
        self.dialled.append(pick.endpoint)
        await trio.lowlevel.checkpoint()
        if isinstance(server, Refused):
            raise server
        theirs, ours = pipes(self.lockstep)
        self.upstreams.append(ours)
        self.nursery.start_soon(self._serve, server, theirs)
        return ours

    async def _serve(self, server: Server, stream: Pipe) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # a connection that is broken off ends the script
            await server(stream)

    async def request(self, *args: Any, **kwargs: Any) -> tuple[int, dict[bytes, bytes], bytes]:
        return await Client(self.caller).request(*args, **kwargs)


class Client:
    """An independent HTTP/1.1 client over h11, keeping one connection."""

    def __init__(self, stream: Pipe) -> None:
        self.stream = stream
        self.h11 = h11.Connection(h11.CLIENT)
        self.interim: list[int] = []
        self.trailers: list[tuple[bytes, bytes]] = []

    async def request(
        self, method: str = "GET", target: str = "/", headers: Collection[tuple[str, str]] = (), body: bytes = b""
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        fields = [("Host", "store"), *headers]
        if body:
            fields.append(("Content-Length", str(len(body))))
        data = self.h11.send(h11.Request(method=method, target=target, headers=fields)) or b""
        if body:
            data += self.h11.send(h11.Data(body)) or b""
        await self.stream.send_all(data + (self.h11.send(h11.EndOfMessage()) or b""))
        return await self.response()

    async def response(self) -> tuple[int, dict[bytes, bytes], bytes]:
        status, fields, body = 0, {}, bytearray()
        while True:
            event = self.h11.next_event()
            if event is h11.NEED_DATA:
                self.h11.receive_data(bytes(await self.stream.receive_some(65536)))
            elif isinstance(event, h11.InformationalResponse):
                self.interim.append(event.status_code)
                if event.status_code == 101:
                    return 101, dict(event.headers), b""
            elif isinstance(event, h11.Response):
                status, fields = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.trailers = list(event.headers)
                if self.h11.our_state is h11.DONE and self.h11.their_state is h11.DONE:
                    self.h11.start_next_cycle()
                return status, fields, bytes(body)
            else:
                raise AssertionError(event)


async def read_head(stream: HalfCloseableStream, rest: bytearray | None = None) -> bytes:
    """Read one head; bytes after it go to `rest`. b"" when the stream ends first."""
    data = bytearray(rest or b"")
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65536)
        if not more:
            return b""
        data += more
    head, _, after = bytes(data).partition(b"\r\n\r\n")
    if rest is not None:
        rest[:] = after
    return head


def answering(*responses: bytes, seen: list[bytes] | None = None, then_close: bool = False) -> Server:
    """A server that answers requests without a body with these responses in turn, the last one for ever."""

    async def serve(stream: Pipe) -> None:
        rest = bytearray()
        number = 0
        while head := await read_head(stream, rest):
            if seen is not None:
                seen.append(head)
            await stream.send_all(responses[min(number, len(responses) - 1)])
            number += 1
            if then_close and number >= len(responses):
                break
        stream.close()

    return serve


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@pytest.fixture
async def house(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    house = House(nursery)
    house.servers = [answering(OK)]
    monkeypatch.setattr(attempt, "dial", house.dial)
    yield house
    nursery.cancel_scope.cancel()


@pytest.fixture
async def shared(house: House, nursery: trio.Nursery) -> Http2Pool:
    house.context.http2_pool = Http2Pool(Bounds(), 30.0)
    await nursery.start(house.context.http2_pool.run)
    return house.context.http2_pool
