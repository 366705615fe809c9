"""One request is one Call: nothing of it is in the next; and it goes on from whatever the fast path gives back."""

from __future__ import annotations

import time
from typing import Any

import h11
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nodeproxy.codec.http1 import Incoming
from nodeproxy.codec.message import RequestHead
from nodeproxy.errors import Refused
from nodeproxy.interfaces import NoFastPath, Pick
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.protocols.http.interfaces import Ended, Handback
from nodeproxy.upstream.http1_pool import Upstream
from policy.model import Request
from tests.nodeproxy.protocols.http.conftest import (
    BUYER,
    FIRST,
    OK,
    STORE,
    Client,
    House,
    Pipe,
    answering,
    pipes,
    read_head,
)

PICK = Pick(FIRST, STORE, "shop/store", "TrafficTarget shop/t", local=True)


def head_of(text: bytes, house: House) -> RequestHead:
    incoming = Incoming("bad-request")
    incoming.feed(text)
    head = incoming.request_head(house.limits)
    assert head is not None
    return head


class Lent(NoFastPath):
    """A fast path that gives back, before the first request, what a test says."""

    def __init__(self, returned: Handback | Ended | None = None) -> None:
        self.returned = returned
        self.waits = False
        self.refusals: list[tuple[str, bytes, bytes]] = []
        self.lends: list[tuple[bytes, bytes]] = []

    def lease(self, conn: Any, caller: object) -> Any:
        self.conn = conn
        return self

    async def early(self, phase: Phase) -> Handback | Ended | None:
        phase.unbounded()
        if self.returned is not None:
            self.conn.stream.take_held()
        if self.waits:
            await trio.sleep_forever()
        returned, self.returned = self.returned, None
        return returned

    async def lend(self, head: RequestHead, sent: bytes, asked: Request, phase: Phase) -> Handback | Ended | None:
        self.lends.append((head.target, sent))
        return None

    def left(self) -> Handback | None:
        return self.returned if isinstance(self.returned, Handback) else None

    def refused(self, refused: Refused, head: RequestHead, sent: bytes, asked: Request) -> None:
        self.refusals.append((refused.flag, head.target, sent))

    def answered(self) -> None:
        return None


def taking(first: int) -> Any:
    """A server whose first request has a body of so many bytes."""

    async def serve(stream: Pipe) -> None:
        rest = bytearray()
        await read_head(stream, rest)
        while len(rest) < first:
            rest += await stream.receive_some(65536)
        await stream.send_all(OK)
        await answering(OK)(stream)

    return serve


def lent(house: House, returned: Handback | Ended | None = None) -> Lent:
    house.context.fast = fast = Lent(returned)
    return fast


def under_way(house: House, text: bytes = b"GET /a?b HTTP/1.1\r\nHost: store\r\n\r\n", **more: Any) -> Handback:
    head = head_of(text, house)
    return Handback(
        head,
        PICK,
        None,
        time.monotonic() - 2.0,
        40,
        more.pop("bytes_out", 0),
        more.pop("begun", False),
        200,
        True,
        **more,
    )


async def test_a_response_that_came_in_the_fast_path_is_delivered(house: House) -> None:
    theirs, ours = pipes()
    server = Upstream(("10.0.0.1", BUYER.key, FIRST), ours, house.context.pool)
    await theirs.send_all(OK)
    house.nursery.start_soon(answering(OK), theirs)
    lent(house, under_way(house, server=server))
    house.connect(b"GET")
    client = Client(house.caller)
    client.h11.send(
        h11.Request(method="GET", target="/a?b", headers=[("Host", "store")])
    )  # it was sent in the fast path
    client.h11.send(h11.EndOfMessage())
    assert (await client.response())[::2] == (200, b"hello")
    (record,) = house.records
    assert (record.path, record.host, record.bytes_in, record.status, record.rule) == (
        "/a",
        "store",
        40,
        200,
        PICK.rule,
    )
    assert record.endpoint == str(FIRST)
    assert 2.0 <= record.duration < 60
    assert (await client.request())[0] == 200, "the connection goes on, and the server's rests"
    assert not house.dialled


async def test_a_failure_in_the_fast_path_is_answered_where_the_response_had_not_begun(house: House) -> None:
    lent(house, under_way(house, failure=Refused("upstream-broken", "it closed")))
    caller = house.connect(b"GET")
    assert (await caller.receive_some()).startswith(b"HTTP/1.1 502 ")
    assert [(r.flag, r.detail, r.status) for r in house.records] == [("upstream-broken", "it closed", 502)]


async def test_and_is_broken_off_where_it_had(house: House) -> None:
    lent(house, under_way(house, begun=True, bytes_out=9, failure=Refused("upstream-broken", "it closed")))
    caller = house.connect(b"GET")
    with pytest.raises(trio.BrokenResourceError):
        await caller.receive_some()
    assert [(r.flag, r.status, r.bytes_out) for r in house.records] == [("upstream-broken", 200, 9)]


async def test_a_connection_that_ended_there_has_ended(house: House) -> None:
    lent(house, Ended(False))
    house.connect(b"GET")
    await house.done.wait()
    assert house.failure is None
    assert not house.records


async def test_what_was_under_way_when_it_was_cut_is_recorded(house: House) -> None:
    fast = lent(house, under_way(house))
    fast.waits = True
    house.connect(b"GET")
    await wait_all_tasks_blocked()
    house.conn.verdict = "cut"
    house.conn.scope.cancel()
    await house.done.wait()
    assert [(r.flag, r.path, r.bytes_in) for r in house.records] == [("cut", "/a", 40)]


async def test_nothing_of_a_request_is_in_the_next_one(house: House) -> None:
    fast = lent(house)
    house.servers = [taking(70_000)]
    house.connect()
    client = Client(house.caller)
    assert (await client.request("POST", "/one", body=b"x" * 70_000))[0] == 200
    assert (await client.request("GET", "/./two", [("X-A", "b")]))[0] == 200
    house.route.refuse = Refused("denied", "no-rule")
    assert (await client.request("GET", "/three"))[0] == 403
    house.route.refuse = None
    assert (await client.request("GET", "/four"))[0] == 200
    assert [(r.path, r.status, r.rule) for r in house.records] == [
        ("/one", 200, PICK.rule),
        ("/two", 200, PICK.rule),
        ("/three", 403, ""),
        ("/four", 200, PICK.rule),
    ]
    assert all(record.bytes_in < 200 for record in house.records[1:])
    assert fast.lends == [(b"/one", b"/one"), (b"/./two", b"/two"), (b"/four", b"/four")], (
        "what was served is taught, as it was sent on"
    )
    assert fast.refusals == [("denied", b"/three", b"/three")]
