"""Opaque bytes between sockets and CONNECT streams in the native lane: a caller, two relays with one link between them, and a server.

Each relay is in the lane or in Python, as a test says; what both ends see, and what is counted, is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket

import pytest
import trio
from trio.testing import memory_stream_pair

from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Code, Connection
from nodeproxy.interfaces import NO_FAST_PATH
from nodeproxy.limits import Limits
from nodeproxy.native import AVAILABLE
from nodeproxy.protocols import relay as relay_module
from nodeproxy.protocols.relay import relay
from nodeproxy.stream import Peeked, abort
from nodeproxy.telemetry.record import Record
from tests.compiled import needs_lane

if AVAILABLE:
    from nodeproxy.fastpath.path import NativePath

from tests.nodeproxy.fastpath.test_relays import LINGER, tcp_pair
from tests.nodeproxy.fastpath.test_transport import Ends, until
from tests.nodeproxy.h2.test_connection import CONNECT, OK

pytestmark = needs_lane

BUFFER = 65536
WEST, EAST, BOTH, NONE = (True, False), (False, True), (True, True), (False, False)


@pytest.fixture(params=[BOTH, WEST, EAST, NONE], ids=["both", "west", "east", "none"])
def lanes(request):
    return request.param


class Context:
    limits = Limits(keepalive_timeout=0.04)  # the lane looks at the clock four times in that


class Tunnel:
    """caller <-> left = the west's relay = stream = the east's relay = right <-> server"""

    def __init__(self, place, ours, theirs, lanes, buffers, held, idle):
        caller, left = tcp_pair(buffers)
        right, server = tcp_pair(buffers)
        self.caller, self.left, self.right, self.server = (
            trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (caller, left, right, server)
        )
        self.ours, self.theirs = ours, theirs
        self.records = [Record("connection", "", 0.0, 0.0, None, "", None, "", "", "", "tcp") for _ in range(2)]
        self.ends = [None, None]  # the flag and the detail, or the counts
        self.scopes = [trio.CancelScope(), trio.CancelScope()]
        ways = (
            (Peeked(self.left, held[0]), Peeked(ours, held[1])),
            (Peeked(theirs, held[2]), Peeked(self.right, held[3])),
        )
        for side in (0, 1):
            place.nursery.start_soon(self._run, side, *ways[side], idle, place.lane if lanes[side] else NO_FAST_PATH)

    async def _run(self, side, left, right, idle, lane):
        with self.scopes[side]:
            try:
                self.ends[side] = await relay(left, right, idle, self.records[side], BUFFER, lane)
            except Refused as refused:
                self.ends[side] = refused.flag, refused.detail
        for one in (left, right):
            if isinstance(self.ends[side], tuple) and isinstance(self.ends[side][0], int):
                await one.aclose()
            else:
                abort(one)

    def counted(self):
        return [(record.bytes_in, record.bytes_out) for record in self.records]

    async def over(self):
        await until(
            lambda: all(end or scope.cancelled_caught for end, scope in zip(self.ends, self.scopes, strict=True))
        )

    def flags(self):
        return [end and end[0] for end in self.ends]


class Place(Ends):
    async def tunnel(self, lanes=BOTH, buffers=0, held=(b"", b"", b"", b""), idle=60.0, first=b""):
        ours, theirs = await self.stream(CONNECT)
        await theirs.send_head(OK)
        await ours.head()
        if first:  # what a server says at once, before anybody relays
            await theirs.send_all(first)
            await until(lambda: ours.held == len(first))
        return Tunnel(self, ours, theirs, lanes, buffers, held, idle)


@contextlib.asynccontextmanager
async def place(client=Bounds(), server=Bounds()):  # noqa: B008
    lane = NativePath(Context())
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.run)
        made = Place(lane, client, server)
        made.nursery = nursery
        nursery.start_soon(made.run, made.client)
        nursery.start_soon(made.run, made.server, made.opened.send_nowait)
        with trio.fail_after(30):
            yield made
        nursery.cancel_scope.cancel()
    for one in made.sockets.values():
        one.close()
    assert lane.lane.stats["links"] == lane.lane.stats["tunnels"] == 0
    assert not lane.relays._relays
    assert not lane.relays._passed
    assert not made.client._lent
    assert not made.server._lent


def reset(stream):
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    stream.socket.close()


async def read(stream, size):
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        assert more
        data += more
    return data


async def digest(stream):
    """Of all until its end, and how much that is."""
    total, sha = 0, hashlib.sha256()
    async for data in stream:
        total += len(data)
        sha.update(data)
    return total, sha.digest()


async def send(stream, data):
    await stream.send_all(data)
    await stream.send_eof()


@pytest.mark.parametrize("size", [0, 1, 16384, 65535, 65536, 1_000_003, 20_000_001])
async def test_bytes_both_ways_and_every_one_of_them(lanes, size):
    chance = random.Random(size)
    there, back = chance.randbytes(size), chance.randbytes(size // 2 + 1)
    async with place() as p:
        tunnel = await p.tunnel(lanes)
        got = {}

        async def hear(who, stream):
            got[who] = await digest(stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, tunnel.caller, there)
            nursery.start_soon(send, tunnel.server, back)
            nursery.start_soon(hear, "server", tunnel.server)
            nursery.start_soon(hear, "caller", tunnel.caller)
        assert got["server"] == (size, hashlib.sha256(there).digest())
        assert got["caller"] == (len(back), hashlib.sha256(back).digest())
        await tunnel.over()
        assert tunnel.ends == [(size, len(back))] * 2
        assert tunnel.counted() == tunnel.ends
        await until(lambda: p.client.streams == p.server.streams == 0)


async def test_it_is_the_lane_that_carries_them(monkeypatch):
    async def never(*args):
        raise AssertionError("Python relays")

    monkeypatch.setattr(relay_module, "_relay", never)
    async with place() as p:
        tunnel = await p.tunnel()
        await tunnel.caller.send_all(b"question")
        assert await read(tunnel.server, 8) == b"question"
        assert p.lane.lane.stats["tunnels"] == 2
        assert p.client.streams == p.server.streams == 1
        await until(lambda: tunnel.counted() == [(8, 0)] * 2)  # while it goes on


async def test_what_was_read_before_goes_first(lanes):
    async with place() as p:
        tunnel = await p.tunnel(
            lanes, held=(b"of the caller, ", b"of the stream, ", b"", b"of the server, "), first=b"what came, "
        )
        await tunnel.caller.send_all(b"the rest.")
        await tunnel.server.send_all(b"the end.")
        assert await read(tunnel.server, 24) == b"of the caller, the rest."
        assert await read(tunnel.caller, 49) == b"of the stream, what came, of the server, the end."
        await tunnel.caller.send_eof()
        await tunnel.server.send_eof()
        await tunnel.over()
        assert tunnel.ends[0] == (24, 49)
        assert tunnel.counted()[0] == (24, 49)


async def test_the_end_was_here_before_the_relay_began(lanes):
    async with place() as p:
        ours, theirs = await p.stream(CONNECT)
        await theirs.send_head(OK)
        await ours.head()
        await theirs.send_all(b"hello, and goodbye", end=True)
        await until(lambda: ours.heard_end)
        caller, left = tcp_pair()
        caller, left = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (caller, left))
        ended = []

        async def run():
            ended.append(await relay(left, Peeked(ours), 60, None, BUFFER, p.lane if lanes[0] else NO_FAST_PATH))

        p.nursery.start_soon(run)
        assert await digest(caller) == (18, hashlib.sha256(b"hello, and goodbye").digest())
        await send(caller, b"bye")
        assert await theirs.receive_some() == b"bye"
        assert await theirs.receive_some() == b""
        await until(lambda: ended)
        assert ended == [(3, 18)]
        ours.close()
        theirs.close()


@pytest.mark.parametrize("first", ["caller", "server"])
async def test_half_close_is_passed_on_after_what_came_before_it(lanes, first):
    async with place() as p:
        tunnel = await p.tunnel(lanes)
        one, two = (tunnel.caller, tunnel.server) if first == "caller" else (tunnel.server, tunnel.caller)
        p.nursery.start_soon(send, one, b"question" * 100_000)
        assert await digest(two) == (800_000, hashlib.sha256(b"question" * 100_000).digest())
        assert tunnel.ends == [None, None]
        await trio.sleep(0.02)
        for _ in range(3):
            await two.send_all(b"answer")
            assert await read(one, 6) == b"answer"
        await two.send_eof()
        assert await one.receive_some() == b""
        await tunnel.over()
        assert tunnel.ends == [(800_000, 18) if first == "caller" else (18, 800_000)] * 2


@pytest.mark.parametrize(("side", "flag"), [("caller", "client-gone"), ("server", "upstream-broken")])
async def test_a_reset_is_passed_on_as_one(lanes, side, flag):
    async with place() as p:
        tunnel = await p.tunnel(lanes)
        one, two = (tunnel.caller, tunnel.server) if side == "caller" else (tunnel.server, tunnel.caller)
        await one.send_all(b"half of ")
        assert await read(two, 8) == b"half of "
        await trio.sleep(0.02)
        reset(one)
        with pytest.raises(trio.BrokenResourceError):
            await two.receive_some()
        await tunnel.over()
        assert tunnel.flags() == [flag, flag]
        near, far = (0, 1) if side == "caller" else (1, 0)
        assert tunnel.ends[near][1] == "socket connection broken: [Errno 104] Connection reset by peer"
        assert tunnel.ends[far][1] == f"the peer reset the stream (error code {Code.CONNECT_ERROR})"
        assert tunnel.counted() == [(8, 0) if side == "caller" else (0, 8)] * 2
        await until(lambda: p.client.streams == p.server.streams == 0)
        await p.exchange()  # and the connection goes on


@pytest.mark.parametrize("side", ["caller", "server"])
async def test_a_reset_is_noticed_while_the_other_end_does_not_read(side):
    async with place() as p:
        tunnel = await p.tunnel(buffers=131072)
        one, two = (tunnel.caller, tunnel.server) if side == "caller" else (tunnel.server, tunnel.caller)
        with trio.move_on_after(0.3):
            await one.send_all(bytes(32 << 20))
        assert tunnel.ends == [None, None]
        reset(one)
        await tunnel.over()
        assert tunnel.flags() == ["client-gone" if side == "caller" else "upstream-broken"] * 2
        with pytest.raises(trio.BrokenResourceError):
            while await two.receive_some():
                pass


@pytest.mark.parametrize("way", ["to the server", "to the caller"])
async def test_who_does_not_read_bounds_what_is_held_and_others_go_on(lanes, way):
    async with place() as p:
        tunnel, other = await p.tunnel(lanes, buffers=131072), await p.tunnel(lanes)
        source, sink = (tunnel.caller, tunnel.server) if way == "to the server" else (tunnel.server, tunnel.caller)
        sent = 0

        async def flood():
            nonlocal sent
            while True:
                sent += await source.socket.send(bytes(BUFFER))

        p.nursery.start_soon(flood)
        # A window, a buffer of each relay, and what three pairs of sockets hold.
        most = Bounds().stream_window + 4 * BUFFER + 6 * 131072
        before = -1
        while before != sent:
            before = sent
            await trio.sleep(0.4)
        assert sent < most
        p.nursery.start_soon(send, other.caller, bytes(3_000_000))
        assert (await digest(other.server))[0] == 3_000_000
        p.nursery.start_soon(send, other.server, bytes(3_000_000))
        assert (await digest(other.caller))[0] == 3_000_000
        await p.exchange()
        assert sent < most
        assert not any(tunnel.ends)
        await read(sink, sent + 2_000_000)  # and when it reads it goes on


async def test_bytes_wait_until_the_socket_took_them_before_the_peer_may_send_more():
    """The peer's window is what the socket has not taken: so the peer alone can never fill our memory."""
    async with place() as p:
        ours, theirs = await p.stream(CONNECT)
        await theirs.send_head(OK)
        await ours.head()
        caller, left = tcp_pair(131072)
        left = trio.SocketStream(trio.socket.from_stdlib_socket(left))
        p.nursery.start_soon(relay, left, Peeked(ours), 60, None, BUFFER, p.lane)
        with trio.move_on_after(0.4):
            await theirs.send_all(bytes(8 << 20))
        assert p.server.machine.local_flow_control_window(theirs.id) == 0
        taken = len(caller.recv(1 << 24))
        assert taken > 0
        await until(lambda: theirs.connection.machine.local_flow_control_window(theirs.id) > 0)


