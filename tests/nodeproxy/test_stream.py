"""Peeked is a stream like any other, and what was looked at is read again."""

import socket

import trio
import trio.testing

from nodeproxy.stream import Peeked, abort, close_now


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
