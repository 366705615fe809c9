"""connectionSettings of an UpstreamTrafficSetting over sockets: they hold for each caller, on one node and over two, on both paths."""

from __future__ import annotations

from collections import Counter

import trio

from tests.compiled import needs_lane
from tests.journeys.bookstore import document, mesh_config
from tests.journeys.stand_ins import echo, head_of
from tests.journeys.test_grpc_routes import call as grpc
from tests.journeys.test_streams_in_the_lane import Calls
from tests.journeys.test_two_lanes_streams import CALL, DONE, NAME, OK, PORT, h2_caller
from tests.journeys.test_upstream_rates import either, nodes, setting, statuses, streams  # noqa: F401


def bounds(http="", tcp=""):
    return setting(f"connectionSettings: {{http: {{{http}}}, tcp: {{{tcp}}}}}")


def mine(mesh, kind="request"):
    """The records of the caller's node."""
    return [one for one in (mesh.west.records if hasattr(mesh, "west") else mesh.records) if one.kind == kind]


class Slow:
    """A server that answers each request when it is told to."""

    def __init__(self, mesh):
        self.gate = trio.Event()
        self.asked = self.most = self.now = 0
        self.server = mesh.serve("store-v1", self.talk)

    async def talk(self, stream):
        while await head_of(stream):
            self.asked += 1
            self.now += 1
            self.most = max(self.most, self.now)
            await self.gate.wait()
            self.now -= 1
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


async def at_once(mesh, slow, times, caller="buyer"):
    """The statuses of so many requests, each on a connection of its own, sent before the server answers any."""
    found = []

    async def one():
        found.append((await (await mesh.call(caller, "bookstore-v1.bookstore")).get("/books")).status)

    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(one)
            await mesh.settled()
        asked = slow.asked
        slow.gate.set()
    return Counter(found), asked


async def test_no_more_requests_than_that_are_under_way(either):  # noqa: F811
    slow = Slow(either)
    either.publish(limits=bounds("maxRequests: 2"))
    assert await at_once(either, slow, 5) == ({200: 2, 503: 3}, 2)
    assert {one.flag for one in mine(either) if one.status == 503} == {"overflow"}
    assert {one.detail for one in mine(either) if one.status == 503} == {
        "UpstreamTrafficSetting bookstore/limits, maxRequests"
    }
    assert await statuses(either, 3) == [200] * 3


async def test_requests_wait_for_a_connection_and_the_next_ones_do_not(either):  # noqa: F811
    slow = Slow(either)
    either.publish(limits=bounds("maxPendingRequests: 2", "maxConnections: 1"))
    assert await at_once(either, slow, 5) == ({200: 3, 503: 2}, 1)
    assert slow.most == 1


async def test_the_bounds_are_each_caller_s_own(either):  # noqa: F811
    slow = Slow(either)
    either.publish(limits=bounds("maxRequests: 1"))
    async with trio.open_nursery() as nursery:
        first = await either.call("buyer", "bookstore-v1.bookstore")
        nursery.start_soon(first.get, "/books")
        await either.settled()
        found, _ = await at_once(either, slow, 2, "buyer-2")
    assert found == {200: 1, 503: 1}


async def test_a_request_that_waits_too_long_is_refused(mesh):
    Slow(mesh)
    mesh.limit(response_timeout=0.2)
    mesh.publish(limits=bounds("", "maxConnections: 1"))
    first = await mesh.call("buyer", "bookstore-v1.bookstore")
    await first.send(b"POST /books HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab")
    await mesh.settled()
    assert await statuses(mesh, 1) == [503]
    assert [one.flag for one in mine(mesh)] == ["overflow"]
    await first.stream.aclose()
    await mesh.until(lambda: not mesh.proxy.context.live.in_flight)
    await mesh.until(lambda: not mesh.proxy.context.shares.under_way)


async def test_opaque_connections_beyond_it_are_closed(either):  # noqa: F811
    server = either.serve("store-v1", echo, 9000)
    either.publish(
        limits=bounds("", "maxConnections: 2"),
        tcp=either.tcp("bookbuyer", "bookstore", 9000),
    )
    held = []
    for _ in range(2):
        buyer = await either.call("buyer", "bookstore-v1.bookstore", 9000)
        await buyer.send(b"ping")
        assert await buyer.read(4) == b"ping"
        held.append(buyer)
    assert await (await either.call("buyer", "bookstore-v1.bookstore", 9000)).is_over() == "reset"
    assert len(server.peers) == 2
    assert [one.flag for one in mine(either, "connection") if one.flag] == ["overflow"]
    await held.pop().stream.aclose()
    await either.settled()
    buyer = await either.call("buyer", "bookstore-v1.bookstore", 9000)
    await buyer.send(b"ping")
    assert await buyer.read(4) == b"ping"


