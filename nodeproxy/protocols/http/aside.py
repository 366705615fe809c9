"""Requests that filters make beside a caller's own: a copy for another Service, a question to one.

They are made as the caller: its identity, its address, its limits. Policy has to admit them like any call of it, and
each is a request with a record of its own. What runs in the background is bounded in number, for one caller and for the
node. No such request meets filters, so none leads to another.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from nodeproxy.codec.message import Body, RequestHead, ResponseHead
from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Aside, Reply
from nodeproxy.limits import Limits
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.protocols.http.exchange import serve_requests
from nodeproxy.protocols.lifetime import Life
from nodeproxy.routing.gateway import EnteringBeside
from nodeproxy.routing.route import Beside
from nodeproxy.stream import Stream

if TYPE_CHECKING:
    from nodeproxy.context import Context
    from nodeproxy.interfaces import Place

IN_FLIGHT = 128  # requests in the background at once, on this node
OF_ONE = 32  # the same, of one workload


class Asides:
    """interfaces.Asides."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._nursery: trio.Nursery | None = None
        self._places: dict[str, int] = {}  # by key of a workload
        self._running: dict[Conn, None] = {}
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Asides {self.running} in the background, {self.dropped} dropped>"

    @property
    def running(self) -> int:
        """The number of requests in the background."""
        return sum(self._places.values())

    def place(self, conn: Conn) -> Room | None:
        key = conn.workload.key
        taken = self._places.get(key, 0)
        if self._nursery is None or taken >= OF_ONE or self.running >= IN_FLIGHT:
            self.lost()
            return None
        self._places[key] = taken + 1
        return Room(self._places, key)

    def lost(self) -> None:
        self.dropped += 1

    def send(self, conn: Conn, aside: Aside, place: Place) -> None:
        assert self._nursery is not None, "there was a place"
        self._nursery.start_soon(self._send, conn, aside, place)

    async def _send(self, conn: Conn, aside: Aside, place: Place) -> None:
        try:
            await self.ask(conn, aside)
        finally:
            place.free()

    async def ask(self, conn: Conn, aside: Aside) -> Reply:
        service = self._context.snapshot.service(aside.service)
        address = service.addresses[0] if service is not None and service.addresses else ""
        own = Conn(
            self._context,
            conn.stream,
            conn.workload,
            conn.direction,
            conn.peer,
            (address, aside.port),
            time.time(),
            conn.source,
        )
        own.identity, own.shown, own.keys, own.edge = conn.identity, conn.shown, conn.keys, conn.edge
        called = (own, aside.service, aside.port, aside.seconds)
        via = conn.pick.via if conn.pick is not None else ""
        own.route = route = Beside(*called) if conn.edge is None else EnteringBeside(*called, via)
        asking = Asking(aside)
        self._running[own] = None
        try:
            with Life(own, lambda _: None, records=False), own.scope:
                await serve_requests(own, route, asking)
        finally:
            del self._running[own]
        return asking.reply()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def forget(self, key: str) -> None:
        for conn in list(self._running):
            if conn.workload.key == key:
                conn.scope.cancel()


class Room:
    """interfaces.Place."""

    __slots__ = ("_held", "_key", "_places")

    def __init__(self, places: dict[str, int], key: str) -> None:
        self._places = places
        self._key = key
        self._held = True

    def __repr__(self) -> str:
        return f"<Room of {self._key}{'' if self._held else ', free'}>"

    def free(self) -> None:
        if self._held:
            self._held = False
            self._places[self._key] -= 1
            if not self._places[self._key]:
                del self._places[self._key]


class Whole:
    """codec.message.Body of a body that is in memory."""

    __slots__ = ("_bytes", "complete", "trailers")

    def __init__(self, data: bytes) -> None:
        self._bytes = data
        self.complete = not data
        self.trailers: list[bytes] = []

    def body(self) -> bytes | None:
        self.complete = True
        return self._bytes


class Asking:
    """interfaces.Caller: it has one request, and keeps the beginning of its response."""

    __slots__ = ("_aside", "_body", "_refused", "_response", "_taken", "h2", "incoming")

    def __init__(self, aside: Aside) -> None:
        self.h2 = aside.h2
        self.incoming = Whole(aside.body)
        self._aside = aside
        self._taken = False
        self._response: ResponseHead | None = None
        self._refused: Refused | None = None
        self._body = b""

    def __repr__(self) -> str:
        return f"<Asking {self._aside.service}:{self._aside.port}>"

    def reply(self) -> Reply:
        refused = self._refused
        if self._response is None and refused is None:
            refused = Refused("client-gone")  # it was cut, or the daemon stops
        return Reply(None if refused else self._response, self._body, refused)

    async def next_head(self, limits: Limits, phase: Phase) -> RequestHead | None:
        taken, self._taken = self._taken, True
        return None if taken else self._aside.head

    async def more(self, limits: Limits) -> None:
        raise AssertionError("its body is whole")

    async def interim(self, response: ResponseHead) -> None:
        return

    def begin(self, response: ResponseHead, head: RequestHead, close: bool) -> None:
        self._response = response

    def switch(self, response: ResponseHead) -> None:
        raise Refused("upstream-broken", "the server switched protocols unasked")

    def add(self, piece: bytes, source: Body) -> None:
        room = self._aside.kept - len(self._body)
        if room > 0:
            self._body += piece[:room]

    async def flush(self) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    def refuse(self, refused: Refused, request_id: str, close: bool, head: RequestHead | None) -> int:
        self._refused = refused
        return 0

    async def discard_body(self, limits: Limits) -> bool:
        return False

    async def linger(self, limits: Limits) -> None:
        return

    def pipe(self) -> Stream:
        raise Refused("upstream-broken", "the server switched protocols unasked")
