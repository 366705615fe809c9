"""Calls from one node to another: both proxies whole, everything between them mTLS."""

from __future__ import annotations

import msgspec
import pytest
import trio
from trio.testing import MockClock

from nodeproxy.dns import resolver
from nodeproxy.downstream import accept
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Connection
from nodeproxy.routing import source
from nodeproxy.tls import contexts
from policy.model import Identity, Revoked
from tests.compiled import needs_lane
from tests.journeys.stand_ins import echo, greets, head_of
from tests.journeys.two_nodes import TwoNodes

NODE_DOORS, OWN_DOORS = True, False


LANES = [(), *(pytest.param(lanes, marks=needs_lane) for lanes in (("west",), ("east",), ("west", "east")))]


@pytest.fixture(params=LANES, ids=["no lane", "lane in the west", "lane in the east", "lanes"])
def lanes(request):
    return request.param


@pytest.fixture(params=[NODE_DOORS, OWN_DOORS], ids=["node doors", "own doors"])
async def mesh(request, monkeypatch, mint, lanes):
    async with trio.open_nursery() as nursery:
        mesh = TwoNodes(nursery, mint, request.param, lanes)
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        monkeypatch.setattr(resolver, "original_destination", mesh.original_destination)
        monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
        await mesh.start()
        yield mesh
        nursery.cancel_scope.cancel()
    mesh.close()


async def test_an_http_call(mesh):
    web = mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    answer = await buyer.get("/books")
    assert (answer.status, answer.body) == (200, "store-v1")
    assert web.peers == [mesh.addresses["buyer"]]  # C11
    assert web.requests[0][3][b"x-forwarded-for"] == mesh.addresses["buyer"].encode()
    assert not [name for name in web.requests[0][3] if b"edgemesh" in name]
    (out,), (into,) = mesh.west.told("request"), mesh.east.told("request")
    assert (out.status, out.source.name, out.destination.name) == (into.status, into.source.name, into.destination.name)
    assert out.tls_peer.startswith(
        "spiffe://cluster.local/node/east" if mesh.node_doors else "spiffe://cluster.local/ns/bookstore"
    )
    assert out.tls_version == "TLSv1.3"


async def test_requests_of_one_identity_share_a_connection(mesh):
    mesh.web("store-v1")
    for _ in range(3):
        for caller in ("buyer", "buyer-2"):
            buyer = await mesh.call(caller, "bookstore-v1.bookstore")
            for _ in range(3):
                assert (await buyer.get("/books")).status == 200
    assert len(mesh.east.peers.accepted) == (1 if mesh.node_doors else 2)


async def test_what_no_rule_admits_is_refused_before_it_leaves(mesh):
    web = mesh.web("store-v1")
    buyer, thief = (
        await mesh.call("buyer", "bookstore-v1.bookstore"),
        await mesh.call("thief", "bookstore-v1.bookstore"),
    )
    assert (await buyer.get("/admin")).reason == "no-http-match"
    assert (await thief.get("/books")).reason == "no-rule"
    assert not web.requests
    assert not mesh.west.peers


async def test_the_servers_node_has_the_last_word(mesh):
    """The nodes may be of different opinion for a while: the caller learns what the other one said, and both know it by one id."""
    web = mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    assert (await buyer.get("/books")).status == 200
    mesh.manifests["access"] = ""
    mesh.east.publish()
    answer = await buyer.get("/books")
    assert (answer.status, answer.reason) == (403, "no-rule")
    (refusal,) = mesh.east.told("request", flag="denied")
    assert refusal.source.name == "buyer"
    assert answer.headers["x-edgemesh-request"] == refusal.id
    (seen,) = mesh.west.told("request", flag="peer-refused")
    assert seen.id == refusal.id
    assert len(web.requests) == 1


