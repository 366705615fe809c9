"""Who may come in: nobody without an identity, and from the node's own address only declared probes."""

import pytest
import trio
import trio.testing

from nodeproxy.downstream import inbound as door
from nodeproxy.downstream.inbound import inbound
from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.routing.route import Forwarded, Inward, Probed
from policy.model import Probe, Workload
from tests.nodeproxy.conftest import BUYER, E2, NODE, SHOP, STORE, ends, service, snapshot
from tests.nodeproxy.protocols.http.conftest import OK, read_head

TCP, HTTP = Probe("tcp", 8080), Probe("http", 8080, "/healthz")


@pytest.fixture
async def come(context, connect, nursery):
    """A connection to the store through its inbound door; `store.probes` are what is declared."""

    class Coming:
        context = None

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

    Coming.context = context
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


async def test_the_nodes_address_is_nobodys_not_even_an_access_controls(context, come, connect, dialler, monkeypatch):
    """NAT lends it to whom the node forwards: neither a declared probe nor a rule for addresses admits it."""
    address = "10.255.0.1"
    monkeypatch.setattr(context.sockets, "node_addresses", lambda: frozenset({address}))
    call = come(address, probes=(HTTP, TCP))
    monkeypatch.setattr(type(context.snapshot), "plain_rule", lambda *_: "AccessControl shop/all")
    await call.caller.send_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    answer = await call.caller.receive_some()
    assert b" 403 " in answer and b"NAT lends it" in answer
    assert isinstance(call.conn.route, Forwarded)
    assert not dialler.picks
    assert not call.conn.route.still_allows(None, None)


GATEWAY, OUTSIDE, ROUTER = "10.255.0.1", "192.0.2.7", "10.42.2.0"


@pytest.fixture
def nat(context, monkeypatch):
    """The node masquerades as GATEWAY; `nat` maps what it lent to where the caller came from."""
    came = {}
    monkeypatch.setattr(context.sockets, "node_addresses", lambda: frozenset({GATEWAY}))
    monkeypatch.setattr(context.sockets, "lent_addresses", lambda: frozenset({GATEWAY, ROUTER}))
    monkeypatch.setattr(context.sockets, "before_nat", lambda peer, dialled: came.get((peer, dialled)))
    return came


@pytest.mark.parametrize(
    ("came", "admitted"),
    [
        ((OUTSIDE, 50_000), True),
        (("198.51.100.9", 50_000), False),  # not named by the rule
        (None, False),  # conntrack does not know the connection
        ((GATEWAY, 1), False),  # a process of the node
        ((GATEWAY, 50_000), False),  # the same, from another port
        ((ROUTER, 50_000), False),  # lent once more, by another node
    ],
)
async def test_a_caller_through_a_node_port_is_judged_by_the_address_that_it_had(
    come, nat, monkeypatch, dialler, came, admitted
):
    nat[(GATEWAY, 1), ("10.0.0.2", 8080)] = came
    call = come(GATEWAY)
    allowed = {OUTSIDE, GATEWAY, ROUTER}
    monkeypatch.setattr(
        type(call.conn.context.snapshot), "plain_rule", lambda _, a, *__: "AccessControl shop/x" if a in allowed else ""
    )
    await call.caller.send_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert bool(dialler.picks) == admitted
    differs = came is not None and came != (GATEWAY, 1)
    assert call.record.source_address == (came[0] if differs else GATEWAY)
    assert call.record.nat_address == (GATEWAY if differs else "")
    request = call.record.of_request(0.0, "http", "GET")
    assert (request.source_address, request.nat_address) == (call.record.source_address, call.record.nat_address)


async def test_where_the_prober_is_known_by_the_nodes_address_a_caller_from_outside_is_not_it(
    come, nat, monkeypatch, dialler
):
    """The weakest rule (node_prober.py): then what conntrack says is all that tells them apart."""
    sockets = come.context.sockets
    monkeypatch.setattr(sockets, "probers", sockets.node_addresses)
    nat[(GATEWAY, 1), ("10.0.0.2", 8080)] = (OUTSIDE, 50_000)
    outsider = come(GATEWAY, probes=(HTTP,))
    await outsider.caller.send_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert b" 403 " in await outsider.caller.receive_some()
    assert not dialler.picks
    nat.clear()
    probe = come(GATEWAY, probes=(HTTP,))
    await probe.caller.send_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert dialler.picks


async def test_what_another_node_masqueraded_is_nobodys(come, nat, monkeypatch, dialler):
    """Only that node knows from where it came."""
    monkeypatch.setattr("policy.snapshot.Snapshot.plain_rule", lambda *_: "AccessControl shop/all")
    call = come(ROUTER)
    await call.caller.send_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    answer = await call.caller.receive_some()
    assert b" 403 " in answer and ROUTER.encode() in answer
    assert not dialler.picks


# from the node's own prober


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
