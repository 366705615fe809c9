"""Requests that fail are sent again, as OSM's Retry and HTTPRoutes say: what servers and callers see, over sockets, in both lanes.

What each field means is in tests/policy/translate/test_retries.py; what may be repeated, and when, in
tests/nodeproxy/protocols/http/test_retries.py.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest
import trio

from nodeproxy.dns import resolver
from nodeproxy.downstream import accept
from nodeproxy.h2.connection import Code
from nodeproxy.limits import Limits
from nodeproxy.routing import source
from tests.compiled import needs_lane
from tests.journeys.conftest import Mesh
from tests.journeys.test_gateway import ask as ask_gateway
from tests.journeys.test_gateway import gateway, lets_in
from tests.journeys.test_gateway import route as gateway_route
from tests.journeys.test_http_routes import V1, V2, route, rule
from tests.journeys.test_mirrors import mirror
from tests.journeys.test_streams_in_the_lane import Calls
from tests.journeys.test_two_lanes_streams import CALL, DONE, NAME, OK, PORT, SERVICE, h2_caller
from tests.journeys.two_nodes import TwoNodes

ON = """
---
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: osm-system}
spec:
  traffic: {enablePermissiveTrafficPolicyMode: true}
  featureFlags: {enableRetryPolicy: true}
"""
# The page of OSM's demo waits a second at first; here it is a hundredth
POLICY = {"retryOn": "5xx", "perTryTimeout": "1s", "numRetries": 5, "retryBackoffBaseInterval": "10ms"}


def retry(caller="bookbuyer", services=("bookstore",), **policy):
    spec = {
        "source": {"kind": "ServiceAccount", "name": caller, "namespace": caller},
        "destinations": [{"kind": "Service", "name": name, "namespace": "bookstore"} for name in services],
        "retryPolicy": POLICY | policy,
    }
    api = "policy.openservicemesh.io/v1alpha1"
    return "\n---\n" + json.dumps(
        {"apiVersion": api, "kind": "Retry", "metadata": {"name": "retry", "namespace": caller}, "spec": spec}
    )


def requests(mesh):
    return [one for one in mesh.records if one.kind == "request"]


def answers(web, path="/status/503", *, first):
    """The server answers this path with each of `first` in turn, and with 200 then."""
    left = [*first]

    class Turns(dict):
        def get(self, asked, default):
            if asked == path and left:
                return left.pop(0), b"no"
            return default

    web.answers = Turns()


async def test_a_request_is_sent_again_as_often_as_osms_page_says(mesh):
    one, two = mesh.web("store-v1"), mesh.web("store-v2")
    for web in (one, two):
        web.answers = {"/status/503": (503, b"busy"), "/status/404": (404, b"gone")}
    mesh.publish(mesh=ON, retry=retry())
    call = await mesh.call("buyer", "bookstore.bookstore")
    answer = await call.get("/status/503")
    assert (answer.status, answer.body) == (503, "busy")
    assert len(one.requests) + len(two.requests) == 6
    assert len(one.requests) == len(two.requests) == 3, "each goes to the endpoint that was not asked last"
    assert [(r.retries, r.retried) for r in requests(mesh)] == [(5, "limit")]
    assert (await call.get("/status/404")).status == 404
    assert len(one.requests) + len(two.requests) == 7
    assert [(r.retries, r.retried) for r in requests(mesh)][1:] == [(0, "")]
    await mesh.settled()
    assert not mesh.proxy.context.live.in_flight
    assert repr(mesh.proxy.context.live.retries).startswith("<RetryBudget of 0 Services, 0 bytes")


async def test_it_ends_with_the_first_final_answer(mesh):
    web = mesh.web("store-v1")
    answers(web, first=[503, 500])
    mesh.publish(mesh=ON, retry=retry(services=("bookstore-v1",)))
    call = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(3):
        answer = await call.get("/status/503")
        assert (answer.status, answer.body) == (200, "store-v1")
    assert len(web.requests) == 5
    assert {number for number, *_ in web.requests} == {1}, "all over one connection"


async def test_only_the_caller_and_the_service_that_are_named(mesh):
    web = mesh.web("store-v1")
    web.answers = {"/status/503": (503, b"busy")}
    mesh.publish(mesh=ON, retry=retry(services=("bookstore",)), split=mesh.split(1, 0))
    for caller, host, count in (
        ("thief", "bookstore-v1.bookstore", 1),
        ("buyer", "bookstore-v1.bookstore", 1),
        ("thief", "bookstore.bookstore", 1),
        ("buyer-2", "bookstore.bookstore", 6),
    ):
        web.requests.clear()
        call = await mesh.call(caller, host)
        assert (await call.get("/status/503")).status == 503
        assert len(web.requests) == count, (caller, host)


async def test_without_the_switch_nothing_is_sent_again_and_the_fast_path_serves(mesh):
    web = mesh.web("store-v1")
    mesh.publish(mesh=mesh.permissive, retry=retry(services=("bookstore-v1",)))
    call = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(10):
        assert (await call.get("/books")).status == 200
    stats = mesh.proxy.fast.stats()
    assert not stats.compiled or stats.served >= 5
    mesh.publish(mesh=ON)
    served = mesh.proxy.fast.stats().served
    for _ in range(10):
        assert (await call.get("/books")).status == 200
    assert mesh.proxy.fast.stats().served == served, "calls that may be sent again are Python's"
    assert len(web.requests) == 20
    other = await mesh.call("thief", "bookstore-v1.bookstore")
    for _ in range(10):
        assert (await other.get("/books")).status == 200
    assert not stats.compiled or mesh.proxy.fast.stats().served >= served + 5, "those of others are not"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300000])
async def test_bodies_around_the_bound(mesh, size):
    web = mesh.web("store-v1")
    answers(web, "/books", first=[503])
    mesh.publish(mesh=ON, retry=retry(services=("bookstore-v1",)))
    call = await mesh.call("buyer", "bookstore-v1.bookstore")
    body = bytes(number % 256 for number in range(size))
    answer = await call.get("/books", "POST", body)
    assert answer.status == (200 if size <= 65536 else 503)
    assert [got for *_, got in web.requests] == [body] * (2 if size <= 65536 else 1)


async def test_it_composes_with_a_traffic_split(mesh):
    one, two = mesh.web("store-v1"), mesh.web("store-v2")
    answers(one, first=[503] * 3)
    mesh.publish(mesh=ON, retry=retry(), split=mesh.split(50, 50))
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(6):
        assert (await call.get("/status/503")).status == 200
    assert len(one.requests) + len(two.requests) == 9


async def test_an_endpoint_that_is_gone_is_left_for_another(mesh):
    web = mesh.web("store-v2")
    mesh.publish(mesh=ON, retry=retry(retryOn="connect-failure"))
    call = await mesh.call("buyer", "bookstore.bookstore")
    for _ in range(4):
        assert (await call.get("/books", "POST", b"x")).status == 200
    assert len(web.requests) == 4


async def test_a_server_that_comes_back_serves_what_waited(mesh):
    web = mesh.web("store-v1")
    web.stop()
    mesh.publish(mesh=ON, retry=retry(services=("bookstore-v1",), retryOn="connect-failure", numRetries=20))
    call = await mesh.call("buyer", "bookstore-v1.bookstore")
    found = []

    async def ask():
        found.append(await call.get("/books", "POST", b"x" * 1000))

    mesh.nursery.start_soon(ask)
    await mesh.until(lambda: len(mesh.kernel.dialled) >= 3)
    web.start()
    await mesh.until(lambda: found)
    assert found[0].status == 200
    assert [got for *_, got in web.requests] == [b"x" * 1000]
    assert requests(mesh)[-1].retries >= 2


async def test_an_http_route_says_it_for_all_callers(mesh):
    web = mesh.web("store-v1")
    web.answers = {"/books/busy": (503, b"busy"), "/books/wrong": (500, b"wrong")}
    mesh.publish(route=route(rule(V1, retry={"attempts": 2, "codes": [503], "backoff": "10ms"})))
    call = await mesh.call("buyer", "bookstore.bookstore")
    assert (await call.get("/books/busy", "POST", b"x")).status == 503
    assert Counter(path for _, _, path, *_ in web.requests) == {"/books/busy": 3}
    assert (await call.get("/books/wrong")).status == 500
    assert (await call.get("/books")).status == 200
    assert len(web.requests) == 5


async def test_a_route_and_a_retry_beside_each_other(mesh):
    one, two = mesh.web("store-v1"), mesh.web("store-v2")
    for web in (one, two):
        web.answers = {"/books": (503, b"busy"), "/books/two": (503, b"busy")}
    own = rule(V2, matches=[{"path": {"type": "Exact", "value": "/books/two"}}], retry={"attempts": 1, "codes": [503]})
    mesh.publish(mesh=ON, retry=retry(), route=route(rule(V1), own))
    call = await mesh.call("buyer", "bookstore.bookstore")
    assert (await call.get("/books")).status == (await call.get("/books/two")).status == 503
    assert len(one.requests) == 6, "the Retry, where the rule says nothing"
    assert len(two.requests) == 2, "the rule's own"


async def test_a_retry_is_decided_anew_and_a_denial_holds(mesh):
    web = mesh.web("store-v1")
    mesh.publish(route=route(rule(V1, retry={"attempts": 3, "codes": [503], "backoff": "300ms"})))

    class Denying(dict):
        def get(self, asked, default):
            mesh.publish(access="", access_v2="")
            return 503, b"busy"

    web.answers = Denying()
    call = await mesh.call("buyer", "bookstore.bookstore")
    try:
        answer = await call.get("/books")
    except (trio.BrokenResourceError, AssertionError):
        answer = None
    assert answer is None or answer.status == 403
    assert len(web.requests) == 1


async def test_a_copy_is_sent_once_and_a_request_that_is_sent_again_is_copied_once(mesh):
    one, two = mesh.web("store-v1"), mesh.web("store-v2")
    answers(one, "/books", first=[503, 503])
    two.answers = {"/books": (503, b"busy")}
    mesh.publish(
        mesh=ON, retry=retry(services=("bookstore", "bookstore-v2")), route=route(rule(V1, filters=[mirror()]))
    )
    call = await mesh.call("buyer", "bookstore.bookstore")
    assert (await call.get("/books", "POST", b"x" * 10000)).status == 200
    await mesh.until(lambda: two.requests)
    await mesh.settled()
    assert [got for *_, got in one.requests] == [b"x" * 10000] * 3
    assert [got for *_, got in two.requests] == [b"x" * 10000]


async def test_a_gateway_sends_again(mesh):
    web = mesh.web("store-v1")
    answers(web, first=[503, 503])
    mesh.publish(
        gateway=gateway(mesh),
        let=lets_in(mesh),
        route=gateway_route({"backendRefs": [V1], "retry": {"attempts": 2, "codes": [503], "backoff": "10ms"}}),
    )
    assert (await ask_gateway(mesh, "/status/503")).status == 200
    assert len(web.requests) == 3


# HTTP/2


@pytest.fixture(params=[False, pytest.param(True, marks=needs_lane)], ids=["python", "lane"])
async def calls(monkeypatch, request, nursery):
    mesh = Mesh(nursery, Limits(response_timeout=5), request.param)
    monkeypatch.setattr(accept, "original_destination", mesh.kernel.original_destination)
    await mesh.start()
    mesh.publish(streams=SERVICE, mesh=ON)
    yield mesh
    mesh.close()
    nursery.cancel_scope.cancel()


async def call_grpc(connection, pieces=(b"hello",), end=True):
    channel = await connection.open(CALL)
    for number, piece in enumerate(pieces, 1):
        await channel.send_all(piece, end=end and number == len(pieces))
    head, _ = await channel.head()
    body = b""
    while more := await channel.receive_some(65536):
        body += more
    fields = dict([*head, *channel.trailers])
    channel.close()
    return fields[b":status"], fields.get(b"grpc-status"), body


@needs_lane
@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("5xx", [(b":status", b"503")]),
        ("unavailable", [*OK, (b"grpc-status", b"14")]),
        ("refused-stream", "refused"),
        ("reset", "reset"),
    ],
)
async def test_calls_of_grpc_are_sent_again(calls, words, first):
    got = []

    async def serve(channel):
        body = b""
        while more := await channel.receive_some(65536):
            body += more
        got.append(body)
        if len(got) > 2:
            await channel.send_head(OK)
            await channel.send_all(body)
            await channel.send_trailers(DONE)
        elif isinstance(first, str):
            channel.abort(Code.REFUSED_STREAM if first == "refused" else Code.CANCEL)
        else:
            await channel.send_head(first, end=True)

    Calls(calls, serve)
    calls.publish(retry=retry(services=("store-grpc",), retryOn=words))
    async with h2_caller(calls.nursery, await calls.call("buyer", NAME, PORT)) as connection:
        for size in (5, 60000):
            got.clear()
            assert await call_grpc(connection, [b"x" * size]) == (b"200", b"0", b"x" * size)
            assert got == [b"x" * size] * 3
        got.clear()
        assert (await call_grpc(connection, [b"x" * 30000] * 5))[1] != b"0", "too large to be kept"
        assert len(got) == 1


# two nodes


@pytest.fixture(params=[(), pytest.param(("west", "east"), marks=needs_lane)], ids=["no lane", "lanes"])
async def nodes(request, monkeypatch, mint):
    async with trio.open_nursery() as nursery:
        mesh = TwoNodes(nursery, mint, True, request.param)
        monkeypatch.setattr(accept, "original_destination", mesh.original_destination)
        monkeypatch.setattr(resolver, "original_destination", mesh.original_destination)
        monkeypatch.setattr(source, "_is_loopback", lambda address: False)
        await mesh.start()
        yield mesh
        nursery.cancel_scope.cancel()
    mesh.close()


async def test_between_nodes_the_callers_node_sends_again(nodes):
    web = nodes.web("store-v1")
    answers(web, first=[503, 503])
    nodes.publish(mesh=ON, retry=retry(services=("bookstore-v1",)))
    call = await nodes.call("buyer", "bookstore-v1.bookstore")
    assert (await call.get("/status/503", "POST", b"x" * 10000)).status == 200
    assert [got for *_, got in web.requests] == [b"x" * 10000] * 3
    assert [one.retries for one in nodes.west.told("request")] == [2]
    assert [one.retries for one in nodes.east.told("request")] == [0, 0, 0]


async def test_what_the_other_node_says_of_a_server_that_is_down_is_no_answer_of_it(nodes):
    web = nodes.web("store-v1")
    web.stop()
    nodes.publish(mesh=ON, retry=retry(services=("bookstore-v1",), retryOn="connect-failure", numRetries=3))
    call = await nodes.call("buyer", "bookstore-v1.bookstore")
    answer = await call.get("/books", "POST", b"x")
    assert (answer.status, answer.reason) == (503, "connect-failed")
    assert [(one.retries, one.retried) for one in nodes.west.told("request")] == [(3, "limit")]
    assert len(nodes.east.told("request")) == 4


async def test_a_denial_of_the_other_node_is_not_asked_for_again(nodes):
    web = nodes.web("store-v1")
    nodes.publish(
        mesh=ON.replace("Mode: true", "Mode: false"),
        retry=retry(services=("bookstore-v1",), retryOn="403,5xx,reset,connect-failure"),
    )
    call = await nodes.call("buyer", "bookstore-v1.bookstore")
    assert (await call.get("/books")).status == 200
    nodes.manifests["access"] = ""
    nodes.east.publish()
    answer = await call.get("/books")
    assert (answer.status, answer.reason) == (403, "no-rule")
    assert len(nodes.east.told("request")) == 2
    assert len(web.requests) == 1