async def test_a_body_each_way(mesh):
    web = mesh.web("store-v1")
    web.answers["/books"] = (200, b"x" * 300_000)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    answer = await buyer.get("/books", method="POST", body=b"y" * 300_000)
    assert answer.body == "x" * 300_000
    assert web.requests[0][4] == b"y" * 300_000


async def test_an_upload_goes_on_another_connection_when_its_own_is_just_ending(mesh, monkeypatch):
    """A node that hands over ends its connections: whatever has not left yet is asked elsewhere, body or not."""
    web = mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    assert (await buyer.get("/books")).status == 200
    opens, ending = Connection.open, ["once"]

    async def open_or_end(self, fields, end=False):
        if ending:
            ending.pop()
            raise Refused("peer-lost", "it is ending")
        return await opens(self, fields, end)

    monkeypatch.setattr(Connection, "open", open_or_end)
    await buyer.send(
        b"POST /books HTTP/1.1\r\nhost: bookstore-v1.bookstore\r\ntransfer-encoding: chunked\r\nexpect: x\r\n\r\n3\r\nabc\r\n"
    )
    await mesh.settled()
    await buyer.send(b"3\r\ndef\r\n0\r\n\r\n")
    assert (await buyer.read(12)) == b"HTTP/1.1 200"
    assert not ending
    assert [body for _, _, _, _, body in web.requests] == [b"", b"abcdef"]


# opaque bytes


async def test_an_opaque_call(mesh):
    server = mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"
    assert server.peers == [mesh.addresses["buyer"]]  # C11
    await buyer.stream.send_eof()
    assert await buyer.is_over() == "closed"
    await mesh.until(mesh.at_rest)
    assert mesh.west.told("connection", protocol="tcp", flag="", bytes_in=4, bytes_out=4)
    assert mesh.east.told("connection", protocol="tcp", flag="", bytes_in=4, bytes_out=4)


async def test_c06_a_server_that_answers_only_when_the_caller_has_ended(mesh):
    async def counts(stream):
        total = 0
        async for data in stream:
            total += len(data)
        await stream.send_all(b"%d" % total)

    mesh.serve("store-v1", counts, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await buyer.send(b"x" * 2_000_000)
    await buyer.stream.send_eof()
    assert await buyer.read(100) == b"2000000"


async def test_a_server_that_speaks_first(mesh):
    mesh.serve("mysql", greets, 3306)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "mysql", 3306, "bookwarehouse"))
    buyer = await mesh.call("buyer", "mysql.bookwarehouse", 3306)
    assert await buyer.read(6) == b"hello "


async def test_a_server_that_is_not_there(mesh):
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    assert await (await mesh.call("buyer", "bookstore-v1.bookstore", 9000)).is_over() == "reset"
    assert mesh.east.told("connection", flag="connect-failed")
    (failed,) = mesh.west.told("connection", flag="connect-failed")
    assert failed.id == mesh.east.told("connection", flag="connect-failed")[0].id
    answer = await (await mesh.call("buyer", "bookstore-v1.bookstore")).get("/books")
    assert answer.status == 503


