"""One decision for an opaque connection, other endpoints when one does not answer, and a cut that is no end."""

import pytest
import trio
import trio.testing

from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.protocols.tcp import open_upstream, serve_tcp
from nodeproxy.routing.dial import ATTEMPTS
from nodeproxy.routing.route import Outward
from nodeproxy.stream import Peeked
from policy.model import Endpoint
from tests.nodeproxy.conftest import E2, E3, OPAQUE, SHOP, SPARE, STORE, ends, service, snapshot
from tests.nodeproxy.protocols.http.conftest import pipes

DEAD = Refused("connect-failed", "nobody listens")
SILENT = Refused("connect-timeout", "no answer")


@pytest.fixture
async def begin(nursery, connect, dialler):
    """Serve a connection in a task of its own. How it ended is in `conn.failure`."""

    class Begun:
        def __init__(self, dialled=("10.1.0.1", 80)):
            self.conn = connect(dialled)
            self.caller = self.conn.stream.stream.peer
            self.failure = None
            self.done = trio.Event()
            nursery.start_soon(self.run)

        async def run(self):
            try:
                with self.conn.scope:
                    await serve_tcp(self.conn, Outward(self.conn))
            except Refused as refused:
                self.failure = refused
            self.done.set()

    return Begun


async def test_bytes_flow_and_the_record_says_where(context, begin, dialler):
    context.snapshot = snapshot(service("store", "10.1.0.1", E2))
    call = begin()
    await call.caller.send_all(b"ping")
    await trio.testing.wait_all_tasks_blocked()
    (server,) = dialler.servers
    assert await server.receive_some() == b"ping"
    assert call.conn.active
    assert context.live.in_flight == {E2: 1}
    await server.send_all(b"pong!")
    assert await call.caller.receive_some() == b"pong!"
    await call.caller.send_eof()
    assert await server.receive_some() == b""
    await server.send_eof()
    await call.done.wait()
    assert call.failure is None
    record = call.conn.report.record
    assert (record.destination, record.service, record.endpoint, record.rule) == (
        STORE,
        "shop/store",
        str(E2),
        OPAQUE.rule,
    )
    assert (record.bytes_in, record.bytes_out) == (4, 5)
    assert not context.live.in_flight
    assert dialler.streams[0].closed and not server.was_reset


async def test_a_denied_stream_dials_nobody(context, begin, dialler):
    context.snapshot = snapshot(grants=())
    call = begin()
    await call.done.wait()
    assert call.failure.flag == "denied"
    assert not dialler.picks
    assert not call.conn.active


async def test_a_dead_endpoint_is_passed_over(begin, dialler, connect):
    dialler.failures = [DEAD]
    call = begin()
    await call.caller.send_all(b"x")
    await call.caller.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(dialler.endpoints) == [E2, E3]
    assert call.conn.pick == dialler.picks[1], "publish() asks about the one that is used"
    assert await dialler.servers[0].receive_some() == b"x"


async def test_the_last_failure_is_told_when_nobody_is_left(begin, dialler):
    dialler.failures = [DEAD, SILENT]
    call = begin()
    await call.done.wait()
    assert call.failure is SILENT
    assert len(dialler.picks) == 2


async def test_so_many_endpoints_are_tried_and_no_more(context, begin, dialler):
    many = [Endpoint("10.0.0.2", port, STORE.key) for port in range(1, 10)]
    context.snapshot = snapshot(service("store", "10.1.0.1", *many))
    dialler.failures = [DEAD] * len(many)
    call = begin()
    await call.done.wait()
    assert call.failure.flag == "connect-failed"
    assert len(set(dialler.endpoints)) == len(dialler.endpoints) == ATTEMPTS


async def test_what_is_forbidden_while_dialling_is_not_dialled_again(context, connect, dialler):
    conn = connect()
    route = Outward(conn)
    first = route.pick(None)
    dialler.failures = [DEAD]
    context.snapshot = snapshot(grants=())
    with pytest.raises(Refused) as caught:
        await open_upstream(conn, route, first)
    assert caught.value.flag == "denied"
    assert dialler.picks == [first]


async def test_a_connection_that_detection_dialled_is_used(connect, dialler, nursery):
    conn = connect()
    route = Outward(conn)
    pick = route.pick(None, [E2])
    server, ours = pipes()
    nursery.start_soon(serve_tcp, conn, route, Peeked(ours, b"220 hello"), pick)
    caller = conn.stream.stream.peer
    assert await caller.receive_some() == b"220 hello"
    assert not dialler.picks
    assert (conn.report.record.destination, conn.report.record.endpoint) == (SPARE, str(E3))
    await caller.send_eof()
    await server.send_eof()


async def test_a_cut_is_a_reset_for_the_server(context, begin, dialler):
    call = begin()
    await call.caller.send_all(b"half of")
    await trio.testing.wait_all_tasks_blocked()
    call.conn.scope.cancel()
    await call.done.wait()
    assert await ends(dialler.servers[0]) == "reset"
    assert not context.live.in_flight


async def test_a_broken_server_is_named_and_counted_out(context, begin, dialler):
    call = begin()
    await trio.testing.wait_all_tasks_blocked()
    dialler.servers[0].abort()
    await call.done.wait()
    assert call.failure.flag == "upstream-broken"
    assert await ends(call.caller) == "reset"
    assert not context.live.in_flight


async def test_nothing_moves_for_too_long(context, begin, dialler, autojump_clock):
    context.limits = Limits(idle_timeout=40)
    context.snapshot = snapshot(SHOP)
    call = begin()
    await call.done.wait()
    assert call.failure.flag == "idle"
    assert trio.current_time() == pytest.approx(40)
    assert await ends(dialler.servers[0]) == "reset"
