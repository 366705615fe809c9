"""Connections of one identity to one place: those that are up, the current attempt, and back-off after failures."""

from __future__ import annotations

import os
import random
import socket

import trio

from nodeproxy.backoff import Backoff
from nodeproxy.context import GATE, Context
from nodeproxy.errors import Refused
from nodeproxy.mesh.connection import Link
from policy.model import Hop, Workload

FIRST_REST, LONGEST_REST = 0.1, 30.0  # seconds
_REST = Backoff(FIRST_REST, LONGEST_REST, 0.75, 1.25)
_UNACKED = 30_000  # milliseconds that sent bytes may wait for their ACK


class Attempt:
    """One try to connect, which several callers wait for."""

    __slots__ = ("_done", "_failure")

    def __init__(self) -> None:
        self._done = trio.Event()
        self._failure: Refused | None = None

    def finish(self, failure: Refused | None) -> None:
        self._failure = failure
        self._done.set()

    async def outcome(self, hop: Hop) -> None:
        """Wait for the attempt. Raise Refused if it failed."""
        await self._done.wait()
        if self._failure is not None:
            raise Refused(self._failure.flag, f"{hop}: {self._failure.detail}")


class HostPool:
    """The connections of one identity to one place. Times are seconds of trio's clock."""

    __slots__ = ("_failure", "attempt", "failures", "links", "until")

    def __init__(self) -> None:
        self.links: list[Link] = []  # whose SETTINGS came, in the order of their making
        self.attempt: Attempt | None = None
        self.failures = 0  # in a row
        self.until = 0.0  # when the next attempt is allowed
        self._failure: Refused | None = None

    def __repr__(self) -> str:
        return f"<HostPool {len(self.links)} connections, {self.failures} failures>"

    def succeeded(self, link: Link) -> None:
        self.links.append(link)
        self.failures, self._failure = 0, None
        self._finish(None)

    def failed(self, failure: Refused, chance: random.Random) -> None:
        """Note a failed attempt: exponential back-off with jitter, so that nodes do not reconnect together."""
        self.failures += 1
        self.until = trio.current_time() + _REST.after(self.failures, chance.random())
        self._failure = failure
        self._finish(failure)

    def came_to_nothing(self) -> bool:
        """Return whether the last attempt succeeded and the other end closed the connection at once."""
        return self.attempt is None and all(link.ending for link in self.links)

    def _finish(self, failure: Refused | None) -> None:
        if self.attempt is not None:
            self.attempt.finish(failure)
            self.attempt = None

    def resting(self, hop: Hop) -> Refused:
        """Return the refusal for callers during back-off."""
        assert self._failure is not None, "nothing has failed"
        left = self.until - trio.current_time()
        when = f"tried again in {left:.1f} s" if left > 0 else "being tried again now"
        return Refused(self._failure.flag, f"{hop}: {self._failure.detail}; {when}")


async def connect(context: Context, workload: Workload, hop: Hop) -> trio.SocketStream:
    """Make a TCP connection for a hop: from the node, or from the workload's namespace to a workload's own listener.

    Raise Refused.
    """
    family = socket.AF_INET6 if ":" in hop.address else socket.AF_INET
    try:
        ours = hop.node or workload.key == GATE.key
        raw = context.sockets.from_node(family) if ours else context.sockets.outwards(workload, family)
    except OSError as error:
        raise Refused("node-unreachable", f"no socket: {error.strerror or error}") from error
    if not context.spares(raw.fileno()):
        raw.close()
        raise Refused("too-many-connections", "descriptors run short on this node")
    sock = trio.socket.from_stdlib_socket(raw)
    try:
        await sock.connect((hop.address, hop.port))
        stream = trio.SocketStream(sock)
        outlive_no_silence(stream)
        return stream
    except OSError as error:
        sock.close()
        # trio's own message names the address once more.
        raise Refused("node-unreachable", os.strerror(error.errno) if error.errno else str(error)) from error
    except BaseException:
        sock.close()
        raise


def outlive_no_silence(stream: trio.SocketStream) -> None:
    """End the connection when sent bytes get no ACK for too long (tcp(7), TCP_USER_TIMEOUT): half-open ones die."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKED)