async def test_nothing_moves_for_too_long(lanes):
    async with place() as p:
        tunnel = await p.tunnel(lanes, idle=1)
        begun = trio.current_time()
        await tunnel.caller.send_all(b"tick")
        await trio.sleep(0.6)
        await tunnel.server.send_all(b"tock")
        with pytest.raises(trio.BrokenResourceError):
            while await tunnel.caller.receive_some():
                pass
        assert trio.current_time() - begun > 1.5
        await tunnel.over()
        assert "idle" in tunnel.flags()
        assert tunnel.counted() == [(4, 4)] * 2


@pytest.mark.parametrize("side", [0, 1])
async def test_cut(lanes, side):
    """As a new snapshot does it: the scope of the task is cancelled."""
    async with place() as p:
        tunnel = await p.tunnel(lanes)
        await tunnel.caller.send_all(b"12345")
        assert await read(tunnel.server, 5) == b"12345"
        await until(lambda: tunnel.records[0].bytes_in == 5)
        tunnel.scopes[side].cancel()
        for end in (tunnel.caller, tunnel.server):
            with pytest.raises(trio.BrokenResourceError):
                await end.receive_some()
        await until(lambda: tunnel.ends[1 - side])
        assert tunnel.flags()[1 - side] == ("upstream-broken" if side else "client-gone")
        assert tunnel.counted() == [(5, 0)] * 2
        await until(lambda: p.client.streams == p.server.streams == 0)
        await p.exchange()


