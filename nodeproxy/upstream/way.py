"""A way to another node for one identity: its connections, attempts to make one, and the rest after those that failed."""

from __future__ import annotations

import os
import random
import socket

import trio

from nodeproxy.context import Context
from nodeproxy.errors import Refused
from nodeproxy.peer import Link
from policy.model import Hop, Workload

FIRST_REST, LONGEST_REST = 0.1, 30.0  # seconds
_UNACKED = 30_000  # milliseconds that what we sent may wait for its ACK


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
        """Wait for it. Raises Refused when it failed."""
        await self._done.wait()
        if self._failure is not None:
            raise Refused(self._failure.flag, f"{hop}: {self._failure.detail}")


class Way:
    """What is known of one way. Times are seconds of trio's clock."""

    __slots__ = ("_failure", "attempt", "failures", "links", "until")

    def __init__(self) -> None:
        self.links: list[Link] = []  # with their SETTINGS seen, in the order that they were made
        self.attempt: Attempt | None = None
        self.failures = 0  # in a row
        self.until = 0.0  # when it may be tried again
        self._failure: Refused | None = None

    def __repr__(self) -> str:
        return f"<Way {len(self.links)} connections, {self.failures} failures>"

    def succeeded(self, link: Link) -> None:
        self.links.append(link)
        self.failures, self._failure = 0, None
        self._finish(None)

    def failed(self, failure: Refused, chance: random.Random) -> None:
        """It rests now: twice as long as after the failure before, give or take a quarter, so that nodes do not come all at once."""
        self.until = trio.current_time() + min(FIRST_REST * 2.0**self.failures, LONGEST_REST) * chance.uniform(0.75, 1.25)
        self.failures = min(self.failures + 1, 30)
        self._failure = failure
        self._finish(failure)

    def came_to_nothing(self) -> bool:
        """The last attempt succeeded, and whoever answered it ended the connection at once."""
        return self.attempt is None and all(link.ending for link in self.links)

    def _finish(self, failure: Refused | None) -> None:
        if self.attempt is not None:
            self.attempt.finish(failure)
            self.attempt = None

    def resting(self, hop: Hop) -> Refused:
        """What a caller is told meanwhile."""
        assert self._failure is not None, "nothing has failed"
        left = self.until - trio.current_time()
        when = f"tried again in {left:.1f} s" if left > 0 else "being tried again now"
        return Refused(self._failure.flag, f"{hop}: {self._failure.detail}; {when}")


async def connect(context: Context, workload: Workload, hop: Hop) -> trio.SocketStream:
    """A TCP connection to where a hop is: from the node, or from the workload's namespace to a workload's own door. Raises Refused."""
    family = socket.AF_INET6 if ":" in hop.address else socket.AF_INET
    try:
        raw = context.sockets.from_node(family) if hop.node else context.sockets.outwards(workload, family)
    except OSError as error:
        raise Refused("connect-failed", f"no socket: {error.strerror or error}") from error
    sock = trio.socket.from_stdlib_socket(raw)
    try:
        await sock.connect((hop.address, hop.port))
        stream = trio.SocketStream(sock)
        outlive_no_silence(stream)
        return stream
    except OSError as error:
        sock.close()
        # trio's own words name the address once more.
        raise Refused("connect-failed", os.strerror(error.errno) if error.errno else str(error)) from error
    except BaseException:
        sock.close()
        raise


def outlive_no_silence(stream: trio.SocketStream) -> None:
    """What was sent and is not acknowledged for too long ends the connection (tcp(7), TCP_USER_TIMEOUT): half-open ones die."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKED)
