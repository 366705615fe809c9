"""The native lane, seen from Python: connections are lent to it between two requests, and come back with what it does not know.

Theory of operation. A request that the slow lane (http/exchange.py) has served teaches the lane: such requests of this caller may go
to that endpoint. Then the caller's connection is lent, together with the server's that has just come to rest, and its task waits
here. The lane (native/lane.h) serves what it was taught and counts it. Everything else it gives back: a request with its bytes
untouched, an unusual response with both connections, a fault with its flag; and the exchange goes on from there as if it had read
those bytes itself. So the lane holds no rule of its own, and there is nothing that the mesh does only with it.

A plan says where the requests of one caller to one destination may go, and holds for one snapshot. `forget` makes everything stale
that was learned: the next request of each caller comes back. What is under way is checked against the new snapshot by proxy.py, as
it is for all other connections (`calls`).

Opaque bytes are simpler (`relay`, and `tunnel` where one end is a stream of a connection between nodes): both ends are lent until both
directions have ended, and what is told then is how, and how many bytes there were.

When the lane works, and when trio's tasks do: drive.py.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import outcome
import trio

from nodeproxy.context import Conn, Context, Pick
from nodeproxy.crossing import Crossing
from nodeproxy.drive import SLICE, Drive
from nodeproxy.errors import FLAGS, Refused
from nodeproxy.http.answers import answer
from nodeproxy.http.h1 import Incoming
from nodeproxy.http.h2_bounds import Code
from nodeproxy.http.h2_channel import Channel
from nodeproxy.http.message import RequestHead
from nodeproxy.http.pool import Key, Upstream
from nodeproxy.http.reach import server_speaks_h2
from nodeproxy.limits import Limits
from nodeproxy.native import (
    DONE,
    END,
    FAILED,
    IDLE,
    LEFT_BROKEN,
    REQUEST,
    RESPONSE,
    RIGHT_BROKEN,
    SILENT,
    STREAM_LOST,
    STREAM_RESET,
    STREAM_SHUT,
    STREAM_WRONG,
    Lane,
    Linked,
    Program,
    Relayed,
    Target,
    Tunnelled,
)
from nodeproxy.native import Plan as NativePlan
from nodeproxy.telemetry.counts import BUCKETS, Counts, CountSink, Pair
from nodeproxy.telemetry.report import Record
from nodeproxy.upstream.connect import caller_key, forwarded_for
from nodeproxy.upstream.live import Turns
from nodeproxy.upstream.route import Inward, Outward
from policy import automaton
from policy.model import Endpoint, Identity, Request

_MOST_PAIRS = 4096
_MOST_DENIALS = 256
_ID = "0" * 32
_MOST_PLANS = 4096
_MOST_PROGRAMS = 256
_MOST_STATES = 1024
_PATH_SHOWN = 256  # characters of a path in a record
_ROUND = 64  # turns that are asked for at once


class Given(NamedTuple):
    """What came back. See native/lane.h."""

    caller: int
    what: int
    flag: str
    detail: str
    server: int  # 0: none
    target: int  # serial of the target of the request under way
    data: bytes
    rest: bytes
    begun: bool
    status: int
    began: float  # CLOCK_MONOTONIC, seconds; 0: no request was under way
    bytes_in: int
    bytes_out: int
    total_in: int
    total_out: int
    guest: int  # 0: it is a connection of its own; else a stream, see crossing.py
    link: int  # of a stream: which connection
    stream: int
    back: int  # the stream that was asked, 0: none
    back_link: int  # of which connection
    asked_all: bool  # the whole request was sent there


class Passed(NamedTuple):
    """How a relay or a tunnel ended. See native/relay.c and tunnel.h."""

    what: int
    left_to_right: int
    right_to_left: int
    error: int  # errno of the socket that broke, or the code with which the stream was reset


class _Relay:
    """One that is under way, and what its record was told of it so far."""

    __slots__ = ("left_to_right", "record", "relayed", "right_to_left", "task")

    def __init__(self, relayed: Relayed | Tunnelled, record: Record | None) -> None:
        self.relayed = relayed
        self.record = record
        self.left_to_right = self.right_to_left = 0
        self.task: trio.lowlevel.Task | None = None  # that waits for its end

    def count(self, left_to_right: int, right_to_left: int) -> None:
        if self.record is not None:
            self.record.bytes_in += left_to_right - self.left_to_right
            self.record.bytes_out += right_to_left - self.right_to_left
        self.left_to_right, self.right_to_left = left_to_right, right_to_left


class Plan:
    """Where one caller's requests to one destination may go."""

    __slots__ = ("_names", "_turns", "native", "refuses", "targets")

    def __init__(self, native: NativePlan, targets: dict[Endpoint, Target], turns: Turns | None, names: list[str]) -> None:
        self.native = native
        self.targets = targets
        self.refuses = False  # it was taught a refusal
        self._turns = turns
        self._names = names
        if turns is not None:
            turns.drawn.append(self._give_back)

    def refill(self) -> None:
        """A split's turns are drawn ahead, by the rules of upstream/live.py. Whoever needs one in the slow lane takes the first of them,
        so that each round holds each backend exactly its weight, whichever lane serves."""
        if self._turns is not None and not self.native.turns:
            self.native.refill(bytes(self._names.index(self._turns.draw()) for _ in range(_ROUND)))

    def drop(self) -> None:
        """It is used no more."""
        if self._turns is not None:
            left = []
            while name := self._give_back():
                left.append(name)
            self._turns.put_back(left)
            self._turns.drawn.remove(self._give_back)
            self._turns = None

    def _give_back(self) -> str:
        number = self.native.take()
        return self._names[number] if number >= 0 else ""


