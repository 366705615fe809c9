"""Accept connections: one task for each listening socket, and one task and one scope for each connection.

Every connection ends in one place (protocols/lifetime.py): the report is closed once, with one flag. The stream is
closed, or aborted if it did not end well.
"""

from __future__ import annotations

import errno
import logging
import select
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from nodeproxy.capture import original_destination
from nodeproxy.context import Conn, Context
from nodeproxy.errors import Refused
from nodeproxy.limits import Gate
from nodeproxy.protocols.lifetime import Life
from nodeproxy.stream import Peeked, abort, close_now
from nodeproxy.telemetry.record import Record, Report
from policy.model import Workload

log = logging.getLogger("edgemesh.listen")

Door = Callable[[Conn], Awaitable[None]]
# How a connection arrives. The kernel redirects it to the first two listeners; other nodes dial the tunnel listener
# directly, and callers outside the mesh the listeners of Gateways.
Way = Literal["outbound", "inbound", "tunnel", "gateway"]

# The listening socket itself is unusable. Other errors are temporary: descriptors or memory run out, or the kernel
# cannot watch more files (ENOSPC).
_UNUSABLE = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP})
# Faults of one connection that is already gone when it is accepted (accept(2), "Error handling").
_GONE_ERRNOS = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
_LONGEST_DEBT = 1.0  # seconds that a listener waits before it checks the debt again
_WARY = 10.0  # seconds after a debt in which connections that ended in the queue are dropped
_QUIET = 60.0  # seconds between two log lines about one listener that cannot accept


async def accept_forever(
    listener: trio.socket.SocketType,
    context: Context,
    workload: Workload,
    way: Way,
    door: Door,
    gate: Gate,
    nursery: trio.Nursery,
) -> None:
    """Accept connections for `workload` and start one task for each in `nursery`.

    It ends by cancellation, or if the socket is unusable. `gate` counts the connections from here on; at a tunnel
    listener, only after the peer has proved its identity (hbone.py).
    """
    told = -_QUIET
    wary = 0.0  # until then, a caller that left before its turn is not served
    while True:
        # A workload whose connections too often caused work for nothing waits, without delaying other workloads.
        while way == "outbound" and gate.owner is not None and (debt := gate.owner.debt(trio.current_time())):
            wary = trio.current_time() + _WARY
            await trio.sleep(min(debt, _LONGEST_DEBT))
        try:
            sock, peer = await listener.accept()
        except OSError as error:
            if error.errno in _UNUSABLE:
                # Raising would end the listeners of all other workloads. Without its listener this workload is closed,
                # not open.
                log.error("accept for %s: %s; this door takes no more connections", workload.key, error.strerror)
                return
            if error.errno not in _GONE_ERRNOS:
                if trio.current_time() - told >= _QUIET:
                    told = trio.current_time()
                    log.warning("accept for %s: %s; it is tried again every 0.1 s", workload.key, error.strerror)
                await trio.sleep(0.1)
            continue
        stream = trio.SocketStream(sock)
        if wary > trio.current_time() and _has_gone(sock):
            abort(stream)
            continue
        proves = way == "tunnel"
        counts = gate.reserve if gate.reserve is not None and peer[0] in context.sockets.probers() else gate
        if not proves and not counts.enter():
            abort(stream)
            _record_turned_away(context, workload, way, peer[0], f"{counts.full} are open")
            continue
        if proves and not context.anteroom.admits(peer[0], context.snapshot.knows(peer[0]), trio.current_time()):
            abort(stream)  # without a record: every connection that began has one
            continue
        if not context.spares(sock.fileno()) or _takes_too_much(context, counts):
            if not proves:
                counts.leave()
            counts.refused += 1
            abort(stream)
            _record_turned_away(
                context, workload, way, peer[0], "descriptors run short, and this door has more than its share"
            )
            continue
        nursery.start_soon(_own, context, stream, workload, way, (peer[0], peer[1]), door, counts)


def _has_gone(sock: trio.socket.SocketType) -> bool:
    """Return whether the caller has already ended its side."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def _takes_too_much(context: Context, gate: Gate) -> bool:
    """Return whether descriptors run short while this listener holds more than its share. A quarter is reserved for the
    others.

    Otherwise, where the limit of descriptors is low, one workload within its limit could leave none to the others.
    """
    for_all = context.descriptors * 3 // 4
    if 2 * len(context.conns) + len(context.pool) < for_all:
        return False
    context.pool.close()  # idle pooled connections are expendable
    return 2 * len(context.conns) >= for_all and 2 * gate.open > for_all // (2 * max(len(context.captured), 1))


async def _own(
    context: Context,
    stream: trio.SocketStream,
    workload: Workload,
    way: Way,
    peer: tuple[str, int],
    door: Door,
    gate: Gate,
) -> None:
    """Serve one connection until it ends."""

    def ended(flag: str) -> None:
        if way != "tunnel":
            gate.leave()
        if flag:
            abort(stream)
        else:
            close_now(stream)

    try:
        # The workload's definition may have changed since its listeners were opened; its key has not.
        now = context.snapshot.workload(workload.key) or workload
        dialled, redirected = aimed_at(stream) if way != "gateway" else (_own_address(stream), True)
        conn = Conn(
            context,
            Peeked(stream),
            now,
            "outbound" if way == "outbound" else "inbound",
            peer,
            dialled,
            time.time(),
            report=_report_of_nobody(context, peer, dialled) if way == "gateway" else None,
            gate=gate,
        )
    except Exception as error:
        ended("internal")
        if not isinstance(error, OSError):  # otherwise the caller has already left, and there is nothing to record
            log.exception("accept for %s", workload.key)
        return
    with Life(conn, ended), conn.scope:
        if redirected == (way == "tunnel"):
            raise Refused("own-port", f"{dialled[0]}:{dialled[1]}")
        await door(conn)


def _record_turned_away(context: Context, workload: Workload, way: Way, address: str, why: str) -> None:
    """Record a connection over the workload's limit. It costs no more than this: the kernel is not asked about it."""
    source, destination = (workload, None) if way == "outbound" else (None, workload if way != "gateway" else None)
    direction: Literal["outbound", "inbound"] = "outbound" if way == "outbound" else "inbound"
    record = Record.of_connection(direction, time.time(), source, address, destination, "")
    Report(context.sink, record).close("too-many-connections", why)


def _report_of_nobody(context: Context, peer: tuple[str, int], dialled: tuple[str, int]) -> Report:
    """Return the report of a connection that leads to no workload yet."""
    address = f"[{dialled[0]}]" if ":" in dialled[0] else dialled[0]
    record = Record.of_connection("inbound", time.time(), None, peer[0], None, f"{address}:{dialled[1]}")
    return Report(context.sink, record)


def _own_address(stream: trio.SocketStream) -> tuple[str, int]:
    own = stream.socket.getsockname()
    return own[0], own[1]


def aimed_at(stream: trio.SocketStream) -> tuple[tuple[str, int], bool]:
    """Return the address that the caller dialled, and whether the kernel redirected it.

    If not, the caller dialled the listener itself.
    """
    sock = stream.socket
    own = sock.getsockname()
    try:
        dialled = original_destination(sock)  # type: ignore[arg-type]  # trio's socket has the same getsockopt and family
    except OSError:
        return (own[0], own[1]), False  # not in conntrack
    return dialled, dialled != (own[0], own[1])
