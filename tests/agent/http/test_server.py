"""The small HTTP server: GET, HEAD, bounds, and no way for a caller or a fault to hurt the daemon."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from agent.http import server
from agent.http.server import HttpRequest, HttpResponse, converse, failure, json_reply, serve


async def answer(ask: HttpRequest) -> HttpResponse:
    if ask.path == "/fault":
        raise ZeroDivisionError
    if ask.path == "/no":
        return failure(404, "no page", "try another")
    return json_reply({"path": ask.path, "a": ask.get("a", "none"), "all": ask.all("a")})


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, int]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener, answer)
        yield listener.socket.getsockname()
        nursery.cancel_scope.cancel()


async def say(address: tuple[str, int], *pieces: bytes, end: bool = True) -> bytes:
    """Send these bytes and read until the server ends."""
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        for piece in pieces:
            await stream.send_all(piece)
        if end:
            await stream.send_eof()
        found = b""
        with trio.fail_after(20):
            while data := await stream.receive_some(65536):
                found += data
        return found


GET = b"GET /x?a=1&a=2&b= HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = b'{"path":"/x","a":"1","all":["1","2"]}\n'


async def test_answers_get() -> None:
    async with listening() as address:
        found = await say(address, GET)
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"content-type: application/json",
        b"content-length: 38",
        b"cache-control: no-store",
    ]
    assert body == BODY


async def test_one_connection_asks_several_times_in_any_pieces() -> None:
    async with listening() as address:
        both = await say(address, GET + GET)
        assert both.count(BODY) == 2
        assert await say(address, *[GET[at : at + 1] for at in range(len(GET))]) == both[: len(both) // 2]


async def test_head_has_no_body() -> None:
    async with listening() as address:
        found = await say(address, GET.replace(b"GET", b"HEAD"))
    assert found.endswith(b"content-length: 38\r\ncache-control: no-store\r\n\r\n")


async def test_close_and_http_1_0_end_the_connection() -> None:
    async with listening() as address:
        for head in (b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"GET /x HTTP/1.0\r\n\r\n"):
            found = await say(address, head, end=False)
            assert found.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"connection: close\r\n" in found


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n", b"413 "),
        (b"GET /x HTTP/1.1\nhost: x\n\n", b"400 Bad Request"),
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (b"GET /x HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 9000 + b"\r\n\r\n", b"431 Request Header Fields Too Large"),
        (b"GET /no HTTP/1.1\r\nhost: x\r\n\r\n", b"404 Not Found"),
    ],
)
async def test_what_is_not_done_is_answered(request_: bytes, line: bytes) -> None:
    async with listening() as address:
        assert (await say(address, request_)).startswith(b"HTTP/1.1 " + line)


async def test_a_fault_is_answered_and_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as address:
        found = await say(address, b"GET /fault HTTP/1.1\r\nhost: x\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 500 ")
        assert "ZeroDivisionError" in caplog.text
        assert (await say(address, GET)).startswith(b"HTTP/1.1 200 ")


async def test_more_connections_than_we_hold_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 1)
    async with listening() as address:
        first = await trio.open_tcp_stream(*address)
        await first.send_all(GET)
        await first.receive_some()
        assert not await _served(address), "it is closed, not kept until it has waited long enough for its head"
        await first.aclose()
        with trio.fail_after(20):
            while not await _served(address):
                await trio.sleep(0.005)


async def _served(address: tuple[str, int]) -> bool:
    try:
        return (await say(address, GET)).startswith(b"HTTP/1.1 200 ")
    except trio.BrokenResourceError:
        return False


async def test_who_sends_no_head_is_let_go(autojump_clock: MockClock) -> None:
    async with listening() as address:
        began = trio.current_time()
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(b"GET /slow")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
        assert await stream.receive_some() == b""
        assert trio.current_time() - began >= 10
        await stream.aclose()


async def test_who_reads_no_answer_is_let_go(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def much(_: HttpRequest) -> HttpResponse:
        return HttpResponse(b"x" * 8_000_000)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener, much)
        stream = await trio.open_tcp_stream(*listener.socket.getsockname())
        await stream.send_all(GET)
        await trio.sleep(60)
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x")  # the other side is closed
        await stream.aclose()
        nursery.cancel_scope.cancel()


# what changes something


@asynccontextmanager
async def doing() -> AsyncIterator[tuple[str, int]]:
    async def act(ask: HttpRequest) -> HttpResponse:
        return json_reply({"method": ask.method, "path": ask.path, "a": ask.get("a")})

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener, act, None, True)
        yield listener.socket.getsockname()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("length", [b"", b"content-length: 0\r\n"])
async def test_post_is_for_the_handler_where_that_was_said(length: bytes) -> None:
    async with doing() as address:
        found = await say(address, b"POST /update?a=1 HTTP/1.1\r\nhost: x\r\n" + length + b"\r\n" + GET)
    assert found.count(b"HTTP/1.1 200 OK") == 2
    assert b'{"method":"POST","path":"/update","a":"1"}' in found
    assert b'{"method":"GET"' in found


@pytest.mark.parametrize("method", [b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"post"])
async def test_nothing_else_is_done(method: bytes) -> None:
    async with doing() as address:
        found = await say(address, method + b" /update HTTP/1.1\r\nhost: x\r\n\r\n")
    assert found.partition(b"\r\n")[0].split()[1] in (b"405", b"400")
    assert b'"method"' not in found


@pytest.mark.parametrize(
    "body", [b"content-length: 40\r\n\r\n" + b"x" * 40, b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"]
)
async def test_a_body_is_refused_and_ends_the_connection(body: bytes) -> None:
    """What follows could be read as a request of its own."""
    async with doing() as address:
        found = await say(address, b"POST /update HTTP/1.1\r\nhost: x\r\n" + body + GET, end=False)
    assert found.startswith(b"HTTP/1.1 413 ")
    assert found.count(b"HTTP/1.1") == 1


async def test_a_body_is_for_the_handler_where_it_may_have_one() -> None:
    async def act(ask: HttpRequest) -> HttpResponse:
        return json_reply(ask.body.decode())

    def post(body: bytes) -> bytes:
        return b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(converse, theirs, act, ("POST",), 1024)
        await ours.send_all(post(b"a" * 1024) + GET + post(b"a" * 1025))
        await ours.send_eof()
        found = b""
        while b"413" not in found:
            found += await ours.receive_some()
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", found) == [b"200", b"405", b"413"]
    assert b"only POST" in found
    assert b"allow: POST" in found
    assert b"larger than 1 KiB" in found


async def test_who_was_in_the_middle_of_a_question_is_answered_although_nobody_accepts_any_more() -> None:
    asked, go = trio.Event(), trio.Event()

    async def slow(ask: HttpRequest) -> HttpResponse:
        asked.set()
        await go.wait()
        return json_reply("done")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listener.socket.getsockname()
    async with trio.open_nursery() as conversations:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, slow, conversations)
            stream = await trio.open_tcp_stream(*address)
            await stream.send_all(GET)
            await asked.wait()
            nursery.cancel_scope.cancel()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(*address)
        go.set()
        assert (await stream.receive_some()).endswith(b'"done"\n')
        await stream.aclose()
        conversations.cancel_scope.cancel()
