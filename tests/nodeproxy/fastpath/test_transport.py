"""HTTP/2 connections that the native lane carries, both ends over one pair of sockets: what channels see is the same as over any stream."""

from __future__ import annotations

import contextlib
import socket

import pytest
import trio

from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Code, Connection
from nodeproxy.native import AVAILABLE
from tests.compiled import needs_lane

if AVAILABLE:
    from nodeproxy.fastpath.path import NativePath
    from nodeproxy.fastpath.transport import NativeTransport
    from nodeproxy.limits import Limits

from tests.nodeproxy.h2.test_connection import CONNECT, GET, OK, POST, everything

pytestmark = needs_lane


class NoContext:
    limits = Limits() if AVAILABLE else None
    conns: dict[int, object] = {}  # noqa: RUF012


class Ends:
    """A client and a server; what they ended with; the streams that were opened."""

    def __init__(self, lane, client, server):
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self.sockets = {}
        self.lane = lane
        self.client = Connection(None, True, client, "server", NativeTransport(lane.streams, near.fileno(), None))
        self.server = Connection(None, False, server, "client", NativeTransport(lane.streams, far.fileno(), None))
        self.sockets = {self.client: near, self.server: far}
        self.ends = {}
        self.opened, self.channels = trio.open_memory_channel(1000)

    async def run(self, connection, accept=None):
        try:
            await connection.run(accept)
            self.ends[connection] = ""
        except Refused as refused:
            self.ends[connection] = refused.flag
        finally:
            self.sockets[connection].close()

    async def stream(self, fields=CONNECT, end=False):
        ours = await self.client.open(fields, end)
        return ours, await self.channels.receive()

    async def exchange(self):
        ours, theirs = await self.stream(GET, end=True)
        await theirs.send_head(OK)
        await theirs.send_all(b"fine", end=True)
        assert await ours.head() == (OK, False)
        assert await everything(ours) == b"fine"
        theirs.close()
        ours.close()


@contextlib.asynccontextmanager
async def ends(client=Bounds(), server=Bounds()):  # noqa: B008
    lane = NativePath(NoContext())
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.run)
        made = Ends(lane, client, server)
        nursery.start_soon(made.run, made.client)
        nursery.start_soon(made.run, made.server, made.opened.send_nowait)
        with trio.fail_after(20):
            yield made
        nursery.cancel_scope.cancel()
    for one in made.sockets.values():
        one.close()
    assert lane.lane.stats["links"] == 0


async def until(what):
    with trio.fail_after(30):
        while not what():
            await trio.sleep(0.01)


async def test_requests_and_responses():
    async with ends() as p:
        for _ in range(20):
            await p.exchange()
        ours, theirs = await p.stream([*POST, (b"x-a", b"1")])
        assert theirs.fields == [*POST, (b"x-a", b"1")]
        await ours.send_all(b"body", end=True)
        assert await everything(theirs) == b"body"
        await theirs.send_head([*OK, (b"content-length", b"0")], end=True)
        assert (await ours.head())[1]
        assert p.client.streams == 0
        await until(lambda: p.server.streams == 0)


async def test_many_streams_at_once_move_all_of_their_bytes():
    async with ends() as p:
        got = []

        async def one(number):
            ours, theirs = await p.stream()
            await theirs.send_head(OK)
            await ours.head()
            size = 3_000_000 + number
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.send_all, bytes(size), True)
                nursery.start_soon(theirs.send_all, b"y" * size, True)
                got.append(len(await everything(theirs)) - size)
                got.append(len(await everything(ours)) - size)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(one, number)
        assert got == [0] * 16


async def test_a_reader_that_does_not_read_bounds_what_is_held():
    async with ends() as p:
        ours, theirs = await p.stream()
        await theirs.send_head(OK)
        with trio.move_on_after(0.5) as scope:
            await ours.send_all(bytes(8 << 20))
        assert scope.cancelled_caught
        assert theirs.held <= Bounds().stream_window
        await p.exchange()  # and others go on


