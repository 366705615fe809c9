"""Tunnel doors, by the conformance list of HBONE (C1 ...) and by what else may come to them. TLS is real, streams are in memory."""

from __future__ import annotations

import time

import msgspec
import pytest
import trio
import trio.testing

from nodeproxy.context import Conn
from nodeproxy.downstream.hbone import node_tunnels
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds
from nodeproxy.limits import Gate, Limits
from nodeproxy.stream import Peeked
from nodeproxy.tls.unauthenticated import Anteroom
from policy.model import Grant, Node, Revoked, ServicePort, Workload
from policy.route import HttpMatch, Regex
from tests.nodeproxy.conftest import BUYER, E2, NODE, OPAQUE, SPARE, STORE, service, snapshot
from tests.nodeproxy.protocols.http.conftest import pipes
from tests.nodeproxy.tunnels import DOMAIN, NODE_DOOR, Doors, Visitor

THIEF = Workload("shop", "thief", "thief", ("10.0.0.7",))
HTTP = Grant(
    "TrafficTarget shop/web", BUYER.identity, STORE.identity, http=(HttpMatch("books", Regex("/books"), ("GET",)),)
)
WORKLOADS = (BUYER, STORE, SPARE, THIEF)
WEB = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@pytest.fixture
async def doors(nursery, context, mint, dialler):
    doors = Doors(nursery, context, mint)
    doors.dialler = dialler
    doors.records = context.sink.__self__
    publish(doors)
    await nursery.start(doors.peers.run)
    return doors


def publish(doors, **fields):
    """Put a snapshot in force as Proxy.publish does."""
    made = snapshot(workloads=WORKLOADS, grants=fields.pop("grants", (OPAQUE,)))
    doors.context.snapshot = msgspec.structs.replace(made, **fields)
    doors.peers.recheck()
    for conn in list(doors.context.conns.values()):
        if conn.active and not conn.verdict and not conn.route.still_allows(conn.pick, conn.request):
            conn.verdict = "cut"
            conn.scope.cancel()


async def everything(stream):
    data = b""
    while more := await stream.receive_some():
        data += more
    return data


async def opened(doors, visitor, authority="10.0.0.2:8080", **how):
    """A tunnel, and the server's end of the connection behind it."""
    channel, status, _ = await visitor.connect(authority, **how)
    assert status == 200
    return channel, doors.dialler.servers[-1]


async def settled():
    await trio.testing.wait_all_tasks_blocked()


# the handshake


async def test_c01_a_peer_without_alpn_h2_gets_an_alert(doors):
    for alpn in (("http/1.1",), ()):
        with pytest.raises(Refused) as error:
            await doors.knock(door=STORE, alpn=alpn)
        assert doors.ends == "tls-no-alpn"
        assert "no application protocol" in error.value.detail
    assert (await doors.knock(door=STORE)).secured.peer.alpn == "h2"
    assert (await doors.knock(door=STORE, alpn=("edgemesh-h2", "h2"))).secured.peer.alpn == "edgemesh-h2"


async def test_c02_a_peer_without_a_spiffe_name_is_sent_away(doors, mint):
    visitor = await doors.knock(door=STORE, credentials=mint.credentials("", dns=("buyer.shop",)))
    await visitor.over.wait()
    assert visitor.end == "peer-no-identity"
    await settled()
    assert visitor.connection.closed


async def test_c03_a_peer_of_another_trust_domain_is_sent_away(doors, mint):
    visitor = await doors.knock(door=STORE, credentials=mint.credentials(mint.spiffe(trust_domain="elsewhere.org")))
    await visitor.over.wait()
    assert visitor.end == "peer-wrong-domain"


@pytest.mark.parametrize("off", [-400, -20, 20, 400])
async def test_dates_are_held_against_the_time_of_the_mesh_and_a_peer_s_that_does_not_fit_makes_it_doubted(doors, off):
    doors.identities.clock = lambda: time.time() + off * 86400
    visitor = await doors.knock(door=STORE)
    await visitor.over.wait()
    assert visitor.end == "peer-expired"
    assert doors.identities.doubts == 1


