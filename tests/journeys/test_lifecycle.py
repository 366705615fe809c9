"""Workloads come and go, the proxy drains, and what one workload may hold is bounded."""

import socket

import pytest
import trio
import trio.testing

from nodeproxy.capture import Doors
from tests.journeys.stand_ins import echo


async def opaque(mesh, caller="buyer"):
    call = await mesh.call(caller, "bookstore-v1.bookstore", 9000)
    await call.send(b"ping")
    assert await call.read(4) == b"ping"
    return call


@pytest.fixture
def echoing(mesh):
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000) + mesh.tcp("bookthief", "bookstore", 9000))
    return mesh.serve("store-v1", echo, 9000)


async def test_drain_refuses_new_connections_and_lets_running_ones_end(mesh, echoing):
    call = await opaque(mesh)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.proxy.drain)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ConnectionRefusedError):
            await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
        await call.send(b"pong")
        assert await call.read(4) == b"pong"
        await call.stream.send_eof()
        assert await call.is_over() == "closed"
    assert [r.flag for r in mesh.records] == [""]


async def test_drain_cuts_what_does_not_end(mesh, echoing, quick_clock):
    mesh.limit(drain_timeout=0.5)
    call = await opaque(mesh)
    began = trio.current_time()
    await mesh.proxy.drain()
    assert mesh.limits.drain_timeout <= trio.current_time() - began < mesh.limits.drain_timeout + 8
    assert await call.is_over() == "reset"
    assert [r.flag for r in mesh.records] == ["drained"]


async def test_drain_does_not_wait_for_idle_connections(mesh):
    mesh.web("store-v1")
    call = await mesh.call("buyer", "bookstore-v1.bookstore")
    await call.get("/books")
    with trio.fail_after(8):
        await mesh.proxy.drain()
    await call.is_over()
    assert mesh.at_rest()


async def test_a_workload_that_is_gone_takes_its_connections_with_it(mesh, echoing):
    gone, stays = await opaque(mesh, "buyer"), await opaque(mesh, "thief")
    mesh.proxy.detach("bookbuyer/buyer")
    assert await gone.is_over() == "reset"
    await mesh.settled()
    with pytest.raises(ConnectionRefusedError):
        await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    await stays.send(b"pong")
    assert await stays.read(4) == b"pong"
    mesh.attach("buyer")
    await opaque(mesh, "buyer")


async def test_connections_of_one_workload_are_bounded(mesh, echoing):
    mesh.limit(connections=3)
    calls = [await opaque(mesh) for _ in range(3)]
    refused = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
    assert await refused.is_over() == "reset"
    await opaque(mesh, "thief")  # nobody else's business
    await calls[0].stream.send_eof()
    assert await calls[0].is_over() == "closed"
    await mesh.settled()
    await opaque(mesh)


async def test_a_slow_head_ends_only_its_own_connection(mesh, quick_clock):
    mesh.web("store-v1")
    slow = await mesh.call("buyer", "bookstore-v1.bookstore")
    await slow.send(b"GET /books HTTP/1.1\r\nhost")
    other = await mesh.call("buyer", "bookstore-v1.bookstore")
    assert (await other.get("/books")).status == 200
    began = trio.current_time()
    answer = await slow.read(12)
    assert answer == b"HTTP/1.1 408"
    assert mesh.limits.head_timeout - 1 <= trio.current_time() - began < mesh.limits.head_timeout + 1


async def test_a_door_dialled_directly_or_through_itself_is_refused(mesh):
    door = mesh.outbound["buyer"]
    direct = trio.socket.socket()
    with direct:
        await direct.connect(door)
        with pytest.raises(ConnectionResetError):
            await direct.recv(1)
    for port in (15001, 15006, 15053):
        assert await (await mesh.call("buyer", mesh.addresses["store-v1"], port)).is_over() == "reset"
        assert await (await mesh.call("buyer", "127.0.0.1", port)).is_over() == "reset"
    assert {r.flag for r in mesh.records} == {"own-port"}


async def test_a_broken_door_closes_no_other(mesh):
    mesh.web("store-v1")
    broken = bound_but_deaf()
    mesh.proxy.attach(mesh.proxy.context.snapshot.workload("bookstore/store-v2"), Doors([broken], [], [], []))
    await mesh.settled()
    assert (await (await mesh.call("buyer", "bookstore-v1.bookstore")).get("/books")).status == 200


def bound_but_deaf():
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    return sock
