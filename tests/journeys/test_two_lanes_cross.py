"""The same bytes from one node to another, with the native lane on none, either and both of them: what the server gets, what the caller
gets and what both nodes record is the same, byte for byte. As test_two_lanes.py, whose talks these are.
"""

from __future__ import annotations

import os
import random

import pytest
import trio

from nodeproxy.downstream import accept
from nodeproxy.routing import source
from tests.compiled import needs_lane
from tests.journeys.test_two_lanes import _ENDS, LIMITS, ROUTES, SERVED, TALKS, WAYS, Script, _joined, said, sizes
from tests.journeys.two_nodes import TwoNodes

pytestmark = needs_lane


async def talk(monkeypatch, mint, lanes, sent, answer, ends, pieces):
    """What the server heard, what the caller heard, what each node recorded, how it ended, and how many requests each lane has served."""
    async with trio.open_nursery() as nursery:
        random.seed(b"%d" % os.getpid() + sent)  # the same addresses for all: they are in answers
        mesh = TwoNodes(nursery, mint, True, lanes, LIMITS)
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
        await mesh.start()
        mesh.publish(routes=ROUTES)
        script = Script(answer, ends)
        mesh.serve("store-v1", script.talk)
        call = await mesh.call("buyer", "bookstore-v1.bookstore")
        sides = (mesh.west, mesh.east)
        working = [side.proxy.fast for side in sides if side.proxy.fast.stats().compiled]
        heard, end, served = await said(mesh, sides, working, call.stream, sent, pieces, script)
        with trio.fail_after(100):
            while not mesh.at_rest():
                await trio.sleep(0.5)
        records = [sorted(facts(r) for r in side.told("request")) for side in sides]
        nursery.cancel_scope.cancel()
    mesh.close()
    return _joined(script.heard).replace(mesh.addresses["buyer"].encode(), b"BUYER"), heard, *records, end, served


def facts(r):
    said = (
        r.method,
        r.path,
        r.host,
        r.status,
        r.flag,
        r.rule,
        r.service,
        r.source.name,
        bool(r.endpoint),
        r.tls_peer,
        r.tls_version,
    )
    return *said, *sizes(r)


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
    "host of another service",
)


# How many requests are served by the lane of the west and of the east, where that is not what one node serves.
EACH = {
    # What is odd to the caller's node is plain when Python has sent it on;
    **dict.fromkeys(
        ("connection names a field", "te", "dot segments", "dot segments of a path that is learned", "escapes", "http 1.0", "empty line first", "not allowed", "encoded slash", "encoded slash, denied"), (0, 1)
    ),
    # and what is odd in a server's answer is plain when the server's node has.
    **dict.fromkeys(
        (
            "response names a field", "response 1.0", "response of lf", "response space before colon", "response identity", "response folded",
            "response without reason",
        ),
        (1, 0),
    ),
    "pipelined": (5, 7),
    **dict.fromkeys(("99 fields", "100 fields", "large head"), (1, 0)),  # with ours it is more than a caller may send, and so Python's
}  # fmt: skip


# A stream that is reset right after its head may be asked once more (RFC 9110 section 9.2.2): whether the head came through is a race.
RACE = (
    "response cut short",
    "response of chunks cut short",
    "response with a length reset",
    "response of chunks reset",
)


@pytest.mark.parametrize(
    "name,lanes",
    [*((name, BOTH) for name in TALKS if name not in RACE), *((name, side) for side in (WEST, EAST) for name in MIXED)],
)
async def test_all_say_the_same(monkeypatch, quick_clock, mint, name, lanes):
    sent, answer = TALKS[name]
    if name not in SLOW:
        SLOW[name] = await talk(monkeypatch, mint, (), sent, answer, _ENDS.get(name, ""), WAYS["at once"])
    slow = SLOW[name]
    fast = await talk(monkeypatch, mint, lanes, sent, answer, _ENDS.get(name, ""), WAYS["at once"])
    expected = EACH.get(name, (SERVED.get(name, 0),) * 2)
    assert fast[5] == [count for side, count in zip(BOTH, expected, strict=True) if side in lanes], "which lane it was"
    assert fast[0] == slow[0], "what the server heard"
    assert fast[1] == slow[1], "what the caller heard"
    assert fast[2] == slow[2], "what west says"
    assert fast[3] == slow[3], "what east says"
    if b"\r\nconnection: close\r\n" not in slow[1]:
        assert fast[4] == slow[4]
