"""The same talks of HTTP/2 (gRPC among them) through both lanes: from a caller that speaks it to a server that does, on one node and from
node to node, with the native lane on none, either and both. What the server gets, what the caller gets and what is recorded is the same.

First requests teach the lane; what is compared comes after them, on the same connection. As test_two_lanes.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import re

import pytest
import trio
import trio.testing

from nodeproxy.downstream import accept
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Code, Connection
from nodeproxy.limits import Limits
from nodeproxy.routing import source
from tests.compiled import needs_lane
from tests.journeys import bookstore
from tests.journeys.conftest import Mesh
from tests.journeys.two_nodes import TwoNodes

pytestmark = needs_lane

PORT = 14002
NAME = "store-grpc.bookstore"
SERVICE = bookstore.service(
    "store-grpc", "{version: v1}", "[{name: calls, port: 14002, appProtocol: grpc}, {name: unsaid, port: 7001}]"
)
GET = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/books"),
    (b":authority", b"store-grpc.bookstore:14002"),
]
POST = [(b":method", b"POST"), *GET[1:]]
CALL = [*POST, (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"5S")]
OK = [(b":status", b"200"), (b"content-type", b"application/grpc")]
DONE = [(b"grpc-status", b"0")]


async def all_arrives():
    """Wait until what was sent is where it goes, however busy the machine is."""
    await trio.testing.wait_all_tasks_blocked(0.05)


class Seen:
    """What one end saw of each stream, in order."""

    def __init__(self):
        self.all = []
        self.lessons = 0

    async def of(self, channel, *, asked):
        """Everything that comes on a stream, until it ends. `asked`: heads come as well."""
        mine = ["", [], b"", []]
        self.all.append(mine)
        try:
            while asked:
                head, ended = await channel.head()
                mine[1].append((head, ended))
                if not head[0][1].startswith(b"1"):
                    break
            if not asked:
                mine[1].append(channel.fields)
            while data := await channel.receive_some(65536):
                mine[2] += data
            mine[3] = channel.trailers
            mine[0] = "whole"
        except trio.BrokenResourceError:
            mine[0] = f"reset {channel.reset_code}"
        except trio.ClosedResourceError:
            mine[0] = "reset here"


class Ask:
    """A caller's part: opens a stream, sends pieces, and perhaps trailers or a reset."""

    def __init__(self, fields, *pieces, trailers=(), reset=None, times=1, waits=False):
        self.fields, self.pieces, self.trailers, self.reset, self.times = fields, pieces, list(trailers), reset, times
        self.waits = waits  # for the whole response before it ends its request

    async def __call__(self, connection, seen):
        for _ in range(self.times):
            channel = await connection.open(self.fields, end=not (self.pieces or self.trailers or self.waits))
            whole = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.send, channel, whole)
                await seen.of(channel, asked=True)
                whole.set()
                if not self.waits:
                    nursery.cancel_scope.cancel()
            channel.close()

    async def send(self, channel, whole):
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for number, piece in enumerate(self.pieces, 1):
                last = number == len(self.pieces) and not (self.trailers or self.waits or self.reset is not None)
                await channel.send_all(piece, end=last)
                await trio.sleep(0)
            if self.trailers:
                await channel.send_trailers(self.trailers)
            elif self.waits:
                await whole.wait()
                await channel.send_eof()
            if self.reset is not None:
                await all_arrives()
                channel.abort(self.reset)