class FastLane:
    """All that is lent to the native lane. Made only where it was compiled; `run` first."""

    def __init__(self, context: Context, counted: CountSink | None = None) -> None:
        """`counted` None: every request is recorded, as it is while `logging`."""
        self.context = context
        self.lane = Lane(BUCKETS)
        self._counted = counted
        self._plans: dict[tuple[str, str, str, tuple[str, int], bool], Plan | None] = {}
        self._targets: dict[tuple[Key, bool], Target] = {}  # for callers who speak HTTP/2, and for others
        self._picks: dict[int, Pick] = {}  # by the target's serial: what a call to it was decided as
        self._pairs: dict[Pair, int] = {}
        self._crowds: dict[str, int] = {}  # by the workload behind whose doors they are
        self._programs: dict[tuple[str, ...], Program | None] = {}  # by patterns; they outlive snapshots
        self._denials: dict[tuple[str, str], int] = {}  # flag and detail; in the order of their numbers
        self._lent: dict[int, Upstream] = {}
        self._waiting: dict[int, tuple[trio.lowlevel.Task | None, Any]] = {}
        self._given: dict[int, Given] = {}
        self._drive = Drive(self.lane, self.collect)
        self.stir = self._drive.stir
        self._relays: dict[int, _Relay] = {}
        self._passed: dict[int, Passed] = {}
        self._ids = iter(range(1, 1 << 62))
        self.crossing = Crossing(self)
        self.limit(context.limits)
        self.logging = False

    @property
    def logging(self) -> bool:
        """Each request makes a record. Otherwise they are counted only, which costs a fifth."""
        return self.lane.logging

    @logging.setter
    def logging(self, on: bool) -> None:
        self.count()
        self.lane.logging = on or self._counted is None

    def __repr__(self) -> str:
        return f"<FastLane {self.lane.stats}>"

    END, REQUEST, FAILED, RESPONSE = END, REQUEST, FAILED, RESPONSE
    DONE, LEFT_BROKEN, RIGHT_BROKEN, IDLE = DONE, LEFT_BROKEN, RIGHT_BROKEN, IDLE

    # life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the lane until cancelled."""
        self.lane.tick(trio.current_time())  # from here on it knows our clock
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tick)
                task_status.started()
                await self._drive.run()
        finally:
            for upstream in self._lent.values():
                upstream.close()
            self._lent.clear()

    async def _tick(self) -> None:
        while True:
            limits = self.context.limits
            await trio.sleep(min(1.0, limits.keepalive_timeout / 4, limits.response_timeout / 4, limits.idle_timeout / 4))
            self.lane.tick(trio.current_time())
            self.collect()
            self.count()
            for number, left_to_right, right_to_left in self.lane.moved():
                self._relays[number].count(left_to_right, right_to_left)

    def limit(self, limits: Limits) -> None:
        self.lane.limit(
            head_bytes=limits.head_bytes,
            header_count=limits.header_count,
            path_bytes=limits.path_bytes,
            buffer_bytes=limits.buffer_bytes,
            rest_per_target=limits.pool_idle_per_endpoint,
            keepalive_timeout=limits.keepalive_timeout,
            response_timeout=limits.response_timeout,
            idle_timeout=limits.idle_timeout,
            rest_timeout=limits.pool_idle_timeout,
        )

    def forget(self) -> None:
        """A snapshot was published, or an endpoint failed: nothing holds that was learned."""
        self.collect()  # what is over is recorded as what it was
        self.lane.forget()
        for plan in self._plans.values():
            if plan is not None:
                plan.drop()
        self._plans.clear()
        self.crossing.forget()
        for key in [key for key, target in self._targets.items() if not (target.resting or target.in_flight)]:
            self._picks.pop(self._targets.pop(key).serial, None)

    def drop_resting(self, addresses: Collection[str], workload: str) -> None:
        """Close what rests from or to these addresses, or this workload. As Pool.forget."""
        gone = frozenset(addresses)
        for key in [k for k in self._targets if _of(k[0], gone, workload)]:
            self.lane.clear(self._targets[key])  # what is under way there is still to be recorded as what it was decided
        self.forget()
        self.collect()

    def recall(self) -> None:
        """The daemon stops: connections come back as soon as no request is under way on them."""
        for _, carried in list(self._waiting.values()):
            carried.recall()
        self.collect()

    def calls(self) -> Iterator[tuple[Conn, Pick, Request]]:
        """What is under way."""
        for number, serial, head, guest in self.lane.calls():
            conn, pick = self._whose(number, guest), self._picks.get(serial)
            if conn is not None and pick is not None:
                yield conn, pick, request_of(head, self.context.limits)

    def recheck(self) -> int:
        """A snapshot was published: cut what it forbids. Answers how many calls."""
        cut = 0
        for number, serial, head, guest in self.lane.calls():
            conn, pick = self._whose(number, guest), self._picks.get(serial)
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

    def _whose(self, number: int, guest: int) -> Conn | None:
        return self.crossing.guest(guest) if guest else self.context.conns.get(number)

    @property
    def under_way(self) -> int:
        return self.lane.under_way

    def count(self) -> None:
        """Hand over what was counted since the last time."""
        counted, pairs = self._counted, list(self._pairs)
        if counted is None or self.lane.logging:
            self.lane.counts()
            return
        for number, answered, buckets, seconds, bytes_in, bytes_out in self.lane.counts():
            counted(Counts(pairs[number], answered, buckets, seconds, bytes_in, bytes_out))

    def next_id(self) -> int:
        return next(self._ids)

    # lending

    def learn(self, conn: Conn, head: RequestHead, sent: bytes, pick: Pick, h2: bool = False) -> Plan | None:
        """A request was served by the slow lane: may the lane serve such ones, and this connection? None: it may not. `h2`: it is a
        stream of a caller who speaks HTTP/2."""
        plan = self._plan(conn, h2)
        if plan is None or pick.endpoint not in plan.targets:
            return None
        return plan if self.teach(plan, conn, head, sent, pick) else None

    def teach(self, plan: Plan, conn: Conn, head: RequestHead, sent: bytes, pick: Pick) -> bool:
        """False: the connection is not to be lent."""
        if pick.endpoint not in plan.targets:
            return False
        context = self.context
        path = head.target.partition(b"?")[0]
        if sent != head.target or head.host is None or pick.workload is None or not isinstance(conn.route, Outward | Inward):
            return True
        if context.snapshot.looks_at_headers(_caller(conn), pick.workload, pick.endpoint.port):
            return True
        # Policy may have changed since the request was decided.
        if not conn.route.still_allows(pick, Request(head.method.decode("latin-1"), path.decode("latin-1"))):
            return True
        if conn.route.misdirected(head.host.decode("latin-1")):
            return True
        pair = Pair(conn.direction, conn.source, pick.workload, pick.service)
        number = self._pairs.get(pair)
        if number is None:
            if len(self._pairs) >= _MOST_PAIRS:
                return False
            number = self._pairs[pair] = len(self._pairs)
        target = plan.targets[pick.endpoint]
        self._picks[target.serial] = pick
        self.lane.learn(plan.native, target, number, head.method, path, head.host)
        return True

    def learn_refusal(self, conn: Conn, head: RequestHead, sent: bytes) -> None:
        """Policy has refused a request: may the lane refuse such ones, in the same words?"""
        plan = self._plan(conn, False)
        if plan is None or sent != head.target or head.host is None or not isinstance(conn.route, Outward | Inward):
            return
        path = head.target.partition(b"?")[0]
        request = Request(head.method.decode("latin-1"), path.decode("latin-1"))
        if conn.route.misdirected(head.host.decode("latin-1")):
            return
        for endpoint, target in plan.targets.items():
            workload = self.context.snapshot.workload(endpoint.workload)
            if workload is None or self.context.snapshot.looks_at_headers(_caller(conn), workload, endpoint.port):
                continue
            refused = conn.route.refuses(endpoint, request)  # by the newest snapshot, which may be another than refused it
            if refused is not None and (number := self._denial(refused)) >= 0:
                self._picks.setdefault(target.serial, Pick(endpoint, workload, "", "", True))
                self.lane.refuse(plan.native, target, number, head.method, path, head.host)
                plan.refuses = True

    def _denial(self, refused: Refused) -> int:
        """The number of this answer, -1 when there are too many."""
        key = (refused.flag, refused.detail)
        number = self._denials.get(key)
        if number is None:
            if len(self._denials) >= _MOST_DENIALS:
                return -1
            whole, head = (answer(refused, False, head_only, _ID) for head_only in (False, True))
            number = self._denials[key] = self.lane.denial(whole, len(head), head.index(_ID.encode()))
        return number

    def ready(self, conn: Conn, h2: bool = False) -> Plan | None:
        """A plan for a connection that has asked nothing yet, where others have been taught before."""
        plan = self._plans.get(_key(conn, h2))
        if plan is None or not (plan.refuses or any(target.resting or target.linked for target in plan.targets.values())):
            return None
        return plan

    def lead(self, conn: Conn, plan: Plan, pick: Pick, head: RequestHead, h2: bool) -> bool:
        """What this request was sent over is the lane's as well. False: it is not."""
        context, target = self.context, plan.targets[pick.endpoint]
        if pick.hop is not None:
            peer = context.peers.existing(conn, pick.hop) if context.peers is not None else None
            return peer is not None and self.crossing.route(target, peer, pick.endpoint, h2)
        if server_speaks_h2(pick, head, h2):
            key = (caller_key(conn, pick.endpoint), conn.workload.key, pick.endpoint)
            if target.resting:
                self.lane.clear(target)  # it was declared otherwise before: what rests speaks HTTP/1.1
            return context.shared is not None and self.crossing.route_server(target, context.shared.existing(key))
        self.lend(conn, plan, pick.endpoint)
        return True

    def lend(self, conn: Conn, plan: Plan, endpoint: Endpoint) -> None:
        """Lend the server connection that rests, if one does."""
        upstream = self.context.pool.take((caller_key(conn, endpoint), conn.workload.key, endpoint), trio.current_time())
        if upstream is None:
            return
        if not isinstance(upstream.stream, trio.SocketStream):
            upstream.close()
            return
        number = next(self._ids)
        self.lane.lend(number, upstream.stream.socket.fileno(), plan.targets[endpoint])
        self._lent[number] = upstream

    def resting(self, key: Key) -> Upstream | None:
        """A server's connection goes back to the slow lane, which needs one."""
        for h2 in (False, True):
            target = self._targets.get((key, h2))
            if target is not None and (number := self.lane.reclaim(target)):
                return self._lent.pop(number)
        return None

    async def carry(self, conn: Conn, plan: Plan, stream: trio.SocketStream, data: bytes) -> Given:
        """Lend a caller's connection; answers with what comes back, after any number of requests.

        Cancelled, it comes back at once, and `left` says what was under way.
        """
        plan.refill()
        carried = self.lane.carry(conn.id, stream.socket.fileno(), plan.native, data)
        self._waiting[conn.id] = (None, carried)
        try:
            if data:
                if self.lane.turn(SLICE) == SILENT:
                    self.stir()  # no event tells of what is left to do
                self.collect()
            given = self._given.pop(conn.id, None)
            if given is not None:
                await trio.lowlevel.checkpoint()
                return given
            self._waiting[conn.id] = (trio.lowlevel.current_task(), carried)

            def abort(_: Any) -> trio.lowlevel.Abort:
                self._waiting[conn.id] = (None, carried)  # it wakes up by itself, and only once
                return trio.lowlevel.Abort.SUCCEEDED

            result: Given = await trio.lowlevel.wait_task_rescheduled(abort)
            return result
        finally:
            self._waiting.pop(conn.id, None)
            left = carried.drop()
            if left is not None:
                self._given[conn.id] = _given(left)
            self.collect()

    def left(self, conn: Conn) -> Given | None:
        """What was under way when the connection was cut."""
        return self._given.pop(conn.id, None)

    def pick_of(self, given: Given) -> Pick | None:
        """What the request that was under way had been decided as."""
        return self._picks.get(given.target)

    def take_back(self, number: int) -> Upstream:
        """The server's connection that came back with a response."""
        return self._lent.pop(number)

    async def relay(
        self,
        left: trio.SocketStream,
        right: trio.SocketStream,
        left_held: bytes,
        right_held: bytes,
        idle_timeout: float,
        record: Record | None = None,
    ) -> Passed:
        """Lend two connections until both have ended, one broke, or nothing moved; `held` was read from them before.

        Cancelled, they come back at once, and `record` says what had passed; until then it is counted up once a second.
        """
        number = next(self._ids)
        relayed = self.lane.relay(number, left.socket.fileno(), right.socket.fileno(), left_held, right_held, idle_timeout)
        return await self._until_over(number, relayed, record)

    def may_tunnel(self, channel: Channel) -> Linked | None:
        """On which of the lane's connections this is a tunnel that it may carry."""
        return self.crossing.lends(channel)

    async def tunnel(
        self,
        linked: Linked,
        channel: Channel,
        stream: trio.SocketStream,
        left: bool,
        channel_held: bytes,
        stream_held: bytes,
        idle_timeout: float,
        record: Record | None = None,
    ) -> Passed:
        """As `relay`, between a tunnel for which `may_tunnel` was just asked and a socket; `left`: that is the caller's."""
        number = next(self._ids)
        arrived, window, untold = channel.lend()
        try:
            tunnelled = self.lane.tunnel(
                number,
                linked,
                channel.id,
                stream.socket.fileno(),
                left,
                channel_held + arrived,
                len(arrived),
                window,
                untold,
                stream_held,
                idle_timeout,
            )
            self.stir()
            passed = await self._until_over(number, tunnelled, record)
        finally:
            channel.take_back()
        if passed.what == DONE:
            channel.passed()
        elif passed.what == STREAM_RESET:
            channel.reset(passed.error)
        elif passed.what == STREAM_WRONG:
            channel.lose(f"the peer broke HTTP/2 on this stream (error code {passed.error})")
        elif passed.what == STREAM_SHUT:
            channel.abort(Code.CANCEL)
            channel.lose(f"the peer opened no window for {channel.connection.bounds.stall:g} s")
        elif passed.what == STREAM_LOST and not channel.broken:
            channel.lose(channel.connection.why_ended())
        return passed

    async def _until_over(self, number: int, relayed: Relayed | Tunnelled, record: Record | None) -> Passed:
        relay = self._relays[number] = _Relay(relayed, record)
        try:
            if self.lane.pending:
                self.collect()
            passed: Passed | None = self._passed.pop(number, None)
            if passed is None:
                relay.task = trio.lowlevel.current_task()

                def abort(_: Any) -> trio.lowlevel.Abort:
                    relay.task = None  # it wakes up by itself, and only once
                    return trio.lowlevel.Abort.SUCCEEDED

                passed = await trio.lowlevel.wait_task_rescheduled(abort)
            else:
                await trio.lowlevel.checkpoint()
            return passed
        finally:
            del self._relays[number]
            self._passed.pop(number, None)
            counts = relayed.drop()
            if counts is not None:
                relay.count(*counts)

    def collect(self) -> None:
        """Take what the lane has for Python."""
        lane = self.lane
        for number, *how in lane.relayed():
            passed, relay = Passed(*how), self._relays[number]
            relay.count(passed.left_to_right, passed.right_to_left)
            if relay.task is None:
                self._passed[number] = passed
            else:
                trio.lowlevel.reschedule(relay.task, outcome.Value(passed))
                relay.task = None
        for told in lane.ups():
            given = _given(told)
            if given.back and given.what == RESPONSE:
                self.crossing.adopt(given)
            if given.guest:
                self.crossing.back(given)
                continue
            task, _ = self._waiting.pop(given.caller, (None, None))
            if task is None:
                self._given[given.caller] = given
            else:
                trio.lowlevel.reschedule(task, outcome.Value(given))
        for refusal in lane.refusals():
            self._record_refusal(*refusal)
        for entry in lane.log():
            self._record(*entry)
        for number in lane.gone():
            upstream = self._lent.pop(number, None)
            if upstream is not None:
                upstream.close()
        self.crossing.tell()

    def _record_refusal(self, number: int, serial: int, denial: int, bytes_in: int, bytes_out: int, request_id: str, line: bytes) -> None:
        """A refusal makes a record always: people ask for it by its id."""
        conn, pick = self.context.conns.get(number), self._picks.get(serial)
        if conn is None or pick is None:
            return
        method, target, _ = line.decode("latin-1").split(" ")
        flag, detail = list(self._denials)[denial]
        was = conn.report.record
        record = Record(
            kind="request",
            direction=conn.direction,
            started=time.time(),
            duration=0.0,
            source=conn.source,
            source_address=conn.peer[0],
            destination=pick.workload,
            service=was.service,
            dialled=was.dialled,
            endpoint="",
            protocol="http",
            method=method,
            path=target.partition("?")[0][:_PATH_SHOWN],
            status=FLAGS[flag].status,
            flag=flag,
            detail=detail,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            id=request_id,
        )
        self.context.sink(record)

    def _record(self, number: int, serial: int, micros: int, bytes_in: int, bytes_out: int, status: int, line: bytes, guest: int) -> None:
        conn, pick = self._whose(number, guest), self._picks.get(serial)
        if conn is None or pick is None:
            return
        record = self.record_of(conn, pick, line, micros / 1e6)
        record.status, record.bytes_in, record.bytes_out = status, bytes_in, bytes_out
        self.crossing.note(record, conn, serial)
        self.context.sink(record)

    def record_of(self, conn: Conn, pick: Pick, line: bytes, duration: float) -> Record:
        """Of a request that the lane has sent on. `line`: its request line."""
        method, target, _ = line.decode("latin-1").split(" ")
        return Record(
            kind="request",
            direction=conn.direction,
            started=time.time() - duration,
            duration=duration,
            source=conn.source,
            source_address=conn.peer[0],
            destination=pick.workload,
            service=pick.service,
            dialled=conn.report.record.dialled,
            endpoint=str(pick.endpoint),
            protocol="http",
            method=method,
            path=target.partition("?")[0][:_PATH_SHOWN],
            rule=pick.rule,
        )

    # plans

    def _plan(self, conn: Conn, h2: bool) -> Plan | None:
        key = _key(conn, h2)
        if key in self._plans:
            return self._plans[key]
        if len(self._plans) >= _MOST_PLANS:
            self.forget()
        plan = self._plans[key] = self._made(conn, h2)
        return plan

    def plan_of_stream(self, conn: Conn, h2: bool) -> Plan | None:
        """As for a connection; but who calls is proved by the one that the stream came on, so it is of that one alone."""
        return self._made(conn, h2)

    def _made(self, conn: Conn, h2: bool) -> Plan | None:
        found = self._groups(conn)
        if not found:
            return None
        turns, groups = found
        live, snapshot, captured = self.context.live, self.context.snapshot, self.context.captured
        targets: dict[Endpoint, Target] = {}
        for endpoints in groups.values():
            for endpoint in endpoints:
                workload = snapshot.workload(endpoint.workload)
                if workload is None or endpoint in live.breakers:
                    return None
                if workload.key not in captured and not (isinstance(conn.route, Outward) and conn.route.crosses(workload, endpoint)):
                    return None
                key = ((caller_key(conn, endpoint), conn.workload.key, endpoint), h2)
                target = self._targets.get(key)
                if target is None:
                    target = self._targets[key] = self.lane.target()
                targets[endpoint] = target
        crowd = self._crowds.setdefault(conn.workload.key, len(self._crowds))
        native = self.lane.plan(
            forwarded_for(conn).encode(),
            tuple(tuple((targets[e], self._program(conn, e)) for e in group) for group in groups.values()),
            crowd,
        )
        return Plan(native, targets, turns, list(groups))

    def _program(self, conn: Conn, endpoint: Endpoint) -> Program | None:
        """Which paths are judged alike on the way to this endpoint. None: each is another, and is learned by itself."""
        snapshot = self.context.snapshot
        workload = snapshot.workload(endpoint.workload)
        if workload is None:
            return None
        patterns = snapshot.path_patterns(_caller(conn), workload, endpoint.port)
        if patterns not in self._programs:
            if len(self._programs) >= _MOST_PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            self._programs[patterns] = _compiled(patterns)
        return self._programs[patterns]

    def _groups(self, conn: Conn) -> tuple[Turns | None, dict[str, tuple[Endpoint, ...]]] | None:
        """The endpoints behind what was dialled, by backend; the turns of the backends when there are several."""
        if isinstance(conn.route, Inward):
            return (None, {"": (conn.route.endpoint,)}) if type(conn.route) is Inward else None
        if not isinstance(conn.route, Outward):
            return None
        snapshot = self.context.snapshot
        destination = snapshot.destination(*conn.dialled)
        if destination.kind == "workload" and destination.endpoint is not None:
            return None, {"": (destination.endpoint,)}
        if destination.kind != "service" or destination.service is None or destination.port is None:
            return None
        service, port = destination.service, destination.port
        if service.split is None:
            return (None, {service.key: port.endpoints}) if port.endpoints else None
        if service.split.matches is not None:
            return None  # whether it is split depends on the request
        ready, groups = [], {}
        for backend in service.split.backends:
            chosen = snapshot.service(backend.service)
            chosen_port = next((p for p in chosen.ports if p.port == port.port and p.transport == "tcp"), None) if chosen else None
            if backend.weight and chosen_port is not None and chosen_port.endpoints:
                ready.append(backend)
                groups[backend.service] = chosen_port.endpoints
        if len(ready) < 2:
            return (None, groups) if ready else None
        return self.context.live.turns(conn.workload.key, service.key, port.port, False, ready), groups


