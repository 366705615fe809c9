"""Either side leaves at a bad moment: a part never looks like the whole, and nothing is left behind."""

import h11
import pytest
import trio

from tests.journeys.stand_ins import head_of


async def test_a_server_that_closed_its_idle_connection_costs_no_call(mesh):
    async def once(stream):
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await stream.send_eof()  # without having said that it would

    server = mesh.serve("store-v1", once)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for method in ("GET", "POST", "GET"):
        assert (await buyer.get("/books", method)).status == 200
        await mesh.settled()
    assert len(server.peers) == 3


async def test_who_breaks_http2_hears_why_whatever_it_sent_after_that(mesh):
    """RFC 9113 section 5.4.1. Closing with its bytes unread would be a reset, which overtakes the GOAWAY."""
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    settings, short_ping = b"\0\0\0\4\0\0\0\0\0", b"\0\0\1\6\0\0\0\0\0x"
    await buyer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + short_ping)
    await buyer.send(b"x" * 200_000)
    heard = b""
    while data := await buyer.stream.receive_some(65536):
        heard += data
    goaway = heard[heard.index(b"\x07\0\0\0\0\0") + 6 :]  # its type, flags and stream
    assert int.from_bytes(goaway[4:8]) == 6, "FRAME_SIZE_ERROR"
    await buyer.stream.aclose()
    await mesh.settled()
    assert {r.flag for r in mesh.records} == {"http2-abuse"}
    assert mesh.at_rest()


@pytest.mark.parametrize(
    "body", [b"content-length: 10\r\n\r\nhalf", b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
async def test_a_server_that_dies_in_a_body(mesh, body):
    async def dies(stream):
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + body)

    mesh.serve("store-v1", dies)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
        await buyer.get("/books")
    await mesh.settled()
    assert [(r.kind, r.flag) for r in mesh.records] == [
        ("request", "upstream-broken"),
        ("connection", "upstream-broken"),
    ]
    assert mesh.at_rest()


async def test_a_server_that_dies_before_it_answers_is_502(mesh):
    async def dies(stream):
        await head_of(stream)

    mesh.serve("store-v1", dies)
    answer = await (await mesh.call("buyer", "bookstore-v1.bookstore")).get("/books", "POST")
    assert (answer.status, answer.reason) == (502, "upstream-broken")


async def test_a_server_that_never_answers_is_504(mesh, quick_clock):
    async def silent(stream):
        await trio.sleep_forever()

    mesh.limit(response_timeout=20)
    mesh.serve("store-v1", silent)
    began = trio.current_time()
    answer = await (await mesh.call("buyer", "bookstore-v1.bookstore")).get("/books")
    assert (answer.status, answer.reason) == (504, "response-timeout")
    assert 20 <= trio.current_time() - began < 21


async def test_a_caller_that_leaves_takes_its_upstream_connection_with_it(mesh):
    left = trio.Event()

    async def endless(stream):
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        try:
            while True:
                await stream.send_all(bytes(10_000))
        finally:
            left.set()

    mesh.serve("store-v1", endless)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    await buyer.send(b"GET /books HTTP/1.1\r\nhost: a\r\n\r\n")
    await buyer.read(100_000)
    await buyer.stream.aclose()
    with trio.fail_after(30):
        await left.wait()
    await mesh.settled()
    assert [(r.kind, r.flag) for r in mesh.records] == [("request", "client-gone"), ("connection", "client-gone")]
    assert mesh.at_rest()


async def test_a_caller_that_leaves_in_its_request_body(mesh):
    got = []

    async def takes(stream):
        data = await head_of(stream)
        try:
            while more := await stream.receive_some():
                data += more
            got.append("end")
        except trio.BrokenResourceError:
            got.append("reset")

    mesh.serve("store-v1", takes)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    await buyer.send(b"POST /books HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhalf")
    await mesh.settled()
    await buyer.stream.aclose()
    await mesh.until(lambda: got)
    assert got == ["reset"]  # a part never looks like the whole
    await mesh.settled()
    assert [(r.kind, r.flag) for r in mesh.records] == [("request", "client-gone"), ("connection", "client-gone")]
    assert mesh.at_rest()


async def test_an_upgrade_that_the_server_declines(mesh):
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    answer = await buyer.get("/books", connection="upgrade", upgrade="websocket")
    assert (answer.status, answer.body) == (200, "store-v1")
    assert (await buyer.get("/books")).status == 200