class Say:
    """A server's part: what it answers. It hears the whole request first, unless `early`."""

    def __init__(
        self,
        head=None,
        *pieces,
        trailers=(),
        interim=(),
        reset=None,
        refuse=0,
        early=False,
        mute=False,
        echo=False,
        stays_open=False,
    ):
        self.head, self.pieces, self.trailers, self.interim, self.reset = (
            head or OK,
            pieces,
            list(trailers),
            interim,
            reset,
        )
        self.refuse, self.early, self.mute, self.echo, self.stays_open = refuse, early, mute, echo, stays_open

    async def __call__(self, channel, seen):
        if self.refuse:
            self.refuse -= 1
            channel.abort(Code.REFUSED_STREAM)
            return
        try:
            if self.echo:
                await self.back(channel, seen)
                return
            if not self.early:
                await seen.of(channel, asked=False)
            if self.mute:
                await trio.sleep_forever()
            for head in self.interim:
                await channel.send_head(head)
            if self.reset is not None and not self.pieces:
                channel.abort(self.reset)
                return
            await channel.send_head(self.head, end=not (self.pieces or self.trailers))
            goes_on = bool(self.trailers) or self.stays_open or self.reset is not None
            for number, piece in enumerate(self.pieces, 1):
                await channel.send_all(piece, end=number == len(self.pieces) and not goes_on)
            if self.reset is not None:
                await all_arrives()
                channel.abort(self.reset)
                return
            if self.trailers:
                await channel.send_trailers(self.trailers)
            if self.early:
                await seen.of(channel, asked=False)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            channel.close()

    async def back(self, channel, seen):
        """A conversation: each piece is answered by itself."""
        mine = ["", [channel.fields], b"", []]
        seen.all.append(mine)
        await channel.send_head(self.head)
        while data := await channel.receive_some(65536):
            mine[2] += data
            await channel.send_all(data)
        mine[0], mine[3] = "whole", channel.trailers
        await channel.send_trailers(self.trailers)


class Converse:
    """The caller's part of a conversation: a piece, and the answer to it, again and again."""

    def __init__(self, *pieces):
        self.pieces = pieces

    async def __call__(self, connection, seen):
        channel = await connection.open(CALL)
        mine = ["", [await channel.head()], b"", []]
        seen.all.append(mine)
        for piece in self.pieces:
            await channel.send_all(piece)
            size = len(mine[2]) + len(piece)
            while len(mine[2]) < size:
                mine[2] += await channel.receive_some(65536)
        await channel.send_eof()
        assert await channel.receive_some(1) == b""
        mine[0], mine[3] = "whole", channel.trailers
        channel.close()


def field(fields, **others):
    return [*fields, *((name.replace("_", "-").encode(), value) for name, value in others.items())]


