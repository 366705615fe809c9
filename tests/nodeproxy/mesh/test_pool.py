"""Connections to other nodes: who shares them, when they are made, kept, asked, renewed and given up. TLS is real, streams are in memory."""

from __future__ import annotations

import contextlib
import random
import time

import msgspec
import pytest
import trio
import trio.testing

from nodeproxy.context import GATE
from nodeproxy.errors import Refused
from nodeproxy.h2.connection import Bounds, Connection
from nodeproxy.interfaces import Pick
from nodeproxy.limits import PeerLimits
from nodeproxy.mesh.host_pool import FIRST_REST, LONGEST_REST
from nodeproxy.mesh.pool import Peers
from nodeproxy.routing.source import forwarded_for, shown_to
from nodeproxy.tls import contexts, handshake
from nodeproxy.tls.unauthenticated import source
from policy.doors import Came
from policy.model import Endpoint, Hop, Node, Revoked, Workload
from tests.nodeproxy.conftest import BUYER, STORE
from tests.nodeproxy.protocols.http.conftest import pipes
from tests.nodeproxy.tunnels import DOMAIN, NODE_SPIFFE, OK, Known

THERE = Hop("10.9.0.2", 15008, f"spiffe://{DOMAIN}/node/there", "there")
DIRECT = Hop("10.0.0.2", 15008, STORE.identity.spiffe(DOMAIN))
PICK = Pick(Endpoint("10.0.0.2", 8080, STORE.key), STORE, "shop/store", "rule", False, THERE)
THIEF = Workload("shop", "thief", "thief", ("10.0.0.7",))


class Remote:
    """The other node. `refusals` are raised by dials first; `answer(channel)` serves a stream."""

    def __init__(self, nursery, mint):
        self.nursery = nursery
        self.identities = Known(mint, "there")
        self.bounds = Bounds()
        self.alpn = contexts.ALPN_MESH
        self.contexts = contexts.Contexts()
        self.refusals = []
        self.dials = []
        self.connections = []
        self.pipes = []
        self.streams = []
        self.answer = answer_ok
        self.slow = trio.Event()
        self.slow.set()
        self.leaves = False  # as who refuses us: after the handshake, without a word

    async def connect(self, context, workload, hop):
        self.dials.append((workload.key, hop))
        await self.slow.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        theirs, ours = pipes()
        self.pipes.append(theirs)
        self.nursery.start_soon(self._serve, theirs, hop)
        return ours

    async def _serve(self, pipe, hop):
        credentials = self.identities._of(hop.spiffe)
        context = self.contexts.server(credentials, self.identities.trust(), self.alpn)
        with contextlib.suppress(Refused, trio.BrokenResourceError):
            secured = await handshake.accept(pipe, context, self.identities.trust(), 5.0, time.time)
            if self.leaves:
                secured.stream.abort()
                return
            connection = Connection(secured.stream, False, self.bounds, "here")
            self.connections.append(connection)
            async with trio.open_nursery() as streams:

                def accept(channel):
                    self.streams.append(channel)
                    streams.start_soon(self._answer, channel)

                with contextlib.suppress(Refused, trio.BrokenResourceError):
                    await connection.run(accept)
                streams.cancel_scope.cancel()
        pipe.abort()

    async def _answer(self, channel):
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.answer(channel)


async def answer_ok(channel):
    await channel.send_head(OK)
    async for data in channel:
        await channel.send_all(data)
    await channel.send_eof()


def answers(status, *fields, end=True):
    async def answer(channel):
        await channel.send_head([(b":status", b"%d" % status), *fields], end=end)

    return answer


@pytest.fixture
async def remote(nursery, mint):
    return Remote(nursery, mint)


@pytest.fixture
async def peers(nursery, context, remote, mint):
    context.identities = Known(mint)
    context.snapshot = msgspec.structs.replace(context.snapshot, workloads=(*context.snapshot.workloads, THIEF))
    context.peers = peers = Peers(context, chance=random.Random(1))
    peers.connect = remote.connect
    await nursery.start(peers.run)
    return peers


