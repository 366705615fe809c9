"""HTTP/2 connections in pairs, over memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing
from trio.abc import HalfCloseableStream

from nodeproxy.codec.message import Fields
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Channel, Code, Connection
from nodeproxy.h2.machine import Machine
from tests.nodeproxy.protocols.http.conftest import Pipe, pipes

GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"store")]
POST: Fields = [(b":method", b"POST"), *GET[1:]]
HEAD: Fields = [(b":method", b"HEAD"), *GET[1:]]
CONNECT: Fields = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.2:8080")]
OK: Fields = [(b":status", b"200")]

pytestmark = pytest.mark.usefixtures("machine")  # each test with both


class Pair:
    """A client and a server over one pair of streams, both running; what they ended with; and the streams that were opened."""

    def __init__(self, client: Bounds, server: Bounds, lockstep: bool = False) -> None:
        self.left, self.right = pipes(lockstep)
        self.client = Connection(self.left, client=True, bounds=client, name="server")
        self.server = Connection(self.right, client=False, bounds=server, name="client")
        self.ends: dict[Connection, Refused | None] = {}
        self.opened, self._channels = trio.open_memory_channel[Channel](1000)

    async def run(self, connection: Connection, accept: Callable[[Channel], None] | None = None) -> None:
        try:
            await connection.run(accept)
            self.ends[connection] = None
        except Refused as refused:
            self.ends[connection] = refused
        finally:
            (self.left if connection is self.client else self.right).close()

    async def accepted(self) -> Channel:
        return await self._channels.receive()

    async def channels(self, fields: Fields = CONNECT, end: bool = False) -> tuple[Channel, Channel]:
        """Both ends of a new stream."""
        ours = await self.client.open(fields, end)
        return ours, await self.accepted()

    async def exchange(self) -> None:
        """The connection works."""
        ours, theirs = await self.channels(GET, end=True)
        await theirs.send_head(OK)
        await theirs.send_all(b"fine", end=True)
        assert await ours.head() == (OK, False)
        assert await everything(ours) == b"fine"
        theirs.close()
        ours.close()

    def flag(self, connection: Connection) -> str | None:
        end = self.ends[connection]
        return end.flag if end is not None else None


@contextlib.asynccontextmanager
async def pair(client: Bounds = Bounds(), server: Bounds = Bounds(), lockstep: bool = False) -> AsyncIterator[Pair]:  # noqa: B008
    made = Pair(client, server, lockstep)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run, made.client)
        nursery.start_soon(made.run, made.server, made.opened.send_nowait)
        yield made
        nursery.cancel_scope.cancel()


async def everything(stream: Channel, at_once: int = 65536) -> bytes:
    data = bytearray()
    while more := await stream.receive_some(at_once):
        data += more
    return bytes(data)


# Messages


async def test_a_request_and_its_response() -> None:
    async with pair() as p:
        ours, theirs = await p.channels([*POST, (b"x-a", b"1")])
        assert theirs.fields == [*POST, (b"x-a", b"1")]
        assert (theirs.complete, theirs.ready()) == (False, None)
        await ours.send_all(b"body", end=True)
        assert await theirs.receive_some(2) == b"bo"
        assert not theirs.complete
        assert theirs.ready() == b"dy"
        assert theirs.complete
        assert theirs.ready() == b""
        await theirs.send_head([*OK, (b"content-length", b"5")])
        await theirs.send_all(b"hello")
        await theirs.send_eof()
        assert await ours.head() == ([*OK, (b"content-length", b"5")], False)
        assert await everything(ours) == b"hello"
        assert ours.complete
        assert p.client.streams == p.server.streams == 0


async def test_heads_can_carry_the_end() -> None:
    async with pair() as p:
        ours, theirs = await p.channels(GET, end=True)
        assert theirs.complete
        assert theirs.ready() == b""
        await theirs.send_head([(b":status", b"204")], end=True)
        assert await ours.head() == ([(b":status", b"204")], True)
        assert ours.complete
        assert await ours.receive_some() == b""


async def test_an_end_without_bytes() -> None:
    async with pair() as p:
        ours, theirs = await p.channels(POST)
        await ours.send_all(b"", end=True)
        assert await theirs.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_all(b"more")


async def test_trailers_both_ways() -> None:
    async with pair() as p:
        ours, theirs = await p.channels(POST)
        await ours.send_all(b"x")
        await ours.send_trailers([(b"check", b"sum")])
        assert await everything(theirs) == b"x"
        assert theirs.trailers == [(b"check", b"sum")]
        await theirs.send_head(OK)
        await theirs.send_trailers([(b"grpc-status", b"0")])
        assert await ours.head() == (OK, False)
        assert await everything(ours) == b""
        assert ours.trailers == [(b"grpc-status", b"0")]


async def test_interim_responses_come_one_by_one() -> None:
    async with pair() as p:
        ours, theirs = await p.channels(POST)
        for status in (b"100", b"103", b"200"):
            await theirs.send_head([(b":status", status)])
            assert (await ours.head())[0] == [(b":status", status)]


async def test_head_has_a_length_and_no_body() -> None:
    async with pair() as p:
        ours, theirs = await p.channels(HEAD, end=True)
        await theirs.send_head([*OK, (b"content-length", b"1000")], end=True)
        assert await ours.head() == ([*OK, (b"content-length", b"1000")], True)
        await p.exchange()


async def test_fields_that_hold_secrets_are_never_compressed() -> None:
    async with pair(server=Bounds(native=False)) as p:
        _, theirs = await p.channels([*GET, (b"authorization", b"Basic dGlsbDpwaW4="), (b"x-a", b"1")], end=True)
        assert [getattr(field, "indexable") for field in theirs.fields[-2:]] == [False, True]  # noqa: B009 - of hpack's tuples


# Tunnels as trio's streams


async def tunnel(p: Pair) -> tuple[Channel, Channel]:
    ours, theirs = await p.channels(CONNECT)
    await theirs.send_head(OK)
    assert await ours.head() == (OK, False)
    return ours, theirs


@pytest.mark.parametrize("clogged", [False, True])
@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("lockstep", [False, True])
async def test_a_tunnel_is_a_stream_of_trio(way: int, clogged: bool, lockstep: bool) -> None:
    async with trio.open_nursery() as nursery:
        made: list[Pair] = []

        async def make() -> tuple[Channel, Channel]:
            p = Pair(Bounds(), Bounds(), lockstep)
            made.append(p)
            nursery.start_soon(p.run, p.client)
            nursery.start_soon(p.run, p.server, p.opened.send_nowait)
            left, right = (await tunnel(p))[::way]
            return left, right

        async def make_clogged() -> tuple[Channel, Channel]:
            left, right = await make()
            for channel in (left, right):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as filling:
                        filling.start_soon(channel.send_all, bytes(1 << 20))
                        await trio.testing.wait_all_tasks_blocked()
                        scope.cancel()
            return left, right

        await trio.testing.check_half_closeable_stream(make, make_clogged if clogged else None)
        nursery.cancel_scope.cancel()


async def test_each_half_of_a_tunnel_ends_for_itself() -> None:
    async with pair() as p:
        ours, theirs = await tunnel(p)
        await ours.send_all(b"question")
        await ours.send_eof()
        await ours.send_eof()
        assert await everything(theirs) == b"question"
        await theirs.send_all(b"answer")
        assert p.client.streams == 1
        await theirs.send_eof()
        assert await everything(ours) == b"answer"
        assert p.client.streams == p.server.streams == 0
        ours.close()
        theirs.close()
        await p.exchange()


async def test_a_reset_of_a_tunnel_is_never_an_end() -> None:
    async with pair() as p:
        ours, theirs = await tunnel(p)
        await ours.send_eof()
        await theirs.send_all(b"part")
        theirs.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert ours.reset_code == Code.CONNECT_ERROR
        with pytest.raises(trio.BrokenResourceError):
            await everything(ours)


@pytest.mark.parametrize("code", [Code.NO_ERROR, Code.CANCEL])
async def test_a_mild_reset_after_our_end_is_the_end_of_a_tunnel(code: Code) -> None:
    async with pair() as p:
        ours, theirs = await tunnel(p)
        await ours.send_eof()
        await theirs.send_all(b"all")
        theirs.abort(code)
        assert await everything(ours) == b"all"


async def test_a_mild_reset_before_our_end_is_not() -> None:
    async with pair() as p:
        ours, theirs = await tunnel(p)
        await theirs.send_all(b"all")
        theirs.abort(Code.CANCEL)
        with pytest.raises(trio.BrokenResourceError, match="error code 8"):
            await everything(ours)


async def test_a_mild_reset_is_never_the_end_of_a_message() -> None:
    async with pair() as p:
        ours, theirs = await p.channels(GET, end=True)
        await theirs.send_head(OK)
        await theirs.send_all(b"part")
        theirs.abort(Code.NO_ERROR)
        with pytest.raises(trio.BrokenResourceError):
            await everything(ours)
        assert not ours.complete


async def test_closing_a_tunnel_ends_it_unless_a_sender_was_cancelled() -> None:
    async with pair() as p:
        ours, theirs = await tunnel(p)
        await ours.send_all(b"all")
        ours.close()
        assert await everything(theirs) == b"all"
        with pytest.raises(trio.BrokenResourceError):
            await theirs.send_all(b"x")

        ours, theirs = await tunnel(p)
        with trio.move_on_after(0.01):
            await ours.send_all(bytes(1 << 20))
        ours.close()
        with pytest.raises(trio.BrokenResourceError):
            await everything(theirs)


async def test_closing_a_message_that_was_not_sent_whole_resets_it() -> None:
    async with pair() as p:
        ours, theirs = await p.channels(POST)
        await ours.send_all(b"part")
        ours.close()
        with pytest.raises(trio.BrokenResourceError, match="error code 8"):
            await everything(theirs)
        await p.exchange()


async def test_a_response_before_the_end_of_the_request_is_whole() -> None:
    async with pair() as p:
        ours, theirs = await p.channels(POST)
        await theirs.send_head([(b":status", b"413")])
        await theirs.send_all(b"too much", end=True)
        theirs.close()
        await trio.testing.wait_all_tasks_blocked()
        assert ours.reset_code == Code.NO_ERROR
        assert await ours.head() == ([(b":status", b"413")], False)
        assert await everything(ours) == b"too much"
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"more")


# Windows


@pytest.mark.parametrize("up", [True, False])
async def test_much_through_a_slow_reader_in_bounded_memory(up: bool) -> None:
    size = 8 << 20
    async with pair() as p:
        left, right = await tunnel(p)
        sender, reader = (left, right) if up else (right, left)
        connection = p.server if up else p.client
        most = total = 0

        async def send() -> None:
            await sender.send_all(bytes(size))
            await sender.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while data := await reader.receive_some(10000):
                total += len(data)
                await trio.testing.wait_all_tasks_blocked()  # the sender gets as far as it can
                most = max(most, connection.held)
                assert reader.held <= reader.window <= connection.bounds.stream_window
        assert total == size
        assert 60000 < most <= connection.bounds.stream_window


async def test_streams_that_nobody_reads_hold_no_more_than_the_window_of_the_connection() -> None:
    bounds = Bounds(connection_window=1 << 20)
    async with pair(Bounds(), bounds) as p:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                ours, _ = await tunnel(p)
                nursery.start_soon(ours.send_all, bytes(1 << 20))
            await trio.testing.wait_all_tasks_blocked()
            assert p.server.held == 1 << 20
            nursery.cancel_scope.cancel()
        await p.exchange()  # heads need no window


async def test_streams_that_nobody_reads_cannot_stall_others_where_that_matters() -> None:
    bounds = Bounds().shared()
    async with pair(bounds, bounds) as p, trio.open_nursery() as nursery:
        fast = await tunnel(p)
        for _ in range(bounds.max_streams - 1):
            ours, _ = await tunnel(p)
            nursery.start_soon(ours.send_all, bytes(1 << 20))
        await trio.testing.wait_all_tasks_blocked()
        assert p.client.room() == 0

        async def send() -> None:
            await fast[0].send_all(bytes(4 << 20))
            await fast[0].send_eof()

        nursery.start_soon(send)
        assert len(await everything(fast[1])) == 4 << 20
        assert p.server.held <= bounds.connection_window
        nursery.cancel_scope.cancel()


async def test_windows_grow_for_who_reads_and_are_given_back() -> None:
    async with pair() as p:
        for _ in range(5):
            ours, theirs = await tunnel(p)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.send_all, bytes(1 << 20))
                received = 0
                while received < 1 << 20:
                    received += len(await theirs.receive_some())
            assert theirs.window == 262144
            ours.close()
            theirs.close()


async def test_a_window_does_not_grow_for_who_lags_behind() -> None:
    async with pair() as p, trio.open_nursery() as nursery:
        ours, theirs = await tunnel(p)
        nursery.start_soon(ours.send_all, bytes(1 << 20))
        for _ in range(50):
            await trio.testing.wait_all_tasks_blocked()
            await theirs.receive_some(10000)
        assert theirs.window == 65535
        nursery.cancel_scope.cancel()


async def test_senders_share_a_connection() -> None:
    """Each of many senders gets on while all of them have more to send than the queue takes."""
    async with pair(Bounds(), Bounds().shared()) as p, trio.open_nursery() as nursery:
        tunnels = [await tunnel(p) for _ in range(10)]
        for ours, _ in tunnels:
            nursery.start_soon(ours.send_all, bytes(8 << 20))
        got = [0] * 10

        async def read(number: int) -> None:
            while True:
                got[number] += len(await tunnels[number][1].receive_some())
                if (
                    sum(got) > 60 << 20
                ):  # a thousand pieces in an order of chance: half of a fair share is five deviations away
                    nursery.cancel_scope.cancel()

        for number in range(10):
            nursery.start_soon(read, number)
        await trio.sleep_forever()
    assert min(got) > 3 << 20


async def test_a_cancelled_sender_leaves_the_connection_whole() -> None:
    async with pair(lockstep=True) as p:
        for at in range(0, 40, 3):
            ours, theirs = await tunnel(p)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ours.send_all, bytes(200000))
                    for _ in range(at):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            ours.abort()
            with pytest.raises(trio.BrokenResourceError):
                await everything(theirs)
            theirs.close()
        await p.exchange()


async def test_what_one_turn_of_the_loop_queues_goes_out_together() -> None:
    async with pair() as p:
        tunnels = [await tunnel(p) for _ in range(10)]
        await trio.testing.wait_all_tasks_blocked()
        sends = 0
        inner = p.left.inner.send_all

        async def count(data: bytes) -> None:
            nonlocal sends
            sends += 1
            await inner(data)

        p.left.inner.send_all = count
        async with trio.open_nursery() as nursery:
            for ours, _ in tunnels:
                nursery.start_soon(ours.send_all, b"small")
        for _, theirs in tunnels:
            assert await theirs.receive_some() == b"small"
        assert sends == 1


# Many streams


async def test_two_hundred_requests_where_a_hundred_are_allowed() -> None:
    async with pair(Bounds(max_streams=1000)) as p, trio.open_nursery() as nursery:
        free = trio.Event()

        async def serve() -> None:
            while True:
                channel = await p.accepted()
                nursery.start_soon(answer, channel)

        async def answer(channel: Channel) -> None:
            await channel.send_head(OK)
            await channel.send_all(await everything(channel), end=True)
            channel.close()

        async def ask(number: int) -> None:
            nonlocal free
            while not p.client.room():
                await free.wait()
            channel = await p.client.open(POST)
            await channel.send_all(b"%d" % number, end=True)
            await channel.head()
            assert await everything(channel) == b"%d" % number
            channel.close()
            free.set()
            free = trio.Event()

        await trio.testing.wait_all_tasks_blocked()  # SETTINGS arrive
        assert p.client.peer_max_streams == p.client.room() == 100
        nursery.start_soon(serve)
        async with trio.open_nursery() as asking:
            for number in range(200):
                asking.start_soon(ask, number)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            assert p.client.streams == 100
        assert p.client.streams == 0
        nursery.cancel_scope.cancel()


async def test_streams_beyond_the_limit_are_refused_and_can_be_sent_again() -> None:
    async with pair(Bounds(max_streams=3), Bounds(max_streams=2)) as p:
        channels = [await p.client.open(GET) for _ in range(3)]  # before the server's SETTINGS came
        await trio.testing.wait_all_tasks_blocked()
        assert [channel.refused_unprocessed for channel in channels] == [False, False, True]
        with pytest.raises(trio.BrokenResourceError):
            await channels[2].head()
        assert p.client.room() == 0
        with pytest.raises(Refused, match="no more than 2 streams"):
            await p.client.open(GET)
        for channel in channels:
            channel.abort()
        for _ in range(2):
            (await p.accepted()).abort()
        assert p.client.room() == 2
        await p.exchange()


async def test_no_stream_numbers_are_left() -> None:
    async with pair() as p:
        machine = p.client.machine
        if isinstance(machine, Machine):
            machine.highest_outbound_stream_id = 2**31 - 3
        else:
            machine.h2.next_id = 2**31 - 1
        assert p.client.room() == 0
        with pytest.raises(Refused, match="peer-lost"):
            await p.client.open(GET)


# Ends


async def test_a_drained_server_finishes_what_runs_and_takes_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as p:
        ours, theirs = await p.channels(POST)
        p.server.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert (p.client.room(), p.client.closed) == (0, False)
        with pytest.raises(Refused, match="peer-lost"):
            await p.client.open(GET)
        await ours.send_all(b"question", end=True)
        assert await everything(theirs) == b"question"
        await theirs.send_head(OK)
        await theirs.send_all(b"answer", end=True)
        assert await ours.head() == (OK, False)
        assert await everything(ours) == b"answer"
        await trio.testing.wait_all_tasks_blocked()
        assert p.ends == {p.client: None, p.server: None}
        assert trio.current_time() < 0.1  # the client closed, so the server need not wait


async def test_a_drained_server_does_not_wait_long_for_a_client_that_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    left, right = pipes()
    server = Connection(right, client=False, bounds=Bounds(), name="client")
    server.drain()
    await server.run()
    assert trio.current_time() == Bounds().farewell
    del left


async def test_a_drained_client_ends_after_its_last_stream() -> None:
    async with pair() as p:
        ours, theirs = await p.channels(GET, end=True)
        p.client.drain()
        p.client.drain()
        await theirs.send_head(OK)
        await theirs.send_all(bytes(60000), end=True)
        await trio.testing.wait_all_tasks_blocked()
        assert len(await everything(ours)) == 60000  # it arrived whole, though the connection is gone
        assert p.ends == {p.client: None, p.server: None}


async def test_a_connection_that_drains_before_it_was_greeted(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as p:
        ours = await p.client.open(GET, end=True)
        p.client.drain()
        theirs = await p.accepted()
        await trio.sleep(100)
        await theirs.send_head(OK, end=True)
        assert await ours.head() == (OK, True)
        await trio.testing.wait_all_tasks_blocked()
        assert p.ends == {p.client: None, p.server: None}


async def test_an_idle_connection_drains_at_once() -> None:
    async with pair() as p:
        await p.exchange()
        p.client.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert p.ends == {p.client: None, p.server: None}


async def test_all_that_was_queued_goes_out_before_a_drained_connection_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Much longer than the farewell, over a link that is slow."""
    async with pair() as p:
        inner = p.right.inner.send_all

        async def slow(data: bytes) -> None:
            await trio.sleep(30)
            await inner(data)

        ours, theirs = await p.channels(GET, end=True)
        p.right.inner.send_all = slow
        await theirs.send_head(OK)
        await theirs.send_all(bytes(60000), end=True)
        p.server.drain()
        assert len(await everything(ours)) == 60000
        ours.close()
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(100)
        assert p.ends == {p.client: None, p.server: None}