async def test_a_cancelled_relay_gives_the_stream_back():
    async with place() as p:
        ours, theirs = await p.stream(CONNECT)
        await theirs.send_head(OK)
        await ours.head()
        caller, left = tcp_pair()
        caller, left = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (caller, left))
        for number in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay, left, Peeked(ours), 60, None, BUFFER, p.lane)
                await caller.send_all(bytes(100_000))
                await read(theirs, 100_000)
                await theirs.send_all(bytes(100_000))
                await read(caller, 100_000)
                nursery.cancel_scope.cancel()
            assert p.client.streams == 1
            await ours.send_all(b"from Python")
            assert await read(theirs, 11) == b"from Python"
            await theirs.send_all(b"to Python %02d" % number)
            assert await read(ours, 12) == b"to Python %02d" % number
        ours.close()
        theirs.close()


async def test_cancelled_while_it_ends():
    """The end and the cancellation may come in one turn of the loop, in either order."""
    async with place() as p:
        for number in range(30):
            tunnel = await p.tunnel()
            await trio.sleep(0.001)
            tunnel.caller.socket.close()
            tunnel.server.socket.close()
            for _ in range(number % 5):
                await trio.lowlevel.checkpoint()
            for scope in tunnel.scopes:
                scope.cancel()
        await until(lambda: p.client.streams == p.server.streams == 0)
        assert not p.client._lent | p.server._lent


