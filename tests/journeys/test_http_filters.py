"""HTTPFilters that rules of an HTTPRoute name, as objects, and what callers and servers then see: over sockets, in both lanes."""

import json
import time
from collections import Counter

import pytest
import trio

from tests.journeys.bookstore import document
from tests.journeys.test_grpc_routes import h2_caller
from tests.journeys.test_http_routes import V1, ask, path, route, rule, stores

KEY = b"0123456789abcdef0123456789abcdef"


def http_filter(name="f", namespace="bookstore", **spec):
    return document("edgemesh.io/v1alpha1", "HTTPFilter", name, namespace, json.dumps(spec))


def uses(*names, **more):
    named = {"group": "edgemesh.io", "kind": "HTTPFilter"}
    filters = [{"type": "ExtensionRef", "extensionRef": named | {"name": name}} for name in names or ("f",)]
    return rule(V1, filters=filters, **more)


async def post(mesh, *headers, body=b"", method="POST", where="/books"):
    """One request over HTTP/2; its status and the rest of the answer."""
    head = [(b":method", method.encode()), (b":scheme", b"http"), (b":path", where.encode()), (b":authority", b"a")]
    async with h2_caller(mesh.nursery, await mesh.call("buyer", "bookstore.bookstore")) as connection:
        channel = await connection.open([*head, *headers], end=not body)
        for number in range(0, len(body), 20000):
            await channel.send_all(body[number : number + 20000], end=number + 20000 >= len(body))
        answered = dict((await channel.head())[0])
        found = b""
        while data := await channel.receive_some(65536):
            found += data
        channel.close()
    return int(answered[b":status"]), found, answered


async def test_a_filter_that_is_not_there_lets_nothing_pass_until_it_is(mesh):
    one, _ = stores(mesh)
    mesh.publish(route=route(uses("f"), rule(V1, matches=[path("/books/good")])))
    call = await mesh.call("buyer", "bookstore.bookstore")
    answer = await call.get("/books")
    assert (answer.status, answer.reason) == (500, "bad-route")
    assert (await call.get("/books/good")).status == 200
    mesh.publish(filter=http_filter(fault={"abort": {"status": 418, "percent": 0}}))
    assert (await call.get("/books")).status == 200
    mesh.publish(filter=http_filter(namespace="bookbuyer", fault={"abort": {"status": 418, "percent": 0}}))
    assert (await call.get("/books")).status == 500, "of another namespace"
    assert len(one.requests) == 2


async def test_faults_make_calls_fail_and_late(mesh):
    one, _ = stores(mesh)
    mesh.publish(route=route(uses()), filter=http_filter(fault={"abort": {"status": 503}}))
    assert [(a.status, a.body, a.reason) for a in await ask(mesh, times=3)] == [
        (503, "fault injected\n", "filtered")
    ] * 3
    assert (await post(mesh))[0] == 503
    assert one.requests == []
    mesh.publish(filter=http_filter(fault={"abort": {"status": 503, "percent": 50}}))
    found = Counter(answer.status for answer in await ask(mesh, times=200))
    assert 60 <= found[503] <= 140
    assert found[200] == 200 - found[503]
    mesh.publish(filter=http_filter(fault={"delay": {"duration": "200ms"}}))
    began = time.monotonic()
    assert [answer.status for answer in await ask(mesh, times=2)] == [200] * 2
    assert time.monotonic() - began >= 0.4
    mesh.publish(filter=http_filter(fault={"delay": {"duration": "1m", "percent": 0}}))
    with trio.fail_after(10):
        assert [answer.status for answer in await ask(mesh, times=3)] == [200] * 3
    assert (await ask(mesh, caller="thief"))[0].status == 403, "policy first"


async def test_a_caller_that_leaves_while_it_is_delayed_leaves_nothing(mesh):
    stores(mesh)
    mesh.publish(route=route(uses()), filter=http_filter(fault={"delay": {"duration": "1m"}}))
    call = await mesh.call("buyer", "bookstore.bookstore")
    await call.send(b"GET /books HTTP/1.1\r\nhost: a\r\n\r\n")
    await mesh.settled()
    assert mesh.publish(access="") == 1, "what policy forbids meanwhile is cut"
    await mesh.until(mesh.at_rest)


async def test_an_answer_in_the_place_of_the_server(mesh):
    one, _ = stores(mesh)
    said = {"status": 200, "body": '{"books": []}', "headers": [{"name": "Content-Type", "value": "application/json"}]}
    mesh.publish(route=route(uses()), filter=http_filter(degrade=said))
    (answer,) = await ask(mesh)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, said["body"], "application/json")
    assert (await post(mesh, method="GET"))[:2] == (200, said["body"].encode())
    mesh.publish(route=route({"filters": uses()["filters"]}), filter=http_filter(degrade={}))
    (answer,) = await ask(mesh)
    assert (answer.status, answer.body) == (503, ""), "its rule needs no backend"
    assert one.requests == []


