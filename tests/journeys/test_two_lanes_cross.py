"""The same bytes from one node to another, with the native lane on none, either and both of them: what the server gets, what the caller
gets and what both nodes record is the same, byte for byte. As test_two_lanes.py, whose talks these are.
"""

from __future__ import annotations

import contextlib
import os
import random

import pytest
import trio

from nodeproxy import listen
from nodeproxy.limits import Limits
from nodeproxy.native import AVAILABLE
from nodeproxy.upstream import connect
from tests.journeys.test_two_lanes import _ENDS, GET, OK, TALKS, WAYS, Script, _comparable
from tests.journeys.two_nodes import TwoNodes

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the native lane was not compiled")

LESSONS = 3  # requests until both nodes have learned


class Taught(Script):
    """Answers the lessons with OK."""

    def __init__(self, answer, ends):
        super().__init__(answer, ends)
        self.lessons = 0

    async def talk(self, stream):
        self.taught = self.lessons >= LESSONS
        while not self.taught:
            self.lessons += 1
            data = b""
            while not data.endswith(b"\r\n\r\n"):
                more = await stream.receive_some(65536)
                if not more:
                    return
                data += more
            await stream.send_all(OK)
            self.taught = self.lessons >= LESSONS
        await super().talk(stream)


async def talk(monkeypatch, mint, lanes, sent, answer, ends, pieces):
    """What all saw and what was recorded; again when the machine paused so long that the connection's rest was over first."""
    while True:
        with contextlib.ExitStack() as after:
            if (seen := await _talk(after, monkeypatch, mint, lanes, sent, answer, ends, pieces)) is not None:
                return seen


async def _talk(after, monkeypatch, mint, lanes, sent, answer, ends, pieces):
    async with trio.open_nursery() as nursery:
        random.seed(b"%d" % os.getpid() + sent)  # the same addresses for all: they are in answers
        limits = Limits(keepalive_timeout=0.1, head_timeout=2, response_timeout=1)
        mesh = TwoNodes(nursery, mint, True, lanes, limits)
        after.callback(mesh.close)
        monkeypatch.setattr(listen, "original_destination", mesh.original_destination)
        monkeypatch.setattr(connect, "_is_loopback", lambda address: False)  # it is where workloads live here
        await mesh.start()
        script = Taught(answer, ends)
        mesh.serve("store-v1", script.talk)
        call = await mesh.call("buyer", "bookstore-v1.bookstore")
        for _ in range(LESSONS):
            await call.stream.send_all(GET)
            heard = b""
            while len(heard) < len(OK):
                more = b""
                with contextlib.suppress(trio.BrokenResourceError):
                    more = await call.stream.receive_some(65536)
                if not more:  # the machine paused between two lessons
                    nursery.cancel_scope.cancel()
                    return None
                heard += more
            assert heard == OK
            answered = trio.current_time()
            await mesh.settled()

        async def send():
            nonlocal paused
            try:
                for piece in pieces(sent):
                    await call.stream.send_all(piece)
                    paused = paused or trio.current_time() - answered
                    if len(sent) < 2000:
                        await trio.sleep(0)
            except trio.BrokenResourceError:
                pass

        for side in (mesh.west, mesh.east):
            if side.proxy.lane is not None:
                side.proxy.lane.count()
        paused = 0.0
        nursery.start_soon(send)
        heard, end = b"", "closed"
        with trio.move_on_after(5) as scope:
            try:
                while data := await call.stream.receive_some(65536):
                    heard += data
            except trio.BrokenResourceError:
                end = "reset"
        assert not scope.cancelled_caught
        await mesh.until(mesh.at_rest)
        await mesh.settled()
        served = [side.proxy.lane.lane.stats["served"] if side.proxy.lane else 0 for side in (mesh.west, mesh.east)]
        records = [
            [
                (
                    r.method,
                    r.path,
                    r.status,
                    r.flag,
                    r.rule,
                    r.service,
                    r.source.name,
                    r.bytes_in,
                    r.bytes_out,
                    bool(r.endpoint),
                    r.tls_peer,
                    r.tls_version,
                )
                for r in side.told("request")
            ]
            for side in (mesh.west, mesh.east)
        ]
        nursery.cancel_scope.cancel()
    if paused > 0.09:
        return None
    return script.heard.replace(mesh.addresses["buyer"].encode(), b"BUYER"), _comparable(heard), *records, end, served


SLOW = {}  # what Python alone says, for those who compare with it
BOTH, WEST, EAST = ("west", "east"), ("west",), ("east",)
MIXED = (
    "fields as they came",
    "pipelined",
    "chunks",
    "trailers",
    "response trailers",
    "large body",
    "response large",
    "response 304",
    "misdirected",
)


# A stream that is reset right after its head may be asked once more (RFC 9110 section 9.2.2): whether the head came through is a race.
RACE = "response cut short"


@pytest.mark.parametrize(
    "name,lanes", [*((name, BOTH) for name in TALKS if name != RACE), *((name, side) for side in (WEST, EAST) for name in MIXED)]
)
async def test_all_say_the_same(monkeypatch, mint, name, lanes):
    sent, answer = TALKS[name]
    if name not in SLOW:
        SLOW[name] = await talk(monkeypatch, mint, (), sent, answer, name in _ENDS, WAYS["at once"])
    slow = SLOW[name]
    fast = await talk(monkeypatch, mint, lanes, sent, answer, name in _ENDS, WAYS["at once"])
    assert fast[0] == slow[0], "what the server heard"
    assert fast[1] == slow[1], "what the caller heard"
    assert fast[2] == slow[2], "what west says"
    assert fast[3] == slow[3], "what east says"
    if b"\r\nconnection: close\r\n" not in slow[1]:
        assert fast[4] == slow[4]