async def test_the_link_dies_in_the_middle(lanes):
    async with place() as p:
        tunnels = [await p.tunnel(lanes) for _ in range(3)]
        for tunnel in tunnels:
            await tunnel.caller.send_all(b"half of ")
            assert await read(tunnel.server, 8) == b"half of "
        await trio.sleep(0.02)
        p.sockets[p.server].shutdown(socket.SHUT_RDWR)
        for tunnel in tunnels:
            for end in (tunnel.caller, tunnel.server):
                with pytest.raises(trio.BrokenResourceError):
                    await end.receive_some()
            await tunnel.over()
            assert tunnel.flags() == ["upstream-broken", "client-gone"]
            assert all("it closed the connection, 3 streams were open" in end[1] for end in tunnel.ends)
            assert tunnel.counted() == [(8, 0)] * 2
        await until(lambda: len(p.ends) == 2)
        assert p.client.streams == p.server.streams == 0


@pytest.mark.parametrize("who", ["client", "server"])
async def test_the_connection_is_closed_here(lanes, who):
    async with place() as p:
        tunnel = await p.tunnel(lanes)
        await tunnel.caller.send_all(b"half of ")
        assert await read(tunnel.server, 8) == b"half of "
        getattr(p, who).close()
        for end in (tunnel.caller, tunnel.server):
            with pytest.raises(trio.BrokenResourceError):
                await end.receive_some()
        await tunnel.over()
        assert tunnel.flags() == ["upstream-broken", "client-gone"]
        assert tunnel.ends[0 if who == "client" else 1][1] == "the connection was closed here"


