"""gRPC in the native lane on one node: what holds beyond single calls. Back pressure, many streams, connections that end, policy that changes,
HTTP/1.1 at one end, and callers who mean ill."""

from __future__ import annotations

import contextlib
import struct

import pytest
import trio
from hpack import Encoder
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from nodeproxy.downstream import accept
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Code, Connection
from nodeproxy.limits import Limits
from tests.compiled import needs_lane
from tests.journeys.conftest import Mesh
from tests.journeys.test_two_lanes_streams import (
    CALL,
    DONE,
    GET,
    MESSAGE,
    NAME,
    OK,
    PORT,
    SERVICE,
    Ask,
    Seen,
    h2_caller,
)

pytestmark = needs_lane

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Calls:
    """A gRPC server: `answer(channel)` for each stream. Its connections can be ended."""

    def __init__(self, mesh, answer, bounds=Bounds(native=False)):  # noqa: B008
        self.answer = answer
        self.bounds = bounds
        self.connections = []
        self.streams = 0
        mesh.serve("store-v1", self.serve, PORT)

    async def serve(self, stream):
        connection = Connection(stream, client=False, bounds=self.bounds, name="server")
        self.connections.append(connection)
        async with trio.open_nursery() as nursery:

            async def one(channel):
                self.streams += 1
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.answer(channel)
                channel.close()

            with contextlib.suppress(Refused, trio.BrokenResourceError):
                await connection.run(lambda channel: nursery.start_soon(one, channel))
            nursery.cancel_scope.cancel()


async def echo(channel):
    await channel.send_head(OK)
    while data := await channel.receive_some(65536):
        await channel.send_all(data)
    await channel.send_trailers(DONE)


@pytest.fixture
async def mesh(monkeypatch):
    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery, Limits(response_timeout=5), True)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        mesh.publish(streams=SERVICE)
        yield mesh
        nursery.cancel_scope.cancel()
    mesh.close()


def stats(mesh):
    return mesh.proxy.fast.lane.stats


@contextlib.asynccontextmanager
async def taught(mesh, lessons=2):
    """A caller's connection that the lane serves."""
    async with h2_caller(mesh.nursery, await mesh.call("buyer", NAME, PORT)) as connection:
        for _ in range(lessons):
            assert await call(connection) == (b"200", MESSAGE, DONE)
            await mesh.settled()
        yield connection


async def call(connection, data=MESSAGE):
    channel = await connection.open(CALL)
    await channel.send_all(data, end=True)
    head, _ = await channel.head()
    body = b""
    while more := await channel.receive_some(65536):
        body += more
    trailers = channel.trailers or [f for f in head if f[0] == b"grpc-status"]
    channel.close()
    return head[0][1], body, trailers


async def test_after_a_lesson_the_lane_serves_this_connection_and_the_next(mesh):
    Calls(mesh, echo)
    async with taught(mesh) as connection:
        served = stats(mesh)["served"]
        for _ in range(10):
            assert await call(connection) == (b"200", MESSAGE, DONE)
        assert stats(mesh)["served"] == served + 10
    async with h2_caller(mesh.nursery, await mesh.call("buyer", NAME, PORT)) as connection:
        for _ in range(10):
            assert await call(connection) == (b"200", MESSAGE, DONE)
        assert stats(mesh)["served"] == served + 20
    await mesh.until(lambda: len([r for r in mesh.records if r.kind == "connection"]) == 2)
    requests = [r for r in mesh.records if r.kind == "request"]
    assert [(r.status, r.flag, r.path) for r in requests] == [(200, "", "/books")] * 22
    total = [r for r in mesh.records if r.kind == "connection"]
    assert sum(r.bytes_in for r in total) == sum(r.bytes_in for r in requests)
    assert sum(r.bytes_out for r in total) == sum(r.bytes_out for r in requests)


