"""Resting server connections: never shared between callers, never used when the server has spoken or left."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from nodeproxy.errors import Refused
from nodeproxy.limits import Limits
from nodeproxy.upstream.http1_pool import Key, Pool, Upstream
from policy.model import Endpoint

STORE = Endpoint("10.0.0.2", 8080, "shop/store")
KEY: Key = ("10.0.0.1", "shop/buyer", STORE)
OTHER: Key = ("10.0.0.9", "shop/thief", STORE)


class Connections:
    """Real socket pairs: `servers` are the far ends."""

    def __init__(self) -> None:
        self.servers: list[socket.socket] = []

    def open(self, key: Key = KEY) -> Upstream:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.servers.append(theirs)
        return Upstream(key, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections()
    yield made
    for server in made.servers:
        server.close()


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool(Limits(pool_idle_timeout=30, pool_idle_per_endpoint=2))
    yield pool
    pool.close()
    assert len(pool) == 0


def is_closed(upstream: Upstream) -> bool:
    assert isinstance(upstream.stream, trio.SocketStream)
    return upstream.stream.socket.fileno() < 0


async def test_the_last_one_put_is_taken_first_and_only_by_its_caller(pool: Pool, connections: Connections) -> None:
    first, second = connections.open(), connections.open()
    pool.put(first, 0)
    pool.put(second, 1)
    assert pool.take(OTHER, 1) is None
    assert pool.take((KEY[0], "shop/neighbour", STORE), 1) is None  # same address, another workload (systemd units)
    assert pool.take((KEY[0], KEY[1], Endpoint("10.0.0.3", 8080)), 1) is None
    assert pool.take(KEY, 1) is second
    assert pool.take(KEY, 1) is first
    assert pool.take(KEY, 1) is None
    first.close()
    second.close()


@pytest.mark.parametrize("deed", ["close", "speak"])
async def test_a_server_that_closed_or_spoke_meanwhile(pool: Pool, connections: Connections, deed: str) -> None:
    good, bad = connections.open(), connections.open()
    pool.put(good, 0)
    pool.put(bad, 0)
    if deed == "close":
        connections.servers[1].close()
    else:
        connections.servers[1].send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert not bad.quiet()
    assert pool.take(KEY, 1) is good
    assert is_closed(bad)
    good.close()


async def test_what_rested_too_long_is_not_used(pool: Pool, connections: Connections) -> None:
    old = connections.open()
    pool.put(old, 0)
    assert pool.take(KEY, 30.1) is None
    assert is_closed(old)


async def test_a_full_pool_closes_the_oldest(pool: Pool, connections: Connections) -> None:
    made = [connections.open() for _ in range(3)]
    for upstream in made:
        pool.put(upstream, 0)
    assert [is_closed(u) for u in made] == [True, False, False]
    assert len(pool) == 2
    pool.limits = Limits(pool_idle_per_endpoint=0)
    last = connections.open(OTHER)
    pool.put(last, 0)
    assert is_closed(last)


async def test_sweep(pool: Pool, connections: Connections) -> None:
    old, dead, young, alone = (
        connections.open(),
        connections.open(OTHER),
        connections.open(),
        connections.open(("a", "b", STORE)),
    )
    pool.put(old, 0)
    pool.put(dead, 20)
    pool.put(young, 20)
    pool.put(alone, 0)
    connections.servers[1].close()
    pool.sweep(40)
    assert [is_closed(u) for u in (old, dead, young, alone)] == [True, True, False, True]
    assert repr(pool) == "<Pool 1 idle for 1 callers and endpoints>"


async def test_forget(pool: Pool, connections: Connections) -> None:
    mine, other, elsewhere = (
        connections.open(),
        connections.open(OTHER),
        connections.open(("10.0.0.9", "x", Endpoint("10.0.0.7", 1))),
    )
    for upstream in (mine, other, elsewhere):
        pool.put(upstream, 0)
    pool.forget(["10.0.0.1"])  # a caller is gone
    assert [is_closed(u) for u in (mine, other, elsewhere)] == [True, False, False]
    pool.forget(["10.0.0.2", "10.0.0.3"])  # an endpoint is gone
    assert [is_closed(u) for u in (mine, other, elsewhere)] == [True, True, False]
    pool.forget([], "x")  # a caller whose addresses have changed since
    assert is_closed(elsewhere)
    to_store = connections.open()
    pool.put(to_store, 0)
    pool.forget([], "shop/store")  # an endpoint, likewise
    assert is_closed(to_store)


async def test_what_rests_for_one_workload_is_bounded(pool: Pool, connections: Connections) -> None:
    """Who called from one address after the other left a connection for each of them: 3,000 in 15 s."""
    pool.limits = Limits(pool_idle_per_workload=3)
    mine = [connections.open((f"10.0.1.{number}", "shop/buyer", STORE)) for number in range(5)]
    other = connections.open(OTHER)
    pool.put(other, 0)
    for upstream in mine:
        pool.put(upstream, 1)
    assert [is_closed(u) for u in (other, *mine)] == [False, True, True, False, False, False]
    taken = pool.take(mine[2].key, 1)
    assert taken is mine[2]
    pool.put(taken, 2)
    pool.put(connections.open(), 3)
    assert [is_closed(u) for u in (other, *mine)] == [False, True, True, False, True, False]


async def test_a_connection_of_detection_is_given(pool: Pool, connections: Connections) -> None:
    stream = connections.open().stream
    pool.give("10.0.0.1", "shop/buyer", STORE, stream)
    taken = pool.take(KEY, trio.current_time())
    assert taken is not None
    assert taken.stream is stream
    assert not taken.used
    assert repr(taken) == "<Upstream 10.0.0.2:8080 for 10.0.0.1, new>"
    taken.close()


async def test_a_broken_server_is_named(connections: Connections) -> None:
    upstream = connections.open()
    connections.servers[0].close()
    with pytest.raises(Refused) as caught:
        for _ in range(2):
            await upstream.send(b"x")
    assert (caught.value.flag, "10.0.0.2:8080" in caught.value.detail) == ("upstream-broken", True)
    assert await upstream.receive(10) == b""
    upstream.abort()
    assert is_closed(upstream)
