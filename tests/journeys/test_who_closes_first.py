"""Whoever closed first at the server's side closes first at the caller's: the end of a connection comes in one segment with its last bytes.
A caller that had its answer and not the end would close first, and keep its port for a minute (TIME_WAIT, RFC 9293 section 3.6)."""

from __future__ import annotations

import socket
import struct

import pytest
import trio

from tests.compiled import needs_lane
from tests.journeys import bookstore
from tests.journeys.stand_ins import head_of
from tests.journeys.two_nodes import running

HOST = "bookstore-v1.bookstore"
PATHS = ["slow", pytest.param("lane", marks=needs_lane)]


def segments_in(call):
    """How many segments the kernel has received on this connection (tcpi_segs_in of linux/tcp.h)."""
    return struct.unpack_from("I", call.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 140)[0]


async def everything(call):
    data = b""
    while more := await call.stream.receive_some(65536):
        data += more
    return data


async def answer(stream):
    """A server that sends each answer in one piece."""
    while head := await head_of(stream):
        body = b"" if head.startswith(b"HEAD") else b"ok"
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" + body)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("asked", ["GET /books", "HEAD /books", "GET /denied"])
async def test_an_answer_and_the_end_are_one_segment(monkeypatch, mint, path, nodes, asked):
    async with running(monkeypatch, mint, nodes, path) as mesh:
        mesh.serve("store-v1", answer)
        counts = []
        for _ in range(4):  # the later ones may be the lane's
            call = await mesh.call("buyer", HOST)
            before = segments_in(call)
            await call.send(f"{asked} HTTP/1.1\r\nhost: {call.host}\r\nconnection: close\r\n\r\n".encode())
            assert (await everything(call)).startswith(b"HTTP/1.1 ")
            counts.append(segments_in(call) - before)
            await call.stream.aclose()
            await mesh.settled()
        # One more may say that the request has come. That the end came by itself would be yet another.
        assert max(counts) <= 2, counts


@needs_lane
@pytest.mark.parametrize("nodes", [1, 2])
async def test_opaque_bytes_and_the_end_are_one_segment(monkeypatch, mint, nodes):
    async with running(monkeypatch, mint, nodes, "lane") as mesh:
        mesh.publish(raw=bookstore.tcp("bookbuyer", "bookstore", 9000))

        go = trio.Event()

        async def server(stream):
            assert await stream.receive_some()
            await go.wait()
            stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            await stream.send_all(b"all of it")
            await stream.send_eof()
            await stream.receive_some()

        mesh.serve("store-v1", server, 9000)
        call = await mesh.call("buyer", HOST, 9000)
        await call.send(b"?")
        await mesh.settled()  # it has come, and its sender knows
        before = segments_in(call)
        go.set()
        assert await everything(call) == b"all of it"
        assert segments_in(call) - before == 1
        await call.stream.aclose()