async def test_a_node_opens_no_tunnels(doors, mint):
    visitor = await doors.knock(door=STORE, credentials=mint.credentials(f"spiffe://{DOMAIN}/node/there", "there"))
    await visitor.over.wait()
    assert visitor.end == "peer-no-identity"


async def stands(doors, nursery, address):
    """A stranger who connects and proves nothing; how the door's task of his ended."""
    theirs, ours = pipes()
    conn = Conn(doors.context, Peeked(ours), NODE_DOOR, "inbound", (address, 1), ("10.0.0.2", 15008), 0.0)
    visitor = Visitor(conn)
    visitor.pipe = theirs
    nursery.start_soon(doors._own, visitor, node_tunnels)
    await settled()
    return visitor


async def test_strangers_who_prove_nothing_keep_nobody_out(doors, nursery):
    doors.context.anteroom = Anteroom(most=8, of_source=4)
    strangers = [await stands(doors, nursery, "192.0.2.1") for _ in range(10)]
    assert [one.end for one in strangers] == ["too-many-connections"] * 6 + [None] * 4, "the oldest of that source"
    more = [await stands(doors, nursery, f"192.0.2.{number}") for number in range(2, 12)]
    assert len(doors.context.anteroom) == 8
    visitor = await doors.knock(peer=("192.0.2.99", 1))
    await opened(doors, visitor)
    assert len(doors.context.anteroom) == 7, "who has proved himself is not there any more"
    for one in (*strangers, *more):
        one.pipe.close()


async def test_who_the_mesh_knows_has_places_that_strangers_cannot_take(doors, nursery):
    doors.context.anteroom = Anteroom(most=2, of_source=4)
    known = await stands(doors, nursery, BUYER.addresses[0])
    publish(doors, nodes=(Node("there", ("198.51.100.7",)),))
    node = await stands(doors, nursery, "198.51.100.7")
    strangers = [await stands(doors, nursery, f"192.0.2.{number}") for number in range(20)]
    assert known.end is None and node.end is None
    for one in (known, node, *strangers):
        one.pipe.close()


async def test_a_peer_that_had_us_work_for_nothing_is_sent_away_until_its_debt_is_paid(doors, autojump_clock):
    peer = doors.others.of(BUYER.identity).spiffe, "there"
    owner = doors.context.guests.of(peer).owner
    while owner.spend(trio.current_time()):
        pass
    visitor = await doors.knock()
    await visitor.over.wait()
    assert visitor.end == "http2-abuse"
    other = await doors.knock("thief")
    assert not other.end, "it is his debt alone"
    await trio.sleep(1)
    assert not (await doors.knock()).end


async def test_one_peer_does_not_take_the_places_of_others(doors):
    doors.context.guests.limit(Limits(connections=2))
    for _ in range(2):
        await doors.knock()
    third = await doors.knock()
    await third.over.wait()
    assert third.end == "too-many-connections"
    await settled()
    assert not (await doors.knock("thief")).end


async def test_only_who_has_proved_himself_counts_at_the_gate(doors, nursery):
    gate = Gate(1)
    stranger = await stands(doors, nursery, "192.0.2.1")
    stranger.conn.gate = gate
    doors.gate = gate
    visitor = await doors.knock()
    await opened(doors, visitor)
    assert gate.open == 1
    second = await doors.knock()
    await second.over.wait()
    assert second.end == "too-many-connections"
    visitor.connection.close()
    await visitor.over.wait()
    assert gate.open == 0
    stranger.pipe.close()


async def test_without_a_certificate_of_our_own_nobody_is_let_in(doors):
    doors.identities.of = lambda identity: None
    with pytest.raises(Refused):
        await doors.knock(door=STORE)
    assert doors.ends == "no-certificate"


