"""Status documents: what the daemon tells of itself, holes included."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from agent.admin import status
from agent.commands import tables
from agent.telemetry.access_log import AccessLog
from policy.balancing import Balancing
from policy.model import Endpoint, Mesh, PlainGrant, Request, Service, ServicePort
from policy.upstream import Rate, RequestRate, ServiceBounds


def test_the_node(daemon: Any, problem: Any) -> None:
    daemon.problems = [problem]
    document = status.status(daemon, now=1060.5)
    assert (document["node"], document["version"], document["uptime_seconds"]) == ("edge-1", "0.1.0", 60.5)
    assert (document["mode"], document["egress"], document["enforcing"], document["on_stop"]) == (
        "SMI",
        True,
        True,
        "closed",
    )
    assert document["snapshot"]["workloads"] == 4
    assert document["snapshot"]["rules"] == 1
    assert [found["message"] for found in document["problems"]] == ["unknown field spec.sourcs"]


def test_modes() -> None:
    assert [status.mode(None), status.mode(SimpleNamespace(mesh=Mesh(permissive=True)))] == ["starting", "permissive"]  # type: ignore[arg-type]


def test_workloads_and_where_they_are(daemon: Any) -> None:
    states = {
        item["workload"]: (item["state"], item["place"], item["detail"])
        for item in status.status(daemon, 0)["workloads"]
    }
    assert states == {
        "shop/buyer": ("captured", "/run/netns/em-buyer", ""),
        "shop/thief": ("captured", "/run/netns/em-thief", ""),
        "shop/store-v1": ("not captured", "/run/netns/em-store", "there is no such network namespace"),
        "shop/far": ("elsewhere", "elsewhere", ""),
    }


def test_a_pod_that_is_left_alone(daemon: Any) -> None:
    from msgspec.structs import replace

    left = replace(daemon.snapshot.workload("shop/buyer"), enrolled=False)
    assert status.workload(left, None, status.Traffic())["state"] == "not enrolled"


def test_traffic_counts_for_both_ends(daemon: Any) -> None:
    daemon.record("shop/buyer", "shop/store-v1", status=200)
    daemon.record("shop/buyer", "shop/store-v1", status=200)
    daemon.record("shop/thief", "shop/store-v1", kind="connection", protocol="tcp", flag="denied", detail="no-rule: x")
    daemon.conns = {1: SimpleNamespace(workload=daemon.snapshot.workload("shop/buyer"))}
    traffic = status.traffic_of(daemon.metrics, daemon.conns.values())
    assert traffic["shop/buyer"] == status.Traffic(requests_out=2, open=1)
    assert traffic["shop/thief"] == status.Traffic(streams_out=1, denied_out=1)
    assert traffic["shop/store-v1"] == status.Traffic(requests_in=2, streams_in=1, denied_in=1)


def test_who_is_not_captured_is_told_once(daemon: Any) -> None:
    """As a Problem, which has its file, line and what to do (agent.daemon.readiness), and in the table of workloads; not among the holes."""
    assert not daemon.conditions()["shop/store-v1"].captured
    assert "shop/store-v1" not in [hole["workload"] for hole in status.holes(daemon, daemon.conditions())]


def test_holes_are_said(daemon: Any) -> None:
    from agent.kernel.condition import Condition

    daemon.access_log = AccessLog("all", lambda _: 0)  # nobody reads: the first line is kept, the second is not
    for _ in range(2):
        daemon.access_log(daemon.record("shop/buyer", "shop/store-v1"))
    daemon.standings["shop/buyer"] = Condition(True, error="port 15001 is taken", gaps=2, older_connections=3)
    assert [(hole["kind"], hole["workload"], hole["count"]) for hole in status.holes(daemon, daemon.conditions())] == [
        ("partly-captured", "shop/buyer", 1),
        ("older", "shop/buyer", 3),
        ("gap", "shop/buyer", 2),
        ("powers", "shop/thief", 1),
        ("udp", "shop/thief", 7),
        ("log", "", 1),
    ]


@pytest.fixture
def conn(daemon: Any) -> Any:
    buyer, store = daemon.snapshot.workload("shop/buyer"), daemon.snapshot.workload("shop/store-v1")
    return SimpleNamespace(
        id=7,
        direction="outbound",
        source=buyer,
        workload=buyer,
        peer=("10.1.0.1", 40000),
        pick=SimpleNamespace(
            workload=store, endpoint=Endpoint("10.1.0.3", 8080), service="shop/store", rule="TrafficTarget shop/buying"
        ),
        request=Request("GET", "/buy"),
        active=True,
        started=100.0,
        report=SimpleNamespace(record=daemon.record("shop/buyer", "", dialled="240.240.0.1:80", bytes_in=5)),
    )


def test_connections(conn: Any) -> None:
    (document,) = status.connections([conn], now=103.5)
    assert document == {
        "id": 7,
        "direction": "outbound",
        "source": "shop/buyer",
        "source_address": "10.1.0.1 40000",
        "dialled": "240.240.0.1:80",
        "service": "shop/store",
        "destination": "shop/store-v1",
        "endpoint": "10.1.0.3:8080",
        "rule": "TrafficTarget shop/buying",
        "protocol": "http",
        "active": True,
        "request": "GET /buy",
        "age_seconds": 3.5,
        "bytes_in": 5,
        "bytes_out": 0,
    }
    conn.pick = conn.request = conn.source = None
    (document,) = status.connections([conn], now=103.5)
    assert (document["source"], document["destination"], document["request"]) == ("", "", "")


def test_routes(daemon: Any) -> None:
    routes = {route["service"]: route for route in status.routes(daemon.snapshot)}
    store = routes["shop/store"]
    assert store["ports"] == [
        {
            "port": 80,
            "name": "http",
            "transport": "tcp",
            "protocol": "http",
            "endpoints": [
                {"endpoint": "10.1.0.3:8080", "workload": "shop/store-v1", "node": "", "place": "mesh", "used": True},
                {
                    "endpoint": "10.2.0.1:8080",
                    "workload": "shop/far",
                    "node": "elsewhere",
                    "place": "mesh",
                    "used": True,
                },
            ],
            "restricted": "",
        }
    ]
    assert store["splits"][0]["backends"] == [
        {"service": "shop/store-v1", "weight": 3},
        {"service": "shop/store-far", "weight": 1},
    ]
    assert store["callers"] == [{"source": "shop/buyer", "rule": "TrafficTarget shop/buying"}]
    assert routes["shop/empty"]["ports"][0]["protocol"] == "detected"
    assert (routes["shop/empty"]["splits"], routes["shop/empty"]["callers"]) == ([], [])


def test_routes_say_what_is_outside_and_who_comes_in_in_plain_text(daemon: Any) -> None:
    snapshot = daemon.snapshot
    at = snapshot.service("shop/store-v1").ports[0].endpoints[0]
    strangers = (Endpoint("192.0.2.7", 443, outside=True), Endpoint("10.9.9.9", 8080))
    port = ServicePort("http", 80, "", "tcp", (at, *strangers), None, (at,), "internalTrafficPolicy Local of node here")
    service = Service("shop", "mixed", (), (port,), affinity=60.0)
    lets_in = (
        PlainGrant("IngressBackend shop/i", at.workload, (at.port,), ("192.0.2.0/24",), True),
        PlainGrant("AccessControl shop/a", at.workload, (at.port,), ("198.51.100.0/24",)),
        PlainGrant("IngressBackend shop/other", at.workload, (9,), ("203.0.113.0/24",), True),
    )
    (route,) = status.routes(structs.replace(snapshot, services=(service,), plain=lets_in))
    assert [(e["place"], e["used"]) for e in route["ports"][0]["endpoints"]] == [
        ("mesh", True), ("outside", False), ("unknown", False),
    ]  # fmt: skip
    assert route["plain_callers"] == [{"source": "192.0.2.0/24", "rule": "IngressBackend shop/i"}], "strict mode"
    assert (route["affinity_seconds"], route["ports"][0]["restricted"]) == (60.0, port.nearness)
    console = Console(width=140, record=True, file=io.StringIO())
    for part in tables.routes([route]):
        console.print(part)
    text = console.export_text()
    for words in ("(outside the mesh)", "(not known yet)", "192.0.2.0/24, in plain text", "none (headless)",
                  "port 80: 1 of 3 endpoints for callers of this node (internalTrafficPolicy Local of node here)",
                  "sessionAffinity: calls of one workload stay at one endpoint for 1 min 0 s"):  # fmt: skip
        assert words in text


def test_routes_say_what_bounds_the_calls_to_a_service(daemon: Any) -> None:
    bounds = ServiceBounds("u", Rate(9, 1), (RequestRate(Rate(3, 0.05), name="x"),), max_requests=5)
    service = structs.replace(daemon.snapshot.service("shop/store"), upstream=bounds)
    (route,) = status.routes(structs.replace(daemon.snapshot, services=(service,)))
    assert route["bounds"] == [
        "u, for each caller: requests under way at most 5",
        "u: new connections 1 a second, 9 at once",
        "u: requests 3 a minute, 3 at once, else 429",
    ]
    console = Console(width=140, record=True, file=io.StringIO())
    for part in tables.routes([route]):
        console.print(part)
    text = console.export_text()
    assert all(words in text for words in route["bounds"])


def test_routes_say_how_a_service_is_balanced(daemon: Any) -> None:
    how = Balancing("LoadBalancing shop/b", "ring-hash", cookie="session")
    service = structs.replace(daemon.snapshot.service("shop/store"), balancing=how, affinity=60.0)
    (route,) = status.routes(structs.replace(daemon.snapshot, services=(service,)))
    assert route["balancing"] == "LoadBalancing shop/b: calls go to an endpoint by a hash ring of cookie session"
    assert route["affinity_seconds"] == 0.0, "it has no effect beside it"
    console = Console(width=140, record=True, file=io.StringIO())
    for part in tables.routes([route]):
        console.print(part)
    text = console.export_text()
    assert route["balancing"] in text
    assert "sessionAffinity" not in text


def test_circuits_that_are_open_are_in_the_status(daemon: Any) -> None:
    assert status.status(daemon, 0)["circuits"] == []
    daemon.open_circuits = [{"caller": "shop/buyer", "service": "shop/store", "port": 80, "by": "u", "state": "open"}]
    assert status.status(daemon, 0)["circuits"] == daemon.open_circuits
