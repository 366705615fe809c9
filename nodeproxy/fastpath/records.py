"""Records of what the fast path has served and refused."""

from __future__ import annotations

import time

from nodeproxy.context import Conn, Context
from nodeproxy.errors import FLAGS
from nodeproxy.fastpath.flows import Flows
from nodeproxy.fastpath.handback import shown
from nodeproxy.fastpath.links import Links
from nodeproxy.interfaces import Pick
from nodeproxy.native import Refusal, Served
from nodeproxy.telemetry.record import Record


class Records:
    """Makes records. `guests`: by number, the connections under which streams are recorded (streams.py)."""

    def __init__(self, context: Context, flows: Flows, links: Links) -> None:
        self._context = context
        self._flows = flows
        self._links = links
        self.guests: dict[int, Conn] = {}

    def __repr__(self) -> str:
        return f"<Records of {len(self.guests)} guests>"

    def whose(self, number: int, guest: int) -> Conn | None:
        """Return the connection of a call: that of `guest` for a stream, otherwise that of `number`."""
        return self.guests.get(guest) if guest else self._context.conns.get(number)

    def refused(self, refusal: Refusal) -> None:
        """Record a refusal. A refusal always makes a record: people look it up by its id."""
        conn, pick = self._context.conns.get(refusal.caller), self._flows.picks.get(refusal.target)
        if conn is None or pick is None:
            return
        method, path, host = shown(refusal.line)
        flag, detail = list(self._flows.denials)[refusal.denial]
        record = conn.report.record.of_request(time.time(), "http", method)
        record.destination, record.path, record.host = pick.workload, path, host
        record.status, record.flag, record.detail, record.id = FLAGS[flag].status, flag, detail, refusal.id
        record.bytes_in, record.bytes_out = refusal.bytes_in, refusal.bytes_out
        self._context.sink(record)

    def served(self, served: Served) -> None:
        conn, pick = self.whose(served.caller, served.guest), self._flows.picks.get(served.target)
        if conn is None or pick is None:
            return
        record = self.of(conn, pick, served.line, served.micros / 1e6)
        record.status, record.bytes_in, record.bytes_out = served.status, served.bytes_in, served.bytes_out
        self._links.note(record, served.target)
        self._context.sink(record)

    def of(self, conn: Conn, pick: Pick, line: bytes, duration: float) -> Record:
        """Return the record of a request that was sent on. `line`: its request line, a newline, and its Host."""
        method, path, host = shown(line)
        record = conn.report.record.of_request(time.time() - duration, "http", method)
        record.duration = duration
        record.destination, record.service, record.rule = pick.workload, pick.service, pick.rule
        record.endpoint, record.path, record.host = str(pick.endpoint), path, host
        return record