async def test_what_came_whole_is_delivered_though_the_link_has_gone(lanes):
    """Both ends of the stream are said, the caller is slow, and the connection between the nodes ends: the caller gets all."""
    async with place() as p:
        size = 400_000  # more than the caller's sockets hold
        tunnel = await p.tunnel(lanes, buffers=131072)
        await tunnel.caller.send_eof()
        assert await tunnel.server.receive_some() == b""
        p.nursery.start_soon(send, tunnel.server, b"x" * size)
        await until(lambda: not p.server.machine.h2.has(tunnel.theirs.id))
        await until(lambda: not p.client.machine.h2.has(tunnel.ours.id))
        assert tunnel.ends[0] is None
        p.client.close()
        await until(lambda: len(p.ends) == 2)
        assert await digest(tunnel.caller) == (size, hashlib.sha256(b"x" * size).digest())
        await tunnel.over()
        assert tunnel.ends == [(0, size)] * 2


async def test_a_mild_reset_after_our_end_is_an_end(lanes):
    """As ztunnel closes a tunnel."""
    async with place() as p:
        ours, theirs = await p.stream(CONNECT)
        await theirs.send_head(OK)
        await ours.head()
        caller, left = tcp_pair()
        caller, left = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (caller, left))
        ended = []

        async def run():
            ended.append(await relay(left, Peeked(ours), 60, None, BUFFER, p.lane if lanes[0] else NO_FAST_PATH))

        p.nursery.start_soon(run)
        await send(caller, b"question")
        assert await read(theirs, 8) == b"question"
        assert await theirs.receive_some() == b""
        await theirs.send_all(b"answer")
        assert await read(caller, 6) == b"answer"
        theirs.abort(Code.CANCEL)
        assert await caller.receive_some() == b""
        await until(lambda: ended)
        assert ended == [(8, 6)]
        ours.close()


async def test_a_peer_that_opens_no_window(lanes):
    async with place(client=Bounds(stall=0.3), server=Bounds(stall=0.3)) as p:
        ours, theirs = await p.stream(CONNECT)
        await theirs.send_head(OK)
        await ours.head()
        caller, left = tcp_pair()
        caller, left = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (caller, left))
        refused = []

        async def run():
            with pytest.raises(Refused) as caught:
                await relay(left, Peeked(ours), 60, None, BUFFER, p.lane if lanes[0] else NO_FAST_PATH)
            refused.append(caught.value)

        p.nursery.start_soon(run)
        with contextlib.suppress(trio.BrokenResourceError):
            await caller.send_all(bytes(8 << 20))
        await until(lambda: refused)
        assert (refused[0].flag, refused[0].detail) == ("upstream-broken", "the peer opened no window for 0.3 s")
        await until(lambda: theirs.reset_code is not None)
        assert theirs.reset_code == Code.CANCEL


async def test_many_at_once_each_have_their_turn():
    """Downloads that have bytes all the time: whoever came last has as much as whoever came first, or nearly."""
    async with place(Bounds().shared(), Bounds().shared()) as p:
        tunnels = [await p.tunnel() for _ in range(30)]
        got = [0] * len(tunnels)

        async def pour(tunnel):
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await tunnel.server.send_all(bytes(1 << 20))

        async def drink(number):
            async for data in tunnels[number].caller:
                got[number] += len(data)

        async with trio.open_nursery() as nursery:
            for number, tunnel in enumerate(tunnels):
                nursery.start_soon(pour, tunnel)
                nursery.start_soon(drink, number)
            while sum(got) < 200 << 20:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert min(got) * 4 > max(got), got


async def test_many_at_once_and_every_byte(lanes):
    async with place(Bounds().shared(), Bounds().shared()) as p:

        async def one(number):
            chance = random.Random(number)
            tunnel = await p.tunnel(lanes, buffers=131072 if number % 3 == 0 else 0)
            there, back = chance.randbytes(chance.randrange(600_000)), chance.randbytes(chance.randrange(600_000))

            async def serve():
                assert await digest(tunnel.server) == (len(there), hashlib.sha256(there).digest())
                await send(tunnel.server, back)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, tunnel.caller, there)
                nursery.start_soon(serve)
                assert await digest(tunnel.caller) == (len(back), hashlib.sha256(back).digest())
            await tunnel.over()
            assert tunnel.ends == tunnel.counted() == [(len(there), len(back))] * 2

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(one, number)
        await until(lambda: p.client.streams == p.server.streams == 0)


