"""TLS that passes unopened: its server name is recorded, the bytes are not touched, and who means another service is told so."""

import ssl

import pytest
import trio
import trio.testing

from nodeproxy.codec.client_hello import UNRECOGNIZED_NAME, alert
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.protocols import serve as hall
from nodeproxy.routing.route import Outward
from policy.model import Grant
from policy.route import HttpMatch
from tests.nodeproxy.conftest import BUYER, E2, STORE, ends, service, snapshot

HTTP_ONLY = Grant("TrafficTarget shop/reading", BUYER.identity, STORE.identity, http=(HttpMatch("all"),))


def hello(name=None):
    """What a client sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


class Call:
    def __init__(self, conn):
        self.conn = conn
        self.caller = conn.stream.stream.peer
        self.record = conn.report.record
        self.failure = None
        self.done = trio.Event()

    async def run(self, protocol):
        try:
            with self.conn.scope:
                await hall.serve(self.conn, Outward(self.conn), protocol)
        except (Refused, trio.BrokenResourceError) as error:
            self.failure = error
        self.done.set()


@pytest.fixture
async def enter(context, connect, dialler, nursery):
    other = service("other", "10.1.0.2", E2)
    context.snapshot = snapshot(service("store", "10.1.0.1", E2), other)

    def enter(protocol=""):
        call = Call(connect())
        nursery.start_soon(call.run, protocol)
        return call

    yield enter
    nursery.cancel_scope.cancel()


async def passes(call, dialler, sent):
    """All that was sent arrives untouched at the one server that was dialled, and an answer comes back."""
    await trio.testing.wait_all_tasks_blocked()
    (server,) = dialler.servers
    got = b""
    while len(got) < len(sent):
        got += await server.receive_some()
    assert got == sent
    await server.send_all(b"\x16\x03\x03answer")
    assert await call.caller.receive_some() == b"\x16\x03\x03answer"


@pytest.mark.parametrize("name", ["store.shop", "Store", "store.shop.svc.cluster.local"])
async def test_the_name_is_recorded_and_the_bytes_pass_as_they_are(enter, dialler, name):
    sent = hello(name)
    call = enter()
    for part in (sent[:1], sent[1:50], sent[50:] + b"more"):
        await call.caller.send_all(part)
        await trio.testing.wait_all_tasks_blocked()
    await passes(call, dialler, sent + b"more")
    assert (call.record.protocol, call.record.host) == ("tls", name.lower())
    assert call.record.endpoint == str(E2)
    assert call.conn.active, "publish() must be able to cut it"


@pytest.mark.parametrize("name", [None, "www.example.com"])
async def test_no_name_or_one_that_is_not_of_the_mesh_passes(enter, dialler, name):
    call = enter()
    sent = hello(name)
    await call.caller.send_all(sent)
    await passes(call, dialler, sent)
    assert (call.record.protocol, call.record.host) == ("tls", name or "")


async def test_a_name_of_another_service_passes(enter, dialler):
    """What was dialled decides; the name is the server's."""
    call = enter()
    sent = hello("other.shop")
    await call.caller.send_all(sent)
    await passes(call, dialler, sent)


async def test_a_name_of_another_service_is_misdirected_where_that_is_asked_for(context, enter, dialler):
    context.refuse_other_hosts = True
    call = enter()
    await call.caller.send_all(hello("other.shop"))
    await call.done.wait()
    assert (call.failure.flag, call.record.host) == ("misdirected", "other.shop")
    assert "other.shop" in call.failure.detail
    assert await call.caller.receive_some() == alert(UNRECOGNIZED_NAME)
    assert await ends(dialler.servers[0]) == "reset", "it was dialled and must not wait"


async def test_a_misdirected_caller_that_does_not_read_is_not_waited_for(
    context, enter, dialler, autojump_clock, monkeypatch
):
    context.limits = Limits(detect_timeout=3)
    context.refuse_other_hosts = True
    call = enter()
    monkeypatch.setattr(call.conn.stream.stream, "send_all", lambda data: trio.sleep_forever())
    await call.caller.send_all(hello("other.shop"))
    await call.done.wait()
    assert call.failure.flag == "misdirected"
    assert trio.current_time() == pytest.approx(3)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",  # no ClientHello
        b"\x16\x03\x01\x00\x00",
        hello("store.shop").replace(b"store.shop", b"store shop"),
        b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(30_000),  # one that is too large for us
    ],
)
async def test_what_cannot_be_read_passes_like_any_stream(enter, dialler, sent):
    call = enter()
    await call.caller.send_all(sent)
    await passes(call, dialler, sent)
    assert (call.record.protocol, call.record.host) == ("tcp", "")


async def test_half_a_hello_passes_when_time_is_over(context, enter, dialler, autojump_clock):
    context.limits = Limits(detect_timeout=3)
    sent = hello("store.shop")
    call = enter()
    await call.caller.send_all(sent[:40])
    await trio.sleep(2.9)
    assert call.record.protocol == ""
    assert await dialler.servers[0].receive_some() == sent[:40]
    assert trio.current_time() == pytest.approx(3)
    assert call.record.protocol == "tcp"
    await call.caller.send_all(sent[40:])
    assert await dialler.servers[0].receive_some() == sent[40:]


async def test_half_a_hello_and_the_end(enter, dialler):
    sent = hello("store.shop")[:40]
    call = enter()
    await call.caller.send_all(sent)
    await call.caller.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    assert await dialler.servers[0].receive_some() == sent
    assert await dialler.servers[0].receive_some() == b""
    await dialler.servers[0].send_eof()
    await call.done.wait()
    assert call.failure is None


async def test_a_cut_while_it_is_read_resets_the_server(enter, dialler):
    call = enter()
    await call.caller.send_all(hello("store.shop")[:40])
    await trio.testing.wait_all_tasks_blocked()
    assert call.conn.active
    call.conn.scope.cancel()
    await call.done.wait()
    assert await ends(dialler.servers[0]) == "reset"


async def test_without_a_rule_that_admits_streams_it_is_denied_under_its_name(context, enter, dialler):
    context.snapshot = snapshot(service("store", "10.1.0.1", E2), grants=(HTTP_ONLY,))
    call = enter()
    await call.caller.send_all(hello("store.shop"))
    await call.done.wait()
    assert (call.failure.flag, call.record.host, call.record.protocol) == ("denied", "store.shop", "tls")
    assert not dialler.picks


async def test_a_server_that_does_not_answer_is_tried_once(enter, dialler):
    dialler.failures = [Refused("connect-failed", "nobody listens")]
    call = enter()
    await call.caller.send_all(hello("store.shop"))
    await call.done.wait()
    assert call.failure.flag == "connect-failed"
    assert len(dialler.picks) == 1


async def test_a_port_that_is_declared_tcp_is_not_looked_at(enter, dialler):
    call = enter("tcp")
    sent = hello("other.shop")
    await call.caller.send_all(sent)
    await passes(call, dialler, sent)
    assert (call.record.protocol, call.record.host) == ("tcp", "")
