"""Bodies in both directions at once: framing, back-pressure, early answers, broken ends."""

from __future__ import annotations

import h11
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nodeproxy.errors import Refused
from tests.nodeproxy.protocols.http.conftest import OK, Client, House, Pipe, answering, read_head


async def read_until(stream: Pipe, end: bytes, data: bytes = b"") -> bytes:
    while not data.endswith(end):
        more = await stream.receive_some(65536)
        assert more, data
        data += more
    return data


async def read_all(stream: Pipe) -> bytes:
    data = b""
    while more := await stream.receive_some(65536):
        data += more
    stream.close()
    return data


async def echo(stream: Pipe) -> None:
    """Answers with the body as it was framed, when it has come whole (it ends in !)."""
    rest = bytearray()
    head = await read_head(stream, rest)
    chunked = b"chunked" in head
    body = await read_until(stream, b"0\r\n\r\n" if chunked else b"!", bytes(rest))
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    await stream.send_all(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body)
    await read_head(stream)


async def test_a_small_body_goes_with_its_head(house: House) -> None:
    house.servers = [echo]
    house.connect()
    status, fields, body = await house.request("POST", "/", body=b"small!")
    assert (status, fields[b"content-length"], body) == (200, b"6", b"small!")
    assert house.records[0].bytes_in > 6


async def test_a_body_in_pieces(house: House) -> None:
    house.servers = [echo]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab")
    for piece in (b"cd", b"efg", b"h!"):
        await wait_all_tasks_blocked()
        await caller.send_all(piece)
    assert (await read_until(caller, b"!")).endswith(b"\r\n\r\nabcdefgh!")
    await wait_all_tasks_blocked()
    assert len(house.context.pool) == 1
    assert [(r.flag, r.status) for r in house.records] == [("", 200)]


async def test_chunks_stay_chunks_and_trailers_stay(house: House) -> None:
    got = b""

    async def server(stream: Pipe) -> None:
        nonlocal got
        rest = bytearray()
        await read_head(stream, rest)
        got = await read_until(stream, b"\r\n\r\n", bytes(rest))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n2\r\nhi\r\n")
        await wait_all_tasks_blocked()
        await stream.send_all(b"1;x=y\r\n!\r\n0\r\nT: 2\r\nX-Edgemesh-Reason: forged\r\n\r\n")

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in (b"3\r\nab", b"c\r\n1;ext\r\nd\r\n", b"0\r\nT: 1\r\nContent-Length: 9\r\n\r\n"):
        await wait_all_tasks_blocked()
        await caller.send_all(piece)
    client = Client(caller)
    client.h11.send(h11.Request(method="POST", target="/", headers=[("Host", "h")]))
    client.h11.send(h11.EndOfMessage())
    status, fields, body = await client.response()
    assert got == b"2\r\nab\r\n2\r\ncd\r\n0\r\nT: 1\r\n\r\n"
    assert (status, fields[b"trailer"], body, client.trailers) == (200, b"T", b"hi!", [(b"t", b"2")])


async def test_the_server_decides_on_100_continue(house: House) -> None:
    async def server(stream: Pipe) -> None:
        rest = bytearray()
        head = await read_head(stream, rest)
        assert b"Expect: 100-continue" in head
        assert not rest
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await read_until(stream, b"!") == b"body!"
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
        await read_head(stream)

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert await caller.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await caller.send_all(b"body!")
    data = await read_until(caller, b"hello")
    assert data.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n")
    await wait_all_tasks_blocked()
    assert len(house.context.pool) == 1  # the exchange was whole, both connections go on
    assert b"close" not in data


