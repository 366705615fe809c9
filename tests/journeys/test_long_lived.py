"""Connections that live: each kind of talk outlasts every deadline that is not its own, however its first bytes were cut into segments.

A client says all that it has to say at once: a preface, its SETTINGS and its first request come in one segment, as real clients send
them. Then a message passes now and then, before `idle_timeout`, until every other deadline is over several times.
"""

from __future__ import annotations

import contextlib
import ssl

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from trio.testing import MockClock

from nodeproxy.downstream import accept
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Connection
from nodeproxy.limits import Limits, PeerLimits
from nodeproxy.native import AVAILABLE
from nodeproxy.routing import source
from tests.journeys import bookstore
from tests.journeys.conftest import Mesh
from tests.journeys.stand_ins import head_of
from tests.journeys.two_nodes import TwoNodes

LIMITS = Limits(
    head_timeout=1,
    keepalive_timeout=2,
    idle_timeout=4,
    detect_timeout=1,
    connect_timeout=1,
    response_timeout=4,
    pool_idle_timeout=1,
    drain_timeout=1,
)
PEERS = PeerLimits(idle_timeout=2, keepalive=1, answer=1)
BOUNDS = {"preface": 1.0, "stall": 4.0}
REST = 3.0  # seconds between two messages: longer than each deadline above but that of silence
TIMES = 3

GRPC, UNSAID, RAW, SQL = 14002, 7001, 9000, 9001
PORTS = (
    "[{name: calls, port: 14002, appProtocol: grpc}, {name: unsaid, port: 7001}, {name: raw, port: 9000, appProtocol: tcp},"
    " {name: sql, port: 9001}]"
)
MANIFESTS = {
    "live": bookstore.service("live", "{version: v1}", PORTS),
    "raw": bookstore.tcp("bookbuyer", "bookstore", RAW),
    "sql": bookstore.tcp("bookbuyer", "bookstore", SQL),
}
HOST = "live.bookstore"


async def echo_streams(stream):
    """An HTTP/2 server: each piece is sent back."""
    connection = Connection(stream, client=False, bounds=Bounds(native=False), name="server")
    async with trio.open_nursery() as nursery:

        async def one(channel):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await channel.send_head([(b":status", b"200")])
                while data := await channel.receive_some(65536):
                    await channel.send_all(data)
                await channel.send_eof()
            channel.close()

        with contextlib.suppress(Refused, trio.BrokenResourceError):
            await connection.run(lambda channel: nursery.start_soon(one, channel))
        nursery.cancel_scope.cancel()


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def greet(stream):
    await stream.send_all(b"hello ")
    await echo(stream)


async def switch(stream):
    """A server of another protocol: upgraded, it sends everything back."""
    head, _, rest = (await head_of(stream)).partition(b"\r\n\r\n")
    if b"upgrade" not in head.lower():
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await switch(stream)
        return
    await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n" + rest)
    await echo(stream)


