"""RequestMirror of HTTPRoutes and GRPCRoutes: copies go to another Service as the caller, who neither waits nor hears of it."""

import time
from collections import Counter

import trio

from nodeproxy.downstream import accept
from nodeproxy.routing import source
from tests.compiled import needs_lane
from tests.journeys.bookstore import PORTS, document, service
from tests.journeys.test_grpc_routes import h2_caller
from tests.journeys.test_http_routes import V1, ask, fields, path, rewritten, route, rule, stores
from tests.journeys.two_nodes import TwoNodes


def mirror(name="bookstore-v2", port=14001, **more):
    return {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": name, "port": port}, **more}}


def seen(web):
    return [(method, where, body) for _, method, where, _, body in web.requests]


def over(mesh):
    return not mesh.proxy.asides.running


async def copies(mesh, web, number):
    """What a server has got, when it has got so much; and no more comes."""
    await mesh.until(lambda: len(web.requests) >= number and over(mesh))
    await mesh.settled()
    return seen(web)


async def test_a_copy_goes_to_the_other_service_with_body_and_fields_as_the_server_gets_them(mesh):
    one, two = stores(mesh)
    mesh.publish(route=route(rule(V1, filters=[mirror(), fields(set={"X_Set": "1"})])))
    call = await mesh.call("buyer", "bookstore.bookstore")
    for number in range(3):
        answer = await call.get(f"/books?n={number}", method="POST", body=b"x" * number, x_own="2")
        assert (answer.status, answer.body) == (200, "store-v1")
    assert await copies(mesh, two, 3) == seen(one)
    for (*_, first, _), (*_, second, _) in zip(one.requests, two.requests, strict=True):
        assert {name: value for name, value in first.items() if name != b"connection"} == second
        assert second[b"x-set"] == b"1"
        assert second[b"x-forwarded-for"] == mesh.addresses["buyer"].encode()
    assert set(two.peers) == {mesh.addresses["buyer"]}, "as the caller"
    found = [record for record in mesh.records if record.kind == "request" and record.service.endswith("-v2")]
    assert [(one.source.name, one.destination.name, one.status) for one in found] == [("buyer", "store-v2", 200)] * 3


async def test_several_copies_and_parts(mesh):
    one, two = stores(mesh)
    all_of, none, half = mirror(), mirror(percent=0), mirror(fraction={"numerator": 1, "denominator": 2})
    mesh.publish(route=route(rule(V1, filters=[all_of, none, all_of])))
    assert len(await ask(mesh, times=4)) == 4
    assert len(await copies(mesh, two, 8)) == 8
    mesh.publish(route=route(rule(V1, filters=[half])))
    two.requests.clear()
    assert len(await ask(mesh, times=200)) == 200
    await mesh.until(lambda: over(mesh))
    assert 60 <= len(two.requests) <= 140
    assert len(one.requests) == 204


async def test_the_caller_has_to_be_allowed_to_call_the_other_service(mesh):
    one, two = stores(mesh)
    mesh.publish(route=route(rule(V1, filters=[mirror()])), access_v2="")
    assert [answer.status for answer in await ask(mesh, times=3)] == [200] * 3
    await mesh.until(lambda: over(mesh))
    assert (len(one.requests), two.requests) == (3, [])
    denied = [record for record in mesh.records if record.flag == "denied"]
    assert [(record.source.name, record.destination.name) for record in denied] == [("buyer", "store-v2")] * 3
    assert [answer.status for answer in await ask(mesh, "/admin")] == [403], "what is refused is not copied"
    await mesh.until(lambda: over(mesh))
    assert two.requests == []


async def test_the_caller_neither_waits_nor_hears_of_a_failure(mesh):
    one, two = stores(mesh)
    never = trio.Event()
    two.stop()

    async def silent(stream):
        await stream.receive_some(1000)
        await never.wait()

    mesh.publish(route=route(rule(V1, filters=[mirror(), mirror("nobody"), mirror("missing"), mirror(port=1)])))
    assert [answer.status for answer in await ask(mesh, times=3)] == [200] * 3, "nobody listens"
    mesh.serve("store-v2", silent, 14001)
    began = time.monotonic()
    assert [answer.status for answer in await ask(mesh, times=3)] == [200] * 3
    assert time.monotonic() - began < 2
    assert len(one.requests) == 6
    flags = Counter(record.flag for record in mesh.records if record.kind == "request" and record.flag)
    assert set(flags) == {"connect-failed", "no-endpoint", "bad-route", "no-port"}


async def test_copies_that_hang_are_bounded_for_one_caller(mesh):
    stores(mesh)[1].stop()
    begun, never = [], trio.Event()

    async def silent(stream):
        begun.append(await stream.receive_some(1000))
        await never.wait()

    mesh.serve("store-v2", silent, 14001)
    mesh.publish(route=route(rule(V1, filters=[mirror()])))
    assert [answer.status for answer in await ask(mesh, times=50)] == [200] * 50
    await mesh.until(lambda: len(begun) == 32)
    assert mesh.proxy.asides.dropped == 18
    mesh.publish(access_v2="")  # cuts them
    await mesh.until(lambda: over(mesh))
    mesh.publish(access_v2=mesh.http("bookbuyer", "bookstore-v2"))
    await ask(mesh)
    await mesh.until(lambda: len(begun) == 33)


async def test_a_large_body_and_an_upgrade_are_not_copied(mesh):
    one, two = stores(mesh)
    mesh.publish(route=route(rule(V1, filters=[mirror()])))
    call = await mesh.call("buyer", "bookstore.bookstore")
    for body in (b"a" * 65536, b"b" * 65537, b"c"):
        assert (await call.get("/books", method="POST", body=body)).status == 200
    chunk = b"4000\r\n" + b"d" * 0x4000 + b"\r\n"
    await call.send(b"POST /books HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * 5 + b"0\r\n\r\n")
    await mesh.until(lambda: len(one.requests) == 4)
    other = await mesh.call("buyer", "bookstore.bookstore")
    await other.send(b"GET /books HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n")
    await mesh.until(lambda: len(one.requests) == 5)
    assert sorted(len(body) for *_, body in await copies(mesh, two, 2)) == [1, 65536]
    assert mesh.proxy.asides.dropped == 2
    small = await mesh.call("buyer", "bookstore.bookstore")
    await small.send(b"POST /books HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\ne\r\n")
    await mesh.settled()
    assert len(two.requests) == 2, "the rest of its body may never come"
    await small.send(b"1\r\nf\r\n0\r\n\r\n")
    assert (await copies(mesh, two, 3))[2] == ("POST", "/books", b"ef")
    assert mesh.proxy.asides.place(small_conn(mesh)) is not None, "what was dropped left its place"


def small_conn(mesh):
    class Conn:
        workload = mesh.proxy.context.snapshot.workload("bookbuyer/buyer")

    return Conn()


async def test_routes_of_the_other_service_do_not_hold_for_copies(mesh):
    one, two = stores(mesh)
    back = {"group": "", "kind": "Service", "name": "bookstore-v2"}
    mesh.publish(
        route=route(rule(V1, filters=[mirror()])),
        second=route(rule(V1, filters=[mirror("bookstore")]), name="second", parents=(back,)),
    )
    assert len(await ask(mesh, times=2)) == 2
    assert len(await copies(mesh, two, 2)) == 2
    assert len(one.requests) == 2


async def test_copies_of_one_backend_and_of_a_path_that_was_changed(mesh):
    one, two = stores(mesh)
    mesh.publish(
        routes=mesh.manifests["routes"].replace("pathRegex: /books.*", "pathRegex: /(books|shop).*"),
        third=service("third", "{version: v1}", PORTS),
        route=route(
            rule(
                V1 | {"filters": [mirror()]},
                {"name": "third", "port": 14001},
                matches=[path("/shop")],
                filters=[rewritten(path={"type": "ReplacePrefixMatch", "replacePrefixMatch": "/books"})],
            )
        ),
    )
    assert len(await ask(mesh, "/shop/1", times=4)) == 4
    assert await copies(mesh, two, 2) == [("GET", "/books/1", b"")] * 2
    assert len(one.requests) == 4


async def test_over_http2(mesh):
    one, two = stores(mesh)
    mesh.publish(route=route(rule(V1, filters=[mirror()])))
    async with h2_caller(mesh.nursery, await mesh.call("buyer", "bookstore.bookstore")) as connection:
        for number in range(3):
            head = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/books"), (b":authority", b"bookstore")]
            channel = await connection.open(head)
            await channel.send_all(b"one ")
            if number:
                await mesh.settled()
            await channel.send_all(b"two", end=True)
            answered, _ = await channel.head()
            assert dict(answered)[b":status"] == b"200"
            while await channel.receive_some(1000):
                pass
            channel.close()
    assert await copies(mesh, two, 3) == seen(one) == [("POST", "/books", b"one two")] * 3


@needs_lane
async def test_between_two_nodes_a_copy_and_a_question_have_the_callers_identity(monkeypatch, mint, nursery):
    mesh = TwoNodes(nursery, mint)
    monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
    monkeypatch.setattr(source, "_is_loopback", lambda address: False)  # it is where workloads live here
    await mesh.start()
    one, two = mesh.web("store-v1"), mesh.web("store-v2")
    asks = "{extAuth: {service: bookstore-v2, port: 14001, path: /books/check}}"
    named = {"group": "edgemesh.io", "kind": "HTTPFilter", "name": "asks"}
    extension = {"type": "ExtensionRef", "extensionRef": named}
    mesh.publish(
        access_v2=mesh.http("bookbuyer", "bookstore-v2"),
        asks=document("edgemesh.io/v1alpha1", "HTTPFilter", "asks", "bookstore", asks),
        route=route(rule(V1, filters=[extension, mirror()])),
    )
    buyer = await mesh.call("buyer", "bookstore.bookstore")
    assert (await buyer.get("/books", method="POST", body=b"hello")).body == "store-v1"
    with trio.fail_after(10):
        while len(two.requests) < 2:
            await trio.sleep(0.01)
    assert seen(two) == [("POST", "/books/check/books", b""), ("POST", "/books", b"hello")]
    assert seen(one) == [("POST", "/books", b"hello")]
    found = mesh.east.told("request", service="")
    assert {(one.source.name, one.destination.name) for one in found} == {
        ("buyer", "store-v1"),
        ("buyer", "store-v2"),
    }
    mesh.publish(access_v2="")
    assert (await buyer.get("/books")).status == 503, "nobody may ask"
    assert len(two.requests) == 2
    mesh.close()
    nursery.cancel_scope.cancel()