@pytest.mark.parametrize(
    "revoked",
    [Revoked(nodes=("there",)), Revoked(identities=(BUYER.identity,)), "serial"],
    ids=["node", "identity", "serial"],
)
async def test_whoever_is_revoked_is_sent_away_and_cut_off(doors, revoked):
    if revoked == "serial":
        revoked = Revoked(serials=(doors.others.of(BUYER.identity).serial,))
    visitor = await doors.knock(door=STORE)
    channel, server = await opened(doors, visitor)
    other = await doors.knock(
        "thief", door=STORE, credentials=doors.mint.credentials(doors.mint.spiffe("thief"), "third")
    )
    publish(doors, revoked=revoked)
    with pytest.raises(trio.BrokenResourceError):
        await channel.receive_some()
    await visitor.over.wait()
    await settled()
    assert visitor.end == "peer-revoked"
    assert server.was_reset
    assert {record.flag for record in doors.records} == {"peer-revoked"}
    assert not other.connection.closed
    again = await doors.knock(door=STORE)
    await again.over.wait()
    assert again.end == "peer-revoked"


# what is asked


async def test_c04_a_peer_that_no_rule_admits_gets_401(doors):
    visitor = await doors.knock("thief", door=STORE)
    _, status, fields = await visitor.connect("10.0.0.2:8080")
    assert status == 401
    assert fields["x-edgemesh-reason"] == "no-rule"
    await settled()
    (record,) = doors.records
    assert (record.flag, record.destination, record.tls_peer) == (
        "denied",
        STORE,
        f"spiffe://{DOMAIN}/ns/shop/sa/thief",
    )
    assert fields["x-edgemesh-request"] == record.id
    assert not doors.dialler.picks


async def test_the_callers_trace_id_is_a_field_of_the_record_and_not_its_id(doors):
    """Who chose the id of a refusal could write under another's."""
    visitor = await doors.knock("thief", door=STORE)
    trace = "0af7651916cd43dd8448eb211c80319c"
    _, _, fields = await visitor.connect("10.0.0.2:8080", (b"traceparent", f"00-{trace}-b7ad6b7169203331-00".encode()))
    await settled()
    (record,) = doors.records
    assert fields["x-edgemesh-request"] == record.id != trace
    assert record.trace == trace


@pytest.mark.parametrize(
    "authority",
    [
        "10.0.0.3:8080",
        "store.shop:8080",
        "10.0.0.2",
        "10.0.0.2:0",
        "10.0.0.2:65536",
        "10.0.0.2:+80",
        "10.0.0.02:80",
        "[10.0.0.2]:80",
    ],
)
async def test_c05_an_authority_that_was_not_dialled_gets_400(doors, authority):
    visitor = await doors.knock(door=STORE)
    _, status, fields = await visitor.connect(authority)
    assert (status, fields["x-edgemesh-reason"]) == (400, "bad-authority")
    assert not doors.dialler.picks
    assert not visitor.connection.closed


@pytest.mark.parametrize("port", [15001, 15006, 15008, 15053])
async def test_our_own_ports_are_not_reached_through_a_tunnel(doors, port):
    for visitor in (await doors.knock(door=STORE), await doors.knock()):
        _, status, fields = await visitor.connect(f"10.0.0.2:{port}")
        assert (status, fields["x-edgemesh-reason"]) == (400, "own-port")


async def test_a_request_that_is_not_connect_gets_400(doors):
    visitor = await doors.knock(door=STORE)
    get = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"10.0.0.2:8080")]
    _, status, fields = await visitor.ask([*get, (b"x-edgemesh-destination", b"10.0.0.2:8080")], end=True)
    assert (status, fields["x-edgemesh-reason"]) == (400, "not-connect")


async def test_a_server_that_does_not_answer_gets_503(doors):
    doors.dialler.failures = [Refused("connect-failed", "10.0.0.2:8080: Connection refused")] * 3
    visitor = await doors.knock(door=STORE)
    _, status, fields = await visitor.connect("10.0.0.2:8080")
    assert (status, fields["x-edgemesh-reason"]) == (503, "connect-failed")


async def test_the_nodes_door_leads_to_captured_workloads_only(doors):
    visitor = await doors.knock()
    channel, _ = await opened(doors, visitor)
    channel.close()
    for unknown in (
        "10.0.0.99:8080",
        "10.0.0.1:8080",
        f"{NODE}:22",
    ):  # nobody's, a workload of elsewhere, the node itself
        _, status, fields = await visitor.connect(unknown)
        assert (status, fields["x-edgemesh-reason"]) == (503, "unknown-workload")