async def test_a_connection_to_the_server_carries_so_many_requests(either):  # noqa: F811
    web = either.web("store-v1")
    either.publish(limits=bounds("maxRequestsPerConnection: 3"))
    assert await statuses(either, 8) == [200] * 8
    assert Counter(number for number, *_ in web.requests) == {1: 3, 2: 3, 3: 2}


async def test_errors_open_the_circuit_and_one_call_closes_it(either):  # noqa: F811
    web = either.web("store-v1")
    web.answers["/books/bad"] = (511, b"")
    circuit = (
        "circuitBreaking: {statTimeWindow: 1m, degradedTimeWindow: 300ms, minRequestAmount: 4, errorAmountThreshold: 2}"
    )
    either.publish(limits=bounds(circuit))
    assert await statuses(either, 3, "/books/bad") == [511] * 3
    assert await statuses(either, 4) == [200, 409, 409, 409]
    assert len(web.requests) == 4
    assert await statuses(either, 1, caller="buyer-2") == [200], "another caller's circuit is closed"
    assert {one.flag for one in mine(either) if one.status == 409} == {"circuit-open"}
    await trio.sleep(0.35)
    assert await statuses(either, 2, "/books/bad") == [511, 409], "half open: one decides"
    await trio.sleep(0.35)
    assert await statuses(either, 3) == [200] * 3


async def test_the_circuit_is_that_of_calls_to_the_workload_s_own_address_too(either):  # noqa: F811
    web = either.web("store-v1")
    web.answers["/books/bad"] = (500, b"")
    circuit = (
        "circuitBreaking: {statTimeWindow: 1m, degradedTimeWindow: 1m, minRequestAmount: 12, errorAmountThreshold: 2}"
    )
    text = f"connectionSettings: {{http: {{{circuit}}}}}"
    either.publish(limits=setting(text) + setting(text, "limits-2", "bookstore.bookstore"))
    address = either.addresses["store-v1"]
    assert await statuses(either, 10, host=address) == [200] * 10
    assert await statuses(either, 4, "/books/bad", host=address) == [500, 500, 409, 409]
    assert len(web.requests) == 12


async def test_the_degraded_response_is_the_object_s(either):  # noqa: F811
    either.web("store-v1").answers["/books/bad"] = (500, b"")
    said = "degradedStatusCode: 520, degradedResponseContent: later"
    either.publish(
        limits=bounds(
            f"circuitBreaking: {{statTimeWindow: 1m, degradedTimeWindow: 1m, minRequestAmount: 1, errorRatioThreshold: 0.5, {said}}}"
        )
    )
    buyer = await either.call("buyer", "bookstore-v1.bookstore")
    assert (await buyer.get("/books/bad")).status == 500
    answer = await buyer.get("/books")
    assert (answer.status, answer.body, answer.reason) == (520, "later", "circuit-open")


async def test_a_server_that_is_down_or_slow_opens_the_circuit(mesh):
    circuit = "statTimeWindow: 1m, degradedTimeWindow: 1m, minRequestAmount: 2"
    mesh.publish(limits=bounds(f"circuitBreaking: {{{circuit}, errorAmountThreshold: 2}}"))
    assert await statuses(mesh, 3) == [503, 503, 409], "nobody listens"
    mesh.serve("store-v1", takes_its_time)
    mesh.publish(limits=bounds(f"circuitBreaking: {{{circuit}, slowTimeThreshold: 20ms, slowAmountThreshold: 2}}"))
    assert await statuses(mesh, 3) == [200, 200, 409]


async def takes_its_time(stream):
    while await head_of(stream):
        await trio.sleep(0.05)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


RETRY = document(
    "policy.openservicemesh.io/v1alpha1",
    "Retry",
    "buyer",
    "bookbuyer",
    "{source: {kind: ServiceAccount, name: bookbuyer, namespace: bookbuyer},"
    " destinations: [{kind: Service, name: bookstore-v1, namespace: bookstore}],"
    " retryPolicy: {retryOn: 5xx, numRetries: 3, retryBackoffBaseInterval: 1ms}}",
)
RETRIES = mesh_config("enablePermissiveTrafficPolicyMode: false").replace(
    "traffic:", "featureFlags: {enableRetryPolicy: true}, traffic:"
)