@pytest.fixture
def keys(mesh, tmp_path):
    folder = tmp_path / "bookstore"
    folder.mkdir()
    (folder / "till").write_bytes(KEY + b"\n")
    (folder / "till").chmod(0o600)
    mesh.proxy.context.keys._folder = str(tmp_path)
    return folder


async def test_an_encoded_slash_is_no_way_around_a_rule_that_keeps_requests_back(mesh):
    one, _ = stores(mesh)
    whole = rule(V1, matches=[path("/books")])
    mesh.publish(
        route=route(uses("f", matches=[path("/books/admin")]), whole), filter=http_filter(degrade={"status": 403})
    )
    call = await mesh.call("buyer", "bookstore.bookstore")
    assert (await call.get("/books/admin/x")).status == 403
    answer = await call.get("/books/admin%2Fx")
    assert (answer.status, answer.reason) == (400, "bad-path")
    assert not one.requests
    call = await mesh.call("buyer", "bookstore.bookstore")
    assert (await call.get("/books/a%2Fadmin")).status == 200
    mesh.publish(filter=http_filter(fault={"abort": {"status": 418, "percent": 0}}))
    assert (await call.get("/books/admin%2Fx")).status == 200, "it keeps nothing back"


async def test_requests_are_signed_and_the_signature_is_verified(mesh, keys):
    one, _ = stores(mesh)
    said = {"key": "till", "fields": ["x-a", "host"], "body": True}
    mesh.publish(route=route(uses()), filter=http_filter(sign=said))
    (answer,) = await ask(mesh, method="POST", body=b"hello", x_a="1", x_signature="forged")
    assert answer.status == 200
    signature = one.requests[0][3][b"x-signature"].decode()
    assert signature.startswith("t=")
    mesh.publish(filter=http_filter(verify=said))
    one.requests.clear()

    async def status(where="/books", method="POST", body=b"hello", x_a="1", **more):
        more = {"x_signature": signature, **more}
        (answer,) = await ask(mesh, where, method=method, body=body, x_a=x_a, **more)
        return answer.status

    assert await status() == 200
    assert one.requests[0][4] == b"hello", "the body that was looked at is sent"
    assert [
        await status("/books/2"),
        await status(method="GET"),
        await status(body=b"hellO"),
        await status(x_a="2"),
        await status(x_signature="t=1, v1=" + "0" * 64),
        await status(x_signature="x"),
        await status(x_signature=signature.replace("t=", "t=1")),
    ] == [401] * 7
    assert len(one.requests) == 1
    mesh.publish(filter=http_filter(verify=said | {"maxAge": "1ms"}))
    assert await status() == 401, "too old"
    told = [record.detail for record in mesh.records if record.status == 401]
    assert len(told) == 8
    assert KEY.decode() not in str(mesh.records) + repr(mesh.proxy.context.keys) + str(mesh.built.snapshot)


