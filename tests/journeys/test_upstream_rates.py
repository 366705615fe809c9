"""Rates of an UpstreamTrafficSetting over sockets: they hold for all callers of a workload, on one node and over two, on both paths."""

from __future__ import annotations

import json

import pytest

from nodeproxy.downstream import accept
from nodeproxy.limits import Limits
from tests.compiled import needs_lane
from tests.journeys.bookstore import document
from tests.journeys.conftest import Mesh
from tests.journeys.stand_ins import echo
from tests.journeys.test_grpc_routes import call
from tests.journeys.test_streams_in_the_lane import Calls
from tests.journeys.test_two_lanes_streams import DONE, NAME, OK, PORT, SERVICE, h2_caller
from tests.journeys.two_nodes import running

PATHS = ["slow", pytest.param("lane", marks=needs_lane)]


def setting(spec, name="limits", host="bookstore-v1.bookstore.svc.cluster.local"):
    text = f"{{host: {host}, {spec}}}"
    return document("policy.openservicemesh.io/v1alpha1", "UpstreamTrafficSetting", name, "bookstore", text)


def http_rate(said):
    return setting(f"rateLimit: {{local: {{http: {{unit: hour, {said}}}}}}}")


@pytest.fixture(params=[1, 2], ids=["one node", "two nodes"])
def nodes(request):
    return request.param


@pytest.fixture(params=PATHS)
async def either(request, monkeypatch, mint, nodes):
    async with running(monkeypatch, mint, nodes, request.param) as mesh:
        yield mesh


def records(mesh, kind="request"):
    """The records of the node of the server."""
    found = mesh.east.records if hasattr(mesh, "east") else mesh.records
    return [one for one in found if one.kind == kind]


async def statuses(mesh, times, where="/books", caller="buyer", host="bookstore-v1.bookstore", **fields):
    connection = await mesh.call(caller, host)
    return [(await connection.get(where, **fields)).status for _ in range(times)]


async def test_so_many_requests_pass_and_the_next_ones_get_the_status(either):
    web = either.web("store-v1")
    either.publish(limits=http_rate("requests: 3, burst: 4"))
    assert await statuses(either, 10) == [200] * 7 + [429] * 3
    assert len(web.requests) == 7
    limited = [one for one in records(either) if one.flag == "rate-limited"]
    assert len(limited) == 3
    assert {one.status for one in limited} == {429}
    assert limited[0].detail == "UpstreamTrafficSetting bookstore/limits, rateLimit.local.http"


async def test_a_rate_that_comes_after_the_lane_was_taught_counts_from_the_next_request_on(either):
    either.web("store-v1")
    connection = await either.call("buyer", "bookstore-v1.bookstore")
    for _ in range(10):
        assert (await connection.get("/books")).status == 200
    side = getattr(either, "west", either)
    if side.proxy.fast.stats().compiled:
        assert side.proxy.fast.stats().served >= 8, "the lane did not take part"
    either.publish(limits=http_rate("requests: 2"))
    assert [(await connection.get("/books")).status for _ in range(5)] == [200, 200, 429, 429, 429]
    either.publish(limits="")
    assert (await connection.get("/books")).status == 200


async def test_all_callers_share_it(either):
    either.web("store-v1")
    either.publish(limits=http_rate("requests: 3"))
    assert await statuses(either, 2) == [200, 200]
    assert await statuses(either, 2, caller="buyer-2") == [200, 429]
    assert await statuses(either, 1) == [429]


async def test_each_workload_has_its_own_and_what_was_dialled_makes_no_difference(either):
    either.web("store-v1")
    either.web("store-v2")
    host = "bookstore.bookstore.svc.cluster.local"
    rate = setting("rateLimit: {local: {http: {requests: 2, unit: hour}}}", host=host)
    either.publish(limits=rate, access_v2=either.http("bookbuyer", "bookstore-v2"))
    found = await statuses(either, 24, host="bookstore.bookstore")
    assert sorted(found) == [200] * 4 + [429] * 20
    assert await statuses(either, 1) == [429], "by the Service bookstore-v1 it is the same workload and port"


async def test_what_policy_refuses_takes_no_token(either):
    either.web("store-v1")
    either.publish(limits=http_rate("requests: 2"))
    assert await statuses(either, 3, "/admin") == [403] * 3
    assert await statuses(either, 3, caller="thief") == [403] * 3
    assert await statuses(either, 3) == [200, 200, 429]


async def test_the_response_has_the_status_and_fields_that_are_said(either):
    either.web("store-v1")
    fields = "responseHeadersToAdd: [{name: Hello, value: world}, {name: retry-after, value: '60'}]"
    either.publish(limits=http_rate(f"requests: 1, responseStatusCode: 503, {fields}"))
    connection = await either.call("buyer", "bookstore-v1.bookstore")
    assert (await connection.get("/books")).status == 200
    answer = await connection.get("/books")
    assert (answer.status, answer.headers["hello"], answer.headers["retry-after"]) == (503, "world", "60")
    assert answer.reason == "rate-limited"
    assert "UpstreamTrafficSetting is used up" in answer.body and "bookstore/limits" not in answer.body


