"""Both directions of one HTTP/1.1 call at once: a server that answers while it is asked, through either lane, on one node and over two."""

from __future__ import annotations

import h11
import pytest
import trio

from nodeproxy.downstream import accept
from nodeproxy.routing import source
from tests.compiled import needs_lane
from tests.journeys.conftest import Mesh
from tests.journeys.stand_ins import next_event
from tests.journeys.test_two_lanes import HOST, LIMITS, serving
from tests.journeys.two_nodes import TwoNodes

pytestmark = needs_lane

MUCH = bytes(range(256)) * 2000
LESSONS = 4


async def echo(stream):
    """Each piece of a request is sent back as it comes."""
    http = h11.Connection(h11.SERVER)
    while isinstance(await next_event(http, stream), h11.Request):
        await stream.send_all(http.send(h11.Response(status_code=200, headers=[("transfer-encoding", "chunked")])))
        while isinstance(event := await next_event(http, stream), h11.Data):
            await stream.send_all(http.send(event))
        await stream.send_all(http.send(h11.EndOfMessage()))
        if http.our_state is h11.MUST_CLOSE:
            return
        http.start_next_cycle()


class Talker:
    """The caller's end."""

    def __init__(self, stream):
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def begin(self):
        host = HOST.split()[1].decode()
        head = h11.Request(method="POST", target="/books", headers=[("host", host), ("transfer-encoding", "chunked")])
        await self.stream.send_all(self.http.send(head))

    async def say(self, data):
        await self.stream.send_all(self.http.send(h11.Data(data)))

    async def end(self):
        await self.stream.send_all(self.http.send(h11.EndOfMessage()))

    async def hear(self, size):
        heard = b""
        while len(heard) < size:
            event = await next_event(self.http, self.stream)
            if isinstance(event, h11.Data):
                heard += event.data
            else:
                assert isinstance(event, h11.Response), event
        return heard

    async def whole(self):
        assert isinstance(await next_event(self.http, self.stream), h11.EndOfMessage)
        self.http.start_next_cycle()


async def converse(talker):
    """An answer to each word; then much in both directions at the same time."""
    await talker.begin()
    for word in (b"a", b"word", b"x" * 5000):
        await talker.say(word)
        assert await talker.hear(len(word)) == word

    async def say():
        for at in range(0, len(MUCH), 30_000):
            await talker.say(MUCH[at : at + 30_000])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        assert await talker.hear(len(MUCH)) == MUCH
    await talker.end()
    assert isinstance(await next_event(talker.http, talker.stream), h11.EndOfMessage)


async def run(mesh, lanes, sides, times):
    """Over two nodes an answer that began before its request was whole ends the caller's connection: one conversation is all."""
    mesh.serve("store-v1", echo)
    talker = Talker((await mesh.call("buyer", "bookstore-v1.bookstore")).stream)
    with trio.fail_after(60):
        for _ in range(LESSONS):
            await talker.begin()
            await talker.say(b"abc")
            await talker.end()
            assert await talker.hear(3) == b"abc"
            await talker.whole()
            await mesh.settled()
        before = serving(lanes)
        for side in sides:
            side.records.clear()
        for number in range(times):
            if number:
                talker.http.start_next_cycle()
            await converse(talker)
            await mesh.settled()
    assert [now - was for now, was in zip(serving(lanes), before, strict=True)] == [times] * len(lanes), (
        "which lane it was"
    )
    for side in sides:
        found = [
            (r.method, r.path, r.status, r.flag, r.bytes_in > len(MUCH), r.bytes_out > len(MUCH))
            for r in side.records
            if r.kind == "request"
        ]
        assert found == [("POST", "/books", 200, "", True, True)] * times
    await talker.stream.aclose()


@pytest.mark.parametrize("lane", [False, True], ids=["slow lane", "native lane"])
async def test_on_one_node(monkeypatch, quick_clock, lane):
    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery, LIMITS, lane)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        await run(mesh, [mesh.proxy.fast] if lane else [], [mesh], 2)
        nursery.cancel_scope.cancel()
    mesh.close()


@pytest.mark.parametrize("lanes", [(), ("west",), ("east",), ("west", "east")], ids=["none", "west", "east", "both"])
async def test_over_two_nodes(monkeypatch, quick_clock, mint, lanes):
    async with trio.open_nursery() as nursery:
        mesh = TwoNodes(nursery, mint, True, lanes, LIMITS)
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
        await mesh.start()
        sides = (mesh.west, mesh.east)
        await run(mesh, [side.proxy.fast for side in sides if side.proxy.fast.stats().compiled], sides, 1)
        nursery.cancel_scope.cancel()
    mesh.close()