async def test_resets_are_told():
    async with ends() as p:
        ours, theirs = await p.stream(POST)
        theirs.abort(Code.REFUSED_STREAM)
        with pytest.raises(trio.BrokenResourceError):
            await ours.head()
        assert ours.refused_unprocessed
        ours, theirs = await p.stream(POST)
        ours.abort()
        with pytest.raises(trio.BrokenResourceError):
            await everything(theirs)
        await p.exchange()


async def test_a_drained_connection_ends_with_its_last_stream():
    async with ends() as p:
        ours, theirs = await p.stream(GET, end=True)
        p.client.drain()
        await trio.sleep(0.05)
        assert not p.ends
        await theirs.send_head(OK, end=True)
        assert (await ours.head())[1]
        await until(lambda: len(p.ends) == 2)
        assert set(p.ends.values()) == {""}


async def test_a_server_that_drains_lets_streams_finish_and_takes_no_more():
    async with ends() as p:
        ours, theirs = await p.stream(GET, end=True)
        p.server.drain()
        await until(lambda: p.client.ending)
        with pytest.raises(Refused, match="peer-lost"):
            await p.client.open(GET, True)
        await theirs.send_head(OK, end=True)
        assert (await ours.head())[1]
        await until(lambda: len(p.ends) == 2)
        assert set(p.ends.values()) == {""}


async def test_a_connection_that_is_cut_breaks_its_streams():
    async with ends() as p:
        ours, _ = await p.stream(GET, end=True)
        p.sockets[p.server].shutdown(socket.SHUT_RDWR)
        with pytest.raises(trio.BrokenResourceError):
            await ours.head()
        await until(lambda: len(p.ends) == 2)
        assert p.ends[p.client] == "peer-lost"


async def test_close_ends_it_at_once():
    async with ends() as p:
        ours, _ = await p.stream(GET, end=True)
        p.client.close()
        with pytest.raises(trio.BrokenResourceError):
            await ours.head()
        await until(lambda: len(p.ends) == 2)


async def test_what_breaks_http2_is_told_and_ends_the_connection():
    async with ends() as p:
        await p.exchange()
        p.lane.lane.stats  # noqa: B018
        p.sockets[p.client].send(b"\x00\x00\x01\x00\x00\x00\x00\x03\xe9x")  # DATA on a stream that nobody opened
        await until(lambda: p.server in p.ends)
        assert p.ends[p.server] == "http2-abuse"


async def test_a_ping_is_answered():
    async with ends() as p:
        assert await p.client.ping(30.0)
        heard = p.client.last_heard
        assert trio.current_time() - heard < 30.0


async def test_a_peer_that_says_nothing_is_let_go():
    async with ends(client=Bounds(preface=0.2)) as p:
        silent, other = socket.socketpair()
        silent.setblocking(False)
        connection = Connection(
            None, True, Bounds(preface=0.2), "silent", NativeTransport(p.lane.streams, silent.fileno(), None)
        )
        p.sockets[connection] = silent
        await p.run(connection)
        assert p.ends[connection] == "peer-lost"
        other.close()


async def test_what_was_read_before_it_was_the_lanes_counts_as_heard(autojump_clock):
    """The preface and the first SETTINGS come in one segment, which detection reads: no deadline waits for them any more."""
    lane = NativePath(NoContext())
    near, far = socket.socketpair()
    near.setblocking(False)
    said = Connection(None, True, Bounds(native=False), "client").machine.data_to_send()
    bounds = Bounds(preface=1.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.run)
        server = Connection(
            None, False, bounds, "client", NativeTransport(lane.streams, near.fileno(), None, True, said)
        )
        nursery.start_soon(server.run, lambda channel: None)
        await trio.sleep(3 * bounds.preface)
        assert not server.closed
        nursery.cancel_scope.cancel()
    near.close()
    far.close()