async def open_tunnel(peers, conn, pick):
    """As routing.dial opens one."""
    caller = shown_to(conn, pick.endpoint) or forwarded_for(conn)
    return await peers.tunnel(conn.workload, pick, pick.hop, (caller, conn.peer[1]), conn.report.record)


@pytest.fixture
def buyer(connect):
    return connect()


async def settled():
    await trio.testing.wait_all_tasks_blocked()


# what is shared


async def test_streams_of_one_identity_share_a_connection(peers, remote, buyer, connect):
    first, second = await open_tunnel(peers, buyer, PICK), await open_tunnel(peers, connect(), PICK)
    assert len(remote.connections) == 1
    await first.send_all(b"one")
    await second.send_all(b"two")
    assert (await first.receive_some(), await second.receive_some()) == (b"one", b"two")
    link = await peers.get(buyer.workload, THERE)
    assert link.native
    assert link.peer.spiffe == THERE.spiffe
    thief = await peers.get(THIEF, THERE)
    assert thief is not link
    assert len(remote.connections) == 2


async def test_for_callers_outside_the_mesh_this_node_calls_and_one_of_them_takes_no_more_than_a_part(
    peers, remote, buyer, autojump_clock
):
    remote.bounds = Bounds(max_streams=2)
    peers.settings = PeerLimits(connections=1)
    of_part = {}
    for number in range(64):
        came = Came(f"192.0.2.{number}", "shop/front")
        of_part.setdefault(hash(source(came.address)) % 4, came)
    one, other, *_ = of_part.values()
    link = await peers.get(GATE, THERE, one)
    assert link.made_of[0].spiffe == NODE_SPIFFE, "the node's own certificate"
    for _ in range(2):
        await link.open([(b":method", b"CONNECT"), (b":authority", b"a:1")])
    with pytest.raises(Refused, match="too-many-connections"):
        await peers.get(GATE, THERE, one)
    assert await peers.get(GATE, THERE, other) is not link
    assert await peers.get(buyer.workload, THERE) is not link
    peers.context.identities.node = lambda: None
    with pytest.raises(Refused, match="no-certificate"):
        await peers.get(GATE, THERE, other)


async def test_a_node_that_is_no_edgemesh_is_told_of_nobody_outside(peers, remote, buyer):
    remote.alpn = ("h2",)
    pick = msgspec.structs.replace(PICK, came=Came("192.0.2.9", "shop/front"))
    with pytest.raises(Refused, match="no-identity"):
        await open_tunnel(peers, buyer, pick)
    assert not remote.streams


async def test_streams_that_nobody_reads_stop_no_other_on_a_connection_that_workloads_share(peers, remote, buyer):
    async def floods(channel):
        await channel.send_head(OK)
        await channel.send_all(bytes(60_000) if len(remote.streams) <= 40 else b"hello")
        await trio.sleep_forever()

    remote.answer = floods
    silent = [await open_tunnel(peers, buyer, PICK) for _ in range(40)]
    await settled()
    last = await open_tunnel(peers, buyer, PICK)
    with trio.fail_after(2):
        assert await last.receive_some() == b"hello"
    assert len(remote.connections) == 1
    assert len(silent) * 60_000 > Bounds().connection_window


async def test_a_workloads_own_door_is_dialled_by_each_workload_itself(peers, remote, connect):
    twin = Workload("shop", "twin", "buyer", ("10.0.0.8",))
    for workload in (BUYER, twin, BUYER):
        await peers.get(workload, DIRECT)
    assert remote.dials == [(BUYER.key, DIRECT), (twin.key, DIRECT)]
    await peers.get(BUYER, THERE)
    await peers.get(twin, THERE)
    assert len(remote.dials) == 3
    peers.forget(twin.key)
    await settled()
    assert [c.closed for c in remote.connections] == [False, True, False]