MESSAGE = b"\0\0\0\0\x05hello"
ODD = [(b":status", b"299")]  # a status that the lane has no reason for
HINTS = [[(b":status", b"103"), (b"link", b"</a>")]]
MUCH = [bytes([number]) * 50_000 for number in range(20)]
DETAILS = [(b"grpc-status", b"3"), *((b"x-detail-%d-bin" % number, b"x" * 1000) for number in range(12))]
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# name -> (what the caller does, what the server answers, is it the lane's)
TALKS = {
    "unary": (Ask(CALL, MESSAGE), Say(OK, MESSAGE, trailers=DONE), True),
    "unary, many": (Ask(CALL, MESSAGE, times=20), Say(OK, MESSAGE, trailers=DONE), True),
    "trailers only": (Ask(CALL, MESSAGE), Say(field(OK, grpc_status=b"5", grpc_message=b"no")), True),
    "message in pieces": (
        Ask(CALL, b"\0\0\0", b"\0\x05he", b"llo"),
        Say(OK, b"\0\0", MESSAGE[2:], trailers=DONE),
        True,
    ),
    "large request": (Ask(CALL, *MUCH), Say(OK, MESSAGE, trailers=DONE), True),
    "large response": (Ask(CALL, MESSAGE), Say(OK, *MUCH, trailers=DONE), True),
    "conversation": (Converse(b"a", b"bb", MESSAGE, b"c" * 40_000), Say(echo=True, trailers=DONE), True),
    "answered before it asks": (Ask(CALL, MESSAGE, waits=True), Say(OK, MESSAGE, trailers=DONE, early=True), True),
    "status with details": (Ask(CALL, MESSAGE), Say(OK, trailers=DETAILS), True),
    "80 trailers": (
        Ask(CALL, MESSAGE),
        Say(OK, MESSAGE, trailers=[*DONE, *[(b"x-%d" % n, b"1") for n in range(79)]]),
        True,
    ),
    "trailers that end here": (
        Ask(CALL, MESSAGE),
        Say(OK, trailers=field(DONE, x_edgemesh_reason=b"no", host=b"a")),
        True,
    ),
    "request with trailers": (
        Ask(POST, b"abc", trailers=[(b"x-sum", b"1"), (b"authorization", b"x")]),
        Say(OK, b"ok"),
        True,
    ),
    "only trailers": (Ask(POST, trailers=[(b"x-sum", b"1")]), Say(OK, b"ok"), True),
    "get": (Ask(GET), Say(OK, b"fine"), True),
    "length": (Ask(field(POST, content_length=b"3"), b"abc"), Say(field(OK, content_length=b"2"), b"ok"), True),
    "length 0": (Ask(field(POST, content_length=b"0"), b""), Say(field(OK, content_length=b"0"), b""), True),
    "empty body": (Ask(POST, b""), Say(OK, b""), True),
    "204": (Ask(GET), Say([(b":status", b"204")]), True),
    "304": (Ask(GET), Say([(b":status", b"304"), (b"content-length", b"7"), (b"etag", b"x")]), True),
    "404": (Ask(GET), Say([(b":status", b"404")], b"no"), True),
    "299": (Ask(GET), Say(ODD, b"odd"), False),
    "fields": (
        Ask(
            [*field(CALL, x_a=b"1", accept=b"*/*", authorization=b"Bearer x", cookie=b"a=b"), (b"x-a", b"\xe4  2")],
            b"x",
        ),
        Say(),
        True,
    ),
    "response fields": (Ask(GET), Say([*field(OK, set_cookie=b"a", x_a=b"1"), (b"set-cookie", b"b")], b"ok"), True),
    "trace": (Ask(field(CALL, traceparent=TRACE), b"x"), Say(OK, trailers=DONE), True),
    "forwarded": (
        Ask(field(CALL, x_forwarded_for=b"1.2.3.4", x_forwarded_proto=b"https"), b"x"),
        Say(OK, trailers=DONE),
        True,
    ),
    "forwarded twice": (Ask([*CALL, *[(b"x-forwarded-for", b"1.2.3.4")] * 2], b"x"), Say(OK, trailers=DONE), False),
    "ours are not believed": (
        Ask(field(CALL, x_edgemesh_destination=b"10.0.0.1:1", x_edgemesh_reason=b"no"), b"x"),
        Say(field(OK, x_edgemesh_reason=b"fake", x_edgemesh_request=b"1"), trailers=DONE),
        True,
    ),
    "crumbs": (Ask([*field(GET, cookie=b"a=1"), (b"cookie", b"b=2")]), Say(), False),
    "host": (Ask(field(GET, host=b"store-grpc.bookstore:14002")), Say(), False),
    "host of another service": (Ask([*GET[:3], (b":authority", b"mysql.bookwarehouse")]), Say(), False),
    "https": (Ask([GET[0], (b":scheme", b"https"), *GET[2:]]), Say(OK, b"ok"), True),
    "query": (Ask([*GET[:2], (b":path", b"/books?a=1&b=%2F"), GET[3]]), Say(OK, b"ok"), True),
    "dot segments": (Ask([*GET[:2], (b":path", b"/x/../books"), GET[3]]), Say(OK, b"ok"), False),
    "not allowed": (Ask([*GET[:2], (b":path", b"/admin"), GET[3]]), Say(), False),
    "not allowed, grpc": (Ask([*CALL[:2], (b":path", b"/admin"), *CALL[3:]]), Say(), False),
    "expect": (Ask(field(POST, expect=b"100-continue"), b"abc"), Say(OK, b"ok"), False),
    "too many fields": (Ask([*CALL, *[(b"x", b"1")] * 100], b"x"), Say(), False),
    "body with get": (Ask(GET, b"abc"), Say(OK, b"ok"), False),
    "interim": (Ask(CALL, MESSAGE), Say(OK, MESSAGE, trailers=DONE, interim=HINTS), False),
    "interim, half asked": (
        Ask(CALL, MESSAGE, MESSAGE, waits=True),
        Say(OK, MESSAGE, trailers=DONE, interim=HINTS, early=True),
        False,
    ),
    "299, half asked": (Ask(POST, b"a" * 1000, waits=True), Say(ODD, b"odd", early=True), False),
    "refused once, get": (Ask(GET), Say(OK, b"ok", refuse=1), False),
    "reset before it answers": (Ask(CALL, MESSAGE), Say(reset=Code.INTERNAL_ERROR), True),
    "reset before it answers, no grpc": (Ask(POST, b"x"), Say(reset=Code.CANCEL), True),
    "reset in the middle": (Ask(CALL, MESSAGE), Say(OK, MESSAGE, reset=Code.INTERNAL_ERROR), True),
    "caller resets": (Ask(CALL, MESSAGE, reset=Code.CANCEL), Say(mute=True, early=True), True),
    "caller resets an answer": (
        Ask(CALL, MESSAGE, reset=Code.CANCEL),
        Say(OK, MESSAGE, early=True, stays_open=True),
        True,
    ),
    "never answered": (Ask(CALL, MESSAGE), Say(mute=True), True),
    "never answered, no grpc": (Ask(GET), Say(mute=True), True),
}
# Whether the server hears of the end of the call before the test does is a race; what it heard is no part of these.
DEAF = ("caller resets", "caller resets an answer", "refused once, get", "interim, half asked", "299, half asked")


