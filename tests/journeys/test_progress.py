"""What keeps a connection alive is a body that moves: not the framing around it, of which a peer can send as much as it likes (CVE-2024-22019)."""

from __future__ import annotations

import pytest
import trio

NAME = "bookstore-v1.bookstore"
IDLE = 0.5
HEAD = b"POST /books/buy HTTP/1.1\r\nHost: bookstore-v1.bookstore:14001\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAMING = {
    "extension": b"5;a",
    "extension after a chunk": b"2\r\nab\r\n5;a",
    "trailers": b"2\r\nab\r\n0\r\nX: a",
    "digits": b"2\r\nab\r\n0",
}


async def trickle(stream, began):
    """A byte each 50 ms, for as long as they are taken."""
    try:
        for _ in range(400):
            await trio.sleep(0.05)
            await stream.send_all(b"0" if began.endswith(b"0") else b"a")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


@pytest.mark.parametrize("framing", FRAMING)
async def test_a_request_that_is_all_framing_ends(mesh, framing):
    async def server(stream):
        data = b""
        while more := await stream.receive_some(65536):
            data += more
            if data.endswith(b"0\r\n\r\n"):
                data = b""
                await stream.send_all(OK)

    mesh.serve("store-v1", server)
    caller = await mesh.call("buyer", NAME)
    for _ in range(2):  # lessons, where there is a lane
        await caller.stream.send_all(HEAD + b"2\r\nab\r\n0\r\n\r\n")
        await read_answer(caller.stream)
    mesh.limit(idle_timeout=IDLE, head_timeout=30, response_timeout=30)
    await caller.stream.send_all(HEAD + FRAMING[framing])
    with trio.fail_after(10 * IDLE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, caller.stream, FRAMING[framing])
            await ends(caller.stream)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("framing", FRAMING)
async def test_a_response_that_is_all_framing_ends(mesh, framing):
    served = 0

    async def server(stream):
        nonlocal served
        while b"\r\n\r\n" in await stream.receive_some(65536):
            served += 1
            if served <= 2:
                await stream.send_all(OK)
                continue
            await stream.send_all(CHUNKED + FRAMING[framing])
            await trickle(stream, FRAMING[framing])

    mesh.serve("store-v1", server)
    caller = await mesh.call("buyer", NAME)
    for _ in range(2):
        await caller.stream.send_all(b"GET /books/buy HTTP/1.1\r\nHost: bookstore-v1.bookstore:14001\r\n\r\n")
        await read_answer(caller.stream)
    mesh.limit(idle_timeout=IDLE, response_timeout=30)
    await caller.stream.send_all(b"GET /books/buy HTTP/1.1\r\nHost: bookstore-v1.bookstore:14001\r\n\r\n")
    with trio.fail_after(10 * IDLE):
        await ends(caller.stream)


async def read_answer(stream):
    data = b""
    while not data.startswith(b"HTTP/1.1 200") or b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < 2:
        more = await stream.receive_some(65536)
        assert more, data
        data += more


async def ends(stream):
    try:
        while await stream.receive_some(65536):
            pass
    except trio.BrokenResourceError:
        pass