async def test_a_peer_that_is_not_edgemesh_takes_tunnels_only(peers, remote, buyer):
    remote.alpn = contexts.ALPN_TUNNEL
    assert not (await peers.get(buyer.workload, THERE)).native
    await open_tunnel(peers, buyer, PICK)


async def test_c07_the_101st_stream_opens_a_second_connection(peers, remote, buyer):
    tunnels = [await open_tunnel(peers, buyer, PICK) for _ in range(100)]
    assert len(remote.connections) == 1
    tunnels.append(await open_tunnel(peers, buyer, PICK))
    assert [c.streams for c in remote.connections] == [100, 1]
    for tunnel in tunnels:
        await tunnel.send_eof()
        assert await tunnel.receive_some() == b""
    await open_tunnel(peers, buyer, PICK)
    assert len(remote.connections) == 2


async def test_c07_the_peers_own_limit_counts_too(peers, remote, buyer):
    remote.bounds = Bounds(max_streams=3)
    for _ in range(4):
        await open_tunnel(peers, buyer, PICK)
    assert [c.streams for c in remote.connections] == [3, 1]


async def test_many_callers_at_once_fill_one_connection_after_the_other(peers, remote, buyer, nursery):
    remote.bounds = Bounds(max_streams=3)
    opened = []

    async def call():
        opened.append(await open_tunnel(peers, buyer, PICK))

    async def ask():
        link = await peers.get(buyer.workload, THERE)
        await trio.lowlevel.checkpoint()  # others come in between
        await trio.lowlevel.checkpoint()
        opened.append(await link.open([(b":method", b"CONNECT"), (b":authority", b"a:1")]))

    async with trio.open_nursery() as callers:
        for number in range(6):
            callers.start_soon(ask if number % 2 else call)
    await settled()
    assert [c.streams for c in remote.connections] == [3, 3]


async def test_when_all_connections_are_full_a_caller_waits_and_is_then_told(peers, remote, buyer, autojump_clock):
    remote.bounds = Bounds(max_streams=1)
    first, _ = await open_tunnel(peers, buyer, PICK), await open_tunnel(peers, buyer, PICK)
    with pytest.raises(Refused, match="too-many-connections"):
        await open_tunnel(peers, buyer, PICK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_tunnel, peers, buyer, PICK)
        await trio.sleep(1)
        first.close()
    assert len(remote.connections) == 2


# the request


async def test_what_a_tunnel_asks_for(peers, remote, buyer):
    await open_tunnel(peers, buyer, PICK)
    fields = dict(remote.streams[0].fields)
    assert fields.pop(b"traceparent").startswith(b"00-" + buyer.report.record.id.encode() + b"-")
    assert fields == {b":method": b"CONNECT", b":authority": b"10.0.0.2:8080", b"forwarded": b'for="10.0.0.1:40000"'}
    assert buyer.report.record.tls_peer == THERE.spiffe


async def test_c12_an_ipv6_authority_is_bracketed(peers, remote, connect):
    pick = msgspec.structs.replace(PICK, endpoint=Endpoint("fd00::2", 8080, STORE.key))
    await open_tunnel(peers, connect(peer=("fd00::1", 1234)), pick)
    fields = dict(remote.streams[0].fields)
    assert (fields[b":authority"], fields[b"forwarded"]) == (b"[fd00::2]:8080", b'for="[fd00::1]:1234"')


async def test_where_bytes_cost_no_trace_is_sent(peers, remote, buyer):
    hop = msgspec.structs.replace(THERE, metered=True)
    await open_tunnel(peers, buyer, msgspec.structs.replace(PICK, hop=hop))
    assert b"traceparent" not in dict(remote.streams[0].fields)