async def test_a_body_is_looked_at_within_a_bound(mesh, keys):
    one, _ = stores(mesh)
    mesh.publish(route=route(uses()), filter=http_filter(sign={"key": "till", "body": True}))
    assert (await ask(mesh, method="POST", body=b"a" * 65536))[0].status == 200
    assert (await ask(mesh, method="POST", body=b"a" * 65537))[0].status == 413
    assert (await post(mesh, body=b"b" * 60000))[0] == 200
    assert (await post(mesh, body=b"b" * 70000))[0] == 413
    call = await mesh.call("buyer", "bookstore.bookstore")
    await call.send(b"POST /books HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
    assert await call.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await call.send(b"hello")
    assert await call.read(12) == b"HTTP/1.1 200"
    chunks = await mesh.call("buyer", "bookstore.bookstore")
    await chunks.send(b"POST /books HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(3):
        await chunks.send(b"3\r\nabc\r\n")
        await mesh.settled()
    await chunks.send(b"0\r\n\r\n")
    assert await chunks.read(12) == b"HTTP/1.1 200"
    assert [len(body) for *_, body in one.requests] == [65536, 60000, 5, 9]
    gone = await mesh.call("buyer", "bookstore.bookstore")
    await gone.send(b"POST /books HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab")
    await mesh.settled()
    gone.stream.socket.close()
    await mesh.until(lambda: any(record.flag == "client-gone" for record in mesh.records))
    assert len(one.requests) == 4


async def test_without_its_key_nothing_passes(mesh, keys):
    one, _ = stores(mesh)
    mesh.publish(route=route(uses()), filter=http_filter(sign={"key": "other"}))
    assert [(a.status, a.reason) for a in await ask(mesh, times=2)] == [(500, "filter-failed")] * 2
    assert one.requests == []


def auth(**said):
    return http_filter(extAuth={"service": "bookstore-v2", "port": 14001, **said})


async def door(mesh, answer, **said):
    """The second store is who is asked: it answers with these bytes. Returns what it was asked."""
    asked = []

    async def answers(stream):
        while data := await stream.receive_some(65536):
            asked.append(data)
            await stream.send_all(answer if isinstance(answer, bytes) else await answer())

    mesh.web("store-v1")
    mesh.serve("store-v2", answers, 14001)
    routes = mesh.manifests["routes"].replace("pathRegex: /books.*", "pathRegex: /(books|check).*")
    mesh.publish(route=route(uses()), routes=routes, filter=auth(**said))
    return asked


async def test_a_service_says_that_a_request_may_pass_and_who_it_is(mesh):
    says = b"HTTP/1.1 200 OK\r\nX-User: ann\r\nx-other: 1\r\ncontent-length: 2\r\n\r\nok"
    asked = await door(mesh, says, path="/check", headers={"send": ["Cookie"], "take": ["X-User", "x-role"]})
    fields = {"cookie": "a=1", "authorization": "Basic x", "x_user": "root", "x_role": "admin", "x_secret": "2"}
    (answer,) = await ask(mesh, "/books?q=1", method="POST", body=b"hello", **fields)
    assert (answer.status, answer.body) == (200, "store-v1")
    (question,) = asked
    lines = question.decode().lower().split("\r\n")
    assert lines[0] == "post /check/books?q=1 http/1.1"
    for line in ("cookie: a=1", "authorization: basic x", "x-forwarded-for: " + mesh.addresses["buyer"]):
        assert line in lines
    assert not [line for line in lines if line.startswith(("x-user", "x-role", "x-secret"))]
    assert question.endswith(b"\r\n\r\n")


async def test_what_the_server_gets_under_a_name_that_is_taken_is_the_services(mesh):
    says = b"HTTP/1.1 204 No Content\r\nX-User: ann\r\n\r\n"
    await door(mesh, says, headers={"take": ["x-user", "x-role"]})
    seen = []

    async def notes(stream):
        while data := await stream.receive_some(65536):
            seen.append(data.lower())
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    mesh.serve("store-v1", notes, 8080)
    mesh.publish(route=route(rule(V1 | {"port": 8080}, filters=uses()["filters"])))
    assert (await ask(mesh, x_user="root", x_role="admin"))[0].status == 200
    assert b"\r\nx-user: ann\r\n" in seen[0]
    assert b"root" not in seen[0]
    assert b"x-role" not in seen[0]


async def test_what_it_refuses_the_caller_is_told_in_its_words(mesh):
    says = (
        b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n"
        b"x-edgemesh-reason: lie\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nlogin"
    )
    await door(mesh, says)
    (answer,) = await ask(mesh)
    assert (answer.status, answer.body, answer.reason) == (401, "login", "filtered")
    assert answer.headers["www-authenticate"] == "Basic"
    assert (await post(mesh))[:2] == (401, b"login")


@pytest.mark.parametrize(("on_failure", "status"), [("failClosed", 503), ("failOpen", 200)])
async def test_when_it_does_not_answer(mesh, on_failure, status):
    never = trio.Event()

    async def broken():
        return b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"

    await door(mesh, broken, onFailure=on_failure)
    assert (await ask(mesh))[0].status == status, "it failed"
    mesh.publish(filter=auth(onFailure=on_failure, port=7000))
    assert (await ask(mesh))[0].status == status, "nobody listens"

    async def silent(stream):
        await stream.receive_some(1000)
        await never.wait()

    mesh.serve("store-v2", silent, 8080)
    mesh.publish(filter=auth(onFailure=on_failure, port=8080, timeout="300ms"))
    began = time.monotonic()
    assert (await ask(mesh))[0].status == status, "it is silent"
    assert 0.25 < time.monotonic() - began < 5
    mesh.publish(access_v2="")
    assert (await ask(mesh))[0].status == 503, "policy forbids the question: that lets nobody pass"
    mesh.publish(filter=auth(onFailure=on_failure, service="gone"))
    assert (await ask(mesh))[0].status == 503, "nor does a mistake"


async def test_filters_act_in_their_order(mesh, keys):
    one, _ = stores(mesh)
    mesh.publish(
        route=route(uses("signs", "stops")),
        filter=http_filter("signs", sign={"key": "other"}) + http_filter("stops", degrade={"status": 418}),
    )
    assert (await ask(mesh))[0].status == 500, "the first one has no key"
    mesh.publish(route=route(uses("stops", "signs")))
    assert (await ask(mesh))[0].status == 418
    assert one.requests == []