async def test_when_descriptors_run_short_no_tunnel_takes_more(doors):
    visitor = await doors.knock(door=STORE)
    doors.context.descriptors = 4
    _, status, fields = await visitor.connect("10.0.0.2:8080")
    assert (status, fields["x-edgemesh-reason"]) == (503, "too-many-connections")


async def test_a_units_door_leads_to_its_own_ports_only(doors):
    unit = Workload("shop", "unit", "store", (NODE,), ports=(8080,), unit="unit.service")
    doors.context.captured.add(unit.key)
    doors.context.snapshot = msgspec.structs.replace(doors.context.snapshot, workloads=(*WORKLOADS, unit))
    for visitor in (await doors.knock(door=unit, address=NODE), await doors.knock()):
        _, status, _ = await visitor.connect(f"{NODE}:8080")
        assert status == 200
        _, status, fields = await visitor.connect(f"{NODE}:22")
        assert (status, fields["x-edgemesh-reason"]) == (503, "unknown-workload")


# bytes


async def test_c06_each_direction_ends_by_itself_and_keeps_its_order(doors):
    visitor = await doors.knock(door=STORE)
    channel, server = await opened(doors, visitor)
    await channel.send_all(b"one ")
    await channel.send_all(b"two")
    await channel.send_eof()
    assert await everything(server) == b"one two"
    await server.send_all(b"three")
    await server.send_eof()
    assert await everything(channel) == b"three"
    channel, server = await opened(doors, visitor)
    await server.send_all(b"first")
    await server.send_eof()
    assert await everything(channel) == b"first"
    await channel.send_all(b"second")
    await channel.send_eof()
    assert await everything(server) == b"second"
    await settled()
    assert [(r.flag, r.bytes_in, r.bytes_out, r.protocol) for r in doors.records] == [
        ("", 7, 5, "tcp"),
        ("", 6, 5, "tcp"),
    ]


@pytest.mark.slow
async def test_c14_a_slow_reader_does_not_fill_our_memory(doors):
    visitor = await doors.knock(door=STORE, bounds=Bounds(stream_window=262144))
    channel, server = await opened(doors, visitor)
    sent = 0

    async def send():
        nonlocal sent
        for _ in range(512):
            await channel.send_all(bytes(65536))
            sent += 65536
        await channel.send_eof()

    doors.nursery.start_soon(send)
    # A pipe in memory takes everything, so the server's end is stopped at its door.
    ours = doors.dialler.streams[-1]
    stopped = trio.Event()
    send_all = ours.send_all

    async def reluctant(data):
        await stopped.wait()
        await send_all(data)

    ours.send_all = reluctant
    await settled()
    (guest,) = doors.peers.accepted
    assert guest.held <= 262144
    assert sent < 1 << 21
    stopped.set()
    received = 0
    while more := await server.receive_some():
        received += len(more)
    assert received == 32 << 20


async def test_a_reset_is_passed_on_as_a_reset(doors):
    visitor = await doors.knock(door=STORE)
    channel, server = await opened(doors, visitor)
    server.abort()
    with pytest.raises(trio.BrokenResourceError):
        await channel.receive_some()
    channel, server = await opened(doors, visitor)
    channel.abort()
    await settled()
    assert server.was_reset
    assert [r.flag for r in doors.records] == ["upstream-broken", "client-gone"]


# life


async def test_c08_when_the_daemon_stops_tunnels_finish_and_none_are_opened(doors):
    visitor = await doors.knock(door=STORE)
    channel, server = await opened(doors, visitor)
    doors.peers.drain()
    await settled()
    assert visitor.connection.room() == 0
    with pytest.raises(Refused, match="peer-lost"):
        await visitor.connect("10.0.0.2:8080")
    await channel.send_all(b"last")
    await channel.send_eof()
    assert await everything(server) == b"last"
    await server.send_eof()
    assert await everything(channel) == b""
    await visitor.over.wait()
    assert visitor.end == ""


async def test_c09_a_policy_change_cuts_the_tunnel(doors):
    visitor = await doors.knock(door=STORE)
    channel, server = await opened(doors, visitor)
    publish(doors, grants=(HTTP,))
    with pytest.raises(trio.BrokenResourceError):
        await channel.receive_some()
    await settled()
    assert server.was_reset
    assert [r.flag for r in doors.records] == ["cut"]
    assert not visitor.connection.closed
    publish(doors, grants=(OPAQUE,))
    await opened(doors, visitor)