@pytest.mark.parametrize(
    ("status", "flag"),
    [
        (400, "peer-refused"),
        (401, "peer-refused"),
        (403, "peer-refused"),
        (503, "connect-failed"),
        (502, "peer-refused"),
    ],
)
async def test_what_a_refusal_becomes(peers, remote, buyer, status, flag):
    remote.answer = answers(status, (b"x-edgemesh-reason", b"some-word"), (b"x-edgemesh-request", b"a" * 32))
    with pytest.raises(Refused) as error:
        await open_tunnel(peers, buyer, PICK)
    assert error.value.flag == flag
    assert f"some-word ({status})" in error.value.detail
    assert (error.value.request_id, error.value.protected) == ("a" * 32, STORE)
    await settled()
    assert remote.connections[0].streams == 0


async def test_a_peer_that_never_answers(peers, remote, buyer, autojump_clock):
    remote.answer = lambda channel: trio.sleep_forever()
    with pytest.raises(Refused, match="connect-timeout"):
        await open_tunnel(peers, buyer, PICK)
    await settled()
    assert remote.connections[0].streams == 0
    assert trio.current_time() == pytest.approx(6.0, abs=0.1)


async def test_a_caller_who_leaves_takes_his_stream_with_him(peers, remote, buyer):
    remote.answer = lambda channel: trio.sleep_forever()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_tunnel, peers, buyer, PICK)
        await settled()
        assert remote.connections[0].streams == 1
        nursery.cancel_scope.cancel()
    await settled()
    assert remote.connections[0].streams == 0
    assert not remote.connections[0].closed


# dialling


async def test_callers_share_one_attempt_and_its_failure(peers, remote, buyer, nursery):
    remote.slow = trio.Event()
    remote.refusals = [Refused("connect-failed", "Connection refused")]
    ends = []

    async def call():
        try:
            await open_tunnel(peers, buyer, PICK)
        except Refused as refused:
            ends.append(str(refused))

    async with trio.open_nursery() as callers:
        for _ in range(5):
            callers.start_soon(call)
        await settled()
        remote.slow.set()
    assert len(remote.dials) == 1
    assert len(ends) == 5
    assert len(set(ends)) == 1
    assert "Connection refused" in ends[0]


async def test_a_caller_who_leaves_does_not_end_the_attempt_of_others(peers, remote, buyer):
    remote.slow = trio.Event()
    got = []

    async def call(scope):
        with scope:
            got.append(await open_tunnel(peers, buyer, PICK))

    first, second = trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as callers:
        callers.start_soon(call, first)
        await settled()
        callers.start_soon(call, second)
        await settled()
        first.cancel()
        await settled()
        remote.slow.set()
    assert len(got) == 1
    assert len(remote.dials) == 1


async def test_after_failures_callers_are_told_at_once_and_one_probes(peers, remote, buyer, autojump_clock):
    remote.refusals = [Refused("connect-failed", "no route")] * 12
    rests = []
    for _ in range(12):
        with pytest.raises(Refused, match="no route"):
            await open_tunnel(peers, buyer, PICK)
        dials = len(remote.dials)
        with pytest.raises(Refused, match="tried again in"):
            await open_tunnel(peers, buyer, PICK)
        assert len(remote.dials) == dials
        (way,) = peers._hosts.values()
        rests.append(way.until - trio.current_time())
        await trio.sleep(rests[-1])
    assert FIRST_REST * 0.75 <= rests[0] <= FIRST_REST * 1.25
    assert LONGEST_REST * 0.75 <= rests[-1] <= LONGEST_REST * 1.25
    assert rests[3] > rests[0]
    # Now it works; while the probe is on its way nobody waits behind it.
    remote.slow = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_tunnel, peers, buyer, PICK)
        await settled()
        with pytest.raises(Refused, match="being tried again now"):
            await open_tunnel(peers, buyer, PICK)
        remote.slow.set()
    assert (await peers.get(buyer.workload, THERE)).room()
    assert way.failures == 0


async def test_failures_are_forgotten(peers, remote, buyer, autojump_clock):
    remote.refusals = [Refused("connect-failed", "no route")]
    with pytest.raises(Refused):
        await open_tunnel(peers, buyer, PICK)
    await trio.sleep(65)
    assert not peers._hosts