async def test_calls_are_counted_where_nobody_wants_each_recorded(mesh):
    Calls(mesh, echo)
    lane, counts = mesh.proxy.fast, []
    async with taught(mesh) as connection:
        recorded = [r for r in mesh.records if r.kind == "request"][-1]
        lane._counted = counts.append
        lane.logging = False
        for _ in range(10):
            assert await call(connection) == (b"200", MESSAGE, DONE)
        lane.count()
    assert len([r for r in mesh.records if r.kind == "request"]) == 2
    answered = [one.answered for one in counts]
    assert [sum(classes) for classes in zip(*answered, strict=True)] == [0, 0, 10, 0, 0, 0]
    assert {(one.pair.source.name, one.pair.destination.name, one.pair.service) for one in counts} == {
        ("buyer", "store-v1", recorded.service)
    }
    assert sum(one.bytes_in for one in counts) == 10 * recorded.bytes_in
    assert sum(one.bytes_out for one in counts) == 10 * recorded.bytes_out


@pytest.mark.parametrize("size", [1, 16384, 100_000, 3_000_000])
async def test_bytes_come_whole_both_ways(mesh, size):
    Calls(mesh, echo)
    async with taught(mesh) as connection:
        served = stats(mesh)["served"]
        data = bytes(range(256)) * (size // 256 + 1)
        got = []

        async def one(number):
            channel = await connection.open(CALL)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.send_all, data[number:], True)
                await channel.head()
                body = b""
                while more := await channel.receive_some(65536):
                    body += more
            got.append(body == data[number:])

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(one, number)
        assert got == [True] * 4
        assert stats(mesh)["served"] == served + 4


async def test_a_server_that_does_not_read_stops_its_caller_and_nobody_else(mesh):
    gate = trio.Event()
    got = []

    async def slow(channel):
        if dict(channel.fields).get(b"x-slow"):
            await channel.send_head(OK)
            await gate.wait()
            while data := await channel.receive_some(65536):
                got.append(len(data))
            await channel.send_trailers(DONE)
        else:
            await echo(channel)

    Calls(mesh, slow)
    async with taught(mesh) as connection:
        channel = await connection.open([*CALL, (b"x-slow", b"1")])
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await channel.send_all(bytes(16384))
                sent += 16384
        # The server's window, what waits for it here, and ours to the caller: no more, however long it lasts.
        assert 65535 <= sent <= 3 * 262144 + 65536
        assert await call(connection) == (b"200", MESSAGE, DONE)
        gate.set()
        channel.torn = False  # the piece that was cut off is no part of this
        await channel.send_eof()
        with trio.fail_after(30):
            await channel.head()
            assert await channel.receive_some(1) == b""
        assert sent <= sum(got) <= sent + 16384


async def test_a_caller_that_does_not_read_stops_its_server_and_nobody_else(mesh):
    sent = 0

    async def much(channel):
        nonlocal sent
        if not dict(channel.fields).get(b"x-much"):
            await echo(channel)
            return
        await channel.send_head(OK)
        for _ in range(1000):
            await channel.send_all(bytes(16384))
            sent += 16384
        await channel.send_trailers(DONE)

    Calls(mesh, much)
    async with taught(mesh) as connection:
        channel = await connection.open([*CALL, (b"x-much", b"1")], end=True)
        await channel.head()
        await trio.sleep(0.5)
        assert 65535 <= sent <= 3 * 262144 + 65536
        assert await call(connection) == (b"200", MESSAGE, DONE)
        got = 0
        with trio.fail_after(30):
            while more := await channel.receive_some(65536):
                got += len(more)
        assert got == 1000 * 16384
        assert channel.trailers == DONE