async def test_c10_a_renewed_certificate_drops_no_tunnel(doors, nursery):
    visitor = await doors.knock(door=STORE)
    channel, server = await opened(doors, visitor)
    before = visitor.secured.peer.serial
    doors.identities.renew()
    doors.peers.look(trio.current_time())
    after = (await doors.knock(door=STORE)).secured.peer.serial
    assert after != before
    await opened(doors, visitor)
    await channel.send_all(b"still")
    assert await server.receive_some() == b"still"


async def test_c10_when_the_peers_certificate_has_run_out_nothing_new_begins(doors):
    visitor = await doors.knock(door=STORE)
    channel, server = await opened(doors, visitor)
    end = visitor.secured.peer.not_after  # the same as that of theirs, to the second
    doors.identities.clock = lambda: end + 290
    doors.peers.look(trio.current_time())
    await settled()
    assert visitor.connection.room()
    doors.identities.clock = lambda: end + 310
    doors.peers.look(trio.current_time())
    await settled()
    assert not visitor.connection.room()
    await channel.send_all(b"still")
    assert await server.receive_some() == b"still"


async def test_a_connection_that_nobody_uses_ends(doors, autojump_clock):
    visitor = await doors.knock(door=STORE)
    channel, _ = await opened(doors, visitor)
    began = trio.current_time()
    channel.abort()
    with trio.fail_after(1000):
        await visitor.over.wait()
    assert 600 <= trio.current_time() - began < 605
    assert visitor.end == ""


async def test_a_peer_that_does_not_answer_is_lost(doors, autojump_clock):
    visitor = await doors.knock(door=STORE)
    _, server = await opened(doors, visitor)
    began = trio.current_time()
    visitor.pipe.receive_some = lambda size: (
        trio.sleep_forever()
    )  # after what it waits for now, which is our first PING
    with trio.fail_after(100):
        await visitor.over.wait()
    assert 60 <= trio.current_time() - began < 65
    assert visitor.end == "peer-lost"
    assert server.was_reset


@pytest.mark.slow
async def test_ten_thousand_tunnels_leave_nothing_behind(doors):
    visitor = await doors.knock(door=STORE)
    for number in range(10_000):
        channel, server = await opened(doors, visitor)
        if number % 2:
            server.abort()
            with pytest.raises(trio.BrokenResourceError):
                await channel.receive_some()
        else:
            await channel.send_eof()
            server.close()
            assert await everything(channel) == b""
        channel.close()
        doors.dialler.servers.clear()
        doors.dialler.streams.clear()
        doors.dialler.picks.clear()
    await settled()
    (guest,) = doors.peers.accepted
    assert not guest.branches
    assert not guest.streams
    assert list(doors.context.conns.values()) == [visitor.conn]
    assert not doors.context.live.in_flight
    assert len(doors.records) == 10_000


async def test_a_caller_who_leaves_ends_what_is_done_for_him(doors):
    visitor = await doors.knock(door=STORE)
    channel, server = await opened(doors, visitor)
    await channel.send_eof()  # now nobody reads from it, and the server says nothing
    await settled()
    channel.abort()
    await settled()
    assert server.was_reset
    assert [r.flag for r in doors.records] == ["client-gone"]
    publish(doors, grants=(HTTP,))
    native = await doors.knock(alpn=("edgemesh-h2", "h2"))
    asked = await native.connection.open(request(), end=True)
    await settled()
    server = doors.dialler.servers[-1]
    asked.abort()
    await settled()
    assert server.was_reset
    assert doors.records[-1].flag == "client-gone"


async def test_a_connection_that_is_lost_takes_its_tunnels_with_it(doors):
    visitor = await doors.knock(door=STORE)
    _, server = await opened(doors, visitor)
    visitor.secured.stream.abort()
    await visitor.over.wait()
    assert visitor.end == "peer-lost"
    assert server.was_reset
    assert [r.flag for r in doors.records] == ["client-gone", "peer-lost"]
    assert not doors.context.conns
    assert not doors.peers.accepted


