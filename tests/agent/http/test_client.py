"""The small HTTP client: any response in any pieces, nothing without bound, and no half of a response taken for a whole one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from agent.http.client import Exchange, Response, begin, fetch, fetch_blocking, more
from agent.http.server import HttpRequest, HttpResponse, converse, json_reply
from nodeproxy.errors import Refused

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


def receive(exchange: Exchange, *pieces: bytes) -> Response | None:
    response = None
    for piece in pieces:
        assert response is None
        response = exchange.receive(piece)
    return response


def test_the_request_is_written_as_http_1_1() -> None:
    assert Exchange("GET", "/a?b=c", "localhost").request == (
        b"GET /a?b=c HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\naccept: application/json\r\n\r\n"
    )
    assert Exchange("POST", "/a", "[::1]:15012", b"{}").request.endswith(
        b"\r\nhost: [::1]:15012\r\nconnection: close\r\naccept: application/json\r\n"
        b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )
    assert b"\r\ncontent-length: 0\r\n" in Exchange("POST", "/a", "localhost").request
    assert repr(Exchange("GET", "/a", "localhost")) == "<Exchange GET /a>"


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (OK, 200, b"hello"),
        (
            b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
            404,
            b"abcde",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK, 200, b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
    ],
)
def test_a_response_is_read_in_any_pieces(sent: bytes, status: int, body: bytes) -> None:
    assert receive(Exchange("GET", "/", "a"), sent) == Response(status, body)
    assert receive(Exchange("GET", "/", "a"), *(sent[at : at + 1] for at in range(len(sent)))) == Response(status, body)


def test_a_body_may_last_until_the_end_of_the_connection() -> None:
    assert receive(Exchange("GET", "/", "a"), b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", b"") == Response(200, b"hello")


def test_fields_and_types_of_a_request() -> None:
    exchange = Exchange(
        "PATCH", "/a", "b", b"{}", accept="x/y", content_type="p/q", fields={"authorization": "s"}, keep=True
    )
    assert exchange.request == (
        b"PATCH /a HTTP/1.1\r\nhost: b\r\naccept: x/y\r\nauthorization: s\r\ncontent-type: p/q\r\ncontent-length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb: c", "a\rb", "\xfc", "a\r\n"])
def test_no_part_of_a_head_can_end_its_line(value: str) -> None:
    for bad in ({"fields": {"a": value}}, {"accept": value}):
        with pytest.raises(ValueError, match="holds a line's end"):
            Exchange("GET", "/", "a", **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds a line's end"):
        Exchange("GET", f"/{value}", "a")


@pytest.mark.parametrize(
    ("sent", "reusable"),
    [
        (OK, True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", True),
        (OK.replace(b"1.1", b"1.0"), False),
        (OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), False),
        (OK + b"HTTP/1.1 200 OK\r\n", False),
        (OK[:-1], False),
    ],
)
def test_which_connections_may_be_used_again(sent: bytes, reusable: bool) -> None:
    exchange = Exchange("GET", "/", "a", keep=True)
    assert not exchange.begun
    exchange.receive(sent)
    assert exchange.begun
    assert exchange.reusable is reusable


async def test_a_body_without_an_end_is_read_as_it_comes() -> None:
    ours, theirs = memory_stream_pair()
    exchange = Exchange("GET", "/", "a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, b"HTTP/1.1 200 OK\r\nX-Y:  z \r\ntransfer-encoding: chunked\r\n\r\n2\r\nab")
        assert (await begin(ours, exchange)).status == 200
        assert exchange.field(b"x-y") == "z"
        assert exchange.field(b"none") == ""
        assert await more(ours, exchange) == b"ab"
        nursery.start_soon(theirs.send_all, b"\r\n3\r\ncde\r\n")
        assert await more(ours, exchange) == b"cde"
        nursery.start_soon(theirs.send_all, b"0\r\n\r\n")
        assert await more(ours, exchange) == b""
        assert exchange.complete


async def test_a_body_that_is_cut_off_is_no_end() -> None:
    ours, theirs = memory_stream_pair()
    exchange = Exchange("GET", "/", "a")
    await theirs.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab")
    await theirs.send_eof()
    await begin(ours, exchange)
    assert await more(ours, exchange) == b"ab"
    with pytest.raises(Refused, match="in the middle of a body"):
        await more(ours, exchange)


def test_head_has_no_body() -> None:
    assert receive(Exchange("HEAD", "/", "a"), b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n") == Response(200, b"")


@pytest.mark.parametrize("cut", range(1, len(OK)))
def test_half_a_response_is_none(cut: int) -> None:
    exchange = Exchange("GET", "/", "a")
    assert exchange.receive(OK[:cut]) is None
    with pytest.raises(Refused) as caught:
        exchange.receive(b"")
    assert caught.value.flag == "upstream-broken"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 9000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    ],
)
def test_what_is_no_response_is_refused(sent: bytes) -> None:
    exchange = Exchange("GET", "/", "a")
    with pytest.raises(Refused):
        assert receive(exchange, sent, b"") is not None


@pytest.mark.parametrize(
    "framing", [b"content-length: 2049\r\n\r\n", b"\r\n", b"transfer-encoding: chunked\r\n\r\n801\r\n"]
)
def test_a_response_has_a_bound_however_it_is_framed(framing: bytes) -> None:
    exchange = Exchange("GET", "/", "a", most=2048)
    assert exchange.receive(b"HTTP/1.1 200 OK\r\n" + framing) is None
    with pytest.raises(Refused, match="larger than 2 KiB"):
        receive(exchange, b"x" * 1024, b"x" * 1024, b"x")


async def test_client_and_server_understand_each_other() -> None:
    async def answer(ask: HttpRequest) -> HttpResponse:
        return json_reply([ask.method, ask.path, ask.query, ask.body.decode()])

    for method, body in (("GET", b""), ("POST", b'{"a": 1}'), ("POST", b"")):
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(converse, theirs, answer, ("GET", "POST"), 1024)
            response = await fetch(ours, Exchange(method, "/a%20b?c=d", "x", body))
        assert response.status == 200
        assert json.loads(response.body) == [method, "/a b", [["c", "d"]], body.decode()]


async def test_the_deadline_is_the_callers(autojump_clock: MockClock) -> None:
    ours, _theirs = memory_stream_pair()
    with pytest.raises(trio.TooSlowError), trio.fail_after(3):
        await fetch(ours, Exchange("GET", "/", "x"))
    assert trio.current_time() >= 3


def test_a_socket_that_blocks() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        exchange = Exchange("GET", "/", "x")

        def serve() -> None:
            assert theirs.recv(4096) == exchange.request
            theirs.sendall(OK[:20])
            theirs.sendall(OK[20:])

        thread = threading.Thread(target=serve)
        thread.start()
        assert fetch_blocking(ours, exchange) == Response(200, b"hello")
        thread.join(20)
        ours.settimeout(0.01)
        with pytest.raises(TimeoutError):
            fetch_blocking(ours, Exchange("GET", "/", "x"))


def test_a_command_that_asks_waits_for_no_trio() -> None:
    code = "import sys, agent.admin.client; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
