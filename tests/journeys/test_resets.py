"""A reset is never an end (RFC 9112 section 8): what a peer broke off is broken off for the other one as well, whoever hears of it, and when."""

from __future__ import annotations

import contextlib
import os

import h2.config
import h2.connection
import h2.events
import pytest
import trio

from nodeproxy.stream import abort
from tests.compiled import needs_lane
from tests.journeys import bookstore
from tests.journeys.conftest import Mesh
from tests.journeys.stand_ins import head_of
from tests.journeys.two_nodes import running

HOST = "bookstore-v1.bookstore"
PATHS = ["slow", pytest.param("lane", marks=needs_lane)]


async def half_an_answer(stream):
    """Lessons are answered whole. The answer to an upload ends with the connection, and that is reset in the middle of it."""
    while head := await head_of(stream):
        if b"content-length: 1\r\n" in head.lower() or b"GET /books/lesson " in head:
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            continue
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\na part of it")
        await trio.sleep(0.05)  # the head is on its way, and the part
        abort(stream)
        return


def served(mesh):
    return min(
        side.proxy.fast.lane.stats["served"] for side in ([mesh] if isinstance(mesh, Mesh) else [mesh.west, mesh.east])
    )


@pytest.mark.parametrize("uploads", [False, True])
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("path", PATHS)
async def test_a_part_of_an_answer_is_no_answer(monkeypatch, mint, path, nodes, uploads):
    async with running(monkeypatch, mint, nodes, path) as mesh:
        mesh.serve("store-v1", half_an_answer)
        call = await mesh.call("buyer", HOST)
        for _ in range(3):
            assert (await call.get("/books", "POST", b"x")).status == 200
            assert (await call.get("/books/lesson")).status == 200
            await mesh.settled()
        if path == "lane":
            assert served(mesh) >= 3, "the lane does not take part"
        got = b""
        end = ""

        async def upload():
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await call.send(b"4000\r\n" + bytes(0x4000) + b"\r\n")
                    await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            if uploads:
                await call.send(
                    f"POST /books HTTP/1.1\r\nhost: {call.host}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
                )
                nursery.start_soon(upload)
            else:
                await call.send(f"GET /books HTTP/1.1\r\nhost: {call.host}\r\n\r\n".encode())
            while not end:
                try:
                    data = await call.stream.receive_some(65536)
                    got += data
                    end = "" if data else "closed"
                except trio.BrokenResourceError:
                    end = "reset"
            nursery.cancel_scope.cancel()
        assert got.endswith(b"\r\na part of it\r\n"), "the part came, and no end of it"
        await call.stream.aclose()


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("path", PATHS)
async def test_a_part_of_an_answer_ends_no_stream(monkeypatch, mint, path, nodes):
    async with running(monkeypatch, mint, nodes, path) as mesh:
        mesh.serve("store-v1", half_an_answer)
        call = await mesh.call("buyer", HOST)
        http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=False))
        http.initiate_connection()
        for path_, ends in [(b"/books/lesson", True)] * 3 + [(b"/books", False)]:
            number = http.get_next_available_stream_id()
            fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", path_), (b":authority", HOST.encode())]
            http.send_headers(number, fields, end_stream=True)
            await call.send(http.data_to_send())
            how, body = "", b""
            while not how:
                data = await call.stream.receive_some(65536)
                assert data
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        body += event.data
                    elif isinstance(event, h2.events.StreamEnded):
                        how = how or "ended"
                    elif isinstance(event, h2.events.StreamReset):
                        how = "reset"
            assert (how, body) == (("ended", b"ok") if ends else ("reset", b"a part of it"))
            await mesh.settled()
        await call.stream.aclose()


@pytest.mark.parametrize("who", ["server", "caller"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_reset_while_nobody_knows_the_protocol(monkeypatch, mint, path, who):
    """The port is undeclared, and detection waits for the first bytes: it hears of the reset, and the kernel tells of that only once."""
    ends = []

    async def server(stream):
        if who == "server":
            await trio.sleep(0.05)
            abort(stream)
            return
        try:
            while await stream.receive_some():
                pass
            ends.append("closed")
        except trio.BrokenResourceError:
            ends.append("reset")

    async with running(monkeypatch, mint, 1, path) as mesh:
        mesh.publish(raw=bookstore.tcp("bookbuyer", "bookstore", 7000))
        mesh.serve("store-v1", server, 7000)
        call = await mesh.call("buyer", HOST, 7000)
        if who == "server":
            assert await call.is_over() == "reset"
        else:
            await mesh.settled()
            abort(call.stream)
            await mesh.until(lambda: ends)
            assert ends == ["reset"]
        await call.stream.aclose()


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("path", PATHS)
async def test_what_came_before_a_reset_arrives(monkeypatch, mint, path, nodes):
    """A server that says why and closes with the caller's bytes unread, as MariaDB does, resets; the caller is told why all the same."""

    async def server(stream):
        await stream.send_all(b"hello")
        await stream.receive_some(1)
        os.write(stream.socket.fileno(), b", out of order")  # at once: both are there when somebody looks
        stream.socket.close()  # the rest is unread: this is a reset

    async with running(monkeypatch, mint, nodes, path) as mesh:
        mesh.publish(raw=bookstore.tcp("bookbuyer", "bookstore", 9000))
        mesh.serve("store-v1", server, 9000)
        call = await mesh.call("buyer", HOST, 9000)
        await call.send(b"GET / HTTP/1.1\r\n\r\n")
        got = b""
        with pytest.raises(trio.BrokenResourceError):
            while True:
                data = await call.stream.receive_some(65536)
                assert data, "an end is no reset"
                got += data
        assert got == b"hello, out of order"
        await call.stream.aclose()
