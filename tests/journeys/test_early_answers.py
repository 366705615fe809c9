"""A server answers before the request is whole (RFC 9110 section 7.5, RFC 9113 section 8.1): the caller of a large upload gets that answer,
whichever path carries it, and is told when its connection ends with it."""

from __future__ import annotations

import contextlib

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
import trio

from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from nodeproxy.routing import source
from tests.compiled import needs_lane
from tests.journeys.conftest import Mesh
from tests.journeys.two_nodes import TwoNodes

HOST = "bookstore-v1.bookstore"
SIZE = 400_000
PIECE = bytes(20_000)
ROUNDS = 3
WORDS = b"no, thank you"
ANSWERS = {
    "length": b"content-length: 13\r\n\r\n" + WORDS,
    "close": b"connection: close\r\ncontent-length: 13\r\n\r\n" + WORDS,
    "until close": b"\r\n" + WORDS,
    "chunked": b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n6\r\nno, th\r\n7\r\nank you\r\n0\r\n\r\n",
    "upgrade": b"upgrade: h2,h2c\r\nconnection: upgrade, close\r\ncontent-length: 13\r\n\r\n" + WORDS,
}
WANTS_ALL = ("length", "until close")
STATUSES = {
    401: b"Unauthorized",
    307: b"Temporary Redirect",
    417: b"Expectation Failed",
    413: b"Content Too Large",
    499: b"Enough",
}


