"""The compiled fast path, seen from Python: it repeats what the slow path decided, and hands back the rest.

path.py       the fast path as the rest of the data plane sees it, made of the parts below
lease.py      an HTTP exchange lends its connection and resumes from what comes back
callers.py    lent connections of callers, and the tasks that wait for them
streams.py    calls of which the fast path carries one end, or both, as an HTTP/2 stream
relays.py     opaque bytes between two sockets, or between a socket and a tunnel
records.py    records of what was served and refused
flows.py      what was learned: where the requests of a caller may go, and the responses of refusals
sights.py     what decisions look at in a request, as the fast path compares it
changes.py    filters that the fast path applies itself
links.py      HTTP/2 connections that the fast path carries, and the targets they lead to
transport.py  one HTTP/2 connection that the fast path reads and writes
tls.py        TLS connections between nodes that the fast path owns
handback.py   the fast path's view of a request, as values of the slow path
engine.py     the native object, its running task, and the numbers of what was lent
loop.py       when the fast path runs within the event loop
"""

from __future__ import annotations

from nodeproxy.context import Conn, Context
from nodeproxy.interfaces import FastPath, NoFastPath
from nodeproxy.native import AVAILABLE
from nodeproxy.telemetry.counts import CountSink


def fast_path(context: Context, counted: CountSink | None = None, logging: bool = False) -> FastPath[Conn]:
    """Return the fast path of a proxy. Where the native code was not compiled, it does nothing.

    `counted`: receives the counts while `logging` is off; None: every request makes a record, as while `logging` is on.
    """
    if not AVAILABLE:
        return NoFastPath()
    from nodeproxy.fastpath.path import NativePath  # needs the compiled module

    return NativePath(context, counted, logging)