@pytest.mark.parametrize("most", [2, 100])
async def test_more_calls_at_once_than_one_connection_takes(mesh, most):
    gate = trio.Event()

    async def gated(channel):
        if dict(channel.fields).get(b"x-gate"):
            await gate.wait()
        await echo(channel)

    server = Calls(mesh, gated, Bounds(native=False, max_streams=most))
    count = 3 * most
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(taught(mesh)) for _ in range(3)]
        answers = []

        async def one(connection):
            channel = await connection.open([*CALL, (b"x-gate", b"1")])
            await channel.send_all(MESSAGE, end=True)
            head, _ = await channel.head()
            answers.append((head[0][1], await channel.receive_some(100)))

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, callers[number % 3])
            with trio.fail_after(30):
                while server.streams < count + 6:
                    await trio.sleep(0.01)
            gate.set()
        assert answers == [(b"200", MESSAGE)] * count
        assert len(server.connections) >= 3
        # From now on the lane has all of these connections.
        for connection in callers:
            await call(connection)
        served = stats(mesh)["served"]
        answers.clear()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, callers[number % 3])
        assert len(answers) == count
        # Not quite all: one that comes while the last place is taken is Python's, which may open another connection.
        assert stats(mesh)["served"] >= served + count * 9 // 10


async def test_a_new_policy_holds_for_the_next_call_and_cuts_the_one_under_way(mesh):
    Calls(mesh, echo)
    async with taught(mesh) as connection:
        channel = await connection.open(CALL)
        await channel.send_all(b"one")
        await channel.head()
        assert await channel.receive_some(10) == b"one"
        assert mesh.publish(access="") == 1
        with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
            await channel.receive_some(10)
        assert channel.reset_code == Code.CANCEL
        assert await call(connection) == (b"200", b"", [(b"grpc-status", b"7")])
        flags = [r.flag for r in mesh.records if r.kind == "request"]
        assert flags[-2:] == ["cut", "denied"]
        mesh.publish(access=mesh.http("bookbuyer", "bookstore"))
        served = stats(mesh)["served"]
        for _ in range(3):
            assert await call(connection) == (b"200", MESSAGE, DONE)
            await mesh.settled()
        assert stats(mesh)["served"] >= served + 1


async def test_a_server_that_leaves_in_order_is_left_in_order(mesh):
    server = Calls(mesh, echo)
    async with taught(mesh) as connection:
        channel = await connection.open(CALL)
        await channel.send_all(b"one")
        await channel.head()
        assert await channel.receive_some(10) == b"one"
        server.connections[-1].drain()  # GOAWAY
        await mesh.settled()
        for _ in range(4):
            assert await call(connection) == (b"200", MESSAGE, DONE)
            await mesh.settled()
        assert len(server.connections) == 2
        await channel.send_all(b"two", end=True)
        assert await channel.receive_some(10) == b"two"
        assert await channel.receive_some(10) == b""
        assert channel.trailers == DONE
    assert {(r.status, r.flag) for r in mesh.records if r.kind == "request"} == {(200, "")}


async def test_a_server_that_is_lost_is_told_in_grpc(mesh):
    async def until_lost(channel):
        if dict(channel.fields).get(b"x-stay"):
            await trio.sleep_forever()
        await echo(channel)

    server = Calls(mesh, until_lost)
    async with taught(mesh) as connection:
        waiting = await connection.open([*CALL, (b"x-stay", b"1")])
        await waiting.send_all(bytes(20_000), end=True)
        talking = await connection.open(CALL)
        await talking.send_all(b"one")
        await talking.head()
        assert await talking.receive_some(10) == b"one"
        server.connections[-1].close()
        with trio.fail_after(30):
            head, ended = await waiting.head()
            assert (ended, dict(head)[b"grpc-status"]) == (True, b"14")
            with pytest.raises(trio.BrokenResourceError):
                await talking.receive_some(10)
        assert await call(connection) == (b"200", MESSAGE, DONE)
    flags = sorted((r.status, r.flag) for r in mesh.records if r.kind == "request" and r.flag)
    assert flags == [(200, "upstream-broken"), (502, "upstream-broken")]


