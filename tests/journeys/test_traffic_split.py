"""TrafficSplit: exact weights, for each request and for each connection, live."""

from collections import Counter

import pytest


async def tally(mesh, count, host="bookstore.bookstore"):
    call = await mesh.call("buyer", host)
    return Counter([(await call.get("/books")).body for _ in range(count)])


@pytest.mark.parametrize(("v1", "v2"), [(50, 50), (75, 25), (1000, 500), (0, 100), (1, 0)])
async def test_requests_of_one_connection_are_split_exactly(mesh, v1, v2):
    mesh.web("store-v1"), mesh.web("store-v2")
    mesh.publish(split=mesh.split(v1, v2))
    found = await tally(mesh, 60)
    assert (found["store-v1"], found["store-v2"]) == (60 * v1 // (v1 + v2), 60 * v2 // (v1 + v2))


async def test_weights_change_live_on_a_connection_that_is_open(mesh):
    mesh.web("store-v1"), mesh.web("store-v2")
    mesh.publish(split=mesh.split(100, 0))
    call = await mesh.call("buyer", "bookstore.bookstore")
    assert {(await call.get("/books")).body for _ in range(6)} == {"store-v1"}
    mesh.publish(split=mesh.split(0, 100))
    assert {(await call.get("/books")).body for _ in range(6)} == {"store-v2"}
    mesh.publish(split="")
    assert {(await call.get("/books")).body for _ in range(40)} == {"store-v1", "store-v2"}


async def test_connections_are_split_exactly(mesh):
    async def says_one(stream):
        await stream.send_all(b"1")

    async def says_two(stream):
        await stream.send_all(b"2")

    mesh.serve("store-v1", says_one, 9000), mesh.serve("store-v2", says_two, 9000)
    mesh.publish(
        split=mesh.split(75, 25),
        tcp=mesh.tcp("bookbuyer", "bookstore", 9000) + mesh.tcp("bookbuyer", "bookstore-v2", 9000),
    )
    found = Counter([await (await mesh.call("buyer", "bookstore.bookstore", 9000)).read(1) for _ in range(20)])
    assert found == {b"1": 15, b"2": 5}


async def test_a_split_authorizes_the_backend_that_was_chosen(mesh):
    mesh.web("store-v1"), mesh.web("store-v2")
    mesh.publish(split=mesh.split(50, 50), access_v2="")
    call = await mesh.call("buyer", "bookstore.bookstore")
    assert Counter([(await call.get("/books")).status for _ in range(10)]) == {200: 5, 403: 5}


async def test_a_backend_without_endpoints_gets_nothing(mesh):
    mesh.web("store-v1")
    mesh.publish(split=mesh.split(10, 90, "bookstore-v1", "nobody"))
    assert await tally(mesh, 10) == {"store-v1": 10}


async def test_all_weights_zero_is_503(mesh):
    mesh.web("store-v1")
    mesh.publish(split=mesh.split(0, 0))
    answer = await (await mesh.call("buyer", "bookstore.bookstore")).get("/books")
    assert (answer.status, answer.reason) == (503, "all-weights-zero")


async def test_a_backend_called_directly_is_not_split(mesh):
    mesh.web("store-v1"), mesh.web("store-v2")
    mesh.publish(split=mesh.split(0, 100))
    assert await tally(mesh, 10, "bookstore-v1.bookstore") == {"store-v1": 10}
