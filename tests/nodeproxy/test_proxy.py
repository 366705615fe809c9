"""Doors open and close, a snapshot takes effect at once, limits change, and a stop drains: with doors that do as the test says."""

import errno
import logging
import socket
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from nodeproxy import proxy
from nodeproxy.capture import Doors, Ports
from nodeproxy.dns import Counts
from nodeproxy.downstream import accept
from nodeproxy.downstream.listeners import LISTENERS
from nodeproxy.interfaces import Pick
from nodeproxy.limits import Limits
from nodeproxy.proxy import Proxy
from policy.model import Request
from tests.journeys.stand_ins import bound
from tests.nodeproxy.conftest import BUYER, E2, NODE, STORE, FakeSockets, ends, snapshot
from tests.nodeproxy.protocols.http.conftest import pipes

ASKED = Request("GET", "/")


class EchoResolver:
    """Stands for the resolver: echoes datagrams, so that it shows whether names are still answered."""

    def __init__(self, key, context, cache):
        self.key = key
        self.cache = cache
        self.counts = Counts()

    def down(self):
        return [(("192.0.2.53", 53), float(len(self.key))), (("192.0.2.54", 5353), 7.0)]

    def close(self):
        self.cache.close()

    async def serve_udp(self, sock):
        sock = trio.socket.from_stdlib_socket(sock)
        while True:
            data, sender = await sock.recvfrom(100)
            await sock.sendto(self.key.encode() + data, sender)

    async def serve_tcp(self, sock):
        await trio.sleep_forever()