async def test_a_handshake_that_hangs(peers, remote, buyer, autojump_clock):
    async def mute(context, workload, hop):
        remote.pipes.append(pipes())
        return remote.pipes[-1][0]

    peers.connect = mute
    with pytest.raises(Refused, match=r"tls-failed.*no handshake in 5 s"):
        await open_tunnel(peers, buyer, PICK)


@pytest.mark.parametrize("spiffe", [f"spiffe://{DOMAIN}/node/other", f"spiffe://{DOMAIN}/ns/shop/sa/store"])
async def test_somebody_else_than_was_dialled(peers, remote, buyer, spiffe):
    made = remote.identities.mint.credentials(spiffe, "other")
    remote.identities.made[THERE.spiffe] = made
    with pytest.raises(Refused, match="peer-unexpected"):
        await open_tunnel(peers, buyer, PICK)


async def test_a_peer_that_does_not_believe_us(peers, remote, buyer, mint):
    other = mint.ca("other")
    remote.identities.roots = mint.trust(other)
    with pytest.raises(Refused, match=r"tls-failed.*alert"):
        await open_tunnel(peers, buyer, PICK)


@pytest.mark.parametrize("off", [-400, -20, 20, 400])
async def test_dates_are_held_against_the_time_of_the_mesh_and_a_peer_s_that_does_not_fit_makes_it_doubted(
    peers, remote, buyer, off
):
    ours = peers.context.identities
    ours.clock = lambda: time.time() + off * 86400
    with pytest.raises(Refused, match="peer-expired"):
        await open_tunnel(peers, buyer, PICK)
    assert ours.doubts == 1


async def test_a_peer_that_leaves_after_the_handshake(peers, remote, buyer):
    remote.leaves = True
    with pytest.raises(Refused, match="peer-lost"):
        await open_tunnel(peers, buyer, PICK)
    assert peers.context.identities.doubts == 1, "perhaps it does not believe the dates of our certificate"
    remote.leaves = False
    with pytest.raises(Refused, match="tried again in"):
        await open_tunnel(peers, buyer, PICK)


async def test_without_a_certificate_nobody_is_dialled(peers, remote, buyer):
    peers.context.identities.of = lambda identity: None
    with pytest.raises(Refused, match="no-certificate"):
        await open_tunnel(peers, buyer, PICK)
    assert not remote.dials


async def test_a_fault_of_ours_reaches_no_other_connection(peers, remote, buyer, connect, caplog):
    good = await open_tunnel(peers, connect(workload=THIEF), PICK)

    async def faulty(context, workload, hop):
        raise KeyError("fault")

    peers.connect = faulty
    with pytest.raises(Refused, match="internal"):
        await open_tunnel(peers, buyer, PICK)
    await good.send_all(b"still")
    assert await good.receive_some() == b"still"
    caplog.clear()


# life


async def test_c08_a_peer_that_drains_gets_nothing_new_and_what_runs_finishes(peers, remote, buyer):
    tunnel = await open_tunnel(peers, buyer, PICK)
    remote.connections[0].drain()
    await settled()
    await open_tunnel(peers, buyer, PICK)
    assert len(remote.connections) == 2
    await tunnel.send_all(b"last")
    assert await tunnel.receive_some() == b"last"
    await tunnel.send_eof()
    assert await tunnel.receive_some() == b""
    await settled()
    assert len(peers._carried) == 1


async def test_c08_a_stream_that_was_not_taken_is_sent_again_once(peers, remote, buyer):
    async def refuses(channel):
        remote.answer = answer_ok
        channel.connection.machine.drop(channel.id, 7)  # REFUSED_STREAM
        channel.connection.wake(channel)
        channel.connection.transport.stir()

    remote.answer = refuses
    tunnel = await open_tunnel(peers, buyer, PICK)
    await tunnel.send_all(b"x")
    assert await tunnel.receive_some() == b"x"
    assert len(remote.streams) == 2


