"""Accept, own, close: one task and one scope for each connection; the only place that catches for a connection.

Theory of operation: each listening socket has one accepting task. A connection's own task enters it in `context.conns` before
anything is decided (so that publish() finds it), runs its door inside the connection's scope, and whatever happens leaves by one
exit: the report is closed once, with one flag, and the stream is closed, or aborted when it did not end well.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from nodeproxy.capture import original_destination
from nodeproxy.context import Conn, Context
from nodeproxy.errors import Refused
from nodeproxy.limits import Gate
from nodeproxy.stream import Peeked, abort, close_now
from nodeproxy.telemetry.report import Record, Report, new_id
from policy.model import Workload

log = logging.getLogger("edgemesh.listen")

Door = Callable[[Conn], Awaitable[None]]
# How a connection comes in. To the first two the kernel redirects it; the tunnel door is dialled itself.
Way = Literal["outbound", "inbound", "tunnel"]

# Out of descriptors or memory: the next accept may work. Any other error means that the listening socket itself is unusable.
_PASSING_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# Faults of one connection that is already gone when it is accepted (accept(2), "Error handling").
_GONE_ERRNOS = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH})


async def accept_forever(
    listener: trio.socket.SocketType, context: Context, workload: Workload, way: Way, door: Door, gate: Gate, nursery: trio.Nursery
) -> None:
    """Accept connections for `workload` and start one task for each in `nursery`. Ends by cancellation, or when the socket is unusable."""
    while True:
        try:
            sock, peer = await listener.accept()
        except OSError as error:
            if error.errno in _PASSING_ERRNOS:
                log.warning("accept for %s: %s; trying again in 0.1 s", workload.key, error.strerror)
                await trio.sleep(0.1)
                continue
            if error.errno in _GONE_ERRNOS:
                continue
            # Raising would take the doors of all other workloads with it. Without its door this one is closed, not open.
            log.error("accept for %s: %s; this door takes no more connections", workload.key, error.strerror)
            return
        stream = trio.SocketStream(sock)
        if not gate.enter():
            abort(stream)
            _record_turned_away(context, workload, way, peer[0], f"{context.limits.connections} are open")
            continue
        if _takes_too_much(context, gate):
            gate.leave()
            gate.refused += 1
            abort(stream)
            _record_turned_away(context, workload, way, peer[0], "descriptors run short, and this door has more than its share")
            continue
        nursery.start_soon(_own, context, stream, workload, way, (peer[0], peer[1]), door, gate)


def _takes_too_much(context: Context, gate: Gate) -> bool:
    """Do descriptors run short, and does this door hold more than its share of them? A quarter is kept for those that do not.

    Without this, one workload within its limit could leave none to the others where the limit of descriptors is low.
    """
    for_all = context.descriptors * 3 // 4
    if 2 * len(context.conns) + len(context.pool) < for_all:
        return False
    context.pool.close()  # what rests there is a convenience
    return 2 * len(context.conns) >= for_all and 2 * gate.open > for_all // (2 * max(len(context.captured), 1))


async def _own(
    context: Context, stream: trio.SocketStream, workload: Workload, way: Way, peer: tuple[str, int], door: Door, gate: Gate
) -> None:
    """The life of one connection."""
    flag, detail = "drained", ""
    conn: Conn | None = None
    try:
        # The workload's meaning may have changed since its doors were opened; its key did not.
        now = context.snapshot.workload(workload.key) or workload
        dialled, redirected = aimed_at(stream)
        conn = Conn(context, Peeked(stream), now, "outbound" if way == "outbound" else "inbound", peer, dialled, time.time())
        context.conns[conn.id] = conn
        with conn.scope:
            if redirected == (way == "tunnel"):
                raise Refused("own-port", f"{dialled[0]}:{dialled[1]}")
            await door(conn)
            flag = ""
        if conn.scope.cancelled_caught:
            flag = conn.verdict or "drained"
    except Refused as refused:
        flag, detail = refused.flag, refused.detail
        if conn is not None:
            record = conn.report.record
            record.id = record.id or refused.request_id or new_id()
            if refused.protected is not None:
                record.destination = refused.protected
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        flag, detail = "client-gone", str(error)
    except OSError as error:
        flag, detail = "client-gone", error.strerror or str(error)
    except Exception:
        flag = "internal"
        log.exception("connection %r", conn)
    finally:
        gate.leave()
        if flag:
            abort(stream)
        else:
            close_now(stream)
        if conn is not None:
            context.conns.pop(conn.id, None)
            if not conn.report.closed:
                conn.report.close(flag, detail)


def _record_turned_away(context: Context, workload: Workload, way: Way, address: str, why: str) -> None:
    """A connection over the workload's limit costs us no more than this: nothing is asked of the kernel about it."""
    record = Record(
        kind="connection",
        direction="outbound" if way == "outbound" else "inbound",
        started=time.time(),
        duration=0.0,
        source=workload if way == "outbound" else None,
        source_address=address,
        destination=None if way == "outbound" else workload,
        service="",
        dialled="",
        endpoint="",
        protocol="",
    )
    Report(context.sink, record).close("too-many-connections", why)


def aimed_at(stream: trio.SocketStream) -> tuple[tuple[str, int], bool]:
    """The address that the caller dialled, and whether it was redirected to us: if not, somebody dialled the door itself."""
    sock = stream.socket
    own = sock.getsockname()
    try:
        dialled = original_destination(sock)  # type: ignore[arg-type]  # trio's socket has the same getsockopt and family
    except OSError:
        return (own[0], own[1]), False  # not in conntrack
    return dialled, dialled != (own[0], own[1])
