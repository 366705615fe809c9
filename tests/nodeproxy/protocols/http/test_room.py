"""HTTP/2 on either side of an exchange: callers with prior knowledge, servers that are declared grpc, and both ways of conversion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import trio

from nodeproxy.codec.message import Fields
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Channel, Connection
from nodeproxy.h2.owner import of_all
from nodeproxy.limits import Gate
from nodeproxy.telemetry.record import Record
from nodeproxy.upstream.http2_pool import Http2Pool
from tests.nodeproxy.protocols.http.conftest import FIRST, OK, SECOND, Client, House, Pipe, answering, read_head

GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"store")]
POST: Fields = [(b":method", b"POST"), *GET[1:]]
CALL: Fields = [*POST, (b"content-type", b"application/grpc"), (b"te", b"trailers")]


async def caller(house: House, nursery: trio.Nursery) -> Connection:
    """Connects as an HTTP/2 client with prior knowledge."""
    connection = Connection(house.connect(), client=True, bounds=Bounds(native=False), name="caller")
    nursery.start_soon(_run, connection)
    return connection


async def _run(connection: Connection, accept: Callable[[Channel], None] | None = None) -> None:
    with contextlib.suppress(Refused, trio.BrokenResourceError):
        await connection.run(accept)


async def body(channel: Channel) -> bytes:
    data = b""
    while more := await channel.receive_some(65536):
        data += more
    return data


def requests(house: House) -> list[Record]:
    return [record for record in house.records if record.kind == "request"]


class H2Server:
    """Serves a connection of House with HTTP/2; `answer` is a script for each stream."""

    def __init__(self, answer: Callable[[Channel], object]) -> None:
        self.answer = answer
        self.seen: list[Fields] = []
        self.connections = 0

    async def __call__(self, stream: Pipe) -> None:
        self.connections += 1
        connection = Connection(stream, client=False, bounds=Bounds(), name="server")
        async with trio.open_nursery() as nursery:

            def accept(channel: Channel) -> None:
                self.seen.append(channel.fields)
                nursery.start_soon(self.answer, channel)

            await _run(connection, accept)
            nursery.cancel_scope.cancel()


async def echo(channel: Channel) -> None:
    """A gRPC-like server: streams back what it gets, then trailers."""
    await channel.send_head([(b":status", b"200"), (b"content-type", b"application/grpc")])
    while data := await channel.receive_some(65536):
        await channel.send_all(data)
    await channel.send_trailers([(b"grpc-status", b"0")])


async def test_a_caller_with_prior_knowledge_reaches_an_http1_server(house: House, nursery: trio.Nursery) -> None:
    house.protocol = "http"
    house.servers = [answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello")]
    connection = await caller(house, nursery)
    for _ in range(3):
        channel = await connection.open(GET, end=True)
        fields, ended = await channel.head()
        assert (dict(fields)[b":status"], dict(fields)[b"x-a"], ended) == (b"200", b"1", False)
        assert await body(channel) == b"hello"
    assert [(r.status, r.flag, r.path, r.protocol) for r in requests(house)] == [(200, "", "/", "http")] * 3
    assert len(house.dialled) == 1  # its HTTP/1.1 connection rested in between


async def test_requests_of_one_connection_go_on_side_by_side(house: House, nursery: trio.Nursery) -> None:
    house.protocol = "http"
    gate = trio.Event()

    async def slow(stream: Pipe) -> None:
        await read_head(stream)
        await gate.wait()
        await stream.send_all(OK)

    house.servers = [slow, answering(OK)]
    connection = await caller(house, nursery)
    first = await connection.open(GET, end=True)
    await trio.testing.wait_all_tasks_blocked()
    second = await connection.open(GET, end=True)
    assert (await second.head())[0][0] == (b":status", b"200")
    gate.set()
    assert (await first.head())[0][0] == (b":status", b"200")


async def test_a_denial_ends_one_stream_and_says_why(house: House, nursery: trio.Nursery) -> None:
    house.protocol = "http"
    house.route.refuse = lambda request: Refused("denied", "no-rule: nothing") if request.path == "/no" else None
    house.servers = [answering(OK)]
    connection = await caller(house, nursery)
    channel = await connection.open([*GET[:2], (b":path", b"/no"), GET[3]], end=True)
    fields = dict((await channel.head())[0])
    assert (fields[b":status"], fields[b"x-edgemesh-reason"]) == (b"403", b"no-rule")
    assert b"no-rule" in await body(channel)
    (record,) = requests(house)
    assert fields[b"x-edgemesh-request"].decode() == record.id != ""
    channel = await connection.open(GET, end=True)
    assert (await channel.head())[0][0] == (b":status", b"200")


async def test_a_denied_grpc_call_is_told_in_grpc(house: House, nursery: trio.Nursery) -> None:
    house.protocol = "grpc"
    house.route.refuse = Refused("denied", "no-rule: nothing")
    connection = await caller(house, nursery)
    channel = await connection.open(CALL)
    fields, ended = await channel.head()
    assert ended
    assert (dict(fields)[b":status"], dict(fields)[b"grpc-status"]) == (b"200", b"7")
    assert dict(fields)[b"grpc-message"].startswith(b"edgemesh: no rule admits this")


async def test_grpc_streams_both_ways_and_keeps_its_trailers(
    house: House, nursery: trio.Nursery, shared: Http2Pool
) -> None:
    server = H2Server(echo)
    house.protocol = "grpc"
    house.servers = [server]
    connection = await caller(house, nursery)
    for _ in range(2):
        channel = await connection.open(CALL)
        assert dict((await channel.head())[0])[b":status"] == b"200"  # before a byte of the request was sent
        for message in (b"one", b"two", b"three"):
            await channel.send_all(message)
            assert await channel.receive_some(100) == message
        await channel.send_eof()
        assert await body(channel) == b""
        assert channel.trailers == [(b"grpc-status", b"0")]
    assert server.connections == 1
    assert (b"te", b"trailers") in server.seen[0]
    assert [(r.status, r.flag, r.bytes_out >= 11) for r in requests(house)] == [(200, "", True)] * 2


async def test_a_server_that_nobody_declared_is_asked_as_the_caller_speaks(
    house: House, nursery: trio.Nursery, shared: Http2Pool
) -> None:
    server = H2Server(echo)
    house.protocol = ""
    house.servers = [server]
    connection = await caller(house, nursery)
    channel = await connection.open(GET, end=True)
    assert dict((await channel.head())[0])[b":status"] == b"200"
    assert server.connections == 1


async def test_an_http1_caller_reaches_a_grpc_server(house: House, nursery: trio.Nursery, shared: Http2Pool) -> None:
    house.protocol = "grpc"
    house.servers = [H2Server(echo)]
    house.connect()
    client = Client(house.caller)
    status, _, content = await client.request("POST", "/x", [("TE", "trailers"), ("Connection", "te")], body=b"abc")
    assert (status, content) == (200, b"abc")
    assert client.trailers == [(b"grpc-status", b"0")]
    assert (await client.request())[0] == 200  # and again on the same connection


async def test_a_body_without_length_and_trailers_goes_to_http1_in_chunks(house: House, nursery: trio.Nursery) -> None:
    got = b""

    async def server(stream: Pipe) -> None:
        nonlocal got
        while b"\r\nx-sum: 7\r\n\r\n" not in got:
            got += await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-End: 1\r\n\r\n")

    house.protocol = "http"
    house.servers = [server]
    connection = await caller(house, nursery)
    channel = await connection.open(POST)
    await channel.send_all(b"abc")
    await channel.send_trailers([(b"x-sum", b"7")])
    assert (await channel.head())[0][0] == (b":status", b"200")
    assert await body(channel) == b"hi"
    assert channel.trailers == [(b"x-end", b"1")]
    assert b"transfer-encoding: chunked\r\n" in got
    assert b"3\r\nabc\r\n" in got


async def test_a_large_body_goes_through_both_ways(house: House, nursery: trio.Nursery, shared: Http2Pool) -> None:
    house.protocol = "grpc"
    house.servers = [H2Server(echo)]
    connection = await caller(house, nursery)
    channel = await connection.open(CALL)
    sent = bytes(range(256)) * 8192  # 2 MiB
    got = b""
    async with trio.open_nursery() as both:

        async def send() -> None:
            await channel.send_all(sent)
            await channel.send_eof()

        both.start_soon(send)
        await channel.head()
        got = await body(channel)
    assert got == sent


async def test_a_caller_that_resets_its_stream_takes_the_servers_along(
    house: House, nursery: trio.Nursery, shared: Http2Pool
) -> None:
    ended = trio.Event()

    async def watch(channel: Channel) -> None:
        await channel.send_head([(b":status", b"200")])
        try:
            await channel.receive_some(1)
            await channel.receive_some(1)
        except trio.BrokenResourceError:
            ended.set()

    house.protocol = "grpc"
    house.servers = [H2Server(watch)]
    connection = await caller(house, nursery)
    channel = await connection.open(CALL)
    await channel.head()
    await channel.send_all(b"x")
    channel.abort()
    with trio.fail_after(30):
        await ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert [r.flag for r in requests(house)] == ["client-gone"]
    assert not house.context.live.in_flight


async def test_a_dead_endpoint_is_passed_over(house: House, nursery: trio.Nursery, shared: Http2Pool) -> None:
    house.protocol = "grpc"
    house.route.endpoints = [FIRST, SECOND]
    house.servers = [Refused("connect-failed", "refused"), H2Server(echo)]
    connection = await caller(house, nursery)
    channel = await connection.open(CALL, end=True)
    assert dict((await channel.head())[0])[b":status"] == b"200"
    assert house.dialled == [FIRST, SECOND]


async def test_requests_that_come_at_once_share_one_dial(
    house: House, nursery: trio.Nursery, shared: Http2Pool
) -> None:
    server = H2Server(echo)
    house.protocol = "grpc"
    house.servers = [server]
    connection = await caller(house, nursery)
    channels = [await connection.open(CALL, end=True) for _ in range(20)]
    for channel in channels:
        assert dict((await channel.head())[0])[b":status"] == b"200"
    assert server.connections == 1


async def test_an_upgrade_needs_a_connection_of_its_own(house: House, nursery: trio.Nursery, shared: Http2Pool) -> None:
    house.protocol = "grpc"
    house.servers = [
        answering(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    ]
    house.connect()
    await house.caller.send_all(b"GET / HTTP/1.1\r\nHost: store\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert b"101" in await house.caller.receive_some(65536)


async def test_what_begins_like_the_preface_and_is_none(house: House) -> None:
    house.servers = [answering(OK)]
    house.connect()
    await house.caller.send_all(b"PRI")
    await trio.testing.wait_all_tasks_blocked()
    await house.caller.send_all(b"NT / HTTP/1.1\r\nHost: store\r\n\r\n")
    assert b"200" in await house.caller.receive_some(65536)


async def test_what_is_done_for_a_caller_that_has_gone_ends(house: House, nursery: trio.Nursery) -> None:
    house.protocol = "http"
    ended = trio.Event()

    async def never(stream: Pipe) -> None:
        await read_head(stream)
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some(1)
        ended.set()

    house.servers = [never]
    connection = await caller(house, nursery)
    channel = await connection.open(GET, end=True)
    await trio.testing.wait_all_tasks_blocked()
    channel.abort()
    with trio.fail_after(1):
        await ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert [(r.status, r.flag) for r in requests(house)] == [(0, "client-gone")]


async def test_streams_beyond_what_their_caller_may_have_are_refused(house: House, nursery: trio.Nursery) -> None:
    house.protocol = "http"
    house.servers = [answering(OK), answering(OK)]
    stream = house.connect()
    owner = of_all(0, Bounds(), trio.current_time())
    house.conn.gate = Gate(10, owner)
    connection = Connection(stream, client=True, bounds=Bounds(native=False), name="caller")
    nursery.start_soon(_run, connection)
    channel = await connection.open(GET, end=True)
    with pytest.raises(trio.BrokenResourceError):
        await channel.head()
    assert channel.refused_unprocessed
    owner.most = 1
    for _ in range(2):
        channel = await connection.open(GET, end=True)
        assert (await channel.head())[0][0] == (b":status", b"200")
        channel.close()
        await trio.testing.wait_all_tasks_blocked()
        assert owner.streams == 0
