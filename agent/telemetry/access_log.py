"""Access log: one JSON line on standard output for each connection and request, bounded, and never blocking.

Theory of operation. The log is a sink that the proxy calls in its one loop, so it must not block: the reader of our
standard output may be slow, stopped or gone. A line is written only when the descriptor takes it at once. The rest of a
line taken in part is kept and written first next time; while a rest is kept, lines are dropped and counted. Token
buckets bound the rate, so that a flood of refused connections fills no disk. Each caller has a small share of its own
(fair_share.py), which no other caller's flood takes. A line `{"kind":"suppressed","lines":N}` says how many lines are
missing.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Collection
from typing import Literal

import msgspec
import trio

from agent.config.schema import NodeConfig
from agent.telemetry.fair_share import Shares, whose
from agent.telemetry.sink import Figures, Sink
from nodeproxy.errors import FLAGS
from nodeproxy.housekeeping import PASSING
from nodeproxy.telemetry.record import Record

Mode = Literal["off", "denied", "failed", "all"]  # "failed": also our own failures, which callers see as 5xx

RATE = 1000.0  # lines a second, in the long run
BURST = 2000.0
_LONGEST = 1024  # characters of a path or a detail; the whole line then fits a journald entry many times
_TICK = 1.0  # seconds between attempts to write what is held

# A denial is a response of policy, not a failure: FLAGS uses these statuses for nothing else.
DENIALS = frozenset(flag for flag, row in FLAGS.items() if row.status in (403, 421))
# Not "drained", the end of a daemon that stops: it is logged once, and is no trouble of its callers.
FAILURES = frozenset(flag for flag, row in FLAGS.items() if row.status >= 500 and flag != "drained")
_WRITTEN = {"off": frozenset[str](), "denied": DENIALS, "failed": DENIALS | FAILURES}

Write = Callable[[bytes], int]


def unblocking(descriptor: int) -> Write:
    """Return a function that writes what `descriptor` takes at once and returns the number of bytes: 0 when it is full.

    The descriptor itself stays as it is: O_NONBLOCK belongs to the open file, which we share with the process that
    started us. That function raises OSError when the reader is gone for ever (EPIPE).
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> int:
        # A descriptor that polls writable takes PIPE_BUF bytes without blocking: a pipe by definition (pipe(7)), the
        # Unix socket that systemd-journald gives to services because at least three quarters of its buffer are free
        # then.
        if not poll.poll(0):
            return 0
        return os.write(descriptor, data[: select.PIPE_BUF])

    return write


class AccessLog(Sink):
    """The access log as a sink. `mode` may be changed at any time."""

    name = "the access log"

    def __init__(
        self,
        mode: Mode,
        write: Write,
        rate: float = RATE,
        burst: float = BURST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode = mode
        self.suppressed = 0  # lines not written since the last one that was
        self.suppressed_total = 0
        self._write = write
        self._shares = Shares(rate, burst, clock)
        self._held = b""  # the rest of a line that was taken in part
        self._gone = False  # the reader is gone for ever
        self._encoder = msgspec.json.Encoder()

    def __repr__(self) -> str:
        return f"<AccessLog {self.mode}, {self.suppressed_total} lines suppressed>"

    @classmethod
    def of(cls, config: NodeConfig, figures: Figures) -> AccessLog:
        """Return one that writes to standard output."""
        return cls(config.access_log, unblocking(sys.stdout.fileno()))

    @property
    def every(self) -> bool:
        return self.mode == "all"

    def follow(self, config: NodeConfig, workloads: Collection[str]) -> None:
        self.mode = config.access_log

    def __call__(self, record: Record) -> None:
        if self.mode != "all" and record.flag not in _WRITTEN[self.mode] and not (record.trial and self.mode != "off"):
            return
        if not self._shares.take(whose(record)) or not self._flush():
            self.suppressed += 1
            self.suppressed_total += 1
            return
        self._push(self._encoder.encode(line(record)) + b"\n")

    async def run(self) -> None:
        """Write the rest of a line and the count of missing lines even when no further record comes."""
        while True:
            await trio.sleep(_TICK)
            self._flush()

    def _flush(self) -> bool:
        """Write what is held, then the count of missing lines. Return whether nothing is held any more."""
        self._push(b"")
        if not self._held and self.suppressed and not self._gone:
            suppressed, self.suppressed = self.suppressed, 0
            missing = {"time": _time(time.time()), "kind": "suppressed", "lines": suppressed}
            self._push(self._encoder.encode(missing) + b"\n")
        return not self._held and not self._gone

    def _push(self, more: bytes) -> None:
        data = self._held + more
        try:
            while data and (taken := self._write(data)):
                data = data[taken:]
        except OSError as error:
            if error.errno not in PASSING:  # the reader is gone for ever
                self._gone = True
                data = b""
        self._held = data


def line(record: Record) -> dict[str, object]:
    """Return a record as a log line. JSON escapes control characters; no field value or query string is ever in it."""
    return {
        "time": _time(record.started),  # when it began: RFC 3339, UTC, in milliseconds
        "kind": record.kind,
        "direction": record.direction,
        "source": record.source.key if record.source else "",  # the caller, NAMESPACE/NAME; "": it proved no identity
        "source_address": record.source_address,
        "nat_address": record.nat_address,
        # the workload that was chosen, NAMESPACE/NAME; "": none of the mesh
        "destination": record.destination.key if record.destination else "",
        "service": record.service,
        "dialled": record.dialled,
        "endpoint": record.endpoint,
        "protocol": record.protocol,
        "method": record.method[:_LONGEST],
        "path": record.path.partition("?")[0][:_LONGEST],  # without its query string
        "status": record.status,
        "flag": record.flag,
        "detail": record.detail[:_LONGEST],
        "rule": record.rule,
        # the TrafficTarget with annotation edgemesh.io/dry-run that would change the verdict: of a refused call the one that would
        # allow it, of an allowed one the one that alone allows it; "": none
        "dry_run": record.trial,
        "id": record.id,
        "trace": record.trace,
        "host": record.host[:_LONGEST],
        "tls_peer": record.tls_peer,
        "tls_version": record.tls_version,
        "tls_cipher": record.tls_cipher,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "duration_ms": round(record.duration * 1000, 3),  # from its beginning to its end, in milliseconds
    }


def _time(seconds: float) -> str:
    """Return RFC 3339, UTC, in milliseconds."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"
