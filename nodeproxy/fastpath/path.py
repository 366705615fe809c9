"""The fast path: connections are lent to native code, which hands back every request that it does not know.

Theory of operation. A request that the slow path (protocols/http/call.py) has served teaches the fast path: such
requests of this caller may go to that endpoint (flows.py). Then the caller's connection is lent, together with the
server's idle connection, and its task waits (callers.py). The fast path (native/lane.h) serves the requests that it was
taught and counts them. It hands back everything else: a request with its bytes untouched, an unusual response with both
connections, a fault with its flag. A Call resumes from there as if it had read those bytes itself (lease.py). So the
fast path holds no rule of its own, and the mesh can do nothing only with it.

Streams of HTTP/2 are lent in the same way, one by one, on connections that the fast path reads and writes (links.py,
streams.py). Opaque bytes are simpler (relays.py): both ends are lent until both directions have ended. Then the fast
path reports how they ended, and how many bytes moved.

`forget` makes everything stale that was learned. Calls in progress are checked against a new snapshot by `recheck`, as
proxy.py does for all other connections. loop.py says when the fast path runs and when trio's tasks do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import trio

from nodeproxy.context import Conn, Context
from nodeproxy.fastpath import tls
from nodeproxy.fastpath.callers import Callers
from nodeproxy.fastpath.engine import Engine
from nodeproxy.fastpath.flows import Flows
from nodeproxy.fastpath.handback import request_of
from nodeproxy.fastpath.lease import Parts, lease
from nodeproxy.fastpath.links import Links
from nodeproxy.fastpath.records import Records
from nodeproxy.fastpath.relays import Relays
from nodeproxy.fastpath.streams import Streams
from nodeproxy.fastpath.transport import NativeTransport, plain_transport
from nodeproxy.h2.limits import Bounds
from nodeproxy.interfaces import FastStats, Pick
from nodeproxy.limits import Limits
from nodeproxy.native import RESPONSE, Lane
from nodeproxy.protocols.http.interfaces import Lease
from nodeproxy.stream import Peeked
from nodeproxy.telemetry.counts import Counts, CountSink
from nodeproxy.tls import contexts
from nodeproxy.tls.contexts import ContextCache
from nodeproxy.tls.credentials import AnySecured, Credentials, Trust
from nodeproxy.tls.handshake import Now
from nodeproxy.upstream.http1_pool import Key, Upstream
from policy.model import Request


class NativePath:
    """interfaces.FastPath, compiled: everything that is lent to native code. Call `run` first."""

    def __init__(self, context: Context, counted: CountSink | None = None, logging: bool = False) -> None:
        """`counted` None: every request makes a record, as while `logging` is on."""
        self.context = context
        self._counted = counted
        self.engine = Engine(self.collect)
        self.links = Links(self.engine)
        self.flows = Flows(context, self.engine, self.links, self.forget)
        self.records = Records(context, self.flows, self.links)
        self.streams = Streams(self.engine, self.links, self.flows, self.records, self.forget)
        self.callers = Callers(self.engine)
        self.relays = Relays(self.engine, self.links)
        self.relay = self.relays.relay
        self._parts = Parts(self.flows, self.callers, self.streams, self.links)
        self._tls = ContextCache(tls.make)
        self.limit(context.limits)
        self.logging = logging

    def __repr__(self) -> str:
        return f"<NativePath {self.lane.stats}>"

    @property
    def lane(self) -> Lane:
        return self.engine.lane

    @property
    def logging(self) -> bool:
        """True: each request makes a record. False: requests are only counted, which costs a fifth less."""
        return self.lane.logging

    @logging.setter
    def logging(self, on: bool) -> None:
        self.count()
        self.lane.logging = on or self._counted is None

    # questions of the slow path

    def lease(self, conn: Conn, caller: object) -> Lease | None:
        return lease(self._parts, conn, caller)

    def resting(self, key: Key) -> Upstream | None:
        return self.flows.resting(key)

    def transport(self, stream: object, bounds: Bounds, caller: Conn | None = None) -> NativeTransport | None:
        return plain_transport(self.streams, stream, bounds, caller)

    async def accept_tls(
        self, stream: Peeked, credentials: Credentials, trust: Trust, seconds: float, now: Now
    ) -> tuple[AnySecured, NativeTransport] | None:
        if not isinstance(stream.stream, trio.SocketStream):
            return None
        made = self._tls.server(credentials, trust, contexts.ALPN_MESH)
        secured = await tls.accept(stream, made, trust, seconds, now)
        return secured, NativeTransport(self.streams, secured.stream.socket.fileno(), secured.secured)

    async def connect_tls(
        self, stream: object, credentials: Credentials, trust: Trust, expects: Collection[str], seconds: float, now: Now
    ) -> tuple[AnySecured, NativeTransport] | None:
        if not isinstance(stream, trio.SocketStream):
            return None
        made = self._tls.client(credentials, trust, contexts.ALPN_MESH)
        secured = await tls.connect(stream, made, trust, expects, seconds, now)
        return secured, NativeTransport(self.streams, secured.stream.socket.fileno(), secured.secured)

    def retain_tls(self, credentials: Collection[Credentials], trust: Trust | None) -> None:
        self._tls.retain(credentials, trust)

    def stats(self) -> FastStats:
        stats = self.lane.stats
        return FastStats(True, stats["served"], stats["missed"])

    # life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.lane.tick(trio.current_time())  # from here on it knows trio's clock
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tick)
                task_status.started()
                await self.engine.run()
        finally:
            self.flows.close()

    async def _tick(self) -> None:
        while True:
            limits = self.context.limits
            await trio.sleep(min(1.0, limits.keepalive_timeout / 4, limits.response_timeout / 4, limits.patience / 4))
            self.lane.tick(trio.current_time())
            self.collect()
            self.count()
            self.relays.count()

    def limit(self, limits: Limits) -> None:
        self.lane.limit(
            head_bytes=limits.head_bytes,
            header_count=limits.header_count,
            path_bytes=limits.path_bytes,
            buffer_bytes=limits.buffer_bytes,
            rest_per_target=limits.pool_idle_per_endpoint,
            keepalive_timeout=limits.keepalive_timeout,
            response_timeout=limits.response_timeout,
            idle_timeout=limits.patience,
            rest_timeout=limits.pool_idle_timeout,
        )

    def forget(self) -> None:
        self.collect()  # what is over gets its record
        self.flows.forget()
        self.links.forget()
        self.streams.forget()
        self.flows.drop_idle()

    def drop_resting(self, addresses: Collection[str], workload: str) -> None:
        self.flows.drop_resting(addresses, workload)
        self.forget()
        self.collect()

    def recall(self) -> None:
        self.callers.recall()
        self.collect()

    def calls(self) -> Iterator[tuple[Conn, Pick, Request]]:
        """Yield the calls in progress."""
        for number, serial, head, guest in self.lane.calls():
            conn, pick = self.records.whose(number, guest), self.flows.picks.get(serial)
            if conn is not None and pick is not None:
                yield conn, pick, request_of(head, self.context.limits)

    def recheck(self) -> int:
        """Cut calls that the newest snapshot forbids. Return how many."""
        cut = 0
        for number, serial, head, guest in self.lane.calls():
            conn, pick = self.records.whose(number, guest), self.flows.picks.get(serial)
            if conn is None or pick is None or conn.route is None:
                continue
            if not conn.route.still_allows(pick, request_of(head, self.context.limits)):
                cut += 1
                if guest:
                    self.lane.cut(number)
                else:
                    conn.verdict = "cut"
                    conn.scope.cancel()
        self.collect()
        return cut

    @property
    def under_way(self) -> int:
        return self.lane.under_way

    def count(self) -> None:
        """Hand over the counts since the last time."""
        counted, pairs = self._counted, list(self.flows.pairs)
        if counted is None or self.lane.logging:
            self.lane.counts()
            return
        for number, answered, buckets, seconds, bytes_in, bytes_out in self.lane.counts():
            counted(Counts(pairs[number], answered, buckets, seconds, bytes_in, bytes_out))

    def collect(self) -> None:
        """Take what the fast path has for Python, and hand each item to the part that it belongs to."""
        lane = self.lane
        for passed in lane.relayed():
            self.relays.ended(passed)
        for given in lane.ups():
            if given.back and given.what == RESPONSE:
                self.streams.adopt(given)
            if given.guest:
                self.streams.back(given)
            else:
                self.callers.back(given)
        for refusal in lane.refusals():
            self.records.refused(refusal)
        for served in lane.log():
            self.records.served(served)
        for number in lane.gone():
            self.flows.ended(number)
        self.flows.refill()
        self.links.tell()
