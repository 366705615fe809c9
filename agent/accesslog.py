"""Access log: one JSON line on standard output for each connection and each request, bounded, and never waited for.

Theory of operation. The log is a sink that the proxy calls in its one loop, so it must not block: whoever reads our standard
output may be slow, stopped or gone. A line is written only when the descriptor takes it at once; what it does not take whole is
kept and goes first next time, and while anything is kept, lines are dropped and counted. A token bucket bounds the rate, so that
a flood of refused connections fills no disk. A line `{"kind":"suppressed","lines":N}` says what is missing.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Literal

import msgspec
import trio

from nodeproxy.errors import FLAGS
from nodeproxy.telemetry.report import Record

Mode = Literal["off", "denied", "all"]

RATE = 1000.0  # lines a second, in the long run
BURST = 2000.0
_LONGEST = 1024  # characters of a path or a detail; the whole line then fits a journald entry many times
_TICK = 1.0  # seconds between attempts to write what is held

# A denial is an answer of policy, not a failure: these statuses are used for nothing else in FLAGS.
DENIALS = frozenset(flag for flag, row in FLAGS.items() if row.status in (403, 421))

Write = Callable[[bytes], int]


def unblocking(descriptor: int) -> Write:
    """A function that writes what `descriptor` takes at once and answers how many bytes that was: 0 when it is full.

    The descriptor itself stays as it is: O_NONBLOCK belongs to the open file, which we share with whoever started us.
    Raises OSError when nobody will ever read (EPIPE).
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> int:
        # What polls writable takes PIPE_BUF bytes without blocking: a pipe by definition (pipe(7)), the Unix socket that
        # systemd-journald gives to services because at least three quarters of its buffer are free then.
        if not poll.poll(0):
            return 0
        return os.write(descriptor, data[: select.PIPE_BUF])

    return write


class AccessLog:
    """A sink. `mode` may be changed at any time."""

    def __init__(
        self, mode: Mode, write: Write, rate: float = RATE, burst: float = BURST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.mode = mode
        self.suppressed = 0  # lines not written since the last one that was
        self.suppressed_total = 0
        self._write = write
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._clock = clock
        self._filled = clock()
        self._held = b""  # the rest of what was taken in part
        self._gone = False  # nobody will ever read
        self._encoder = msgspec.json.Encoder()

    def __repr__(self) -> str:
        return f"<AccessLog {self.mode}, {self.suppressed_total} lines suppressed>"

    def __call__(self, record: Record) -> None:
        if self.mode == "off" or (self.mode == "denied" and record.flag not in DENIALS):
            return
        if not self._admits() or not self._flush():
            self.suppressed += 1
            self.suppressed_total += 1
            return
        self._push(self._encoder.encode(line(record)) + b"\n")

    async def run(self) -> None:
        """Write what is held, and what is missing, also when no further record comes."""
        while True:
            await trio.sleep(_TICK)
            self._flush()

    def _admits(self) -> bool:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _flush(self) -> bool:
        """Write what is held, then what is missing. True when nothing is held any more."""
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
        except BlockingIOError:
            pass
        except OSError:
            self._gone = True
            data = b""
        self._held = data


def line(record: Record) -> dict[str, object]:
    """What a record says in the log. JSON escapes control characters; no field value and no query string is ever in it."""
    return {
        "time": _time(record.started),
        "kind": record.kind,
        "direction": record.direction,
        "source": record.source.key if record.source else "",
        "source_address": record.source_address,
        "destination": record.destination.key if record.destination else "",
        "service": record.service,
        "dialled": record.dialled,
        "endpoint": record.endpoint,
        "protocol": record.protocol,
        "method": record.method[:_LONGEST],
        "path": record.path.partition("?")[0][:_LONGEST],
        "status": record.status,
        "flag": record.flag,
        "detail": record.detail[:_LONGEST],
        "rule": record.rule,
        "id": record.id,
        "host": record.host[:_LONGEST],
        "tls_peer": record.tls_peer,
        "tls_version": record.tls_version,
        "tls_cipher": record.tls_cipher,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "duration_ms": round(record.duration * 1000, 3),
    }


def _time(seconds: float) -> str:
    """RFC 3339, UTC, in milliseconds."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"