async def test_retries_are_bounded_and_each_is_a_request_of_the_circuit_and_the_rate(either):  # noqa: F811
    web = either.web("store-v1")
    web.answers["/books/bad"] = (500, b"")
    either.publish(mesh=RETRIES, retry=RETRY)
    assert await statuses(either, 1, "/books/bad") == [500]
    assert len(web.requests) == 4
    either.publish(limits=bounds("maxRetries: 0"))
    assert await statuses(either, 1, "/books/bad") == [500]
    assert len(web.requests) == 5
    either.publish(limits=setting("rateLimit: {local: {http: {requests: 3, unit: hour}}}"))
    assert await statuses(either, 1, "/books/bad") == [429], "three tokens, and none is left for the fourth attempt"
    assert len(web.requests) == 8
    circuit = (
        "circuitBreaking: {statTimeWindow: 1m, degradedTimeWindow: 1m, minRequestAmount: 4, errorAmountThreshold: 4}"
    )
    either.publish(limits=bounds(circuit))
    assert await statuses(either, 2, "/books/bad") == [500, 409]
    assert len(web.requests) == 12


async def test_a_caller_that_leaves_opens_no_circuit(mesh):
    slow = Slow(mesh)
    circuit = "statTimeWindow: 1m, degradedTimeWindow: 1m, minRequestAmount: 1, errorAmountThreshold: 1"
    mesh.publish(limits=bounds(f"circuitBreaking: {{{circuit}}}, maxRequests: 1"))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    await buyer.send(b"POST /books HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab")
    await mesh.settled()
    await buyer.stream.aclose()
    await mesh.until(mesh.at_rest)
    slow.gate.set()
    assert await statuses(mesh, 2) == [200, 200]


@needs_lane
async def test_streams_are_bounded_by_requests_and_not_by_connections(streams):  # noqa: F811
    mesh = streams
    opened = []

    async def answer(channel):
        opened.append(channel.connection)
        await channel.send_head(OK)
        while data := await channel.receive_some(65536):
            await channel.send_all(data)
        await channel.send_trailers(DONE)

    Calls(mesh, answer)
    http = "maxRequests: 2, maxPendingRequests: 0, maxRequestsPerConnection: 3"
    text = f"connectionSettings: {{tcp: {{maxConnections: 1}}, http: {{{http}}}}}"
    mesh.publish(mesh=mesh.permissive, limits=setting(text, host="store-grpc"))
    async with h2_caller(mesh.nursery, await mesh.call("buyer", NAME, PORT)) as connection:
        for _ in range(7):
            assert (await grpc(connection, b"/a.B/C"))[2] == b"0"
        assert sorted(Counter(map(id, opened)).values()) == [1, 3, 3]
        found = []

        for _ in range(2):
            channel = await connection.open([(n, b"/a.B/C" if n == b":path" else v) for n, v in CALL])
            await channel.send_all(b"hello")
            await channel.head()
            found.append(channel)
        assert (await grpc(connection, b"/a.B/C"))[2] == b"14"
        for channel in found:
            await channel.send_all(b"", end=True)
            while await channel.receive_some(65536):
                pass
            channel.close()
        assert (await grpc(connection, b"/a.B/C"))[2] == b"0"


async def test_whatever_callers_do_nothing_is_left_of_their_places(either):  # noqa: F811
    web = either.web("store-v1")
    web.answers["/books/bad"] = (500, b"")
    http = "maxRequests: 3, maxPendingRequests: 1, maxRequestsPerConnection: 2"
    either.publish(limits=bounds(http, "maxConnections: 1"), mesh=RETRIES, retry=RETRY)
    callers = [await either.call("buyer", "bookstore-v1.bookstore") for _ in range(12)]
    for number, caller in enumerate(callers):
        data = b"POST /books HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabcde"
        if number % 4 == 1:
            data = data.replace(b"/books", b"/books/bad")
        await caller.send(data[: -3 if number % 4 == 2 else None])
        if number % 3 == 0:
            await caller.stream.aclose()
    await either.settled()
    either.publish(access="", access_v2="")
    for caller in callers:
        await caller.stream.aclose()
    with trio.fail_after(10):
        while not either.at_rest():
            await trio.sleep(0.01)