async def serve_streams(seen, answers, stream):
    """A server's connection: lessons first, then what `answers` says."""
    connection = Connection(stream, client=False, bounds=Bounds(native=False), name="server")
    async with trio.open_nursery() as nursery:

        async def one(channel):
            if seen.lessons:
                seen.lessons -= 1
                await Say(OK, b"ok", trailers=DONE)(channel, Seen())
            else:
                await answers(channel, seen)

        with contextlib.suppress(Refused, trio.BrokenResourceError):
            await connection.run(lambda channel: nursery.start_soon(one, channel))
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def h2_caller(nursery, call):
    """The caller's end of an HTTP/2 connection."""
    connection = Connection(call.stream, client=True, bounds=Bounds(native=False), name="caller")

    async def live():
        with contextlib.suppress(Refused, trio.BrokenResourceError):
            await connection.run()

    nursery.start_soon(live)
    try:
        yield connection
    finally:
        connection.close()
        with trio.CancelScope(shield=True):
            await call.stream.aclose()


async def run(after, monkeypatch, make, ask, answers, lessons, impatient):
    """`make`: the world; `impatient`: which of its sides wait no longer than SOON for an answer, after the lessons. Answers what the
    server saw, what the caller saw, the records of each node, and what lanes served."""
    async with trio.open_nursery() as nursery:
        random.seed(os.getpid())  # the same addresses for all: they are in answers
        mesh, sides = make(nursery)
        after.callback(mesh.close)
        monkeypatch.setattr(accept, "original_destination", getattr(mesh, "kernel", mesh).original_destination)
        await mesh.start()
        mesh.publish(streams=SERVICE)
        theirs, ours = Seen(), Seen()
        theirs.lessons = lessons
        mesh.serve("store-v1", lambda stream: serve_streams(theirs, answers, stream), PORT)
        proxies = [side.proxy for side in sides]
        async with h2_caller(nursery, await mesh.call("buyer", NAME, PORT)) as connection:
            for number in range(lessons):
                await Ask(*((CALL, MESSAGE) if number % 2 else (GET,)))(connection, Seen())
                await mesh.settled()
            for number, side in enumerate(sides):
                side.records.clear()
                if number in impatient:
                    side.proxy.configure(SOON, log_requests=False)
            before = [proxy.fast.lane.stats["served"] if proxy.fast.stats().compiled else 0 for proxy in proxies]
            with trio.fail_after(30):
                await ask(connection, ours)
            await mesh.settled()
            served = [
                (proxy.fast.lane.stats["served"] if proxy.fast.stats().compiled else 0) - was
                for proxy, was in zip(proxies, before, strict=True)
            ]
        await mesh.until(mesh.at_rest)
        for proxy in proxies:
            if proxy.fast.stats().compiled:
                assert (proxy.fast.lane.stats["calls"], proxy.fast.lane.stats["callers"]) == (0, 0)
        records = [[facts(r) for r in side.records if r.kind == "request"] for side in sides]
        nursery.cancel_scope.cancel()
    return theirs.all, [comparable(one) for one in ours.all], *records, served