async def test_requests_that_cross_a_goaway_can_be_sent_again() -> None:
    async with pair() as p:
        first, theirs = await p.channels(GET, end=True)
        p.server.drain()
        late = await p.client.open(GET, end=True)  # GOAWAY is on its way
        await trio.testing.wait_all_tasks_blocked()
        assert (first.refused_unprocessed, late.refused_unprocessed) == (False, True)
        with pytest.raises(trio.BrokenResourceError, match="did not take this stream"):
            await late.head()
        await theirs.send_head(OK, end=True)
        assert await first.head() == (OK, True)
        await trio.testing.wait_all_tasks_blocked()
        assert p.ends == {p.client: None, p.server: None}


async def test_a_connection_that_breaks_breaks_its_streams() -> None:
    async with pair() as p:
        ours, theirs = await tunnel(p)
        done, _ = await p.channels(GET, end=True)
        p.left.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert {p.flag(p.client), p.flag(p.server)} == {"peer-lost"}
        for channel in (ours, theirs):
            with pytest.raises(trio.BrokenResourceError):
                await channel.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await channel.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await done.head()
        assert not done.refused_unprocessed  # nobody knows
        assert p.client.closed
        assert p.client.room() == 0
        with pytest.raises(Refused, match="peer-lost"):
            await p.client.open(GET)
        assert not await p.client.ping(1)