async def talk_back(stream):
    """An HTTP/1.1 server: a chunked request is answered at once, chunk by chunk as it comes; others with two bytes."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = await stream.receive_some()
            if not more:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        if b"chunked" not in head.lower():
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            continue
        await stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + data)
        while not data.endswith(b"0\r\n\r\n"):
            data = await stream.receive_some()
            if not data:
                return
            await stream.send_all(data)
        data = b""


class H2Client:
    """A client as they are: everything that it has to say goes out in one piece."""

    def __init__(self, call):
        self.call = call
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=False))
        self.http.initiate_connection()
        self.body = {}
        self.over = set()
        self.fault = ""

    def ask(self, end, data=b"", port=GRPC):
        number = self.http.get_next_available_stream_id()
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/books"),
            (b":authority", f"{HOST}:{port}".encode()),
        ]
        self.http.send_headers(number, fields)
        self.http.send_data(number, data, end_stream=end)
        self.body[number] = b""
        return number

    async def flush(self):
        await self.call.send(self.http.data_to_send())

    async def hear(self, until):
        while not until():
            data = await self.call.stream.receive_some(65536)
            assert data, "the connection ended"
            for event in self.http.receive_data(data):
                assert not isinstance(event, h2.events.ConnectionTerminated), f"GOAWAY {event.additional_data}"
                assert not isinstance(event, h2.events.StreamReset), f"reset {event.error_code}"
                if isinstance(event, h2.events.DataReceived):
                    self.body[event.stream_id] += event.data
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.over.add(event.stream_id)
            await self.flush()


async def over_streams(mesh, lessons, port):
    mesh.serve("store-v1", echo_streams, port)
    for _ in range(lessons):
        client = H2Client(await mesh.call("buyer", HOST, port))
        number = client.ask(True, b"x", port)
        await client.flush()
        await client.hear(lambda client=client, number=number: number in client.over)
        await client.call.stream.aclose()
        await mesh.settled()
    client = H2Client(await mesh.call("buyer", HOST, port))
    number = client.ask(False, b"a", port)
    await client.flush()
    for said in range(1, TIMES + 1):
        await client.hear(lambda said=said: len(client.body[number]) == said)
        await trio.sleep(REST)
        client.http.send_data(number, b"b")
        await client.flush()
    second = client.ask(True, b"c", port)
    client.http.end_stream(number)
    await client.flush()
    await client.hear(lambda: client.over == {number, second})
    assert (client.body[number], client.body[second]) == (b"a" + b"b" * TIMES, b"c")


async def declared_streams(mesh, lessons):
    await over_streams(mesh, lessons, GRPC)


async def undeclared_streams(mesh, lessons):
    await over_streams(mesh, lessons, UNSAID)


async def converse(call, first, expected, message=b"m"):
    """`first` in one segment; then messages that come back."""
    await call.send(first)
    assert await call.read(len(expected)) == expected
    for _ in range(TIMES):
        await trio.sleep(REST)
        await call.send(message)
        assert await call.read(len(message)) == message


async def opaque(mesh, lessons):
    mesh.serve("store-v1", echo, RAW)
    await converse(await mesh.call("buyer", HOST, RAW), b"abc", b"abc")


async def undetected(mesh, lessons):
    mesh.serve("store-v1", echo, SQL)
    await converse(await mesh.call("buyer", HOST, SQL), b"\0abc", b"\0abc")


async def passed_tls(mesh, lessons):
    mesh.serve("store-v1", echo, SQL)
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=HOST).do_handshake()
    hello = out.read()
    await converse(await mesh.call("buyer", HOST, SQL), hello + b"more", hello + b"more")


async def server_first(mesh, lessons):
    mesh.serve("store-v1", greet, SQL)
    call = await mesh.call("buyer", HOST, SQL)
    assert await call.read(6) == b"hello "
    await converse(call, b"abc", b"abc")


async def upgraded(mesh, lessons):
    mesh.serve("store-v1", switch)
    call = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(lessons):
        assert (await call.get("/books")).status == 200
        await mesh.settled()
    await call.send(
        b"GET /books HTTP/1.1\r\nhost: bookstore-v1.bookstore\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nfirst"
    )
    head = b""
    while not head.endswith(b"first"):
        head += await call.read(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    await converse(call, b"", b"")


async def bodies(mesh, lessons):
    mesh.serve("store-v1", talk_back)
    call = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(lessons):
        assert (await call.get("/books", "POST", b"x")).status == 200
        await mesh.settled()
    await call.send(
        b"POST /books HTTP/1.1\r\nhost: bookstore-v1.bookstore\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"
    )
    head = b""
    while not head.endswith(b"1\r\na\r\n"):
        head += await call.read(1)
    await converse(call, b"", b"", b"1\r\nb\r\n")
    await call.send(b"0\r\n\r\n")
    assert await call.read(5) == b"0\r\n\r\n"
    if b"\r\nconnection: close\r\n" not in head:  # an early answer over a stream says so
        assert (await call.get("/books")).status == 200


TALKS = [declared_streams, undeclared_streams, opaque, undetected, passed_tls, server_first, upgraded, bodies]


@pytest.fixture
def quick_clock():
    return MockClock(autojump_threshold=0.02)


def bounds(lane):
    return Bounds(native=lane, **BOUNDS)


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize(
    "lane", [False, pytest.param(True, marks=pytest.mark.skipif(not AVAILABLE, reason="not compiled"))]
)
@pytest.mark.parametrize("lessons", [0, 3])
async def test_it_outlives_every_deadline_on_one_node(monkeypatch, quick_clock, talk, lane, lessons):
    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery, LIMITS, lane)
        mesh.proxy.context.h2_bounds = bounds(lane)
        mesh.proxy.context.http2_pool.bounds = bounds(lane)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        mesh.publish(**MANIFESTS)
        await talk(mesh, lessons)
        if lane and lessons and talk in (declared_streams, undeclared_streams, bodies):
            assert mesh.proxy.fast.lane.stats["served"] > 0, "the lane did not take part"
        nursery.cancel_scope.cancel()
    mesh.close()


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize(
    "lanes", [(), pytest.param(("west", "east"), marks=pytest.mark.skipif(not AVAILABLE, reason="not compiled"))]
)
async def test_it_outlives_every_deadline_between_nodes(monkeypatch, quick_clock, mint, talk, lanes):
    monkeypatch.setattr(source, "_is_loopback", lambda address: False)
    async with trio.open_nursery() as nursery:
        mesh = TwoNodes(nursery, mint, True, lanes, LIMITS)
        for side in (mesh.west, mesh.east):
            side.proxy.context.h2_bounds = side.proxy.context.http2_pool.bounds = bounds(side.name in lanes)
            side.peers.settings = PEERS
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        await mesh.start()
        mesh.publish(**MANIFESTS)
        await talk(mesh, 3)
        nursery.cancel_scope.cancel()
    mesh.close()
