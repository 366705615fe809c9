"""Opaque bytes from one node to another, with the native lane on none, either and both of them: what both ends see and what both nodes
record is the same. As test_two_lanes_cross.py for HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import random

import pytest
import trio

from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from nodeproxy.protocols import relay as relay_module
from nodeproxy.routing import source
from nodeproxy.tls import contexts
from tests.compiled import needs_lane
from tests.journeys.test_two_lanes_cross import BOTH, EAST, WEST
from tests.journeys.two_nodes import TwoNodes

pytestmark = needs_lane

PORT = 9000
LINGER = bytes([1, 0, 0, 0, 0, 0, 0, 0])  # SO_LINGER: 0 seconds


@contextlib.asynccontextmanager
async def two_nodes(monkeypatch, mint, lanes, limits=None):
    async with trio.open_nursery() as nursery:
        mesh = TwoNodes(nursery, mint, True, lanes, limits)
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
        await mesh.start()
        mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", PORT))
        try:
            with trio.fail_after(30):
                yield mesh
        finally:
            nursery.cancel_scope.cancel()
            mesh.close()


def reset(stream):
    stream.socket.setsockopt(1, 13, LINGER)
    stream.socket.close()


async def everything(stream, heard=None):
    """Return what came until the end, in short, or that it was reset. `heard` is set when the first bytes have come."""
    total, sha = 0, hashlib.sha256()
    try:
        async for data in stream:
            if heard is not None:
                heard.set()
            total += len(data)
            sha.update(data)
    except trio.BrokenResourceError:
        return "reset"
    return total, sha.hexdigest()


LARGE = random.Random(7).randbytes(3_000_000)


class Talk:
    """What each end does, and what it saw."""

    def __init__(self):
        self.seen = {}
        self.caller_heard, self.server_heard = trio.Event(), trio.Event()

    async def ask_and_answer(self, caller):
        await caller.send_all(LARGE)
        await caller.send_eof()
        self.seen["caller"] = await everything(caller)

    async def answers(self, server):
        self.seen["server"] = await everything(server)
        await server.send_all(LARGE[::-1])
        await server.send_eof()

    async def server_ends_first(self, caller):
        self.seen["caller"] = await everything(caller)
        await caller.send_all(LARGE)
        await caller.send_eof()

    async def speaks_first(self, server):
        await server.send_all(LARGE)
        await server.send_eof()
        self.seen["server"] = await everything(server)

    async def caller_resets(self, caller):
        await caller.send_all(b"half of ")
        assert await caller.receive_some() == b"o"
        reset(caller)

    async def hears_half(self, server):
        data = b""
        while len(data) < 8:
            data += await server.receive_some()
        await server.send_all(b"o")
        self.seen["server"] = await everything(server)

    async def waits(self, caller):
        await caller.send_all(b"x")
        self.seen["caller"] = await everything(caller, self.caller_heard)

    async def server_resets(self, server):
        await server.receive_some()
        await server.send_all(b"half of ")
        await self.caller_heard.wait()
        reset(server)


TALKS = {
    "question and answer": (Talk.ask_and_answer, Talk.answers),
    "the server speaks first and ends first": (Talk.server_ends_first, Talk.speaks_first),
    "the caller resets": (Talk.caller_resets, Talk.hears_half),
    "the server resets": (Talk.waits, Talk.server_resets),
    "nothing moves": (Talk.waits, None),
    "a rule is taken away": (Talk.waits, None),
}


async def talk(monkeypatch, mint, lanes, name):
    """What both ends saw, and what both nodes recorded."""
    ask, answer = TALKS[name]
    limits = Limits(idle_timeout=0.3) if name == "nothing moves" else Limits()
    async with two_nodes(monkeypatch, mint, lanes, limits) as mesh:
        both = Talk()

        async def serve(stream):
            if answer is not None:
                await answer(both, stream)
            else:
                both.seen["server"] = await everything(stream, both.server_heard)

        mesh.serve("store-v1", serve, PORT)
        call = await mesh.call("buyer", "bookstore-v1.bookstore", PORT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, both, call.stream)
            if name == "a rule is taken away":
                await both.server_heard.wait()
                assert mesh.publish(tcp="") == 2
        await mesh.until(mesh.at_rest)
        await mesh.settled()
        assert not any(link.streams for link in (*mesh.west.peers._carried, *mesh.east.peers.accepted))
        for side in (mesh.west, mesh.east):
            if side.proxy.fast.stats().compiled:
                assert side.proxy.fast.lane.stats["tunnels"] == 0
        kept = ("flag", "rule", "service", "protocol", "bytes_in", "bytes_out", "tls_peer", "tls_version")
        records = [
            [
                (r.source and r.source.name, *(getattr(r, what) for what in kept))
                for r in side.told("connection", protocol="tcp")
            ]
            for side in (mesh.west, mesh.east)
        ]
        return both.seen, records


SLOW = {}  # what Python alone says


@pytest.mark.parametrize("lanes", [BOTH, WEST, EAST], ids=["both", "west", "east"])
@pytest.mark.parametrize("name", TALKS)
async def test_all_say_the_same(monkeypatch, mint, name, lanes):
    if name not in SLOW:
        SLOW[name] = await talk(monkeypatch, mint, (), name)
    seen, (west, east) = await talk(monkeypatch, mint, lanes, name)
    slow_seen, (slow_west, slow_east) = SLOW[name]
    assert seen == slow_seen
    if name == "nothing moves":  # who notices first, and tells the other by a reset, is a race
        assert "idle" in (west[0][1], east[0][1])
        west, east, slow_west, slow_east = (
            [(record[0], *record[2:]) for record in side] for side in (west, east, slow_west, slow_east)
        )
    assert west == slow_west
    assert east == slow_east
    assert len(west) == len(east) == 1


@pytest.mark.parametrize("lanes", [BOTH, WEST, EAST], ids=["both", "west", "east"])
async def test_only_a_node_without_the_lane_relays_in_python(monkeypatch, mint, lanes):
    used = []
    relays = relay_module._relay

    async def seen(*args):
        used.append(args)
        return await relays(*args)

    monkeypatch.setattr(relay_module, "_relay", seen)
    await talk(monkeypatch, mint, lanes, "question and answer")
    assert len(used) == 2 - len(lanes)


@pytest.mark.parametrize("lanes", [BOTH, WEST, EAST, ()], ids=["both", "west", "east", "none"])
async def test_tunnels_of_a_peer_that_is_not_edgemesh(monkeypatch, mint, lanes):
    """HBONE without requests of HTTP beside it, as ztunnel speaks it."""
    monkeypatch.setattr(contexts, "ALPN_MESH", contexts.ALPN_TUNNEL)
    seen, records = await talk(monkeypatch, mint, lanes, "question and answer")
    assert seen["caller"] == (len(LARGE), hashlib.sha256(LARGE[::-1]).hexdigest())
    assert [record[5:7] for side in records for record in side] == [(len(LARGE), len(LARGE))] * 2


@pytest.mark.parametrize("lanes", [BOTH, ()], ids=["lanes", "no lane"])
async def test_connections_show_what_moves(monkeypatch, mint, lanes):
    async with two_nodes(monkeypatch, mint, lanes, Limits(keepalive_timeout=0.04)) as mesh:
        both = Talk()
        mesh.serve("store-v1", both.answers, PORT)
        call = await mesh.call("buyer", "bookstore-v1.bookstore", PORT)
        await call.stream.send_all(bytes(100_000))
        for side in (mesh.west, mesh.east):
            await mesh.until(
                lambda side=side: any(
                    conn.pick and conn.report.record.bytes_in == 100_000 for conn in side.proxy.context.conns.values()
                )
            )
        await call.stream.send_eof()
        assert (await everything(call.stream))[0] == len(LARGE)