class Hasty:
    """An HTTP/1.1 server. A lesson (a body of one byte) is answered when it is whole; an upload after `after` bytes of it."""

    def __init__(self, status, answer, after, reads_on):
        self.status, self.answer, self.after, self.reads_on = status, answer, after, reads_on
        self.whole = 0  # uploads that came whole after their answer

    async def __call__(self, stream):
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some(65536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            if b"content-length: 1\r\n" in head.lower() + b"\r\n":
                while not data:
                    data = await stream.receive_some(65536)
                data = data[1:]
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                continue
            while len(data) < self.after:
                data += await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.1 %d %b\r\n%b" % (self.status, STATUSES[self.status], ANSWERS[self.answer]))
            if self.answer == "length":  # it answers at once, and wants all of it
                chunked = b"chunked" in head.lower()
                while not (b"\r\n0\r\n\r\n" in data if chunked else len(data) >= SIZE):
                    more = await stream.receive_some(65536)
                    if not more:
                        return
                    data += more
                data = data.partition(b"\r\n0\r\n\r\n")[2] if chunked else data[SIZE:]  # the next request may be here
                self.whole += 1
                continue
            await stream.send_eof()
            while self.reads_on and await stream.receive_some(65536):
                pass
            return


async def lessons(call, settled):
    for _ in range(3):
        assert (await call.get("/books", "POST", b"x")).status == 200
        await settled()


async def upload(call, settled, chunked, stops):
    """One upload on a connection that was served before. Its answer; and it ends as the answer said, or carries another request. `stops`:
    who is told that the connection ends sends no more."""
    await lessons(call, settled)
    framing = "transfer-encoding: chunked" if chunked else f"content-length: {SIZE}"
    got = b""
    closes = False

    def whole():
        head, sep, body = got.partition(b"\r\n\r\n")
        if b"content-length: " in head:
            return len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return sep and body.endswith(b"0\r\n\r\n")

    async def send():
        with contextlib.suppress(trio.BrokenResourceError):
            await call.send(f"POST /books HTTP/1.1\r\nhost: {call.host}\r\n{framing}\r\n\r\n".encode())
            for _ in range(SIZE // len(PIECE)):
                if closes and stops:
                    return
                await call.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
                await trio.sleep(0)
            if chunked:
                await call.send(b"0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while not whole():
            data = await call.stream.receive_some(65536)
            assert data, f"ended after {got!r}"
            got += data
        closes = b"connection: close" in got
    head, _, body = got.partition(b"\r\n\r\n")
    status, *fields = head.lower().split(b"\r\n")
    if b"transfer-encoding: chunked" in fields:
        body = b"".join(body.split(b"\r\n")[1:-3:2])
    if closes:
        assert await call.is_over() == "closed"
    else:
        assert (await call.get("/books", "POST", b"x")).status == 200
    return int(status.split()[1]), body


async def upload_over_stream(call, settled):
    """As `upload`, on a stream; and the connection carries another one after it."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=False))
    http.initiate_connection()
    for _ in range(3):
        assert await one_stream(call, http, 1) == (200, b"ok")
        await settled()
    answer = await one_stream(call, http, SIZE)
    assert await one_stream(call, http, 1) == (200, b"ok")
    return answer


async def one_stream(call, http, left):
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/books"), (b":authority", HOST.encode())]
    number = http.get_next_available_stream_id()
    http.send_headers(number, [*fields, (b"content-length", b"%d" % left)])
    status, body, over, refused = 0, b"", False, False
    while not over or (left and not refused):
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            while (
                left
                and (
                    size := min(len(PIECE), left, http.local_flow_control_window(number), http.max_outbound_frame_size)
                )
                > 0
            ):
                left -= size
                http.send_data(number, PIECE[:size], end_stream=left == 0)
        await call.send(http.data_to_send())
        if over and not left:
            break
        data = await call.stream.receive_some(65536)
        assert data, "the connection ended"
        for event in http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == number:
                status = int(dict(event.headers)[b":status"])
            elif isinstance(event, h2.events.DataReceived) and event.stream_id == number:
                body += event.data
                http.acknowledge_received_data(event.flow_controlled_length, number)
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id == number:
                over = True
            elif isinstance(event, h2.events.StreamReset) and event.stream_id == number:
                assert over and event.error_code == 0, "reset before the answer was whole"
                refused = True
            assert not isinstance(event, h2.events.ConnectionTerminated)
    await call.send(http.data_to_send())
    return status, body


async def check(mesh, sides, status, answer, after, reads_on, caller):
    server = Hasty(status, answer, after, reads_on)
    mesh.serve("store-v1", server)
    for _ in range(ROUNDS):
        call = await mesh.call("buyer", HOST)
        with trio.fail_after(30):
            told = await (
                upload_over_stream(call, mesh.settled)
                if caller == "h2"
                else upload(call, mesh.settled, caller == "chunked", answer not in WANTS_ALL)
            )
        assert told == (status, WORDS)
        await call.stream.aclose()
        await mesh.settled()
    assert server.whole == (ROUNDS if answer == "length" else 0)
    for side in sides:
        # A caller who is not told that its connection ends may leave in the middle of its upload, and that is recorded.
        assert {(r.status, r.flag) for r in side.records if r.kind == "request"} <= {
            (200, ""),
            (status, ""),
            (status, "client-gone"),
        }
        if side.proxy.fast.stats().compiled:
            assert side.proxy.fast.lane.stats["served"] >= 3 * ROUNDS - 1, "the lane did not take part"


PATHS = ["slow", pytest.param("lane", marks=needs_lane)]
CASES = [
    *((status, "close", 0, True) for status in STATUSES),
    *((401, answer, after, reads) for answer in ANSWERS for after, reads in ((0, True), (100_000, True))),
]


@pytest.mark.parametrize("caller", ["length", "chunked", "h2"])
@pytest.mark.parametrize(("status", "answer", "after", "reads_on"), CASES)
@pytest.mark.parametrize("path", PATHS)
async def test_an_early_answer_comes_through_on_one_node(monkeypatch, path, status, answer, after, reads_on, caller):
    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery, Limits(), path == "lane")
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        with contextlib.closing(mesh):
            await check(mesh, [mesh], status, answer, after, reads_on, caller)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("caller", ["length", "chunked", "h2"])
@pytest.mark.parametrize(("status", "answer", "after", "reads_on"), CASES)
@pytest.mark.parametrize("path", PATHS)
async def test_an_early_answer_comes_through_two_nodes(
    monkeypatch, mint, path, status, answer, after, reads_on, caller
):
    monkeypatch.setattr(source, "_is_loopback", lambda address: False)
    async with trio.open_nursery() as nursery:
        mesh = TwoNodes(nursery, mint, True, ("west", "east") if path == "lane" else ())
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        await mesh.start()
        with contextlib.closing(mesh):
            await check(mesh, [mesh.west, mesh.east], status, answer, after, reads_on, caller)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", PATHS)
async def test_who_has_the_answer_and_sends_no_more_is_let_go(monkeypatch, mint, path, quick_clock):
    """It was told that its connection ends, and the server would take the rest: nobody waits for that as long as for a body."""
    monkeypatch.setattr(source, "_is_loopback", lambda address: False)
    async with trio.open_nursery() as nursery:
        mesh = TwoNodes(nursery, mint, True, ("west", "east") if path == "lane" else ())
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        await mesh.start()
        with contextlib.closing(mesh):
            mesh.serve("store-v1", Hasty(401, "until close", 0, True))
            call = await mesh.call("buyer", HOST)
            began = trio.current_time()
            assert await upload(call, mesh.settled, False, stops=True) == (401, WORDS)
            assert trio.current_time() - began < Limits().idle_timeout / 4
            await call.stream.aclose()
        nursery.cancel_scope.cancel()
