"""Which room: declared, or told by whoever speaks first; and what becomes of the server that was dialled meanwhile."""

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.protocols import serve as hall
from nodeproxy.protocols.table import HANDLERS
from nodeproxy.routing.route import Outward
from policy.model import Grant
from policy.route import HttpMatch
from tests.nodeproxy.conftest import BUYER, E2, STORE, ends, service, snapshot

HTTP_ONLY = Grant("TrafficTarget shop/reading", BUYER.identity, STORE.identity, http=(HttpMatch("all"),))
GET = b"GET / HTTP/1.1\r\nHost: store\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = b"\x16\x03\x01\x02\x00"  # the start of a TLS record


class Served:
    """One connection in the hall. `room` is the one it came to, with the bytes that it found there; the http room is a stand-in."""

    def __init__(self, conn):
        self.conn = conn
        self.caller = conn.stream.stream.peer
        self.room = None
        self.failure = None
        self.done = trio.Event()

    async def run(self, protocol):
        try:
            with self.conn.scope:
                await hall.serve(self.conn, Outward(self.conn), protocol)
        except (Refused, trio.BrokenResourceError) as error:
            self.failure = error
        self.done.set()

    async def settled(self):
        await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
async def enter(context, connect, dialler, nursery, monkeypatch):
    context.snapshot = snapshot(service("store", "10.1.0.1", E2))
    served = []

    async def http(conn, route):
        (one,) = [one for one in served if one.conn is conn]
        one.room = ("http", bytes(await conn.stream.receive_some()))

    for name in ("http", "h2", "grpc"):  # one room speaks both versions
        monkeypatch.setitem(HANDLERS, name, replace(HANDLERS[name], serve=http))

    def enter(protocol=""):
        one = Served(connect())
        served.append(one)
        nursery.start_soon(one.run, protocol)
        return one

    yield enter
    nursery.cancel_scope.cancel()


# declared


async def test_declared_http_goes_straight_to_its_room(enter, dialler):
    call = enter("http")
    await call.caller.send_all(b"anything")
    await call.done.wait()
    assert call.room == ("http", b"anything")
    assert call.conn.report.record.protocol == "http"
    assert not dialler.picks


async def test_declared_grpc_goes_to_the_same_room(enter, dialler):
    call = enter("grpc")
    await call.caller.send_all(PREFACE)
    await call.done.wait()
    assert call.room == ("http", PREFACE)
    assert not dialler.picks


@pytest.mark.parametrize("protocol", ["tcp", "tcp-server-first"])
async def test_any_other_declared_protocol_is_opaque_and_waits_for_nobody(enter, dialler, protocol):
    call = enter(protocol)
    await call.settled()
    await dialler.servers[0].send_all(b"220 hello")
    assert await call.caller.receive_some() == b"220 hello"
    assert call.conn.report.record.protocol == "tcp"


# a rule admits TCP: the server is dialled at once


async def test_the_server_speaks_first(enter, dialler):
    call = enter()
    await call.settled()
    await dialler.servers[0].send_all(b"220 hello")
    assert await call.caller.receive_some() == b"220 hello"
    await call.caller.send_all(GET)  # too late to be HTTP
    assert await dialler.servers[0].receive_some() == GET
    assert call.conn.report.record.protocol == "tcp"
    assert len(dialler.picks) == 1
    assert call.conn.active, "publish() must be able to cut it"


@pytest.mark.parametrize("first", [b"\0\1\2", b"hello world\r\n"])
async def test_the_client_speaks_something_opaque_first(enter, dialler, first):
    call = enter()
    await call.caller.send_all(first)
    await call.settled()
    assert await dialler.servers[0].receive_some() == first
    assert call.conn.report.record.protocol == "tcp"
    assert len(dialler.picks) == 1


async def test_the_client_speaks_http_and_the_pool_gets_what_was_dialled(context, enter, dialler):
    call = enter()
    for part in (GET[:3], GET[3:20], GET[20:]):
        await call.settled()
        await call.caller.send_all(part)
    await call.done.wait()
    assert call.room is not None
    name, head = call.room
    assert name == "http" and GET.startswith(head) and len(head) >= 16
    assert call.conn.report.record.protocol == "http"
    assert not call.conn.active, "nothing moves yet: the http room decides for each request"
    upstream = context.pool.take(("10.0.0.1", BUYER.key, E2), trio.current_time())
    assert upstream.stream is dialler.streams[0]
    assert not upstream.used and not dialler.streams[0].closed


async def test_the_client_speaks_http2_and_what_was_dialled_is_shared(context, enter, dialler):
    class Http2Pool:
        def give(self, *what):
            self.given = what

    context.http2_pool = Http2Pool()
    call = enter()
    await call.settled()
    await call.caller.send_all(PREFACE)
    await call.done.wait()
    assert call.room == ("http", PREFACE)
    assert call.conn.report.record.protocol == "http"
    assert context.http2_pool.given == ("10.0.0.1", BUYER.key, E2, dialler.streams[0])


async def test_both_speak_at_once_is_opaque(enter, dialler):
    for number in range(10):  # who is heard first goes by chance
        call = enter()
        await call.settled()
        # Into both streams within one step of the loop, so that neither is there first.
        call.conn.stream.stream.inner.receive_stream.put_data(GET)  # alone it would be HTTP
        dialler.streams[number].inner.receive_stream.put_data(b"220 hello")
        await call.settled()
        assert call.room is None
        assert await call.caller.receive_some() == b"220 hello"
        assert await dialler.servers[number].receive_some() == GET


