"""Endpoints that fail: others are tried at once, the dead one is left out, and is probed back."""

from collections import Counter

import trio
import trio.testing


async def test_a_dead_endpoint_costs_no_call_and_is_left_out(mesh):
    mesh.web("store-v1")
    store2 = mesh.web("store-v2")
    store2.stop()
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(40):
        assert (await call.get("/books")).body == "store-v1"
    dialled = Counter(key for key, _ in mesh.kernel.dialled)
    assert dialled["bookstore/store-v2"] == 3


async def test_it_is_probed_back_when_it_lives_again(mesh, quick_clock):
    mesh.web("store-v1")
    store2 = mesh.web("store-v2")
    store2.stop()
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(40):
        await call.get("/books")
    store2.start()
    await trio.sleep(1.5)
    assert {(await call.get("/books")).body for _ in range(40)} == {"store-v1", "store-v2"}


async def test_a_probe_that_fails_doubles_the_rest(mesh, quick_clock):
    mesh.web("store-v1")
    call = await mesh.call("buyer", "bookstore.bookstore")
    tries = []
    for _ in range(12):
        before = len(mesh.kernel.dialled)
        for _ in range(20):
            assert (await call.get("/books")).status == 200
        tries.append(sum(key == "bookstore/store-v2" for key, _ in mesh.kernel.dialled[before:]))
        await trio.sleep(1)
    assert tries[0] == 3
    assert sum(tries[1:]) <= 4  # after about 1, 3 and 7 seconds


async def test_opaque_connections_try_another_endpoint_too(mesh):
    async def greets(stream):
        await stream.send_all(b"hello")

    mesh.serve("store-v1", greets, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000) + mesh.tcp("bookbuyer", "bookstore-v2", 9000))
    for _ in range(10):
        assert await (await mesh.call("buyer", "bookstore.bookstore", 9000)).read(5) == b"hello"


async def test_load_goes_where_there_is_least(mesh):
    release = trio.Event()

    async def waits(stream):
        await release.wait()

    mesh.serve("store-v1", waits, 9000), mesh.serve("store-v2", waits, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000) + mesh.tcp("bookbuyer", "bookstore-v2", 9000))
    for each in range(1, 11):
        for _ in range(2):
            await mesh.call("buyer", "bookstore.bookstore", 9000)
            await mesh.settled()
        assert list(mesh.proxy.context.live.in_flight.values()) == [each, each]  # by chance: once in a thousand runs
    release.set()


async def test_requests_that_alternate_go_to_every_endpoint(mesh):
    """Turns would send each of the two to one endpoint for ever."""
    mesh.web("store-v1"), mesh.web("store-v2")
    mesh.publish()
    call = await mesh.call("buyer", "bookstore.bookstore")
    found = Counter([(path, (await call.get(path)).body) for _ in range(40) for path in ("/books", "/books/1")])
    assert len(found) == 4, found
    assert min(found.values()) >= 5, found