async def test_a_connection_that_breaks_is_replaced(peers, remote, buyer):
    tunnel = await open_tunnel(peers, buyer, PICK)
    remote.pipes[0].abort()
    with pytest.raises(trio.BrokenResourceError):
        await tunnel.receive_some()
    await settled()
    assert not peers._carried
    await open_tunnel(peers, buyer, PICK)
    assert len(remote.connections) == 2


async def test_c10_renewed_credentials_drop_no_open_tunnel(peers, remote, buyer):
    tunnel = await open_tunnel(peers, buyer, PICK)
    peers.context.identities.renew()
    again = await open_tunnel(peers, buyer, PICK)
    assert len(remote.connections) == 2
    for stream in (tunnel, again):
        await stream.send_all(b"still")
        assert await stream.receive_some() == b"still"
    await tunnel.send_eof()
    assert await tunnel.receive_some() == b""
    await settled()
    assert len(peers._carried) == 1


async def test_what_is_there_already_has_the_newest_credentials(peers, remote, buyer):
    assert peers.existing(buyer.workload, THERE) is None
    link = await peers.get(buyer.workload, THERE)
    assert peers.existing(buyer.workload, THERE) is link
    peers.context.identities.renew()
    assert peers.existing(buyer.workload, THERE) is None, "it was made of those before"
    again = await peers.get(buyer.workload, THERE)
    assert again is not link
    assert peers.existing(buyer.workload, THERE) is again


async def test_c10_renewed_credentials_end_idle_connections(peers, remote, buyer, autojump_clock):
    tunnel = await open_tunnel(peers, buyer, PICK)
    tunnel.close()
    peers.context.identities.renew()
    await trio.sleep(3)
    assert not peers._carried


async def test_c10_a_peers_certificate_that_ran_out(peers, remote, buyer):
    tunnel = await open_tunnel(peers, buyer, PICK)
    end = (await peers.get(buyer.workload, THERE)).peer.not_after
    peers.context.identities.clock = lambda: end + 301
    peers.look(trio.current_time())
    peers.context.identities.clock = time.time
    await open_tunnel(peers, buyer, PICK)
    assert len(remote.connections) == 2
    await tunnel.send_all(b"still")
    assert await tunnel.receive_some() == b"still"


async def test_a_revoked_node_is_cut_off_and_not_dialled(peers, remote, buyer):
    tunnel = await open_tunnel(peers, buyer, PICK)
    peers.context.snapshot = msgspec.structs.replace(peers.context.snapshot, revoked=Revoked(nodes=("there",)))
    assert peers.recheck() == 1
    with pytest.raises(trio.BrokenResourceError):
        await tunnel.receive_some()
    with pytest.raises(Refused, match="peer-revoked"):
        await open_tunnel(peers, buyer, PICK)
    assert len(remote.dials) == 1


async def test_a_revoked_certificate_is_found_by_its_serial(peers, remote, buyer):
    serial = remote.identities._of(THERE.spiffe).serial
    peers.context.snapshot = msgspec.structs.replace(peers.context.snapshot, revoked=Revoked(serials=(serial,)))
    with pytest.raises(Refused, match="peer-revoked"):
        await open_tunnel(peers, buyer, PICK)


async def test_idle_connections_end(peers, remote, buyer, autojump_clock):
    tunnel = await open_tunnel(peers, buyer, PICK)
    await trio.sleep(400)
    assert len(peers._carried) == 1  # a tunnel that is quiet is not idle
    tunnel.abort()
    await trio.sleep(299)
    assert len(peers._carried) == 1
    await trio.sleep(4)
    assert not peers._carried
    assert not peers._hosts


async def test_a_peer_that_falls_silent_is_lost(peers, remote, buyer, autojump_clock):
    tunnel = await open_tunnel(peers, buyer, PICK)
    began = trio.current_time()
    remote.pipes[0].receive_some = lambda size: trio.sleep_forever()  # after what it waits for now, our first PING
    with pytest.raises(trio.BrokenResourceError):
        await tunnel.receive_some()
    assert 30 <= trio.current_time() - began < 45
    await settled()
    assert not peers._carried