async def test_a_reset_is_passed_on_as_a_reset(mesh):
    async def breaks_off(stream):
        await stream.send_all(b"half of ")
        stream.socket.setsockopt(1, 13, bytes([1, 0, 0, 0, 0, 0, 0, 0]))  # SO_LINGER: 0 seconds
        stream.socket.close()

    mesh.serve("store-v1", breaks_off, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    assert await (await mesh.call("buyer", "bookstore-v1.bookstore", 9000)).is_over() == "reset"


async def test_an_upgraded_connection(mesh):
    async def upgrades(stream):
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n")
        await echo(stream)

    mesh.serve("store-v1", upgrades, 8080)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 8080)
    await buyer.send(b"GET /books HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await buyer.read(1)
    assert head.startswith(b"HTTP/1.1 101")
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"


# who may not


async def test_a_revoked_node_is_cut_off(mesh):
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"
    mesh.publish(revoked=Revoked(nodes=("west",)))
    assert await buyer.is_over() == "reset"
    assert await (await mesh.call("buyer", "bookstore-v1.bookstore", 9000)).is_over() == "reset"
    await mesh.settled()
    assert not mesh.east.peers.accepted
    assert {r.flag for r in mesh.east.records} == {"peer-revoked"}


async def test_a_revoked_identity_is_cut_off(mesh):
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    assert (await buyer.get("/books")).status == 200
    mesh.publish(revoked=Revoked(identities=(Identity("bookbuyer", "bookbuyer"),)))
    assert (await buyer.get("/books")).reason == "revoked"
    await mesh.settled()
    assert not mesh.east.peers.accepted


async def test_c09_a_policy_change_cuts_the_call_on_both_nodes(mesh):
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"
    assert mesh.publish(tcp="") == 2
    assert await buyer.is_over() == "reset"
    await mesh.until(mesh.at_rest)
    assert mesh.west.told("connection", flag="cut")
    assert mesh.east.told("connection", flag="cut")


async def test_plain_text_to_a_tunnel_door(mesh):
    door = (mesh.addressed["east"] if mesh.node_doors else mesh.addresses["store-v1"], 15008)
    sock = trio.socket.socket()
    with sock:
        await sock.connect(door)
        await sock.send(b"GET /books HTTP/1.1\r\nhost: a\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            while await sock.recv(100):
                pass
            raise ConnectionResetError
    await mesh.until(lambda: mesh.east.records)
    assert mesh.east.records[0].flag == "plain-to-tunnel"


# the link


async def test_c10_renewal_drops_no_call(mesh):
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    old = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await old.send(b"ping")
    assert await old.read(4) == b"ping"
    mesh.west.identities.renew()
    mesh.east.identities.renew()
    new = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    for call in (new, old):
        await call.send(b"pong")
        assert await call.read(4) == b"pong"
    assert len(mesh.east.peers.accepted) == 2
    await old.stream.send_eof()
    assert await old.is_over() == "closed"
    await mesh.until(lambda: len(mesh.east.peers.accepted) == 1)


async def test_c08_a_node_that_stops_lets_running_calls_end(mesh):
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.east.proxy.drain)
        mesh.east.peers.drain()
        await mesh.settled()
        await buyer.send(b"pong")
        assert await buyer.read(4) == b"pong"
        assert await (await mesh.call("buyer", "bookstore-v1.bookstore", 9000)).is_over() == "reset"
        await buyer.stream.send_eof()
        assert await buyer.is_over() == "closed"
    assert not mesh.east.proxy.context.conns


async def test_a_node_that_dies_and_comes_back(mesh):
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    assert (await buyer.get("/books")).status == 200
    mesh.east.scope.cancel()
    await mesh.until(lambda: not mesh.west.peers._carried)
    answer = await buyer.get("/books")
    assert (answer.status, answer.reason) == (503, "node-unreachable")
    assert (await buyer.get("/books")).status == 503


async def test_identities_do_not_share_a_connection(mesh):
    mesh.web("store-v1")
    mesh.publish(more=mesh.http("bookthief", "bookstore"))
    for caller in ("buyer", "thief"):
        assert (await (await mesh.call(caller, "bookstore-v1.bookstore")).get("/books")).status == 200
    assert sorted(link.peer.identity.service_account for link in mesh.east.peers.accepted) == ["bookbuyer", "bookthief"]


async def test_without_mtls_calls_go_in_plain(mesh):
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for side in (mesh.west, mesh.east):
        snapshot = side.snapshot
        side.proxy.publish(
            msgspec.structs.replace(snapshot, mesh=msgspec.structs.replace(snapshot.mesh, mtls="disabled"))
        )
    # Nothing here redirects what comes in, so the call reaches the server itself.
    assert (await buyer.get("/books")).status == 200
    assert not mesh.west.peers


@pytest.mark.slow
async def test_many_calls_leave_nothing_behind(mesh):
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))

    async def call():
        for _ in range(10):
            buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
            await buyer.send(b"ping")
            assert await buyer.read(4) == b"ping"
            await buyer.stream.aclose()

    async with trio.open_nursery() as callers:
        for _ in range(30):
            callers.start_soon(call)
    await mesh.until(mesh.at_rest)
    assert not any(link.streams for link in (*mesh.west.peers._carried, *mesh.east.peers.accepted))
    assert len(mesh.east.peers.accepted) <= 2


