"""From an endpoint to a connected stream: in the server's own namespace if it runs here, else for the caller."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import trio
from trio.abc import HalfCloseableStream

from nodeproxy.context import Conn
from nodeproxy.errors import Refused
from nodeproxy.housekeeping import PASSING
from nodeproxy.interfaces import Pick
from nodeproxy.routing.source import caller_address, forwarded_for, shown_to
from policy.model import Endpoint, Workload

T = TypeVar("T")

ATTEMPTS = 3  # endpoints that are tried before the caller learns that none answers
_PORTS_TRIED = 16  # at random: if half of them are in use, one call in 65536 finds no free port


async def or_another(
    pick: Pick, again: Callable[[Collection[Endpoint]], Pick], connect: Callable[[Pick], Awaitable[T]]
) -> tuple[T, Pick]:
    """Connect to the picked endpoint, and to others if it does not answer.

    Nothing was sent yet, so any call may try another. `again` decides anew, without the endpoints that were tried.
    Raise Refused: the failure of the last one that was tried.
    """
    tried: list[Endpoint] = []
    while True:
        try:
            return await connect(pick), pick
        except Refused as refused:
            tried.append(pick.endpoint)
            if len(tried) >= ATTEMPTS:
                raise
            try:
                pick = again(tried)
            except Refused as newer:
                # If no other endpoint is left, the last failure is reported. If policy has changed meanwhile, that is
                # reported.
                raise (refused if newer.flag in ("no-endpoint", "connect-failed") else newer) from None


async def dial(conn: Conn, pick: Pick) -> HalfCloseableStream:
    """Connect to the picked endpoint: through a tunnel if it is on another node.

    Raise Refused "connect-failed", "connect-timeout", "rate-limited", or the failure of the tunnel. The outcome is noted in `live`.
    """
    context = conn.context
    endpoint = pick.endpoint
    if pick.hop is not None:
        caller = shown_to(conn, endpoint) or forwarded_for(conn)
        try:
            stream = await context.peers.tunnel(
                conn.workload, pick, pick.hop, (caller, conn.peer[1]), conn.report.record
            )
        except Refused as refused:
            if refused.flag in _UNREACHED:
                context.failed(endpoint)
            raise
        context.live.connected(endpoint)
        return stream
    if pick.bounds and (full := context.rates.connection(endpoint, pick.bounds, trio.current_time())) is not None:
        raise Refused("rate-limited", f"{full.name}, rateLimit.local.tcp", pick.workload)
    family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
    try:
        if pick.local and pick.workload is not None:
            raw = context.sockets.towards(pick.workload, caller_address(conn, family), family)
        else:
            raw = context.sockets.outwards(conn.workload, family)
    except OSError as error:
        raise Refused(
            "connect-failed", f"{endpoint}: no socket in the workload's namespace: {error.strerror or error}"
        ) from error
    if not context.spares(raw.fileno()):
        raw.close()
        raise Refused("too-many-connections", f"{endpoint}: descriptors run short on this node")
    sock = trio.socket.from_stdlib_socket(raw)
    seconds = _connect_timeout(pick) or context.limits.connect_timeout
    try:
        with trio.move_on_after(seconds):
            try:
                await sock.connect((endpoint.address, endpoint.port))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL or not pick.local or pick.workload is None:
                    raise
                sock.close()
                sock = await _from_a_used_port(conn, pick.workload, endpoint, family)
            context.live.connected(endpoint)
            return trio.SocketStream(sock)
    except OSError as error:
        sock.close()
        if error.errno not in PASSING:  # a lack of resources here is not the endpoint's fault
            context.failed(endpoint)
        # trio's own message repeats the address.
        why = os.strerror(error.errno) if error.errno else str(error)
        raise Refused("connect-failed", f"{endpoint}: {why}") from error
    except BaseException:
        sock.close()
        raise
    sock.close()
    context.failed(endpoint)
    raise Refused("connect-timeout", f"{endpoint}: no answer in {seconds:g} s")


def _connect_timeout(pick: Pick) -> float | None:
    """Return the timeout that the Service has for one attempt to connect; the shortest if several lead to the server."""
    bounds = pick.bounds if pick.upstream is None else (pick.upstream,)
    return min((one.connect_timeout for one in bounds if one.connect_timeout is not None), default=None)


async def _from_a_used_port(conn: Conn, workload: Workload, endpoint: Endpoint, family: int) -> trio.socket.SocketType:
    """Connect from a port in TIME_WAIT, for use if the server's namespace has no free port for this caller and
    endpoint.

    Each connection that the caller ends first leaves such a port there for a minute; without edgemesh it would be in
    the caller's namespace. Raise OSError, EADDRNOTAVAIL if no port was found.
    """
    for _ in range(_PORTS_TRIED):
        try:
            raw = conn.context.sockets.towards(workload, caller_address(conn, family), family, reuse=True)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # another socket listens there, or calls from it
                raise
            continue
        sock = trio.socket.from_stdlib_socket(raw)
        try:
            await sock.connect((endpoint.address, endpoint.port))
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRNOTAVAIL:  # the port has a live connection
                raise
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


# Refusals that say something about the endpoint, and not about the caller.
_UNREACHED = frozenset(
    (
        "connect-failed",
        "connect-timeout",
        "node-unreachable",
        "peer-lost",
        "tls-failed",
        "peer-expired",
        "peer-untrusted",
        "peer-unexpected",
    )
)
