"""Peeked is a stream like any other, and what was looked at is read again."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from trio.testing import Sequencer, memory_stream_pair, wait_all_tasks_blocked

from nodeproxy.stream import Peeked, Wire, abort, broke, close_now, plain_socket, take_held


async def _tcp_pair():
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    client = trio.socket.socket()
    await client.connect(listener.getsockname())
    server, _ = await listener.accept()
    listener.close()
    return trio.SocketStream(client), trio.SocketStream(server)


async def test_passes_trios_own_suite_for_streams():
    async def make():
        left, right = trio.testing.lockstep_stream_pair()
        return Peeked(left), Peeked(right)

    await trio.testing.check_half_closeable_stream(make, None)


async def test_peeked_bytes_come_out_first_and_in_order():
    left, right = trio.testing.memory_stream_pair()
    peeked = Peeked(right)
    await left.send_all(b"GET")
    assert await peeked.peek() == b"GET"
    await left.send_all(b" /")
    assert await peeked.peek() == b"GET /"
    assert await peeked.receive_some(2) == b"GE"
    await left.send_all(b"x")
    assert await peeked.receive_some() == b"T /"
    assert await peeked.receive_some() == b"x"


async def test_end_seen_while_peeking_is_seen_again_when_reading():
    left, right = trio.testing.memory_stream_pair()
    peeked = Peeked(right)
    await left.send_all(b"bye")
    await left.send_eof()
    assert await peeked.peek() == b"bye"
    assert await peeked.peek() == b"bye"
    assert await peeked.receive_some() == b"bye"
    assert await peeked.receive_some() == b""


async def test_abort_is_a_reset_and_close_is_an_end():
    client, server = await _tcp_pair()
    await client.send_all(b"part")
    abort(Peeked(client))
    try:
        while await server.receive_some():
            pass
        raise AssertionError("a reset must not look like an end")
    except trio.BrokenResourceError:
        pass
    await server.aclose()

    client, server = await _tcp_pair()
    await client.send_all(b"whole")
    close_now(Peeked(client))
    assert await server.receive_some() == b"whole"
    assert await server.receive_some() == b""
    await server.aclose()


async def test_abort_works_on_a_socket_that_is_gone():
    client, server = await _tcp_pair()
    client.socket.close()
    abort(client)
    await server.aclose()
    assert client.socket.fileno() == -1
    assert isinstance(client.socket.family, socket.AddressFamily)


# What kind of stream it is


async def test_the_socket_below_is_found_and_what_was_looked_at_goes_first(pair: Pair) -> None:
    twice = Peeked(Peeked(pair.ours), b"ab")
    assert plain_socket(twice) is plain_socket(pair.ours) is pair.ours
    assert (take_held(twice), take_held(twice), take_held(pair.ours)) == (b"ab", b"", b"")
    assert plain_socket(memory_stream_pair()[0]) is None


async def test_a_stream_that_broke_while_it_was_looked_at_says_so(pair: Pair) -> None:
    peeked = Peeked(pair.ours)
    assert not broke(peeked)
    assert not broke(pair.ours)
    abort(pair.theirs)
    with pytest.raises(trio.BrokenResourceError):
        await peeked.peek()
    assert broke(peeked)


# The short cut to the kernel behaves as the stream that it shortens.


class Pair:
    def __init__(self, ours: trio.SocketStream, theirs: trio.SocketStream) -> None:
        self.ours, self.theirs = ours, theirs


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
    made = Pair(*(trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (near, far)))
    yield made
    made.ours.socket.close()
    made.theirs.socket.close()


async def test_bytes_and_the_end(pair: Pair) -> None:
    wire = Wire(pair.ours)
    await pair.theirs.send_all(b"hello")
    assert await wire.receive(3) == b"hel"
    assert await wire.receive(9) == b"lo"
    await wire.send(b"bye")
    assert await pair.theirs.receive_some(9) == b"bye"
    await pair.theirs.send_eof()
    assert await wire.receive(9) == b""
    assert await wire.receive(9) == b""
    await wire.send(b"still")  # half-close


async def test_held_bytes_come_first(pair: Pair) -> None:
    peeked = Peeked(pair.ours)
    wire = Wire(peeked)
    await pair.theirs.send_all(b"abcd")
    assert await peeked.peek() == b"abcd"
    await pair.theirs.send_all(b"ef")
    assert await wire.receive(3) == b"abc"
    assert await wire.receive(3) == b"d"
    assert await wire.receive(3) == b"ef"


async def test_an_end_that_was_peeked(pair: Pair) -> None:
    peeked = Peeked(pair.ours)
    await pair.theirs.send_all(b"x")
    await peeked.peek()
    await pair.theirs.send_eof()
    await peeked.peek()
    wire = Wire(peeked)
    assert await wire.receive(3) == b"x"
    assert await wire.receive(3) == b""


async def test_more_than_the_kernel_takes_at_once_waits_for_the_reader(pair: Pair) -> None:
    data = bytes(range(256)) * 65536  # 16 MiB
    got = bytearray()
    order = Sequencer()

    async def send() -> None:
        await Wire(pair.ours).send(data)
        async with order(1):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        async with order(0):
            pass  # the sender has not come back
        while len(got) < len(data):
            got += await pair.theirs.receive_some()
    assert got == data


async def test_a_reset(pair: Pair) -> None:
    pair.theirs.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.theirs.socket.close()
    wire = Wire(pair.ours)
    with pytest.raises(trio.BrokenResourceError):
        await wire.receive(9)
    with pytest.raises(trio.BrokenResourceError):
        await wire.send(b"x")


async def test_a_closed_stream(pair: Pair) -> None:
    wire = Wire(Peeked(pair.ours))
    pair.ours.socket.close()
    with pytest.raises(trio.ClosedResourceError):
        await wire.send(b"x")
    with pytest.raises((trio.ClosedResourceError, ValueError)):
        await wire.receive(9)


async def test_closing_wakes_who_waits(pair: Pair) -> None:
    wire = Wire(pair.ours)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await wire.receive(9)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        pair.ours.socket.close()


async def test_a_cancelled_wait_loses_nothing(pair: Pair) -> None:
    wire = Wire(pair.ours)
    with trio.move_on_after(0):
        await wire.receive(9)
    await pair.theirs.send_all(b"x")
    assert await wire.receive(9) == b"x"


async def test_other_streams_are_used_as_they_are() -> None:
    ours, theirs = memory_stream_pair()
    wire = Wire(ours)
    await wire.send(b"a")
    assert await theirs.receive_some() == b"a"
    await theirs.send_all(b"b")
    assert await wire.receive(9) == b"b"
    assert "StapledStream" in repr(wire)
