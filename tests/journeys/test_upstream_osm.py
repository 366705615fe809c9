"""The UpstreamTrafficSettings of OSM's and osm-edge's pages, with the counts that these pages print."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from tests.journeys.stand_ins import echo
from tests.journeys.test_upstream_rates import statuses

# docs.openservicemesh.io, demos local_rate_limit_connections and local_rate_limit_http: a `host` that is this test's
HEAD = """
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: UpstreamTrafficSetting
metadata:
  name: fortio
  namespace: bookstore
spec:
  host: bookstore-v1.bookstore.svc.cluster.local
"""
RATE = """  rateLimit:
    local:
      http:
        requests: 3
        unit: minute
"""
BURST = "        burst: 10\n"
ROUTE = """  httpRoutes:
    - path: .*
      rateLimit:
        local:
          requests: 3
          unit: minute
"""
TCP = """  rateLimit:
    local:
      tcp:
        connections: 1
        unit: minute
"""


@pytest.mark.parametrize(
    ("spec", "sent", "passed"),
    [(RATE, 10, 3), (RATE + BURST, 10, 10), (ROUTE, 10, 3), (ROUTE + "          burst: 10\n", 10, 10)],
)
async def test_requests_of_ten(mesh, spec, sent, passed):
    mesh.web("store-v1")
    mesh.publish(fortio=HEAD + spec)
    assert Counter(await statuses(mesh, sent)) == Counter({200: passed, 429: sent - passed})


async def test_a_status_and_fields(mesh):
    mesh.web("store-v1")
    more = "        responseStatusCode: 509\n        responseHeadersToAdd:\n        - name: hello\n          value: world\n"
    mesh.publish(fortio=HEAD + RATE + more)
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    answers = [await buyer.get("/books") for _ in range(4)]
    assert [one.status for one in answers] == [200, 200, 200, 509]
    assert answers[-1].headers["hello"] == "world"


@pytest.mark.parametrize(("burst", "passed"), [("", 1), ("        burst: 10\n", 3)])
async def test_connections_of_three(mesh, burst, passed):
    mesh.serve("store-v1", echo, 9000)
    mesh.publish(fortio=HEAD + TCP + burst, tcp=mesh.tcp("bookbuyer", "bookstore", 9000))
    found = 0
    for _ in range(3):
        buyer = await mesh.call("buyer", "bookstore-v1.bookstore", 9000)
        try:
            await buyer.send(b"ping")
            found += await buyer.read(4) == b"ping"
        except trio.BrokenResourceError:
            pass
    assert found == passed


# docs.openservicemesh.io, demo circuit_breaking_mesh_internal: 3 callers at once, of which some get 503
CIRCUIT = """  connectionSettings:
    tcp:
      maxConnections: 1
    http:
      maxRequests: 1
      maxPendingRequests: 1
      maxRequestsPerConnection: 1
"""


async def test_calls_at_once_overflow(mesh):
    web = mesh.web("store-v1")
    mesh.publish(fortio=HEAD + CIRCUIT)
    found = []

    async def caller():
        found.extend(await statuses(mesh, 10))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(caller)
    assert found.count(200) + found.count(503) == 30
    assert found.count(200) == len(web.requests) == len(web.peers), "one request on each connection"
    assert {one.flag for one in mesh.records if one.status == 503} <= {"overflow"}
    assert await statuses(mesh, 5) == [200] * 5


# osm-edge's page of circuit breaking, a tenth of its amounts: each fifth of 100 requests fails
EDGE = """  connectionSettings:
    http:
      circuitBreaking:
        statTimeWindow: 1m
        minRequestAmount: 20
        {threshold}
        degradedTimeWindow: 1m
        degradedStatusCode: 520
"""


@pytest.mark.parametrize(
    ("threshold", "good", "bad"),
    [("errorAmountThreshold: 10", 40, 10), ("errorRatioThreshold: 0.10", 16, 4)],
)
async def test_errors_degrade(mesh, threshold, good, bad):
    mesh.web("store-v1").answers["/books/bad"] = (511, b"")
    mesh.publish(fortio=HEAD + EDGE.replace("{threshold}", threshold))
    buyer = await mesh.call("buyer", "bookstore-v1.bookstore")
    found = Counter()
    for number in range(100):
        found[(await buyer.get("/books/bad" if number % 5 == 4 else "/books")).status] += 1
    assert found == {200: good, 511: bad, 520: 100 - good - bad}
