"""One connection of an HTTP caller, or one stream: its requests one after the other, each a Call (call.py).

This file does not depend on either side's version of HTTP (interfaces.py). One scope holds all deadlines of the
connection; a phase (deadline.py) moves its deadline and names the flag for its expiry. Between two requests the
connection may be lent to the fast path, which returns a value (Handback) from which a Call continues.

Exceptions that end a request are handled here. A Refused becomes a response if none has begun. Otherwise the connection
is aborted, so that a part never looks like the whole.
"""

from __future__ import annotations

import logging

import trio

from nodeproxy.codec.message import RequestHead
from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.interfaces import Route
from nodeproxy.protocols.http.call import LINGER, Call
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.protocols.http.interfaces import Caller, Ended, Handback, Lease
from nodeproxy.routing.source import forwarded_for

log = logging.getLogger("edgemesh.http")


async def serve_requests(conn: Conn, route: Route, caller: Caller) -> None:
    """Serve all requests of one caller, one after the other, until there are no more.

    Return if the connection ended in order. Raise Refused or BrokenResourceError if it must be aborted.
    """
    exchange = Exchange(conn, route, caller)
    try:
        while True:
            exchange.phase = Phase(trio.CancelScope())
            try:
                with exchange.phase.scope:
                    await exchange.run()
                    return
                flag = exchange.phase.expired
                refused = Refused(flag) if flag else None
            except Refused as error:
                refused = error
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                exchange.end("client-gone")
                raise
            except Exception:
                log.exception("request on %r", conn)
                refused = Refused("internal")
            if refused is None or not await exchange.refuse(refused):
                return
    finally:
        exchange.end(conn.verdict or "drained")


class Exchange:
    """The state that the requests of one connection share, and the request that is under way."""

    __slots__ = ("_caller", "_conn", "_lease", "_route", "_shown", "_under_way", "phase")

    def __init__(self, conn: Conn, route: Route, caller: Caller) -> None:
        self._conn = conn
        self._route = route
        self._caller = caller
        self._shown = forwarded_for(conn).encode()
        self.phase = Phase(trio.CancelScope())
        self._under_way: Call | None = None
        self._lease: Lease | None = conn.context.fast.lease(conn, caller)

    def __repr__(self) -> str:
        return f"<Exchange of {self._conn!r}, {self._under_way!r}>"

    def _called(self, head: RequestHead | None) -> Call:
        return Call(self._conn, self._route, self._caller, self._shown, self.phase, head)

    async def run(self) -> None:
        """Serve request after request, here and in the fast path, until the connection ends."""
        caller, context, lease, phase = self._caller, self._conn.context, self._lease, self.phase
        try:
            if lease is not None:
                returned = await lease.early(phase)
                if returned is not None and not await self._go_on(returned):
                    return
            while (head := await caller.next_head(context.limits, phase)) is not None:
                call = self._under_way = Call(self._conn, self._route, caller, self._shown, phase, head)
                if not await call.serve(lease):
                    return
                self._under_way = None
                phase.free()
                if lease is not None and call.asked is not None:
                    returned = await lease.lend(head, call.sent, call.asked, phase)
                    if returned is not None and not await self._go_on(returned):
                        return
        except trio.Cancelled:
            if lease is not None and self._under_way is None and (left := lease.left()) is not None:
                self._under_way = self._called(left.head)
                self._under_way.stand(left)  # to be recorded
            raise

    async def _go_on(self, returned: Handback | Ended) -> bool:
        """Continue from what the fast path gave back. Return whether the connection can carry another request."""
        if isinstance(returned, Ended):
            if returned.incomplete:
                with trio.move_on_after(LINGER):
                    await self._caller.linger(self._conn.context.limits)
            return False
        call = self._under_way = self._called(returned.head)
        if not await call.resume(returned):
            return False
        self._under_way = None
        return True

    async def refuse(self, refused: Refused) -> bool:
        """Respond to a refusal.

        Return whether the connection can continue. Raise it again if a response is no longer possible.
        """
        call = self._under_way or self._called(None)  # a head that could not be read counts as a request
        self._under_way = call
        if not await call.refuse(refused):
            return False
        self._under_way = None
        if self._lease is not None and call.head is not None and call.asked is not None:
            self._lease.refused(refused, call.head, call.sent, call.asked)
        return True

    def end(self, flag: str) -> None:
        """Leave nothing open, whatever happened. A request that is still unrecorded ends with this flag."""
        call, self._under_way = self._under_way, None
        if call is not None:
            call.end(flag)