async def test_a_cancelled_connection_takes_its_tunnels_with_it(doors):
    visitor = await doors.knock(door=STORE)
    _, server = await opened(doors, visitor)
    visitor.conn.scope.cancel()
    await visitor.over.wait()
    assert server.was_reset
    assert [r.flag for r in doors.records] == ["drained", "drained"]
    assert not doors.context.conns


# who calls, from where


async def test_c11_a_server_sees_the_address_of_who_calls(doors):
    await opened(doors, await doors.knock(door=STORE, peer=("10.0.0.1", 40000)))
    assert [c.peer[0] for c in doors.context.conns.values() if c.pick] == ["10.0.0.1"]
    visitor = await doors.knock()
    for told, believed in (
        ("10.0.0.1:1234", "10.0.0.1"),
        ("[fd00::1]:1234", "fd00::1"),
        ("10.0.0.7:1234", "10.9.9.9"),  # the address of another identity
        ("10.0.0.55:1234", "10.9.9.9"),  # nobody's
        ("nonsense", "10.9.9.9"),
    ):
        channel, _ = await opened(doors, visitor, source=told)
        (branch,) = [
            c
            for c in doors.context.conns.values()
            if c.pick and c.report.record.started and c.peer != ("10.0.0.1", 40000)
        ]
        assert branch.peer[0] == believed
        assert branch.source == (BUYER if believed != "10.9.9.9" else None)
        assert branch.identity == BUYER.identity
        channel.abort()
        await settled()


async def test_at_a_workloads_door_no_header_says_who_calls(doors):
    visitor = await doors.knock(door=STORE)
    await opened(doors, visitor, source="10.0.0.1:1234")
    assert {c.peer[0] for c in doors.context.conns.values()} == {"10.9.9.9"}


async def test_c12_an_ipv6_authority(doors):
    for visitor in (await doors.knock(door=STORE, address="fd00::2"), await doors.knock()):
        channel, server = await opened(doors, visitor, "[fd00::2]:8080")
        await channel.send_all(b"six")
        assert await server.receive_some() == b"six"
        assert doors.dialler.endpoints[-1].address == "fd00::2"
    _, status, _ = await visitor.connect("fd00::2:8080")
    assert status == 400


async def test_c13_baggage_that_we_do_not_know_is_tolerated(doors):
    visitor = await doors.knock(door=STORE)
    baggage = b"k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,service.name=buyer;weird=1,cloud.region=,,%F0%9F"
    _, status, _ = await visitor.connect(
        "10.0.0.2:8080", (b"baggage", baggage), (b"x-forwarded-network", b"net1"), (b"x-" + b"a" * 500, b"")
    )
    assert status == 200


# HTTP


async def test_http_in_a_tunnel_is_judged_by_the_rules_for_http(doors):
    publish(doors, grants=(HTTP,))
    visitor = await doors.knock(door=STORE)
    channel, status, _ = await visitor.connect("10.0.0.2:8080")
    assert status == 200
    await channel.send_all(b"GET /admin HTTP/1.1\r\nhost: store\r\n\r\n")
    assert (await channel.receive_some()).startswith(b"HTTP/1.1 403")
    assert not doors.dialler.picks
    await channel.send_all(b"GET /books HTTP/1.1\r\nhost: store\r\n\r\n")
    await settled()
    server = doors.dialler.servers[-1]
    assert b"GET /books" in await server.receive_some()
    await server.send_all(WEB)
    assert (await channel.receive_some()).startswith(b"HTTP/1.1 200")
    requests = [(r.path, r.status, r.direction) for r in doors.records if r.kind == "request"]
    assert requests[0] == ("/admin", 403, "inbound")


async def test_what_is_not_http_passes_no_tunnel_for_http(doors):
    publish(doors, grants=(HTTP,))
    visitor = await doors.knock(door=STORE)
    channel, status, _ = await visitor.connect("10.0.0.2:8080")
    assert status == 200
    await channel.send_all(b"\x00\x01\x02")
    with pytest.raises(trio.BrokenResourceError):
        await channel.receive_some()
    await settled()
    assert [r.flag for r in doors.records] == ["denied"]