async def test_no_interim_response_to_http_1_0(house: House) -> None:
    house.servers = [answering(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)]
    caller = house.connect()
    await caller.send_all(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
    assert (await read_all(caller)).startswith(b"HTTP/1.1 200 OK")


async def test_a_server_that_refuses_without_100_ends_the_connection(
    house: House, autojump_clock: trio.testing.MockClock
) -> None:
    async def server(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        await read_head(stream)

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    data = await read_all(caller)
    assert data.startswith(b"HTTP/1.1 417 No")
    assert b"connection: close" in data
    await house.done.wait()
    assert house.failure is None
    assert len(house.context.pool) == 0
    assert [(r.flag, r.status) for r in house.records] == [("", 417)]


async def test_an_early_answer_while_the_body_still_comes(house: House) -> None:
    """The server answers first and reads on: both directions end well and the connections go on."""

    async def server(stream: Pipe) -> None:
        rest = bytearray()
        await read_head(stream, rest)
        await stream.send_all(OK)
        await read_until(stream, b"!", bytes(rest))
        await read_head(stream)

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab")
    assert (await read_until(caller, b"hello")).startswith(b"HTTP/1.1 200")
    await wait_all_tasks_blocked()
    assert house.records == []  # the request is not over
    await caller.send_all(b"cde!GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await wait_all_tasks_blocked()
    assert [r.flag for r in house.records] == [""]
    assert house.conn.active  # with the next request


async def test_an_early_answer_of_a_server_that_takes_no_more(
    house: House, autojump_clock: trio.testing.MockClock
) -> None:
    async def server(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        stream.close()

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 70000)
    data = await read_until(caller, b"\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in data
    await caller.send_all(b"x" * 1000)  # it is read away, so that no reset overtakes the answer
    assert await read_all(caller) == b""
    await house.done.wait()
    assert house.failure is None
    assert [(r.flag, r.status) for r in house.records] == [("", 413)]


async def test_a_server_that_breaks_while_the_body_comes(house: House) -> None:
    async def server(stream: Pipe) -> None:
        await read_head(stream)
        stream.close()

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
    await wait_all_tasks_blocked()
    await caller.send_all(b"x" * 70000)
    assert (await caller.receive_some()).startswith(b"HTTP/1.1 502 ")
    caller.close()
    await house.done.wait()
    assert [r.flag for r in house.records] == ["upstream-broken"]


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_part_of_a_response_never_looks_like_the_whole(house: House, response: bytes, version: bytes) -> None:
    async def server(stream: Pipe) -> None:
        await read_head(stream)
        head, _, part = response.partition(b"\r\n\r\n")
        await stream.send_all(head + b"\r\n\r\n")
        await wait_all_tasks_blocked()
        await stream.send_all(part)
        stream.close()

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"GET / HTTP/" + version + b"\r\nHost: h\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError):
        while await caller.receive_some():
            pass
    await house.done.wait()
    assert isinstance(house.failure, Refused)
    assert [r.flag for r in house.records] == ["upstream-broken"]


async def test_a_reset_ends_a_body_until_close_as_a_break(house: House) -> None:
    async def server(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nhel")
        await wait_all_tasks_blocked()
        stream.abort()

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError):
        while await caller.receive_some():
            pass
    await house.done.wait()
    assert [r.flag for r in house.records] == ["upstream-broken"]


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_a_caller_that_leaves_in_the_middle_of_a_body(house: House, framing: bytes) -> None:
    broken = trio.Event()

    async def server(stream: Pipe) -> None:
        await read_head(stream)
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            broken.set()  # a part of a request must not look like the whole either

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n5\r\n")
    await wait_all_tasks_blocked()
    caller.close()
    await house.done.wait()
    await broken.wait()
    assert isinstance(house.failure, Refused)
    assert [r.flag for r in house.records] == ["client-gone"]


async def test_a_malformed_chunk_is_answered_400(house: House) -> None:
    async def server(stream: Pipe) -> None:
        while await stream.receive_some():
            pass

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await wait_all_tasks_blocked()
    await caller.send_all(b"5\nhello\r\n0\r\n\r\n")
    data = await read_all(caller)
    assert data.startswith(b"HTTP/1.1 400 ")
    await house.done.wait()
    assert [r.flag for r in house.records] == ["bad-request"]


async def test_a_malformed_chunk_beside_the_head_is_answered_400(house: House) -> None:
    house.servers = [answering(OK)]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello")
    assert (await read_all(caller)).startswith(b"HTTP/1.1 400 ")


SIZE = 64 << 20
PIECE = b"x" * 65536


@pytest.mark.slow
async def test_a_slow_reader_holds_the_server_back(house: House) -> None:
    """64 MiB through streams without buffers: never is more than a few pieces between the server and the caller."""
    sent = 0
    most = 0

    async def server(stream: Pipe) -> None:
        nonlocal sent
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(PIECE)):
            await stream.send_all(PIECE)
            sent += len(PIECE)

    house.lockstep = True
    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    while caller.got < SIZE:
        assert await caller.receive_some(len(PIECE))
        most = max(most, sent - caller.got)
        if caller.got < 10 * len(PIECE):
            await wait_all_tasks_blocked()  # everything has moved that can without us
            assert sent - caller.got <= 3 * len(PIECE)
    assert most <= 4 * len(PIECE)


@pytest.mark.slow
async def test_a_slow_server_holds_the_caller_back(house: House) -> None:
    taken = 0
    most = 0
    sent = 0

    async def server(stream: Pipe) -> None:
        nonlocal taken, most
        await read_head(stream)
        while taken < SIZE:
            taken += len(await stream.receive_some(len(PIECE)))
            if taken < 10 * len(PIECE):
                await wait_all_tasks_blocked()
            most = max(most, sent - taken)
        await stream.send_all(OK)

    house.lockstep = True
    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SIZE)
    for _ in range(SIZE // len(PIECE)):
        await caller.send_all(PIECE)
        sent += len(PIECE)
    assert (await read_until(caller, b"hello")).startswith(b"HTTP/1.1 200")
    assert most <= 4 * len(PIECE)


async def test_both_directions_move_at_once(house: House) -> None:
    """A server that answers each piece as it comes (a stream of commands): neither side waits for the end of the other."""

    async def server(stream: Pipe) -> None:
        rest = bytearray()
        await read_head(stream, rest)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (data := await stream.receive_some()) and not data.startswith(b"0"):
            await stream.send_all(data)
        await stream.send_all(b"0\r\n\r\n")

    house.servers = [server]
    caller = house.connect()
    await caller.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await read_until(caller, b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    for _ in range(3):
        await caller.send_all(b"4\r\nping\r\n")
        assert await caller.receive_some() == b"4\r\nping\r\n"
    await caller.send_all(b"0\r\n\r\n")
    assert await caller.receive_some() == b"0\r\n\r\n"
    await wait_all_tasks_blocked()
    assert [r.flag for r in house.records] == [""]
    assert len(house.context.pool) == 1


async def test_a_server_that_sends_interim_responses_without_end_is_cut_off(house: House) -> None:
    """They came thousands in one read, and were sent on without letting another task run: 3 s a turn for everybody else."""

    async def server(stream: Pipe) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000)

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    house.servers = [server]
    caller = house.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await caller.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        data = await read_until(caller, b"--all-nodes)\n")
        nursery.cancel_scope.cancel()
    assert b"HTTP/1.1 502 " in data
    assert data.count(b"103 Early Hints") == 100
    assert turns > 100