async def test_a_caller_that_is_lost_takes_its_calls_along(mesh):
    ended = []

    async def listens(channel):
        if not dict(channel.fields).get(b"x-stay"):
            await echo(channel)
            return
        await channel.send_head(OK)
        try:
            await channel.receive_some(10)
            await channel.receive_some(10)
        except trio.BrokenResourceError:
            ended.append(channel.reset_code)

    Calls(mesh, listens)
    async with taught(mesh) as connection:
        for _ in range(3):
            channel = await connection.open([*CALL, (b"x-stay", b"1")])
            await channel.send_all(b"x")
            await channel.head()
    await mesh.until(lambda: len(ended) == 3)
    assert ended == [Code.CANCEL] * 3
    await mesh.until(mesh.at_rest)
    assert [r.flag for r in mesh.records if r.kind == "request"] == ["", "", *["client-gone"] * 3]
    assert stats(mesh)["callers"] == 0


async def test_the_daemon_that_stops_lets_calls_finish(mesh):
    Calls(mesh, echo)
    async with taught(mesh) as connection:
        channel = await connection.open(CALL)
        await channel.send_all(b"one")
        await channel.head()
        mesh.nursery.start_soon(mesh.proxy.drain)
        with trio.fail_after(30):
            while not connection.draining:  # the caller was told
                await trio.sleep(0.01)
        assert await channel.receive_some(10) == b"one"
        await channel.send_all(b"two", end=True)
        assert await channel.receive_some(10) == b"two"
        assert await channel.receive_some(10) == b""
        assert channel.trailers == DONE


async def test_a_workload_that_is_let_go_has_its_calls_recorded(mesh):
    Calls(mesh, echo)
    async with taught(mesh) as connection:
        channel = await connection.open(CALL)
        await channel.send_all(b"one")
        await channel.head()
        assert await channel.receive_some(10) == b"one"
        mesh.proxy.detach("bookbuyer/buyer")
        with trio.fail_after(30), contextlib.suppress(trio.BrokenResourceError):
            while await channel.receive_some(10):
                pass
    await mesh.until(lambda: stats(mesh)["callers"] == 0)
    *lessons, last = [(r.status, r.flag) for r in mesh.records if r.kind == "request"]
    assert lessons == [(200, "")] * 2
    assert last in [(200, "drained"), (200, "upstream-broken")]  # the connection to the server is let go as well


# HTTP/1.1 at one end


async def test_a_caller_of_http1_is_served_by_a_grpc_server_in_the_lane(mesh):
    async def plain(channel):
        body = b""
        while data := await channel.receive_some(65536):
            body += data
        await channel.send_head([(b":status", b"200"), (b"x-a", b"1")])
        await channel.send_all(b"got " + body, end=True)

    Calls(mesh, plain)
    buyer = await mesh.call("buyer", NAME, PORT)
    for number in range(10):
        answer = await buyer.get("/books", "POST", b"%d" % number)
        assert (answer.status, answer.headers["x-a"], answer.body) == (200, "1", f"got {number}")
    assert stats(mesh)["served"] == 9


async def test_a_caller_of_http2_is_served_by_an_http1_server_in_the_lane(mesh):
    web = mesh.web("store-v1")
    host = b"bookstore-v1.bookstore:14001"
    async with h2_caller(mesh.nursery, await mesh.call("buyer", "bookstore-v1.bookstore")) as connection:
        seen = Seen()
        await Ask([*GET[:3], (b":authority", host)], times=10)(connection, seen)
        assert [(how, body) for how, _, body, _ in seen.all] == [("whole", b"store-v1")] * 10
        seen = Seen()
        await Ask(
            [(b":method", b"POST"), *GET[1:3], (b":authority", host), (b"content-length", b"3")], b"abc", times=5
        )(connection, seen)
        assert [(how, body) for how, _, body, _ in seen.all] == [("whole", b"store-v1")] * 5
    assert [body for *_, body in web.requests] == [b""] * 10 + [b"abc"] * 5
    assert stats(mesh)["served"] == 13
    assert {number for number, *_ in web.requests} == {1}


