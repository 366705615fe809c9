"""Who may come in: nobody without an identity, and from the node's own address only declared probes."""

import pytest
import trio
import trio.testing

from nodeproxy import inbound as door
from nodeproxy.errors import Refused
from nodeproxy.inbound import inbound
from nodeproxy.limits import Limits
from nodeproxy.upstream.route import Inward, Probed
from policy.model import Probe, Workload
from tests.nodeproxy.conftest import BUYER, E2, NODE, SHOP, STORE, ends, service, snapshot
from tests.nodeproxy.http.conftest import OK, read_head

TCP, HTTP = Probe("tcp", 8080), Probe("http", 8080, "/healthz")


@pytest.fixture
async def come(context, connect, nursery):
    """A connection to the store through its inbound door; `store.probes` are what is declared."""

    class Coming:
        def __init__(self, peer=NODE, probes=(), port=8080):
            store = Workload("shop", "store", "store", STORE.addresses, probes=probes)
            context.snapshot = snapshot(SHOP, workloads=(BUYER, store))
            self.conn = connect(("10.0.0.2", port), store, "inbound", (peer, 1))
            self.record = self.conn.report.record
            self.caller = self.conn.stream.stream.peer
            self.failure = None
            self.done = trio.Event()
            nursery.start_soon(self.run)

        async def run(self):
            try:
                with self.conn.scope:
                    await inbound(self.conn)
            except (Refused, trio.BrokenResourceError) as error:
                self.failure = error
            self.done.set()

    return Coming


@pytest.mark.parametrize("port", [15001, 15006, 15008, 15053])
async def test_doors_are_refused(come, dialler, port):
    call = come(BUYER.addresses[0], port=port)
    await call.done.wait()
    assert call.failure.flag == "own-port"
    assert call.conn.route is None and not dialler.picks


async def test_a_workloads_address_is_no_identity(come, dialler):
    call = come(BUYER.addresses[0], probes=(HTTP, TCP))  # a probe from elsewhere is no probe
    await call.caller.send_all(b"\0opaque")
    await call.done.wait()
    assert isinstance(call.conn.route, Inward) and not isinstance(call.conn.route, Probed)
    assert call.failure.flag == "no-identity"
    assert not dialler.picks


@pytest.mark.parametrize("protocol", ["", "http", "tcp"])
async def test_the_service_says_what_a_port_speaks(context, connect, monkeypatch, protocol):
    seen = []

    async def serve(conn, route, protocol):
        seen.append((conn.route is route, protocol))

    monkeypatch.setattr(door, "serve", serve)
    context.snapshot = snapshot(service("store", "10.1.0.1", E2, protocol=protocol))
    await inbound(connect(("10.0.0.2", 8080), STORE, "inbound", ("10.0.0.1", 1)))
    assert seen == [(True, protocol)]


# from the node's own address


async def test_an_undeclared_stream_from_the_node_is_refused(come, dialler):
    call = come(probes=(HTTP,))
    await call.caller.send_all(b"\0opaque")
    await call.done.wait()
    assert isinstance(call.conn.route, Probed)
    assert call.failure.flag == "no-identity"
    assert not dialler.picks


async def test_a_tcp_probe_is_answered_by_dialling_the_server(come, dialler):
    call = come(probes=(TCP,))
    await trio.testing.wait_all_tasks_blocked()
    (pick,) = dialler.picks
    assert (pick.endpoint, pick.workload, pick.local) == (E2, call.conn.workload, True)
    await call.caller.send_eof()
    await call.done.wait()
    assert call.failure is None
    assert (call.record.rule, call.record.protocol) == ("declared probe", "tcp")
    assert dialler.streams[0].closed and await ends(dialler.servers[0]) == "closed"


async def test_a_tcp_probe_of_a_dead_server_fails(come, dialler):
    dialler.failures = [Refused("connect-failed", "nobody listens")]
    call = come(probes=(TCP,))
    await call.done.wait()
    assert call.failure.flag == "connect-failed"


async def test_a_tcp_probe_that_stays_is_let_go(context, come, dialler, autojump_clock):
    context.limits = Limits(detect_timeout=4)
    call = come(probes=(TCP,))
    await call.done.wait()
    assert trio.current_time() == pytest.approx(4)
    assert call.failure is None
    assert dialler.streams[0].closed


async def test_a_tcp_probe_carries_no_byte(come, dialler):
    call = come(probes=(TCP,))
    await call.caller.send_all(b"\0let me in")
    await call.done.wait()
    assert call.failure.flag == "no-identity"
    assert call.record.rule == ""
    assert len(dialler.picks) == 1
    assert await dialler.servers[0].receive_some() == b""


@pytest.mark.parametrize("probes", [(HTTP,), (TCP, HTTP)], ids=["alone", "beside a tcp probe of the same port"])
@pytest.mark.parametrize(("path", "status"), [(b"/healthz", b"200"), (b"/admin", b"403")])
async def test_an_http_probe_reaches_the_server_and_nothing_else_does(come, dialler, probes, path, status):
    call = come(probes=probes)
    await call.caller.send_all(b"GET %s HTTP/1.1\r\nHost: 10.0.0.2\r\nConnection: close\r\n\r\n" % path)
    await trio.testing.wait_all_tasks_blocked()
    if status == b"200":
        server = dialler.servers[-1]
        assert (await read_head(server)).startswith(b"GET /healthz ")
        await server.send_all(OK)
    assert (await read_head(call.caller)).startswith(b"HTTP/1.1 " + status)
    await call.caller.send_eof()
    await call.done.wait()
    assert call.failure is None
    for stream in dialler.servers[: -1 if status == b"200" else None]:
        assert await stream.receive_some() == b"", "the server hears nothing of what is refused"