async def test_a_peer_that_closes_without_streams_ends_it_in_order() -> None:
    async with pair() as p:
        await p.exchange()
        p.left.close()
        await trio.testing.wait_all_tasks_blocked()
        assert p.flag(p.server) is None


async def test_a_peer_that_closes_with_streams_open_is_lost() -> None:
    async with pair() as p:
        await tunnel(p)
        await p.left.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert p.flag(p.server) == "peer-lost"


async def test_close_ends_it_at_once() -> None:
    async with pair() as p:
        ours, _ = await tunnel(p)
        p.client.close()
        with pytest.raises(trio.BrokenResourceError, match="closed here"):
            await ours.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert p.ends[p.client] is None
        assert p.flag(p.server) == "peer-lost"


async def test_close_before_run() -> None:
    connection = Connection(pipes()[0], client=True, bounds=Bounds(), name="x")
    connection.close()
    await connection.run()


async def test_a_cancelled_run_breaks_its_streams() -> None:
    left, _right = pipes()
    connection = Connection(left, client=True, bounds=Bounds(), name="x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        channel = await connection.open(GET)
        nursery.cancel_scope.cancel()
    assert connection.closed
    with pytest.raises(trio.BrokenResourceError):
        await channel.head()


async def test_waiting_tasks_hear_of_the_end() -> None:
    """Whatever a task waits for, it does not wait for ever."""
    async with pair() as p, trio.open_nursery() as nursery:
        ours, theirs = await tunnel(p)
        asked, _ = await p.channels(GET, end=True)
        pieces = [await tunnel(p) for _ in range(20)]
        broken = 0

        async def wait(work: Callable[[], object]) -> None:
            nonlocal broken
            with pytest.raises(trio.BrokenResourceError):
                await work()  # type: ignore[misc]
            broken += 1

        nursery.start_soon(wait, ours.receive_some)
        nursery.start_soon(wait, theirs.receive_some)
        nursery.start_soon(wait, asked.head)
        for left, _ in pieces:
            nursery.start_soon(wait, lambda left=left: left.send_all(bytes(1 << 20)))
        await trio.testing.wait_all_tasks_blocked()
        p.client.close()
        await trio.testing.wait_all_tasks_blocked()
        assert broken == 23


# Signs of life


async def test_ping(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as p:
        assert await p.client.ping(1)
        assert await p.server.ping(1)
        before = p.client.last_heard
        await trio.sleep(5)
        assert p.client.last_heard == before
        assert await p.client.ping(1)
        assert p.client.last_heard == before + 5

        async def never(data: bytes) -> None:
            await trio.sleep_forever()

        p.left.inner.send_all = never
        assert not await p.client.ping(3)
        assert trio.current_time() == before + 8


async def test_idle_since(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as p:
        await trio.sleep(5)
        assert p.client.idle_since == 0
        ours, theirs = await tunnel(p)
        await trio.sleep(5)
        ours.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert (p.client.idle_since, p.server.idle_since) == (10, 10)
        theirs.abort()


# Bytes in any pieces


async def test_fed_byte_by_byte() -> None:
    async with pair() as p:
        for pipe in (p.left, p.right):
            pipe.receive_some = one_byte(pipe)  # type: ignore[method-assign]
        ours, theirs = await p.channels([*POST, (b"x-long", b"v" * 500)])
        await ours.send_all(b"q" * 1000, end=True)
        assert await everything(theirs) == b"q" * 1000
        await theirs.send_head(OK)
        await theirs.send_all(b"a" * 1000)
        await theirs.send_trailers([(b"x-t", b"1")])
        assert await ours.head() == (OK, False)
        assert await everything(ours) == b"a" * 1000
        assert ours.trailers == [(b"x-t", b"1")]


def one_byte(pipe: Pipe) -> Callable[..., object]:
    async def receive_some(max_bytes: int | None = None) -> bytes | bytearray:
        return await Pipe.receive_some(pipe, 1)

    return receive_some


def test_the_type() -> None:
    assert issubclass(Channel, HalfCloseableStream)