async def test_a_split_is_exact_whichever_lane_serves(mesh):
    stores = {name: mesh.web(name) for name in ("store-v1", "store-v2")}
    mesh.publish(split=mesh.split(75, 25))
    ask = [*GET[:3], (b":authority", b"bookstore.bookstore:14001")]
    async with h2_caller(mesh.nursery, await mesh.call("buyer", "bookstore.bookstore")) as connection:
        await Ask(ask, times=400)(connection, Seen())
    assert [len(store.requests) for store in stores.values()] == [300, 100]
    assert stats(mesh)["served"] > 300


@pytest.mark.parametrize("opaque", [False, True], ids=["http only", "opaque too"])
async def test_a_server_that_nobody_declared_is_asked_as_its_caller_speaks(mesh, opaque):
    """Where opaque bytes may pass, the server was dialled before anybody knew what this is, and that connection is used."""
    served = []

    async def speaks(stream):
        served.append(stream)
        connection = Connection(stream, client=False, bounds=Bounds(native=False), name="server")
        async with trio.open_nursery() as nursery:
            with contextlib.suppress(Refused, trio.BrokenResourceError):
                await connection.run(lambda channel: nursery.start_soon(echo, channel))
            nursery.cancel_scope.cancel()

    mesh.serve("store-v1", speaks, 7001)
    if opaque:
        mesh.publish(raw=mesh.tcp("bookbuyer", "bookstore", 7001))
    async with h2_caller(mesh.nursery, await mesh.call("buyer", NAME, 7001)) as connection:
        for _ in range(5):
            assert await call(connection) == (b"200", MESSAGE, DONE)
            await mesh.settled()
    assert len(served) == 1
    assert stats(mesh)["served"] == 4


# callers who mean ill


class Raw:
    """A caller's connection, frame by frame."""

    def __init__(self, stream):
        self.stream = stream
        self.encoder = Encoder()
        self.data = bytearray()
        self.frames = []

    async def send(self, *frames):
        await self.stream.send_all(b"".join(frame.serialize() for frame in frames))

    def head(self, number, fields=CALL, *flags):
        return HeadersFrame(number, self.encoder.encode(fields), flags=["END_HEADERS", *flags])

    async def read(self):
        """Until the end."""
        with contextlib.suppress(trio.BrokenResourceError):
            while data := await self.stream.receive_some(65536):
                self.take(data)

    def take(self, data):
        self.data += data
        while len(self.data) >= 9:
            frame, size = Frame.parse_frame_header(memoryview(bytes(self.data[:9])))
            if len(self.data) < 9 + size:
                return
            frame.parse_body(memoryview(bytes(self.data[9 : 9 + size])))
            del self.data[: 9 + size]
            self.frames.append(frame)

    def of(self, kind):
        return [frame for frame in self.frames if isinstance(frame, kind)]


@pytest.fixture
async def raw(mesh):
    async def deaf(channel):
        if dict(channel.fields).get(b"x-stay"):
            await trio.sleep_forever()
        await echo(channel)

    Calls(mesh, deaf)
    async with taught(mesh):
        made = Raw((await mesh.call("buyer", NAME, PORT)).stream)
        await made.stream.send_all(PREFACE)
        await made.send(SettingsFrame(0))
        yield made
        await made.stream.aclose()


async def test_rapid_reset_of_calls_that_were_learned(mesh, raw):
    bounds, began = mesh.proxy.context.h2_bounds, trio.current_time()
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw.read)
            with contextlib.suppress(trio.BrokenResourceError):
                for number in range(1, 20_001, 2):
                    await raw.send(raw.head(number), RstStreamFrame(number, error_code=8))
    assert [frame.error_code for frame in raw.of(GoAwayFrame)] == [Code.ENHANCE_YOUR_CALM]
    await mesh.until(lambda: stats(mesh)["callers"] == 0)
    flags = [r.flag for r in mesh.records if r.kind == "request"]
    assert len(flags) < bounds.reset_burst + bounds.reset_rate * (trio.current_time() - began) + 2 * bounds.max_streams


