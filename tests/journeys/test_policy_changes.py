"""A new snapshot: in force for the next request at once, and what it forbids is cut within a second; nothing else is."""

import pytest
import trio
import trio.testing

from tests.journeys.stand_ins import echo


async def chat(stream):
    """A WebSocket server, as far as a proxy can tell: it switches protocols, then echoes."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    await echo(stream)


async def drip(stream):
    """A response body that never ends: a byte a moment, as the caller takes them."""
    while b"\r\n\r\n" not in (await stream.receive_some()):
        pass
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
    while True:
        await stream.send_all(b"x" * 100)
        await trio.sleep(0.001)


async def opaque(mesh, caller):
    call = await mesh.call(caller, "bookstore-v1.bookstore", 9000)
    await call.send(b"ping")
    assert await call.read(4) == b"ping"
    return call


async def upgraded(mesh, caller):
    call = await mesh.call(caller, "bookstore-v1.bookstore", 8080)
    await call.send(b"GET /books/chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert (await call.read(12)) == b"HTTP/1.1 101"
    while not (await call.stream.receive_some()).endswith(b"\r\n\r\n"):
        pass
    await call.send(b"ping")
    assert await call.read(4) == b"ping"
    return call


async def long_body(mesh, caller):
    call = await mesh.call(caller, "bookstore-v1.bookstore")
    await call.send(b"GET /books HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await call.read(1000)).startswith(b"HTTP/1.1 200")
    return call


async def upload(mesh, caller):
    call = await mesh.call(caller, "bookstore-v1.bookstore", 7000)
    await call.send(b"POST /books HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nping\r\n")
    await mesh.settled()
    return call


@pytest.mark.parametrize("begin", [opaque, upgraded, long_body, upload])
async def test_what_is_forbidden_is_cut_and_the_rest_is_not(mesh, begin):
    swallowed = bytearray()

    async def swallow(stream):
        async for data in stream:
            swallowed.extend(data)

    servers = [
        mesh.serve("store-v1", echo, 9000),
        mesh.serve("store-v1", chat, 8080),
        mesh.serve("store-v1", drip),
        mesh.serve("store-v1", swallow, 7000),
    ]
    for_buyer = mesh.http("bookbuyer", "bookstore") + mesh.tcp("bookbuyer", "bookstore", 9000)
    for_thief = mesh.http("bookthief", "bookstore") + mesh.tcp("bookthief", "bookstore", 9000)
    mesh.publish(access=for_buyer, more=for_thief)
    cut, stays = await begin(mesh, "buyer"), await begin(mesh, "thief")
    assert mesh.publish(more=for_thief + "\n---\n# said anew") == 0
    assert mesh.publish(access="") == 1
    with trio.fail_after(8):
        assert await cut.is_over() == "reset"
    await mesh.until(lambda: sum(server.open for server in servers) == 1)
    assert {r.flag for r in mesh.records if r.source.name == "buyer"} == {"cut"}
    assert not any(r.source.name == "thief" for r in mesh.records)
    if begin is long_body:
        assert len(await stays.read(10_000)) == 10_000
    elif begin is upload:
        await stays.send(b"4\r\npong\r\n")
        await mesh.until(lambda: swallowed.endswith(b"pong\r\n"))
    else:
        await stays.send(b"pong")
        assert await stays.read(4) == b"pong"


async def test_an_idle_connection_is_not_cut_but_its_next_request_is_decided_anew(mesh):
    web = mesh.web("store-v1")
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    assert (await buyer.get("/books")).status == 200
    await mesh.settled()
    assert mesh.publish(access="") == 0
    assert (await buyer.get("/books")).status == 403
    mesh.publish(access=mesh.http("bookbuyer", "bookstore"))
    assert (await buyer.get("/books")).status == 200
    assert len(web.requests) == 2


async def test_another_rule_keeps_it(mesh):
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    call = await opaque(mesh, "buyer")
    assert mesh.publish(tcp="", mesh=mesh.permissive) == 0
    assert mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9001), mesh=mesh.strict) == 1
    with trio.fail_after(8):
        assert await call.is_over() == "reset"


async def test_a_caller_that_changes_its_identity_is_cut(mesh):
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    call = await opaque(mesh, "buyer")
    mesh.accounts["buyer"] = "somebody-else"
    assert mesh.publish() == 1
    with trio.fail_after(8):
        assert await call.is_over() == "reset"


async def test_what_leaves_the_mesh_is_cut_when_egress_ends(mesh):
    mesh.serve_at(mesh.stranger, 9000, echo)
    call = await mesh.call("buyer", mesh.stranger, 9000)
    await call.send(b"ping")
    assert await call.read(4) == b"ping"
    assert mesh.publish(mesh=mesh.no_egress) == 1
    with trio.fail_after(8):
        assert await call.is_over() == "reset"


async def test_the_fifty_first_call_after_fifty_changes(mesh):
    mesh.web("store-v1")
    call = await mesh.call("buyer", "bookstore-v1.bookstore")
    for number in range(50):
        mesh.publish(access=mesh.http("bookbuyer", "bookstore") if number % 2 else "")
    assert (await call.get("/books")).status == 200
    await mesh.settled()
    mesh.publish(access="")
    assert (await call.get("/books")).status == 403
