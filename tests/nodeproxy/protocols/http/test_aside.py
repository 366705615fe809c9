"""aside.py: places for requests that filters make, and what is kept of a response; over sockets: journeys/test_mirrors.py."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio

from nodeproxy.codec.message import RequestHead, ResponseHead
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Aside
from nodeproxy.protocols.http.aside import IN_FLIGHT, OF_ONE, Asides, Asking, Whole
from policy.model import Workload
from tests.nodeproxy.protocols.http.conftest import House

HEAD = RequestHead(b"GET", b"/", 1)
HEAD.host = b"store"


class Caller:
    def __init__(self, name: str) -> None:
        self.workload = Workload("shop", name, name)


async def test_places_are_bounded_for_one_workload_and_for_all(nursery: trio.Nursery) -> None:
    asides = Asides(cast(Any, None))
    assert asides.place(cast(Any, Caller("a"))) is None, "before it runs"
    await nursery.start(asides.run)
    one = [asides.place(cast(Any, Caller("a"))) for _ in range(OF_ONE + 1)]
    assert [place is None for place in one] == [False] * OF_ONE + [True]
    others = [asides.place(cast(Any, Caller(f"b{number}"))) for number in range(IN_FLIGHT)]
    assert sum(place is not None for place in (*one, *others)) == IN_FLIGHT == asides.running
    assert asides.dropped == 2 + OF_ONE
    first = one[0]
    assert first is not None
    for _ in range(3):
        first.free()
    assert asides.running == IN_FLIGHT - 1, "given back once"
    assert asides.place(cast(Any, Caller("a"))) is not None
    nursery.cancel_scope.cancel()


async def test_a_service_that_does_not_exist_is_a_reply(house: House) -> None:
    house.connect()
    asides = Asides(house.context)
    reply = await asides.ask(house.conn, Aside("shop/gone", 80, HEAD))
    assert reply.refused is not None
    assert (reply.head, reply.refused.flag) == (None, "bad-route")
    assert [(record.flag, record.source) for record in house.records] == [("bad-route", house.conn.workload)]
    assert not house.context.conns


async def test_only_the_beginning_of_a_response_is_kept() -> None:
    asking = Asking(Aside("shop/a", 80, HEAD, kept=5))
    assert asking.reply().refused is not None
    asking.begin(ResponseHead(200, b"OK", 1), HEAD, False)
    for piece in (b"abc", b"def", b"ghi"):
        asking.add(piece, Whole(b""))
    reply = asking.reply()
    assert reply.head is not None
    assert (reply.head.status, reply.body, reply.refused) == (200, b"abcde", None)
    asking.refuse(Refused("upstream-broken"), "", True, None)
    assert asking.reply().head is None, "it broke off"
    for refuses in (asking.pipe, lambda: asking.switch(ResponseHead(101, b"", 1))):
        with pytest.raises(Refused):
            refuses()