async def test_streams_beyond_the_limit_are_refused(mesh, raw):
    most = mesh.proxy.context.h2_bounds.max_streams
    await raw.send(*[raw.head(number) for number in range(1, 2 * (most + 20), 2)])
    with trio.move_on_after(1):
        await raw.read()
    assert len([frame for frame in raw.of(RstStreamFrame) if frame.error_code == Code.REFUSED_STREAM]) == 20
    assert stats(mesh)["calls"] <= most


async def test_more_than_the_window_ends_the_connection(mesh, raw):
    await raw.send(raw.head(1, [*CALL, (b"x-stay", b"1")]))
    piece = struct.pack(">I", 16384)[1:] + b"\0\0\0\0\0\1" + bytes(16384)
    with trio.move_on_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw.read)
            with contextlib.suppress(trio.BrokenResourceError):
                await raw.stream.send_all(piece * 100)
    assert Code.FLOW_CONTROL_ERROR in [
        frame.error_code for frame in raw.frames if isinstance(frame, RstStreamFrame | GoAwayFrame)
    ]
    await mesh.until(lambda: stats(mesh)["callers"] == 0)


async def test_a_bomb_of_fields_and_of_trailers(mesh, raw):
    await raw.send(raw.head(1, [*CALL, (b"x", b"y" * 3_000)]))
    with contextlib.suppress(trio.BrokenResourceError):
        for number in range(3, 203, 2):
            await raw.send(
                raw.head(number, [*CALL, *[(b"x", b"y" * 3_000)] * 60])
            )  # some bytes on the wire, 180 KB each
    with trio.move_on_after(2):
        await raw.read()
    assert all(frame.error_code == Code.ENHANCE_YOUR_CALM for frame in raw.of(GoAwayFrame))
    assert stats(mesh)["calls"] <= 1
    mesh.proxy.fast.collect()


async def test_what_a_caller_says_chooses_no_door(mesh):
    """A destination in a request is a node's word; a workload's is nothing."""
    Calls(mesh, echo)
    async with taught(mesh) as connection:
        channel = await connection.open(
            [*CALL, (b"x-edgemesh-destination", f"{mesh.addresses['store-v2']}:14002".encode())]
        )
        await channel.send_all(MESSAGE, end=True)
        assert (await channel.head())[0][0] == (b":status", b"200")
    assert {r.endpoint for r in mesh.records if r.kind == "request"} == {f"{mesh.addresses['store-v1']}:14002"}
    assert stats(mesh)["served"] == 2


async def test_streams_that_the_lane_serves_count_for_their_caller(mesh):
    wait, seen = trio.Event(), []

    async def waits(channel):
        seen.append(channel)
        if len(seen) > 2:
            await wait.wait()
        await echo(channel)

    Calls(mesh, waits)
    async with taught(mesh) as connection:
        owner = mesh.proxy.houses["bookbuyer/buyer"].gates["outbound"].owner
        assert owner.streams == 0
        owner.most = 3
        channels = [await connection.open(CALL) for _ in range(5)]
        await mesh.until(lambda: len(seen) == 5)
        assert owner.streams == 3
        refused = []
        for channel in channels[3:]:
            with pytest.raises(trio.BrokenResourceError):
                await channel.head()
            refused.append(channel.refused_unprocessed)
        assert refused == [True, True]
        wait.set()
        for channel in channels[:3]:
            await channel.send_all(MESSAGE, end=True)
            assert (await channel.head())[0][0] == (b":status", b"200")
        await mesh.until(lambda: owner.streams == 0)