async def test_windows_are_given_back_to_the_last_byte():
    """More than a connection's window through tunnel after tunnel, ended in any way: what one leaves behind would stop the others."""

    async def pour(stream, size):
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await send(stream, bytes(size))

    async with place() as p:
        growth = p.client.machine.growth, p.server.machine.growth
        for number in range(24):
            tunnel = await p.tunnel(buffers=131072)
            if number % 3:
                p.nursery.start_soon(pour, tunnel.caller, 500_000)
                p.nursery.start_soon(pour, tunnel.server, 500_000)
                if number % 3 == 1:
                    await digest(tunnel.server)
                    await digest(tunnel.caller)
                else:
                    await read(tunnel.server, 200_000)
                    reset(tunnel.server)
            else:
                with trio.move_on_after(0.05):
                    await tunnel.caller.send_all(bytes(4 << 20))
                tunnel.scopes[1].cancel()
            await tunnel.over()
            await until(lambda: p.client.streams == p.server.streams == 0)
        assert (p.client.machine.growth, p.server.machine.growth) == growth
        tunnel = await p.tunnel()
        p.nursery.start_soon(send, tunnel.caller, bytes(4_000_000))
        assert (await digest(tunnel.server))[0] == 4_000_000
        await p.exchange()


async def test_a_long_tunnel_is_no_abuse():
    """The peer says often that it took bytes: that many frames without content are no flood."""
    async with place() as p:
        tunnel = await p.tunnel()
        p.nursery.start_soon(send, tunnel.server, bytes(300 << 20))
        assert (await digest(tunnel.caller))[0] == 300 << 20
        assert not p.ends


async def test_a_draining_connection_ends_with_its_last_tunnel():
    async with place() as p:
        tunnel = await p.tunnel()
        await tunnel.caller.send_all(b"ping")
        assert await read(tunnel.server, 4) == b"ping"
        p.client.drain()
        p.server.drain()
        await trio.sleep(0.05)
        await tunnel.server.send_all(b"pong")
        assert await read(tunnel.caller, 4) == b"pong"
        assert not p.ends
        await tunnel.caller.send_eof()
        await tunnel.server.send_eof()
        await until(lambda: len(p.ends) == 2)
        assert set(p.ends.values()) == {""}
        assert tunnel.ends == [(4, 4)] * 2


async def test_what_is_no_stream_of_the_lane_is_pythons(monkeypatch):
    used = []

    async def seen(*args):
        used.append(args)
        return 0, 0

    monkeypatch.setattr(relay_module, "_relay", seen)
    near, far = memory_stream_pair()
    opened, channels = trio.open_memory_channel(10)
    client, server = Connection(near, True, Bounds(), "server"), Connection(far, False, Bounds(), "client")
    async with place() as p:
        for connection, accept in ((client, None), (server, opened.send_nowait)):
            p.nursery.start_soon(connection.run, accept)
        ours = await client.open(CONNECT)
        await (await channels.receive()).send_head(OK)
        await ours.head()
        _, left = tcp_pair()
        left = trio.SocketStream(trio.socket.from_stdlib_socket(left))
        assert await relay(left, Peeked(ours), 60, None, BUFFER, p.lane) == (0, 0)
        lanes_own, theirs = await p.stream(CONNECT)
        await theirs.send_head(OK)
        await lanes_own.head()
        assert await relay(ours, Peeked(lanes_own), 60, None, BUFFER, p.lane) == (0, 0), "no end is a socket"
        theirs.abort()
        await until(lambda: lanes_own.broken)
        assert await relay(left, lanes_own, 60, None, BUFFER, p.lane) == (0, 0), "it is broken already"
        assert len(used) == 3
        client.close()
        server.close()


async def test_a_stream_that_is_lent_already_or_none():
    async with place() as p:
        tunnel = await p.tunnel()
        await until(lambda: p.lane.lane.stats["tunnels"] == 2)
        linked = p.lane.links._linked[p.client.transport]
        _, other = tcp_pair()
        for number in (tunnel.ours.id, 99):
            with pytest.raises(FileNotFoundError):
                p.lane.lane.tunnel(1, linked, number, other.fileno(), True, b"", 0, 65535, 0, b"", 1.0)
        ours, theirs = await p.stream(CONNECT)
        with pytest.raises(OSError, match="Bad file descriptor"):
            p.lane.lane.tunnel(1, linked, ours.id, 9999, True, b"", 0, 65535, 0, b"", 1.0)
        with pytest.raises(ValueError, match="more is owed"):
            p.lane.lane.tunnel(1, linked, ours.id, other.fileno(), True, b"abc", 4, 65535, 0, b"", 1.0)
        ours.close()
        theirs.close()