def facts(r):
    who = r.source.name if r.source else ""
    said = (r.direction, r.method, r.path, r.status, r.flag, r.detail, r.rule, r.service)
    return *said, who, r.bytes_in, r.bytes_out, r.endpoint, r.tls_peer, r.host


def comparable(one):
    """Without what differs from one run to the next: ids of refusals."""
    how, heads, body, trailers = one
    body = re.sub(rb"--request [0-9a-f]{32}", b"--request ID", body)
    return how, [([f for f in head if f[0] != b"x-edgemesh-request"], ended) for head, ended in heads], body, trailers


LIMITS = Limits(head_timeout=20, response_timeout=60)
SOON = Limits(head_timeout=20, response_timeout=0.4)
NEVER = ("never answered", "never answered, no grpc")


async def here(monkeypatch, lane, ask, say, impatient=()):
    remaining = say.refuse

    def make(nursery):
        mesh = Mesh(nursery, LIMITS, lane)
        return mesh, [mesh]

    with contextlib.ExitStack() as after:
        try:
            return await run(after, monkeypatch, make, ask, say, 4, impatient)
        finally:
            say.refuse = remaining


async def there(monkeypatch, mint, lanes, ask, say, impatient=()):
    remaining = say.refuse

    def make(nursery):
        mesh = TwoNodes(nursery, mint, True, lanes, LIMITS)
        return mesh, [mesh.west, mesh.east]

    monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
    with contextlib.ExitStack() as after:
        try:
            return await run(after, monkeypatch, make, ask, say, 6, impatient)
        finally:
            say.refuse = remaining


def compare(fast, slow, name):
    if name not in DEAF:
        assert fast[0] == slow[0], "what the server saw"
    if name == "empty body":  # whether the end comes with the head depends on whether it had come when the head went on
        for one in (fast, slow):
            one[1][0][1][0] = [f for f in one[1][0][1][0][0] if f[0] != b"content-length"]
    assert fast[1] == slow[1], "what the caller saw"
    for mine, theirs in zip(fast[2:-1], slow[2:-1], strict=True):
        assert mine == theirs, "what is recorded"


def is_whole(seen):
    return seen[1] and seen[1][0][0] == "whole" and not seen[2][0][4]


@pytest.mark.parametrize("name", TALKS)
async def test_both_lanes_say_the_same_on_one_node(monkeypatch, name):
    ask, say, lanes = TALKS[name]
    impatient = (0,) if name in NEVER else ()
    slow = await here(monkeypatch, False, ask, say, impatient)
    fast = await here(monkeypatch, True, ask, say, impatient)
    compare(fast, slow, name)
    if lanes and is_whole(slow):
        assert fast[-1] == [len(slow[2])], "the lane did not take part"


async def test_a_call_that_the_server_did_not_look_at_is_asked_again(monkeypatch):
    """RFC 9113 section 8.7. Python can do so only where the body had come with the head; the lane keeps a small one."""
    seen = await here(monkeypatch, True, Ask(CALL, MESSAGE), Say(OK, MESSAGE, trailers=DONE, refuse=1))
    assert [(how, body, trailers) for how, _, body, trailers in seen[0]] == [("whole", MESSAGE, [])]
    assert [(how, body, trailers) for how, _, body, trailers in seen[1]] == [("whole", MESSAGE, DONE)]
    assert [(r[2], r[3], r[4]) for r in seen[2]] == [("/books", 200, "")]