async def test_a_port_that_is_declared_opaque_takes_no_http_rule(doors):
    tcp = service("store", "10.1.0.1", ports=(ServicePort("raw", 80, "tcp", endpoints=(E2,)),))
    publish(doors, grants=(HTTP,), services=(tcp,))
    visitor = await doors.knock(door=STORE)
    _, status, fields = await visitor.connect("10.0.0.2:8080")
    assert (status, fields["x-edgemesh-reason"]) == (401, "http-only")


def request(method=b"GET", path=b"/books", destination=b"10.0.0.2:8080", *more):
    fields = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"store.shop")]
    return [*fields, (b"x-edgemesh-destination", destination), *more]


async def test_a_workloads_own_tunnel_port_is_reached_through_no_door(doors):
    """It would be a tunnel to our own door: as the daemon, and not as its caller."""
    store = Workload("shop", "store", "store", STORE.addresses, tunnel_port=8080)  # which a rule of ours admits
    doors.context.snapshot = msgspec.structs.replace(doors.context.snapshot, workloads=(BUYER, store))
    visitor = await doors.knock()
    _, status, fields = await visitor.connect("10.0.0.2:8080", source="10.0.0.1")
    assert (status, fields["x-edgemesh-reason"]) == (400, "own-port")
    assert not doors.dialler.servers


@pytest.mark.parametrize(
    "door,bounds", [(None, Bounds().shared()), (STORE, Bounds())], ids=["the node's", "a workload's"]
)
async def test_workloads_that_share_a_connection_have_room_for_what_none_of_them_reads(doors, door, bounds):
    """So one that does not read stops no other. Behind a workload's own door there is no other."""
    visitor = await doors.knock(door=door)
    await settled()
    assert visitor.connection.machine.outbound_flow_control_window == bounds.connection_window


async def test_between_edgemesh_nodes_a_request_needs_no_tunnel(doors):
    publish(doors, grants=(HTTP,))
    visitor = await doors.knock(alpn=("edgemesh-h2", "h2"))
    channel = await visitor.connection.open(
        request(b"GET", b"/books", b"10.0.0.2:8080", (b"x-forwarded-for", b"10.0.0.1")), end=True
    )
    await settled()
    server = doors.dialler.servers[-1]
    asked = (await server.receive_some()).lower()
    assert asked.startswith(b"get /books")
    assert b"x-edgemesh" not in asked
    assert asked.count(b"10.0.0.1") == 1  # once, in x-forwarded-for
    await server.send_all(WEB)
    fields, _ = await channel.head()
    assert fields[0] == (b":status", b"200")
    assert await everything(channel) == b"hello"
    await settled()
    (record,) = doors.records
    assert (record.kind, record.status, record.source, record.destination, record.dialled) == (
        "request",
        200,
        BUYER,
        STORE,
        "10.0.0.2:8080",
    )


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        (request(path=b"/admin"), 403, "no-http-match"),
        (request(destination=b"10.0.0.99:8080"), 503, "unknown-workload"),
        (request(destination=b"store:8080"), 400, "bad-authority"),
        (request()[:-1], 400, "bad-authority"),
        (request(destination=b"10.0.0.2:15006"), 403, "own-port"),
    ],
)
async def test_a_request_between_nodes_that_is_refused(doors, asked, status, reason):
    publish(doors, grants=(HTTP,))
    visitor = await doors.knock(alpn=("edgemesh-h2", "h2"))
    channel, answered, fields = await visitor.ask(asked, end=True)
    assert (answered, fields["x-edgemesh-reason"]) == (status, reason)
    assert b"edgemesh:" in await everything(channel)
    await settled()
    (record,) = doors.records
    assert (record.kind, record.status, record.id) == ("request", status, fields["x-edgemesh-request"])


async def test_a_stranger_of_native_requests_is_refused_before_the_room(doors):
    visitor = await doors.knock("thief", alpn=("edgemesh-h2", "h2"))
    _, status, fields = await visitor.ask([*request(), (b"content-type", b"application/grpc")], end=True)
    assert (status, fields["grpc-status"], fields["x-edgemesh-reason"]) == (200, "7", "no-rule")
