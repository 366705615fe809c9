"""What each caller has under way to each Service, within the bounds that the Service has for it, and its circuit.

A call takes a place before it is sent and leaves it when it is over. A request that needs a connection while all are in
use waits for one, in order; so many may wait, and no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import trio

from nodeproxy.upstream.circuit import CircuitBreaker, State
from policy.upstream import ServiceBounds

_MOST = 4096  # shares that are remembered while nothing is under way
Key = tuple[str, str, int]  # caller's workload, Service (or the Egress), port of its servers


class Full(Exception):  # noqa: N818 - it is an answer, not a fault
    """There is no place. `args[0]` is the field that says so."""


class Open(Exception):  # noqa: N818 - it is an answer, not a fault
    """The circuit is open."""


class Share:
    """What one caller has under way to one Service."""

    __slots__ = ("bounds", "circuit", "connections", "requests", "retries", "waiting")

    def __init__(self) -> None:
        self.bounds: ServiceBounds
        self.circuit: CircuitBreaker | None = None
        self.connections = self.requests = self.retries = 0
        self.waiting: deque[trio.Event] = deque()

    def __repr__(self) -> str:
        return f"<Share {self.requests} requests, {self.connections} connections, {len(self.waiting)} wait>"

    def follow(self, bounds: ServiceBounds, now: float) -> None:
        """Apply the newest bounds. A circuit that is edited begins closed."""
        self.bounds = bounds
        self._hand_over()
        if (self.circuit.said if self.circuit is not None else None) != bounds.circuit:
            self.circuit = CircuitBreaker(bounds.circuit, now) if bounds.circuit is not None else None

    def is_idle(self, now: float) -> bool:
        under_way = self.requests or self.connections or self.waiting or self.retries
        return not under_way and (self.circuit is None or self.circuit.is_idle(now))

    def take_connection(self) -> None:
        """Raise Full if all connections are in use."""
        most = self.bounds.max_connections
        if most is not None and self.connections >= most:
            raise Full("maxConnections")
        self.connections += 1

    async def wait_for_connection(self) -> None:
        """Wait until a connection is free. Raise Full if too many wait."""
        most = self.bounds.max_connections
        if most is None or (self.connections < most and not self.waiting):
            self.connections += 1
            return
        if self.bounds.max_pending is not None and len(self.waiting) >= self.bounds.max_pending:
            raise Full("maxPendingRequests")
        event = trio.Event()
        self.waiting.append(event)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self.leave_connection()  # it was handed over just now
            else:
                self.waiting.remove(event)
            raise

    def leave_connection(self) -> None:
        """Give the connection to the request that has waited longest, if the bounds have room for it."""
        self.connections -= 1
        self._hand_over()

    def _hand_over(self) -> None:
        most = self.bounds.max_connections
        while self.waiting and (most is None or self.connections < most):
            self.connections += 1
            self.waiting.popleft().set()


class Place:
    """The place of one request. Its outcomes are told to the circuit."""

    __slots__ = ("_circuit", "_connection", "_left", "_retries", "_sent", "_share", "_told", "_trial")

    def __init__(self, share: Share, circuit: CircuitBreaker | None, trial: bool) -> None:
        self._share = share
        self._circuit = circuit
        self._trial = trial
        self._connection = self._left = self._retries = False
        self._told = True  # nothing was sent
        self._sent = 0.0
        share.requests += 1

    def __repr__(self) -> str:
        return f"<Place in {self._share!r}>"

    async def connect(self) -> None:
        """Wait for a connection. Raise Full."""
        await self._share.wait_for_connection()
        self._connection = True

    def sent(self, now: float) -> None:
        self._sent = now
        self._told = False

    def outcome(self, failed: bool, now: float) -> None:
        """Tell the outcome of what was sent, once."""
        if self._circuit is not None and not self._told:
            self._circuit.ended(failed, now - self._sent, self._trial, now)
            self._trial = False
        self._told = True

    def may_retry(self) -> bool:
        """Return whether the request may be sent again."""
        most = self._share.bounds.max_retries
        return self._retries or most is None or self._share.retries < most

    def retry(self) -> None:
        """The request is sent again, until it is over."""
        if not self._retries:
            self._retries = True
            self._share.retries += 1

    def leave(self) -> None:
        if self._left:
            return
        self._left = True
        self._share.requests -= 1
        self._share.retries -= self._retries
        if self._connection:
            self._share.leave_connection()
        if self._circuit is not None:
            self._circuit.abandoned(self._trial)


class Shares:
    """The shares of all callers of this node."""

    def __init__(self) -> None:
        self._shares: dict[Key, Share] = {}

    def __repr__(self) -> str:
        return f"<Shares of {len(self._shares)} callers and Services>"

    def share(self, key: Key, bounds: ServiceBounds, now: float) -> Share:
        share = self._shares.get(key)
        if share is None:
            if len(self._shares) >= _MOST:
                for idle in [one for one, held in self._shares.items() if held.is_idle(now)]:
                    del self._shares[idle]
            share = self._shares[key] = Share()
        share.follow(bounds, now)
        return share

    def enter(self, key: Key, bounds: ServiceBounds, now: float) -> Place:
        """Take a place for a request. Raise Full, or Open."""
        share = self.share(key, bounds, now)
        if bounds.max_requests is not None and share.requests >= bounds.max_requests:
            raise Full("maxRequests")
        circuit = share.circuit
        if circuit is not None and not circuit.admits(now):
            raise Open
        return Place(share, circuit, circuit is not None and circuit.half_open)

    @property
    def under_way(self) -> int:
        """The number of requests and connections that hold a place, or wait for one."""
        return sum(one.requests + one.connections + one.retries + len(one.waiting) for one in self._shares.values())

    def circuits(self) -> Iterator[tuple[Key, str, State]]:
        """Yield each circuit that is not closed: whose it is, the object that says it, and its state."""
        for key, share in self._shares.items():
            if share.circuit is not None and share.circuit.state != "closed":
                yield key, share.bounds.name, share.circuit.state