@pytest.mark.parametrize("size", [16384, 16385])
async def test_a_larger_body_is_not_kept_to_be_asked_again(monkeypatch, size):
    """16 KiB of each call are: the rest would be memory that a caller takes."""
    seen = await here(monkeypatch, True, Ask(CALL, b"x" * size), Say(OK, MESSAGE, trailers=DONE, refuse=1))
    if size == 16384:
        assert [body for _, _, body, _ in seen[0]] == [b"x" * size]
        assert [trailers for *_, trailers in seen[1]] == [DONE]
    else:
        assert seen[0] == []
        ((how, heads, body, _),) = seen[1]
        assert (how, body, dict(heads[-1][0])[b"grpc-status"]) == ("whole", b"", b"14")


SLOW = {}  # what Python alone says, for those who compare with it
MIXED = (
    "unary",
    "trailers only",
    "large response",
    "conversation",
    "interim, half asked",
    "not allowed, grpc",
    "reset before it answers",
)


@pytest.mark.parametrize(
    "name,lanes",
    [
        *((name, ("west", "east")) for name in TALKS if name not in ("empty body", *NEVER)),
        *((name, (side,)) for side in ("west", "east") for name in MIXED),
    ],
)
async def test_all_say_the_same_from_node_to_node(monkeypatch, mint, name, lanes):
    ask, say, takes_part = TALKS[name]
    if name not in SLOW:
        SLOW[name] = await there(monkeypatch, mint, (), ask, say)
    slow = SLOW[name]
    fast = await there(monkeypatch, mint, lanes, ask, say)
    compare(fast, slow, name)
    if takes_part and is_whole(slow):
        assert [n for n, side in zip(fast[-1], ("west", "east"), strict=True) if side in lanes] == [len(slow[2])] * len(
            lanes
        )


@pytest.mark.parametrize("impatient", [0, 1], ids=["here", "there"])
@pytest.mark.parametrize("name", NEVER)
async def test_whichever_node_waits_less_for_an_answer_says_so(monkeypatch, mint, name, impatient):
    """Where both wait alike, either may be the first."""
    ask, say, _ = TALKS[name]
    slow = await there(monkeypatch, mint, (), ask, say, (impatient,))
    fast = await there(monkeypatch, mint, ("west", "east"), ask, say, (impatient,))
    compare(fast, slow, name)
    assert [records[0][4] for records in fast[2:4]] == (
        ["response-timeout", "client-gone"] if impatient == 0 else ["peer-refused", "response-timeout"]
    )


async def test_a_caller_of_http_1_has_its_answer_though_the_end_of_the_stream_comes_alone(monkeypatch):
    """As many servers send it: a length, the bytes, and then an empty DATA frame. When that comes all bytes are with the caller."""

    async def say(channel):
        await Seen().of(channel, asked=False)
        await channel.send_head([(b":status", b"200"), (b"content-length", b"2")])
        await channel.send_all(b"ok")
        await all_arrives()
        await channel.send_eof()
        channel.close()

    async def serve(stream):
        connection = Connection(stream, client=False, bounds=Bounds(native=False), name="server")
        async with trio.open_nursery() as streams:
            with contextlib.suppress(Refused, trio.BrokenResourceError):
                await connection.run(lambda channel: streams.start_soon(say, channel))
            streams.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery, LIMITS, True)
        monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
        await mesh.start()
        mesh.publish(streams=SERVICE)
        mesh.serve("store-v1", serve, PORT)
        call = await mesh.call("buyer", NAME, PORT)
        for _ in range(6):
            await call.stream.send_all(b"GET /books HTTP/1.1\r\nhost: store-grpc.bookstore:14002\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\nok"):
                piece = await call.stream.receive_some(65536)
                assert piece, answer
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200 ")
            await all_arrives()
        await call.stream.aclose()
        await mesh.until(mesh.at_rest)
        assert mesh.proxy.fast.lane.stats["served"] > 0, "the lane did not take part"
        assert [(r.status, r.flag) for r in mesh.records if r.kind == "request"] == [(200, "")] * 6
        nursery.cancel_scope.cancel()