async def test_requests_by_path_and_by_field_have_rates_beside_that_of_all(either):
    either.web("store-v1")
    rate = "rateLimit: {local: {requests: %d, unit: hour}}"
    either.publish(
        limits=setting(
            "rateLimit: {local: {http: {requests: 6, unit: hour}}},"
            f"httpRoutes: [{{path: /books/1, {rate % 2}}}], httpHeaders: [{{headers: [{{name: X-Who, value: ^bot$}}], {rate % 1}}}]"
        )
    )
    assert await statuses(either, 3, "/books/1") == [200, 200, 429]
    assert await statuses(either, 2, x_who="bot") == [200, 429]
    assert await statuses(either, 4, x_who="robot") == [200, 200, 200, 429], "six in all"


async def test_so_many_connections_are_opened_to_a_server_and_the_next_ones_are_closed(either):
    server = either.serve("store-v1", echo, 9000)
    either.publish(
        limits=setting("rateLimit: {local: {tcp: {connections: 2, unit: hour, burst: 1}}}"),
        tcp=either.tcp("bookbuyer", "bookstore", 9000),
    )
    for _ in range(3):
        buyer = await either.call("buyer", "bookstore-v1.bookstore", 9000)
        await buyer.send(b"ping")
        assert await buyer.read(4) == b"ping"
    assert await (await either.call("buyer", "bookstore-v1.bookstore", 9000)).is_over() == "reset"
    await either.settled()
    assert len(server.peers) == 3
    assert [one.flag for one in records(either, "connection") if one.flag] == ["rate-limited"]


async def test_http_over_an_open_connection_takes_no_token_of_connections(either):
    web = either.web("store-v1")
    either.publish(limits=setting("rateLimit: {local: {tcp: {connections: 1, unit: hour}}}"))
    assert await statuses(either, 5) == [200] * 5
    assert len(web.peers) == 1


async def test_a_caller_in_plain_text_takes_of_the_same(mesh):
    mesh.web("store-v1")
    control = f"{{backends: [{{name: bookstore-v1, port: {{number: 14001}}}}], sources: [{{kind: IPRange, name: {mesh.stranger}/32}}]}}"
    mesh.publish(
        limits=http_rate("requests: 2"),
        outside=document("policy.openservicemesh.io/v1alpha1", "IngressBackend", "outside", "bookstore", control),
    )
    stranger = await mesh.call_in(mesh.stranger, "store-v1")
    assert [(await stranger.get("/books")).status for _ in range(3)] == [200, 200, 429]
    assert await statuses(mesh, 1) == [429]


async def test_declared_probes_are_not_counted(mesh):
    mesh.web("store-v1")
    mesh.publish(limits=http_rate("requests: 1"))
    prober = await mesh.call_in(mesh.node, "store-v1")
    assert [(await prober.get("/healthz")).status for _ in range(3)] == [200] * 3
    assert await statuses(mesh, 2) == [200, 429]


@pytest.fixture(params=[True, False], ids=["lane", "python"])
async def streams(monkeypatch, request, nursery):
    mesh = Mesh(nursery, Limits(response_timeout=5), request.param)
    monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
    await mesh.start()
    mesh.publish(streams=SERVICE)
    yield mesh
    mesh.close()
    nursery.cancel_scope.cancel()


@needs_lane
async def test_calls_over_http2_are_counted_each(streams):
    mesh = streams

    async def answer(channel):
        await channel.send_head(OK)
        while data := await channel.receive_some(65536):
            await channel.send_all(data)
        await channel.send_trailers(DONE)

    Calls(mesh, answer)
    mesh.publish(mesh=mesh.permissive)
    async with h2_caller(mesh.nursery, await mesh.call("buyer", NAME, PORT)) as connection:
        for _ in range(6):
            assert (await call(connection, b"/a.B/C"))[2] == b"0"
        rate = "rateLimit: {local: {http: {requests: 3, unit: hour}}}"
        mesh.publish(limits=setting(rate, host="store-grpc"))
        assert [(await call(connection, b"/a.B/C"))[2] for _ in range(5)] == [b"0"] * 3 + [b"14"] * 2


def route(match):
    return "\n---\n" + json.dumps(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "books", "namespace": "bookstore"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "bookstore"}],
                "rules": [
                    {"matches": match, "backendRefs": [{"name": "bookstore-v1", "port": 14001}]},
                    {"backendRefs": [{"name": "bookstore-v2", "port": 14001}]},
                ],
            },
        }
    )


async def test_rules_of_a_route_that_lead_to_a_server_with_a_rate_are_counted_and_others_stay_fast(either):
    either.web("store-v1")
    either.web("store-v2")
    by_path = [{"path": {"type": "PathPrefix", "value": "/books/1"}}]
    either.publish(route=route(by_path), access_v2=either.http("bookbuyer", "bookstore-v2"))
    buyer = await either.call("buyer", "bookstore.bookstore")
    for _ in range(10):
        assert (await buyer.get("/books/1")).body == "store-v1"
        assert (await buyer.get("/books/2")).body == "store-v2"
    fast = getattr(either, "west", either).proxy.fast
    either.publish(limits=http_rate("requests: 3"))
    before = fast.stats().served
    for _ in range(5):
        assert (await buyer.get("/books/2")).status == 200
    found = [(await buyer.get("/books/1")).status for _ in range(6)]
    assert found == [200] * 3 + [429] * 3
    for _ in range(20):
        assert (await buyer.get("/books/2")).body == "store-v2"
    if fast.stats().compiled:
        assert fast.stats().served - before >= 15, "what has no rate stays in the lane"