@pytest.fixture
def quick_clock():
    return MockClock(autojump_threshold=0.02)


@pytest.mark.parametrize("mesh", [NODE_DOORS], ids=["node doors"], indirect=True)
async def test_connections_between_nodes_end_when_nobody_uses_them(quick_clock, mesh):
    mesh.web("store-v1")
    for side in (mesh.west, mesh.east):
        side.peers.settings = msgspec.structs.replace(side.peers.settings, idle_timeout=20)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    assert (await buyer.get("/books")).status == 200
    assert mesh.west.peers
    await trio.sleep(25)
    await mesh.settled()
    assert not mesh.west.peers
    assert not mesh.east.peers


async def test_http_through_tunnels_where_the_peer_is_not_edgemesh(monkeypatch, mesh):
    """The server's connection rests in the tunnel. It is known who is behind it, and it outlives no renewed certificate."""
    monkeypatch.setattr(contexts, "ALPN_MESH", contexts.ALPN_TUNNEL)
    mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(2):
        assert (await buyer.get("/books")).status == 200
    records = mesh.west.told("request", status=200)
    assert [record.tls_version for record in records] == ["TLSv1.3"] * 2
    assert records[0].tls_peer == records[1].tls_peer != ""
    mesh.west.identities.renew()
    mesh.west.peers.look(trio.current_time())
    assert (await buyer.get("/books")).status == 200
    await mesh.until(lambda: len(mesh.west.peers) == 1)
    (link,) = mesh.west.peers._carried
    assert link.made_of[0] == mesh.west.identities.of(Identity("bookbuyer", "bookbuyer"))


def _tried(side):
    return [(one.trial, one.status) for one in side.told("request") if one.trial]


async def test_a_dry_run_is_counted_by_each_node_that_judges(mesh):
    mesh.web("store-v1")
    target = "TrafficTarget bookstore/http-bookbuyer-bookstore"
    mark = 'metadata: {annotations: {edgemesh.io/dry-run: "removal"}, '
    mesh.publish(access=mesh.manifests["access"].replace("metadata: {", mark, 1))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(5):
        assert (await buyer.get("/books")).status == 200
    await mesh.settled()
    assert _tried(mesh.west) == _tried(mesh.east) == [(target, 200)] * 5
    mesh.publish(access=mesh.manifests["access"].replace("removal", "true"))
    for _ in range(5):
        assert (await buyer.get("/books")).reason == "no-rule"
    await mesh.settled()
    assert _tried(mesh.west)[5:] == [(target, 403)] * 5
    assert len(_tried(mesh.east)) == 5, "a call that its caller's node refuses reaches no other"


async def test_the_servers_node_refuses_a_caller_that_an_isolation_cuts_off(mesh):
    """Also while the caller's own node has not heard of it."""
    web = mesh.web("store-v1")
    buyer, other = [await mesh.call(who, "bookstore-v1.bookstore") for who in ("buyer", "buyer-2")]
    for call in (buyer, other):
        assert (await call.get("/books")).status == 200
    mesh.manifests["isolation"] = (
        "\n---\n{apiVersion: edgemesh.io/v1alpha1, kind: Isolation, metadata: {name: q},"
        f" spec: {{cidrs: [{mesh.addresses['buyer']}/32]}}}}"
    )
    mesh.east.publish()
    for _ in range(3):
        answer = await buyer.get("/books")
        assert (answer.status, answer.reason) == (403, "isolated")
    assert (await other.get("/books")).status == 200
    assert len(web.requests) == 3
