"""The second task of a request whose body is still arriving: it sends the body while the first awaits the response."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.protocols.http.deadline import Phase
from nodeproxy.protocols.http.interfaces import Caller, Server
from nodeproxy.telemetry.record import Record

PATIENCE = 5.0  # seconds that a caller may pause in its request after its response, knowing that its connection ends


class Upload:
    """The part of one request's body that did not arrive with the head."""

    __slots__ = (
        "_caller",
        "_limits",
        "_passes",
        "_phase",
        "_record",
        "_upstream",
        "answered",
        "failure",
        "refused",
        "sending",
    )

    def __init__(
        self,
        caller: Caller,
        upstream: Server,
        record: Record,
        phase: Phase,
        limits: Limits,
        passes: Callable[[bytes], None] | None = None,
    ) -> None:
        """`passes`: is told each piece."""
        self._passes = passes
        self._caller = caller
        self._upstream = upstream
        self._record = record
        self._phase = phase
        self._limits = limits
        self.sending = True  # part of it is not sent yet
        self.answered = False  # the response has begun
        self.refused = False  # the server takes no more of it
        self.failure: Exception | None = None  # the caller broke it off, or violated its syntax

    def __repr__(self) -> str:
        return f"<Upload to {self._upstream!r}, {'under way' if self.sending else 'sent'}>"

    async def run(self, both: trio.CancelScope) -> None:
        """Send all of it.

        Raise nothing: attributes hold any failure. `both`: the scope of this task and of the first.
        """
        incoming, caller, upstream = self._caller.incoming, self._caller, self._upstream
        try:
            while True:
                await upstream.flush()
                if incoming.complete:
                    break
                self._phase.moved(self._limits.patience)
                while (piece := incoming.body()) is None:
                    await caller.more(self._limits)
                self._record.bytes_in += len(piece)
                upstream.add(piece, incoming)
                if self._passes is not None:
                    self._passes(piece)
                if both.deadline != math.inf:
                    both.deadline = trio.current_time() + PATIENCE
            self.sending = False
            self._await_response()
        except Refused as refused:
            if refused.flag == "upstream-broken":
                # The server takes no more, which it may if it has responded: the first task finds out.
                self.refused = True
                self._await_response()
            else:
                self.failure = refused
                both.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.failure = error
            both.cancel()

    def _await_response(self) -> None:
        if not self.answered:
            self._phase.begin("response-timeout", self._limits.response_timeout)
