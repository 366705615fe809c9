"""HTTPRoutes of a Service, as objects, and what its callers and servers then see: over sockets, in both lanes.

How each match, parent and fault is read is in tests/policy/translate/test_gateway.py.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter

import trio

V1, V2 = {"name": "bookstore-v1", "port": 14001}, {"name": "bookstore-v2", "port": 14001}
PARENT = {"group": "", "kind": "Service", "name": "bookstore"}


def route(*rules, name="books", namespace="bookstore", parents=(PARENT,), **metadata):
    return "\n---\n" + json.dumps(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": namespace, **metadata},
            "spec": {"parentRefs": list(parents), "rules": list(rules)},
        }
    )


def rule(*backends, **more):
    return {"backendRefs": list(backends), **more}


def path(value, type_="PathPrefix", **more):
    return {"path": {"type": type_, "value": value}, **more}


def fields(kind="Request", **change):
    field = f"{kind.lower()}HeaderModifier"
    said = {
        what: [
            {"name": name.replace("_", "-"), "value": value} if value is not None else name.replace("_", "-")
            for name, value in values.items()
        ]
        for what, values in change.items()
    }
    return {"type": f"{kind}HeaderModifier", field: said}


async def ask(mesh, where="/books", caller="buyer", host="bookstore.bookstore", times=1, **more):
    call = await mesh.call(caller, host)
    return [await call.get(where, **more) for _ in range(times)]


async def bodies(mesh, *asked, **more):
    return [answer.body for answer in await ask(mesh, *asked, **more)]


def stores(mesh):
    return mesh.web("store-v1"), mesh.web("store-v2")


async def test_matches_choose_the_backend_of_each_request(mesh):
    stores(mesh)
    mesh.publish(
        route=route(
            rule(V2, matches=[path("/books/new"), path("/books", headers=[{"name": "X-Beta", "value": "yes"}])]),
            rule(V1, matches=[path("/books")]),
            rule(V2, matches=[path("/books", queryParams=[{"name": "q", "value": "2"}])]),
            rule(V2, matches=[path("/books", "Exact", method="POST")]),
        )
    )
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(5):
        assert (await call.get("/books")).body == "store-v1"
        assert (await call.get("/books/new")).body == "store-v2"
        assert (await call.get("/books/newer")).body == "store-v1"
        assert (await call.get("/books", x_beta="yes")).body == "store-v2"
        assert (await call.get("/books", x_beta="no")).body == "store-v1"
        assert (await call.get("/books?q=2")).body == "store-v2"
        assert (await call.get("/books", method="POST", body=b"x")).body == "store-v2"


async def test_what_no_rule_fits_is_404_and_reaches_nobody(mesh):
    one, two = stores(mesh)
    mesh.publish(route=route(rule(V1, matches=[path("/books/new")])))
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(3):
        answer = await call.get("/books")
        assert (answer.status, answer.reason) == (404, "no-route")
        assert (await call.get("/books/new")).body == "store-v1"
    assert [request[2] for request in (*one.requests, *two.requests)] == ["/books/new"] * 3
    assert [record.detail for record in mesh.records if record.flag == "no-route"] == ["HTTPRoute bookstore/books"] * 3


async def test_weights_are_exact_for_each_rule(mesh):
    stores(mesh)
    mesh.publish(
        route=route(
            rule(V1 | {"weight": 90}, V2 | {"weight": 10}),
            rule(V1 | {"weight": 50}, V2 | {"weight": 50}, matches=[path("/books/half")]),
            rule(V1 | {"weight": 0}, V2, matches=[path("/books/none")]),
        )
    )
    call = await mesh.call("buyer", "bookstore.bookstore")
    found = {where: Counter() for where in ("/books", "/books/half", "/books/none")}
    for _ in range(20):
        for where, counted in found.items():
            counted[(await call.get(where)).body] += 1
    assert found == {
        "/books": {"store-v1": 18, "store-v2": 2},
        "/books/half": {"store-v1": 10, "store-v2": 10},
        "/books/none": {"store-v2": 20},
    }


async def test_a_route_that_only_weighs_stays_in_the_fast_path(mesh):
    stores(mesh)
    mesh.publish(route=route(rule(V1 | {"weight": 3}, V2 | {"weight": 1})))
    assert Counter(await bodies(mesh, times=40)) == {"store-v1": 30, "store-v2": 10}
    stats = mesh.proxy.fast.stats()
    assert not stats.compiled or stats.served >= 30
    mesh.publish(route=route(rule(V1, matches=[path("/books", method="GET")])))
    before = mesh.proxy.fast.stats().served
    assert await bodies(mesh, times=10) == ["store-v1"] * 10
    assert not stats.compiled or mesh.proxy.fast.stats().served >= before + 8
    mesh.publish(route=route(rule(V1, matches=[path("/books", method="GET")], timeouts={"request": "5s"})))
    before = mesh.proxy.fast.stats().served
    assert await bodies(mesh, times=10) == ["store-v1"] * 10
    assert mesh.proxy.fast.stats().served == before, "a rule's timeouts are Python's"


async def test_weights_without_any_are_503(mesh):
    stores(mesh)
    mesh.publish(route=route(rule(V1 | {"weight": 0}, V2 | {"weight": 0})))
    (answer,) = await ask(mesh)
    assert (answer.status, answer.reason) == (503, "all-weights-zero")


async def test_it_grants_nothing(mesh):
    stores(mesh)
    mesh.publish(route=route(rule(V1, V2)), access_v2="")
    assert Counter(answer.status for answer in await ask(mesh, times=10)) == {200: 5, 403: 5}
    assert [answer.status for answer in await ask(mesh, "/admin", times=4)] == [403] * 4
    (answer,) = await ask(mesh, caller="thief")
    assert answer.status == 403


async def test_fields_of_requests_are_set_added_and_removed(mesh):
    one, _ = stores(mesh)
    mesh.publish(
        route=route(
            rule(
                V1,
                filters=[
                    fields(set={"X_Set": "1"}, add={"X_Add": "b"}, remove={"X_Gone": None, "x_never": None}),
                    fields("Response", set={"X_Via": "edge"}, remove={"content_length_not": None}),
                ],
            )
        )
    )
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(3):
        answer = await call.get("/books", x_set="0", x_add="a", x_gone="1", x_other="2")
        assert (answer.status, answer.headers["x-via"]) == (200, "edge")
    for *_, headers, _ in one.requests:
        assert headers[b"x-set"] == b"1"
        assert headers[b"x-other"] == b"2"
        assert b"x-gone" not in headers
        assert headers[b"x-add"] == b"b", "the last of two fields"
    if mesh.proxy.fast.stats().compiled:
        assert mesh.proxy.fast.stats().served == 2, "the fast path changes them too"


async def test_a_field_is_added_beside_those_of_its_name(mesh):
    seen = []

    async def echo(stream):
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += await stream.receive_some(1000)
        seen.extend(data.lower().split(b"\r\n"))
        await stream.send_all(b"HTTP/1.1 200 OK\r\nx-b: 1\r\nX-B: 2\r\nx-c: 3\r\ncontent-length: 0\r\n\r\n")

    mesh.serve("store-v1", echo, 14001)
    change = fields("Response", add={"x_c": "4"}, set={"x_b": "5"}, remove={"server": None})
    mesh.publish(route=route(rule(V1, filters=[fields(add={"X-A": "2"}), change])))
    call = await mesh.call("buyer", "bookstore.bookstore")
    await call.send(b"GET /books HTTP/1.1\r\nhost: a\r\nx-a: 1\r\n\r\n")
    told = (await call.read(1000)).split(b"\r\n")
    assert [line for line in seen if line.startswith(b"x-a:")] == [b"x-a: 1", b"x-a: 2"]
    assert sorted(line for line in told if line.startswith(b"x-") and b"edgemesh" not in line) == [
        b"x-b: 5",
        b"x-c: 3",
        b"x-c: 4",
    ]


async def test_policy_sees_the_fields_as_they_were_sent_and_as_they_were_made(mesh):
    stores(mesh)
    mesh.publish(
        routes=mesh.manifests["routes"].replace("methods:", "headers: [{x-role: ^admin$}], methods:"),
        route=route(rule(V1, filters=[fields(set={"x_role": "admin"})])),
    )
    (plain,) = await ask(mesh)
    assert plain.status == 403, "a filter does not make up for what a caller lacks"
    (answer,) = await ask(mesh, x_role="admin")
    assert answer.status == 200
    mesh.publish(route=route(rule(V1, filters=[fields(remove={"x_role": None})])))
    (answer,) = await ask(mesh, x_role="admin")
    assert answer.status == 403, "nor does it take away what the rule asks for"


def rewritten(kind="URLRewrite", **said):
    return {"type": kind, f"{'urlRewrite' if kind == 'URLRewrite' else 'requestRedirect'}": said}


def prefix(value):
    return {"type": "ReplacePrefixMatch", "replacePrefixMatch": value}


async def test_path_and_host_are_rewritten(mesh):
    one, two = stores(mesh)
    mesh.publish(
        routes=mesh.manifests["routes"].replace("pathRegex: /books.*", "pathRegex: /(books|shop).*"),
        route=route(
            rule(V1, matches=[path("/shop")], filters=[rewritten(hostname="b.example", path=prefix("/books"))]),
            rule(V2 | {"filters": [rewritten(path={"type": "ReplaceFullPath", "replaceFullPath": "/books/all"})]}),
        ),
    )
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(3):
        assert (await call.get("/shop/1?a=b")).body == "store-v1"
        assert (await call.get("/books/2?c=d")).body == "store-v2"
    assert [(where, headers[b"host"]) for _, _, where, headers, _ in one.requests] == [
        ("/books/1?a=b", b"b.example")
    ] * 3
    assert {(where, headers[b"host"]) for _, _, where, headers, _ in two.requests} == {
        ("/books/all?c=d", b"bookstore.bookstore:14001")
    }


async def test_a_rewritten_path_has_to_be_admitted_too(mesh):
    one, _ = stores(mesh)
    change = rewritten(path={"type": "ReplaceFullPath", "replaceFullPath": "/admin"})
    mesh.publish(route=route(rule(V1, filters=[change])))
    assert [answer.status for answer in await ask(mesh, times=3)] == [403] * 3
    assert one.requests == []


async def test_a_redirect_asks_no_server(mesh):
    one, two = stores(mesh)
    mesh.publish(
        route=route(
            rule(matches=[path("/old")], filters=[rewritten("RequestRedirect", path=prefix("/books"), statusCode=301)]),
            rule(filters=[rewritten("RequestRedirect", scheme="https", hostname="b.example")]),
            rule(V1, matches=[path("/books")]),
        )
    )
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(3):
        found = [await call.get(where) for where in ("/old/1?a=b", "/else", "/books")]
        assert [(answer.status, answer.headers.get("location")) for answer in found] == [
            (301, "http://bookstore.bookstore:14001/books/1?a=b"),
            (302, "https://b.example/else"),
            (200, None),
        ]
        posted = await call.get("/else", method="POST", body=b"x" * 1000)
        assert (posted.status, posted.body) == (302, "")
    assert [request[2] for request in (*one.requests, *two.requests)] == ["/books"] * 3
    assert Counter(record.flag for record in mesh.records if record.flag) == {"filtered": 9}


async def test_filters_of_a_backend_are_for_its_share(mesh):
    one, two = stores(mesh)
    first = V1 | {"filters": [fields(set={"x_to": "one"}), fields("Response", set={"x_from": "one"})]}
    second = V2 | {"filters": [fields(set={"x_to": "two"})]}
    mesh.publish(route=route(rule(first, second, filters=[fields(set={"x_rule": "1"})])))
    answers = await ask(mesh, times=10)
    assert Counter((a.body, a.headers.get("x-from")) for a in answers) == {
        ("store-v1", "one"): 5,
        ("store-v2", None): 5,
    }
    for web, name in ((one, b"one"), (two, b"two")):
        assert [(headers[b"x-to"], headers[b"x-rule"]) for *_, headers, _ in web.requests] == [(name, b"1")] * 5


async def test_a_backend_with_filters_keeps_a_request_whose_connection_was_stale(mesh):
    one, two = stores(mesh)
    first, second = (b | {"filters": [fields(set={"x_to": b["name"]})]} for b in (V1, V2))
    mesh.publish(route=route(rule(first, second)))
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(6):
        assert (await call.get("/books")).status == 200
        for web in (one, two):  # every idle connection to a server ends
            web.stop()
            web.start()
    assert [headers[b"x-to"] for *_, headers, _ in one.requests] == [b"bookstore-v1"] * len(one.requests)
    assert len(one.requests) == len(two.requests) == 3


async def test_a_backend_of_one_service_at_two_ports(mesh):
    main, chat = mesh.web("store-v1"), mesh.web("store-v1", 8080)
    mesh.publish(route=route(rule(V1, V1 | {"port": 8080})))
    assert [answer.status for answer in await ask(mesh, times=10)] == [200] * 10
    if not mesh.proxy.fast.stats().compiled:
        assert (len(main.requests), len(chat.requests)) == (5, 5)
    assert len(main.requests) + len(chat.requests) == 10


async def test_the_share_of_a_backend_that_is_not_there_is_500_and_of_one_without_endpoints_503(mesh):
    stores(mesh)
    mesh.publish(route=route(rule(V1, {"name": "gone", "port": 14001})))
    assert Counter((a.status, a.reason) for a in await ask(mesh, times=10)) == {(200, ""): 5, (500, "bad-route"): 5}
    mesh.publish(route=route(rule(V1, V2 | {"port": 1})))
    assert Counter((a.status, a.reason) for a in await ask(mesh, times=10)) == {(200, ""): 5, (500, "bad-route"): 5}
    mesh.publish(route=route(rule(V1, {"name": "nobody", "port": 14001})))
    assert Counter((a.status, a.reason) for a in await ask(mesh, times=10)) == {(200, ""): 5, (503, "no-endpoint"): 5}
    mesh.publish(route=route(rule({"name": "gone", "port": 14001})))
    assert [(a.status, a.reason) for a in await ask(mesh, times=2)] == [(500, "bad-route")] * 2


async def test_a_filter_that_is_not_done_here_lets_nothing_pass(mesh):
    one, two = stores(mesh)
    mesh.publish(
        route=route(
            rule(V1, filters=[{"type": "Banana"}]),
            rule(V1, matches=[path("/books/good")]),
        )
    )
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(3):
        answer = await call.get("/books")
        assert (answer.status, answer.reason) == (500, "bad-route")
        assert (await call.get("/books/good")).status == 200
    assert {request[2] for request in (*one.requests, *two.requests)} == {"/books/good"}


async def test_a_producer_route_holds_for_all_and_a_consumer_route_for_its_own_namespace(mesh):
    stores(mesh)
    thiefs = mesh.http("bookthief", "bookstore") + mesh.http("bookthief", "bookstore-v2")
    parent = PARENT | {"namespace": "bookstore"}
    consumer = route(rule(V2 | {"namespace": "bookstore"}), name="mine", namespace="bookbuyer", parents=[parent])
    mesh.publish(route=route(rule(V1)), thief=thiefs)
    assert await bodies(mesh, times=3) == await bodies(mesh, times=3, caller="thief") == ["store-v1"] * 3
    mesh.publish(consumer=consumer)
    assert await bodies(mesh, times=3) == ["store-v2"] * 3
    assert await bodies(mesh, times=3, caller="thief") == ["store-v1"] * 3


async def test_it_holds_for_the_service_and_not_for_its_backends_or_endpoints(mesh):
    stores(mesh)
    mesh.publish(route=route(rule(V2)))
    assert await bodies(mesh, host="bookstore-v1.bookstore") == ["store-v1"]
    assert await bodies(mesh, host=mesh.addresses["store-v1"]) == ["store-v1"]


async def test_a_stream_that_is_no_http_goes_to_the_service_itself(mesh):
    async def says(stream):
        await stream.send_all(b"1")

    mesh.serve("store-v1", says, 9000), mesh.serve("store-v2", says, 9000)
    mesh.publish(
        route=route(rule({"name": "gone", "port": 1})),
        tcp=mesh.tcp("bookbuyer", "bookstore", 9000) + mesh.tcp("bookbuyer", "bookstore-v2", 9000),
    )
    assert await (await mesh.call("buyer", "bookstore.bookstore", 9000)).read(1) == b"1"


async def test_routes_change_live_on_a_connection_that_is_open(mesh):
    stores(mesh)
    mesh.publish(route=route(rule(V1)))
    call = await mesh.call("buyer", "bookstore.bookstore")
    assert {(await call.get("/books")).body for _ in range(6)} == {"store-v1"}
    mesh.publish(route=route(rule(V2, filters=[fields("Response", set={"x_new": "1"})])))
    answers = [await call.get("/books") for _ in range(6)]
    assert {(answer.body, answer.headers.get("x-new")) for answer in answers} == {("store-v2", "1")}
    mesh.publish(route="")
    assert {(await call.get("/books")).body for _ in range(40)} == {"store-v1", "store-v2"}


def slowly(mesh, before=0.0, between=0.0, pieces=1):
    """A server that waits before its head, and between the bytes of its body."""

    async def talk(stream):
        while True:
            data = b""
            while not data.endswith(b"\r\n\r\n"):
                more = await stream.receive_some(1000)
                if not more:
                    return
                data += more
            await trio.sleep(before)
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % pieces)
            for _ in range(pieces):
                await trio.sleep(between)
                await stream.send_all(b"x")

    return mesh.serve("store-v1", talk, 14001)


async def test_a_request_that_takes_too_long_is_504(mesh, quick_clock):
    slowly(mesh, before=5)
    for timeouts in ({"request": "2s"}, {"backendRequest": "1s500ms"}, {"request": "1m", "backendRequest": "2s"}):
        mesh.publish(route=route(rule(V1, timeouts=timeouts)))
        began = trio.current_time()
        (answer,) = await ask(mesh)
        assert (answer.status, answer.reason) == (504, "route-timeout")
        assert 1 < trio.current_time() - began < 3
    mesh.publish(route=route(rule(V1, timeouts={"request": "10s"})))
    assert [answer.status for answer in await ask(mesh, times=2)] == [200, 200]
    await mesh.settled()
    assert not mesh.proxy.context.live.in_flight


async def test_a_timeout_of_a_rule_counts_in_the_place_of_the_nodes(mesh, quick_clock):
    slowly(mesh, before=5)
    mesh.limit(response_timeout=2.0)
    mesh.publish(route=route(rule(V1)))
    (answer,) = await ask(mesh)
    assert (answer.status, answer.reason) == (504, "response-timeout")
    mesh.publish(route=route(rule(V1, timeouts={"request": "1m"})))
    assert [answer.status for answer in await ask(mesh)] == [200]
    mesh.publish(route=route(rule(V1, timeouts={"request": "0s"})))
    (answer,) = await ask(mesh)
    assert (answer.status, answer.reason) == (504, "response-timeout"), "0s: as without"


async def test_a_response_that_does_not_end_in_time_is_cut(mesh, quick_clock):
    slowly(mesh, between=0.5, pieces=100)
    mesh.publish(route=route(rule(V1, timeouts={"request": "3s"})))
    call = await mesh.call("buyer", "bookstore.bookstore")
    await call.send(b"GET /books HTTP/1.1\r\nhost: a\r\n\r\n")
    said = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await call.stream.receive_some(1000):
            said += data
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert 3 <= len(said.partition(b"\r\n\r\n")[2]) <= 6
    await mesh.until(mesh.at_rest)
    assert [record.flag for record in mesh.records if record.path] == ["route-timeout"]


async def test_a_connection_outlives_the_timeout_of_its_request(mesh, quick_clock):
    stores(mesh)
    mesh.publish(route=route(rule(V1, timeouts={"request": "2s", "backendRequest": "1s"})))
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(3):
        assert (await call.get("/books")).status == 200
        await trio.sleep(5)
