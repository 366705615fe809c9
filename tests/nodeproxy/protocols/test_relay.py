"""Bytes both ways, half-close kept, a reset never an end, and memory and time bounded."""

import socket

import pytest
import trio
import trio.testing

from nodeproxy.errors import Refused
from nodeproxy.protocols.relay import relay
from nodeproxy.telemetry.record import Record


def _record() -> Record:
    return Record("connection", "outbound", 0.0, 0.0, None, "", None, "", "", "", "tcp")


async def test_half_close_is_passed_on_and_the_other_way_goes_on():
    client, left = trio.testing.memory_stream_pair()
    right, server = trio.testing.memory_stream_pair()
    record = _record()
    counts = []

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            counts.append(await relay(left, right, 60, record))

        nursery.start_soon(run)
        await client.send_all(b"question")
        await client.send_eof()
        assert await server.receive_some() == b"question"
        assert await server.receive_some() == b""
        await server.send_all(b"a long answer")
        assert await client.receive_some() == b"a long answer"
        await server.send_eof()
        assert await client.receive_some() == b""
    assert counts == [(8, 13)]
    assert (record.bytes_in, record.bytes_out) == (8, 13)


async def test_nothing_moves_is_idle(autojump_clock):
    _client, left = trio.testing.memory_stream_pair()
    right, _server = trio.testing.memory_stream_pair()
    with pytest.raises(Refused, match="idle"):
        await relay(left, right, 300)
    assert trio.current_time() == pytest.approx(300)


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [True, False])
async def test_tcp_keepalives_of_an_end_are_life(keeps):
    """Segments without bytes, which the kernel answers and nobody hears of but by their count."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        client = await trio.open_tcp_stream(*listener.socket.getsockname())
        left = await listener.accept()
        right, _server = trio.testing.memory_stream_pair()
        if keeps:
            for name, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1)):
                client.setsockopt(socket.IPPROTO_TCP, name, value)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        ended = trio.Event()

        async def run() -> None:
            with pytest.raises(Refused, match="idle"):
                await relay(left, right, 3.0)
            ended.set()

        nursery.start_soon(run)
        with trio.move_on_after(5.0):
            await ended.wait()
        assert ended.is_set() is not keeps
        nursery.cancel_scope.cancel()
    for one in (client, left, listener):
        await one.aclose()


async def test_what_moves_one_way_is_not_idle(autojump_clock):
    client, left = trio.testing.memory_stream_pair()
    right, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, left, right, 300)
        for _ in range(10):
            await trio.sleep(200)
            await server.send_all(b"tick")
            assert await client.receive_some() == b"tick"
        await client.send_eof()
        await server.send_eof()


@pytest.mark.parametrize(("side", "flag"), [("client", "client-gone"), ("server", "upstream-broken")])
async def test_a_side_that_breaks_ends_both_and_is_named(side, flag):
    client, left = trio.testing.memory_stream_pair()
    right, server = trio.testing.memory_stream_pair()
    broken, other = (client, server) if side == "client" else (server, client)
    await other.send_all(b"x")  # cannot be delivered: the side that it goes to is gone
    await broken.aclose()
    with pytest.raises(Refused) as refused:
        await relay(left, right, 60)
    assert refused.value.flag == flag


async def test_a_cancelled_relay_is_counted():
    client, left = trio.testing.memory_stream_pair()
    right, server = trio.testing.memory_stream_pair()
    record = _record()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, left, right, 60, record)
        await client.send_all(b"12345")
        assert await server.receive_some() == b"12345"
        nursery.cancel_scope.cancel()
    assert record.bytes_in == 5


async def test_why_a_tunnel_broke_is_told(nursery):
    _client, left = trio.testing.memory_stream_pair()
    right, _server = trio.testing.memory_stream_pair()

    async def lost() -> None:
        raise trio.BrokenResourceError("it did not answer a PING in 20 s")

    right.receive_stream.receive_some_hook = lost
    right.receive_stream.put_data(b"x")
    with pytest.raises(Refused, match=r"upstream-broken: .*: it did not answer a PING"):
        await relay(left, right, 60)