async def test_nobody_speaks(context, enter, dialler, autojump_clock):
    context.limits = Limits(detect_timeout=3)
    call = enter()
    await trio.sleep(3.5)
    assert call.conn.report.record.protocol == "tcp"
    await call.caller.send_all(GET)  # decided by now
    assert await dialler.servers[0].receive_some() == GET


async def test_a_request_line_that_never_ends_is_opaque(context, enter, dialler, autojump_clock):
    call = enter()
    await call.caller.send_all(b"GET /slow")
    await trio.sleep(context.limits.detect_timeout + 0.1)
    assert await dialler.servers[0].receive_some() == b"GET /slow"


async def test_the_client_ends_before_it_could_be_told(enter, dialler):
    call = enter()
    await call.caller.send_all(b"GET ")
    await call.caller.send_eof()
    await call.settled()
    (server,) = dialler.servers
    assert await server.receive_some() == b"GET "
    assert await server.receive_some() == b""
    await server.send_all(b"so long")
    await server.send_eof()
    assert await call.caller.receive_some() == b"so long"
    await call.done.wait()
    assert call.failure is None


async def test_the_server_ends_at_once(enter, dialler):
    call = enter()
    await call.settled()
    await dialler.servers[0].send_eof()
    assert await call.caller.receive_some() == b""
    await call.caller.send_eof()
    await call.done.wait()
    assert call.failure is None


@pytest.mark.parametrize(("who", "flag"), [("server", "upstream-broken"), ("client", "client-gone")])
async def test_a_side_that_breaks_meanwhile_is_named(enter, dialler, who, flag):
    call = enter()
    await call.settled()
    broken, other = (dialler.servers[0], call.caller) if who == "server" else (call.caller, dialler.servers[0])
    broken.abort()
    await call.done.wait()
    assert call.failure.flag == flag
    assert await ends(other) == "reset"


async def test_a_server_that_does_not_answer_is_told(enter, dialler):
    dialler.failures = [Refused("connect-failed", "nobody listens")]
    call = enter()
    await call.done.wait()
    assert call.failure is not None and call.failure.flag == "connect-failed"


async def test_a_cut_while_detecting_resets_the_server(enter, dialler):
    call = enter()
    await call.settled()
    assert call.conn.active
    call.conn.scope.cancel()
    await call.done.wait()
    assert await ends(dialler.servers[0]) == "reset"
    assert call.room is None


# no rule admits TCP: only the client can tell


@pytest.fixture
async def enter_http_only(context, enter):
    context.snapshot = snapshot(service("store", "10.1.0.1", E2), grants=(HTTP_ONLY,))
    return enter


async def test_http_is_served_without_dialling_first(context, enter_http_only, dialler):
    call = enter_http_only()
    await call.settled()
    assert not dialler.picks
    await call.caller.send_all(GET)
    await call.done.wait()
    assert call.room == ("http", GET)
    assert len(context.pool) == 0


@pytest.mark.parametrize("first", [b"\0\1\2", HELLO])
async def test_anything_else_is_refused_before_a_server_hears_of_it(enter_http_only, dialler, first):
    call = enter_http_only()
    await call.caller.send_all(first)
    await call.caller.send_eof()
    await call.done.wait()
    assert call.failure.flag == "denied"
    assert call.conn.report.record.protocol == "tcp"
    assert not dialler.picks


@pytest.mark.parametrize("first", [b"G", GET, PREFACE])
async def test_a_connection_that_was_opened_early_may_be_used_late(context, enter_http_only, first, autojump_clock):
    """Pools and browsers open connections before they need them (linkerd2-proxy#782)."""
    call = enter_http_only()
    await trio.sleep(context.limits.keepalive_timeout - 1)
    assert not call.done.is_set()
    await call.caller.send_all(first)
    await call.settled()
    await call.caller.send_all(GET[1:] if first == b"G" else b"")
    await call.done.wait()
    assert call.room == ("http", GET if first == b"G" else first)


@pytest.mark.parametrize("ends", [True, False])
async def test_a_connection_that_was_never_used_ends_as_one_between_two_requests(
    context, enter_http_only, ends, autojump_clock
):
    call = enter_http_only()
    if ends:
        await call.caller.send_eof()
    await call.done.wait()
    assert trio.current_time() == pytest.approx(0 if ends else context.limits.keepalive_timeout)
    assert (call.room, call.failure) == (None, None), "nothing was asked, and so nothing refused"


async def test_who_may_not_even_ask_is_not_waited_for_longer(context, enter, dialler, autojump_clock):
    context.snapshot = snapshot(service("store", "10.1.0.1", E2), grants=())
    call = enter()
    await call.done.wait()
    assert trio.current_time() == pytest.approx(context.limits.detect_timeout)
    assert call.failure.flag == "denied"
    assert not dialler.picks


async def test_what_begins_late_has_to_be_told_in_time(context, enter_http_only, dialler, autojump_clock):
    call = enter_http_only()
    await trio.sleep(30)
    await call.caller.send_all(b"GET /slow")
    await call.done.wait()
    assert trio.current_time() == pytest.approx(30 + context.limits.detect_timeout)
    assert call.failure.flag == "denied"
    assert not dialler.picks
