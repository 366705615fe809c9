"""ServiceBounds: what bounds the calls to one Service, beside who may make them.

Rates hold at the node of the server, for each of its workloads and for all callers together. Everything else holds at
the node of the caller, for each calling workload by itself: a caller that fails or floods takes nothing from others.
"""

from __future__ import annotations

from msgspec import Struct

from policy.route import HttpMatch


class Rate(Struct, frozen=True):
    """A token bucket: `most` at once, and `each` new ones a second."""

    most: float
    each: float


class RequestRate(Struct, frozen=True):
    """How often requests may come, and the response to those that come too often."""

    rate: Rate
    match: HttpMatch | None = None  # the requests that it counts; None: all
    status: int = 429
    fields: tuple[tuple[str, str], ...] = ()  # that the response has; names are in lower case
    name: str = ""  # where it is said: "httpRoutes[0]"


class Circuit(Struct, frozen=True):
    """When calls are no longer sent because too many failed or were slow. Times are in seconds; 0: there is no such bound."""

    window: float  # requests are counted that long, then from 0 again
    least: int  # requests that have to be counted before a ratio or amount counts
    rest: float  # for that long no request is sent; then one is, and decides
    errors: int = 0
    error_ratio: float = 0.0
    slow: float = 0.0  # a response that takes longer is slow
    slow_amount: int = 0
    slow_ratio: float = 0.0
    status: int = 409  # of the response meanwhile
    content: str = "Coming soon ..."


class ServiceBounds(Struct, frozen=True):
    """The bounds of one Service. None: there is no such bound."""

    name: str  # the object that says it: "UpstreamTrafficSetting shop/stock"
    connection_rate: Rate | None = None  # of new connections to a server
    request_rates: tuple[RequestRate, ...] = ()
    max_connections: int | None = None  # in use at once
    connect_timeout: float | None = None  # seconds
    max_requests: int | None = None  # under way at once
    max_pending: int | None = None  # requests that wait for a connection
    max_retries: int | None = None  # under way at once
    max_per_connection: int | None = None  # requests that one connection to a server carries
    circuit: Circuit | None = None

    @property
    def counts_calls(self) -> bool:
        """Whether the caller's node counts each request. Then none is repeated without Python."""
        return (
            self.circuit is not None
            or (self.max_connections, self.max_requests, self.max_per_connection) != (None,) * 3
        )