def _key(conn: Conn, h2: bool) -> tuple[str, str, str, tuple[str, int], bool]:
    return conn.direction, conn.workload.key, forwarded_for(conn) if conn.direction == "inbound" else conn.peer[0], conn.dialled, h2


def _of(key: Key, addresses: frozenset[str], workload: str) -> bool:
    """Does it lead from or to one of these addresses, or this workload?"""
    return key[0] in addresses or key[2].address in addresses or workload in (key[1], key[2].workload)


def _caller(conn: Conn) -> Identity | None:
    """Who calls, by the newest snapshot, as the routes see it."""
    if conn.direction == "inbound":
        return conn.identity
    workload = conn.context.snapshot.workload(conn.workload.key)
    return workload.identity if workload else None


def _compiled(patterns: tuple[str, ...]) -> Program | None:
    made = automaton.compile(patterns, _MOST_STATES)
    if made is None:
        return None
    sets = {accepts: number for number, accepts in enumerate(dict.fromkeys(made.accepts))}
    alike = b"".join(sets[accepts].to_bytes(2, sys.byteorder) for accepts in made.accepts)
    table = array("H", made.table)
    if sys.byteorder == "big":
        table.byteswap()
    return Program(made.width, made.classes, table.tobytes(), alike)


def _given(told: tuple[Any, ...]) -> Given:
    return Given(*told)


def request_of(head: bytes, limits: Limits) -> Request:
    """A head that the lane has sent on, as policy sees it."""
    incoming = Incoming("bad-request")
    incoming.feed(head)
    read = incoming.request_head(limits)
    assert read is not None, "the lane sends whole heads on"
    return Request(read.method.decode("latin-1"), read.target.partition(b"?")[0].decode("latin-1"), read.fields)