async def test_the_first_call_after_a_rest_waits_for_a_link_that_is_gone_no_longer_than_for_dialling(
    peers, remote, buyer, autojump_clock
):
    (await open_tunnel(peers, buyer, PICK)).close()
    await trio.sleep(60.5)  # between two looks
    remote.pipes[0].receive_some = lambda size: trio.sleep_forever()
    link = await peers.get(buyer.workload, THERE)
    await link.open([(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/")], True)
    await settled()  # that it still hears of
    began = trio.current_time()
    channel = await link.open(
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/")], True
    )
    with pytest.raises(trio.BrokenResourceError):
        await channel.head()
    assert trio.current_time() - began < 8
    assert link.verdict == "peer-lost"


async def test_what_calls_tell_about_nodes(peers, remote, buyer, autojump_clock):
    there = Node("there", ("10.9.0.2",))
    peers.context.snapshot = msgspec.structs.replace(
        peers.context.snapshot, node="here", nodes=(Node("here", ("10.9.0.1",)), there)
    )
    passed = trio.current_time
    peers.neighbours.clock = passed
    (never,) = peers.nodes()
    assert (never["node"], never["addresses"], never["reachable"], never["seen_seconds"]) == (
        "there",
        ["10.9.0.2"],
        None,
        None,
    )
    remote.refusals.append(Refused("node-unreachable", "No route to host"))
    with pytest.raises(Refused, match="node-unreachable"):
        await open_tunnel(peers, buyer, PICK)
    await trio.sleep(7)
    (gone,) = peers.nodes()
    assert (gone["reachable"], gone["since_seconds"], gone["flag"], gone["error"]) == (
        False,
        7.0,
        "node-unreachable",
        "No route to host",
    )
    tunnel = await open_tunnel(peers, buyer, PICK)
    (back,) = peers.nodes()
    assert (back["reachable"], back["since_seconds"], back["seen_seconds"], back["connections"]) == (True, 0.0, 0.0, 1)
    remote.pipes[0].abort()
    with pytest.raises(trio.BrokenResourceError):
        await tunnel.receive_some()
    await settled()
    (lost,) = peers.nodes()
    assert (lost["reachable"], lost["flag"], lost["connections"]) == (False, "peer-lost", 0)
    peers.context.snapshot = msgspec.structs.replace(peers.context.snapshot, nodes=())
    peers.recheck()
    assert peers.nodes() == []


async def test_that_we_refuse_a_node_says_nothing_about_its_link(peers, remote, buyer):
    peers.context.identities.of = lambda identity: None
    with pytest.raises(Refused, match="no-certificate"):
        await open_tunnel(peers, buyer, PICK)
    assert peers.neighbours.items() == []


@pytest.mark.parametrize("metered", ["hop", "own", ""])
async def test_keepalive_costs_little_where_bytes_do(peers, remote, buyer, autojump_clock, metered):
    peers.settings = PeerLimits(keepalive=10, keepalive_metered=100)
    if metered == "own":
        peers.context.snapshot = msgspec.structs.replace(peers.context.snapshot, nodes=(Node("here", metered=True),))
    hop = msgspec.structs.replace(THERE, metered=metered == "hop")
    await open_tunnel(peers, buyer, msgspec.structs.replace(PICK, hop=hop))
    await settled()
    pinged = remote.connections[0].last_heard
    await trio.sleep(105)
    assert remote.connections[0].last_heard > pinged
    (link,) = peers._carried
    # A PING each 10 s and a moment, or one.
    assert link._pinged == (1 if metered else 10)


async def test_what_is_cancelled_leaves_nothing(context, mint, remote, connect):
    context.identities = Known(mint)
    async with trio.open_nursery() as nursery:
        peers = Peers(context)
        context.peers = peers
        peers.connect = remote.connect
        await nursery.start(peers.run)
        tunnel = await open_tunnel(peers, connect(), PICK)
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await tunnel.send_all(b"x")
    assert not peers._carried
