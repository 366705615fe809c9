"""The life of one connection or stream: listed while it lasts, its end named by one flag, its report closed once.

`with Life(conn, ended), conn.scope:` is the life of every Conn, whatever accepted it. Exceptions that end a
connection are handled only here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

import trio

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.telemetry.record import Record, new_id

log = logging.getLogger("edgemesh.connection")


class Life:
    """Enter it before any decision, so that publish() finds the connection. Only a cancellation leaves it as an
    exception.

    It calls `ended` once with the flag of the end, "" if there was no error; `ended` closes or aborts the stream.
    `records` False: the connection's report is not closed, because the requests on it have their own records.
    """

    __slots__ = ("_conn", "_ended", "records")

    def __init__(self, conn: Conn, ended: Callable[[str], None], records: bool = True) -> None:
        self._conn = conn
        self._ended = ended
        self.records = records

    def __enter__(self) -> Life:
        conn = self._conn
        conn.context.conns[conn.id] = conn
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        conn = self._conn
        flag, detail = self._outcome(error)
        del conn.context.conns[conn.id]
        self._ended(flag)
        if self.records and not conn.report.closed:
            conn.report.close(flag, detail)
        return isinstance(error, Exception)

    def _outcome(self, error: BaseException | None) -> tuple[str, str]:
        """Return the flag and the detail of the end."""
        conn = self._conn
        if error is None:
            return (conn.verdict or "drained") if conn.scope.cancelled_caught else "", ""
        if isinstance(error, Refused):
            if self.records:
                note_refusal(conn.report.record, error)
            return error.flag, error.detail
        if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
            return "client-gone", str(error)
        if isinstance(error, OSError):
            return "client-gone", error.strerror or str(error)
        if isinstance(error, Exception):
            log.error("%r", conn, exc_info=error)
            return "internal", ""
        return "drained", ""  # cancelled from outside: the workload is gone, or the daemon stops


def note_refusal(record: Record, refused: Refused) -> None:
    """Note the id of a refusal (another node's id if that node refused) and the workload that the refusal protected."""
    record.id = refused.request_id or record.id or new_id()
    if refused.trial or refused.flag == "denied":
        record.trial = refused.trial
    if refused.protected is not None:
        record.destination = refused.protected