class Running:
    """A proxy whose doors note connections and wait, until told to end; with sockets on loopback."""

    def __init__(self, nursery, records):
        self.nursery = nursery
        self.records = records
        self.proxy = Proxy(snapshot(), FakeSockets(), Limits(), Ports(), records.append)
        self.context = self.proxy.context
        self.conns = []
        self.ending = trio.Event()
        self.opened = []

    async def outbound(self, conn):
        await self._wait(conn, "outbound")

    async def inbound(self, conn):
        await self._wait(conn, "inbound")

    async def _wait(self, conn, direction):
        assert conn.direction == direction
        self.conns.append(conn)
        await self.ending.wait()
        conn.rests()

    def doors(self):
        tcp = [bound("127.0.0.1", socket.SOCK_STREAM, backlog=10) for _ in range(3)]
        doors = Doors(tcp[:1], tcp[1:2], [bound("127.0.0.1", socket.SOCK_DGRAM)], tcp[2:])
        self.opened += [*tcp, *doors.dns_udp]
        return SimpleNamespace(
            doors=doors,
            out=tcp[0].getsockname(),
            into=tcp[1].getsockname(),
            names=doors.dns_udp[0].getsockname(),
            tcp=tcp,
            udp=doors.dns_udp[0],
        )

    def attach(self, workload=BUYER):
        house = self.doors()
        self.proxy.attach(workload, house.doors)
        return house

    async def call(self, address):
        """A connection to a door. Raises ConnectionRefusedError when it is closed."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.create_connection(address)))
        self.opened.append(stream.socket)
        await self.settled()
        return stream

    async def moving(self, address, route, request=None):
        """A connection on which something moves, decided by `route`."""
        stream = await self.call(address)
        conn = self.conns[-1]
        conn.route = route
        conn.moves(Pick(E2, STORE, "shop/store", "a rule", True), request)
        return stream, conn

    async def settled(self):
        await trio.testing.wait_all_tasks_blocked(0.005)

    async def is_answered(self, names):
        with socket.socket(type=socket.SOCK_DGRAM) as raw:
            raw.setblocking(False)
            raw.connect(names)
            sock = trio.socket.from_stdlib_socket(raw)
            try:
                await sock.send(b"?")
                await self.settled()
                return raw.recv(100)
            except (ConnectionRefusedError, BlockingIOError):
                return None


class Verdict:
    """A route that allows, or not; and the snapshots that were in force when it was asked."""

    def __init__(self, context, allows):
        self.context = context
        self.allows = allows
        self.asked = []

    def still_allows(self, pick, request):
        self.asked.append((self.context.snapshot, pick.endpoint, request))
        return self.allows


@pytest.fixture
async def running(records, monkeypatch):
    async with trio.open_nursery() as nursery:
        running = Running(nursery, records)
        stand_ins = {"outbound": running.outbound, "inbound": running.inbound}
        rows = tuple(replace(row, serve=stand_ins.get(row.name, row.serve)) for row in LISTENERS)
        monkeypatch.setattr(proxy, "LISTENERS", rows)
        monkeypatch.setattr(proxy, "Resolver", EchoResolver)
        monkeypatch.setattr(accept, "original_destination", lambda sock: ("10.1.0.1", 80))
        await nursery.start(running.proxy.run)
        yield running
        nursery.cancel_scope.cancel()
    for sock in running.opened:
        sock.close()


# attach and detach


async def test_attach_serves_all_doors_of_a_workload(running):
    house = running.attach()
    assert running.context.captured == {BUYER.key}
    await running.call(house.out)
    await running.call(house.into)
    assert [(conn.direction, conn.workload) for conn in running.conns] == [("outbound", BUYER), ("inbound", BUYER)]
    assert await running.is_answered(house.names) == b"shop/buyer?"


async def test_detach_cuts_this_workload_and_no_other(running, records):
    gone, stays = running.attach(BUYER), running.attach(STORE)
    calls = [await running.call(gone.out), await running.call(gone.into)]
    other = await running.call(stays.into)
    rests, _ = pipes()
    running.context.pool.give(BUYER.addresses[0], BUYER.key, E2, rests)
    running.proxy.detach(BUYER.key)
    assert [await ends(call) for call in calls] == ["reset", "reset"]
    await running.settled()
    assert running.context.captured == {STORE.key} and list(running.proxy.houses) == [STORE.key]
    assert rests.closed and len(running.context.pool) == 0
    assert {sock.fileno() for sock in (*gone.tcp, gone.udp)} == {-1}
    with pytest.raises(ConnectionRefusedError):
        await running.call(gone.out)
    assert len(running.context.conns) == 1 and [record.flag for record in records] == ["drained", "drained"]
    running.ending.set()
    assert await ends(other) == "closed"


async def test_detach_of_nobody_is_nothing(running):
    running.proxy.detach("shop/nobody")
    house = running.attach()
    running.proxy.detach(BUYER.key)
    running.proxy.detach(BUYER.key)
    await running.settled()
    assert house.tcp[0].fileno() == -1


async def test_attached_again_the_doors_before_are_closed(running):
    old = running.attach()
    call = await running.call(old.out)
    new = running.attach()
    assert await ends(call) == "reset"
    await running.settled()
    assert {sock.fileno() for sock in (*old.tcp, old.udp)} == {-1}
    await running.call(new.out)
    assert len(running.context.conns) == 1
    assert running.context.captured == {BUYER.key}


async def test_attach_comes_after_run():
    with pytest.raises(AssertionError, match="run"):
        Proxy(snapshot(), FakeSockets(), Limits(), Ports(), print).attach(BUYER, Doors([], [], [], []))


async def test_a_fault_closes_one_workload_and_is_logged(running, monkeypatch, caplog):
    async def breaks(*_):
        raise ZeroDivisionError

    fine = running.attach(STORE)
    await running.settled()
    monkeypatch.setattr(proxy, "accept_forever", breaks)
    broken = running.attach(BUYER)
    await running.settled()
    (line,) = caplog.records
    assert (line.levelno, line.getMessage()) == (logging.ERROR, "the doors of shop/buyer are closed")
    assert {sock.fileno() for sock in (*broken.tcp, broken.udp)} == {-1}
    await running.call(fine.into)
    assert len(running.conns) == 1


async def test_a_fault_in_answering_names_closes_no_door(running, monkeypatch, caplog):
    async def breaks(self, sock):
        raise OSError(errno.ENOMEM, "none just now")

    monkeypatch.setattr(EchoResolver, "serve_tcp", breaks)
    house = running.attach(BUYER)
    await running.settled()
    (line,) = caplog.records
    assert line.getMessage() == "names for shop/buyer: none just now; it is tried again"
    [problem] = running.context.housekeeping.problems
    assert problem.object == "names for shop/buyer"
    await running.call(house.out)
    assert len(running.conns) == 1


# publish


async def test_a_snapshot_is_in_force_at_once_and_cuts_what_it_forbids(running, records):
    house = running.attach()
    allowed, forbidden = Verdict(running.context, True), Verdict(running.context, False)
    stays, _ = await running.moving(house.out, allowed)
    streams = [(await running.moving(house.out, forbidden, request))[0] for request in (None, ASKED)]
    newer = snapshot(grants=())
    assert running.proxy.publish(newer) == 2
    assert running.context.snapshot is newer
    assert allowed.asked == [(newer, E2, None)]
    assert forbidden.asked == [(newer, E2, None), (newer, E2, ASKED)]
    assert [await ends(stream) for stream in streams] == ["reset", "reset"]
    await running.settled()
    assert [record.flag for record in records] == ["cut", "cut"]
    assert running.proxy.publish(newer) == 0
    running.ending.set()
    assert await ends(stays) == "closed"


async def test_what_rests_is_not_asked_about(running):
    house = running.attach()
    forbidden = Verdict(running.context, False)
    _, conn = await running.moving(house.out, forbidden)
    conn.rests()
    await running.call(house.out)  # nothing was decided for this one yet
    assert running.proxy.publish(snapshot()) == 0
    assert not forbidden.asked
    assert len(running.context.conns) == 2


# limit


async def test_limits_hold_for_what_begins_from_now_on(running, records):
    house = running.attach()
    limits = Limits(connections=2)
    running.proxy.configure(limits, log_requests=False)
    assert (running.context.limits, running.context.pool.limits) == (limits, limits)
    for address in (house.out, house.into):  # strangers at one door do not fill the other
        for _ in range(2):
            await running.call(address)
        assert await ends(await running.call(address)) == "reset"
    running.proxy.configure(Limits(connections=3), log_requests=False)
    await running.call(house.out)
    running.proxy.configure(Limits(connections=1), log_requests=False)  # those that are open stay
    await running.settled()
    assert len(running.context.conns) == 5
    assert [record.flag for record in records] == ["too-many-connections"] * 2


# drain


async def drain(running):
    done = trio.Event()

    async def run():
        await running.proxy.drain()
        done.set()

    running.nursery.start_soon(run)
    await running.settled()
    return done


async def test_a_stop_takes_no_new_calls_and_lets_running_ones_end(running, records, autojump_clock):
    house = running.attach()
    call, _ = await running.moving(house.out, Verdict(running.context, True))
    done = await drain(running)
    assert running.context.draining
    for address in (house.out, house.into):
        with pytest.raises(ConnectionRefusedError):
            await running.call(address)
    running.ending.set()
    assert await ends(call) == "closed"
    await done.wait()
    assert trio.current_time() < running.context.limits.drain_timeout / 2
    assert [record.flag for record in records] == [""]
    assert not running.proxy.houses


async def test_names_are_answered_while_calls_are_running(running):
    house = running.attach()
    await running.moving(house.out, Verdict(running.context, True))
    done = await drain(running)
    assert await running.is_answered(house.names) == b"shop/buyer?"
    running.ending.set()
    await done.wait()
    assert await running.is_answered(house.names) is None


async def test_at_its_deadline_a_stop_cuts(running, records, autojump_clock):
    running.proxy.configure(Limits(drain_timeout=7), log_requests=False)
    house = running.attach()
    call, _ = await running.moving(house.out, Verdict(running.context, True))
    rests, _ = pipes()
    running.context.pool.give(NODE, "", E2, rests)
    began = trio.current_time()
    await running.proxy.drain()
    assert trio.current_time() - began == pytest.approx(7, abs=0.1)
    assert [record.flag for record in records] == ["drained"], "it is recorded before drain answers"
    assert await ends(call) == "reset"
    assert rests.closed


async def test_a_stop_does_not_wait_for_idle_connections(running, records, autojump_clock):
    house = running.attach()
    call = await running.call(house.out)
    began = trio.current_time()
    await running.proxy.drain()
    assert trio.current_time() - began < 0.1
    assert await ends(call) == "reset"
    assert [record.flag for record in records] == ["drained"]


async def test_a_workload_that_appears_during_a_stop_is_refused(running):
    house = running.attach()
    await running.moving(house.out, Verdict(running.context, True))
    done = await drain(running)
    late = running.attach(STORE)
    await running.settled()
    with pytest.raises(ConnectionRefusedError):
        await running.call(late.into)
    running.ending.set()
    await done.wait()
    assert {sock.fileno() for sock in (*late.tcp, late.udp)} == {-1}


async def test_idle_upstream_connections_are_swept(running, autojump_clock):
    rests, _ = pipes()
    running.context.pool.give(NODE, "", E2, rests)
    await trio.sleep(running.context.limits.pool_idle_timeout + 6)
    assert rests.closed


async def test_names_are_counted_also_of_workloads_that_are_gone(running):
    proxy = running.proxy
    running.attach(BUYER)
    running.attach(STORE)
    for house in proxy.houses.values():
        house.resolver.counts.answered = 3
    proxy.houses[BUYER.key].resolver.counts.stale = 2
    assert proxy.resolvers_down() == {
        "192.0.2.53": (float(min(len(BUYER.key), len(STORE.key))), sorted([BUYER.key, STORE.key])),
        "192.0.2.54 port 5353": (7.0, sorted([BUYER.key, STORE.key])),
    }
    proxy.detach(BUYER.key)
    assert proxy.asked() == Counts(answered=6, stale=2)
    assert list(proxy.resolvers_down()["192.0.2.53"][1]) == [STORE.key]
