"""TrafficTargets with the annotation edgemesh.io/dry-run: what is refused and admitted, and counted, in both lanes."""

from __future__ import annotations

from agent.telemetry.metrics import Metrics
from tests.journeys.stand_ins import echo


def tried(text, value="true"):
    """The same TrafficTarget with the annotation."""
    return text.replace("metadata: {", f'metadata: {{annotations: {{edgemesh.io/dry-run: "{value}"}}, ', 1)


def counted(mesh):
    """What the metric says of the records so far, and what is in them."""
    metrics = Metrics()
    for record in mesh.records:
        metrics(record)
    return metrics.trials


THIEF, BUYER = "TrafficTarget bookstore/http-bookthief-bookstore", "TrafficTarget bookstore/http-bookbuyer-bookstore"


async def test_a_grant_on_trial_admits_nothing_and_counts_each_call(mesh):
    server = mesh.web("store-v1")
    mesh.publish(thief=tried(mesh.http("bookthief", "bookstore")))
    thief = await mesh.call("thief", "bookstore-v1.bookstore")
    for _ in range(10):
        answer = await thief.get("/books")
        assert (answer.status, answer.reason) == (403, "no-rule")
        assert (await thief.get("/other")).status == 403
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(10):
        assert (await buyer.get("/books")).status == 200
    await mesh.settled()
    assert len(server.requests) == 10
    assert counted(mesh) == {("outbound", THIEF, "would-allow"): 10}
    # In force, it admits; and nothing is counted any more
    mesh.records.clear()
    mesh.publish(thief=mesh.http("bookthief", "bookstore"))
    for _ in range(5):
        assert (await thief.get("/books")).status == 200
    assert counted(mesh) == {}


async def test_a_grant_that_is_to_go_admits_and_counts_what_it_alone_admits(mesh):
    server = mesh.web("store-v1")
    mesh.publish(access=tried(mesh.http("bookbuyer", "bookstore"), "removal"))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    for _ in range(10):
        assert (await buyer.get("/books")).status == 200
        assert (await buyer.get("/other")).status == 403
    assert len(server.requests) == 10
    assert counted(mesh) == {("outbound", BUYER, "would-deny"): 10}
    # Another one admits the same: nobody would miss it
    mesh.records.clear()
    mesh.publish(other=mesh.http("bookbuyer", "bookstore").replace("http-bookbuyer", "another-bookbuyer"))
    for _ in range(10):
        assert (await buyer.get("/books")).status == 200
    assert counted(mesh) == {}
    # What was learned of calls that nothing counts does not hide those that are counted again
    mesh.publish(other="")
    for _ in range(10):
        assert (await buyer.get("/books")).status == 200
    assert counted(mesh) == {("outbound", BUYER, "would-deny"): 10}


async def test_opaque_connections_are_counted_once(mesh):
    mesh.serve("store-v1", echo, 9000)
    name = "TrafficTarget bookstore/tcp-{}-bookstore-9000"
    mesh.publish(
        tcp=tried(mesh.tcp("bookbuyer", "bookstore", 9000), "removal"),
        thief=tried(mesh.tcp("bookthief", "bookstore", 9000)),
    )
    for _ in range(3):
        buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
        await buyer.send(b"ping")
        assert await buyer.read(4) == b"ping"
        await buyer.stream.send_eof()
        assert await buyer.is_over() == "closed"
        thief = await mesh.call("thief", "bookstore-v1.bookstore", 9000)
        assert await thief.is_over() == "reset"
    await mesh.settled()
    assert counted(mesh) == {
        ("outbound", name.format("bookbuyer"), "would-deny"): 3,
        ("outbound", name.format("bookthief"), "would-allow"): 3,
    }


async def test_a_server_counts_callers_that_no_node_of_theirs_judged(mesh):
    """A call at the server's own door has no identity here, so no target is asked, and none would change it."""
    mesh.web("store-v1")
    mesh.publish(thief=tried(mesh.http("bookthief", "bookstore")))
    stranger = await mesh.call_in(mesh.stranger, "store-v1")
    assert (await stranger.get("/books")).reason == "no-identity"
    assert counted(mesh) == {}
