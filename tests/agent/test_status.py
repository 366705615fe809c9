"""Status documents: what the daemon tells of itself, holes included."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agent import status
from agent.accesslog import AccessLog
from policy.model import Endpoint, Mesh, Request


def test_the_node(daemon: Any, problem: Any) -> None:
    daemon.problems = [problem]
    document = status.status(daemon, now=1060.5)
    assert (document["node"], document["version"], document["uptime_seconds"]) == ("edge-1", "0.1.0", 60.5)
    assert (document["mode"], document["egress"], document["enforcing"], document["on_stop"]) == ("SMI", True, True, "closed")
    assert document["snapshot"]["workloads"] == 4
    assert document["snapshot"]["rules"] == 1
    assert [found["message"] for found in document["problems"]] == ["unknown field spec.sourcs"]


def test_modes() -> None:
    assert [status.mode(None), status.mode(SimpleNamespace(mesh=Mesh(permissive=True)))] == ["starting", "permissive"]  # type: ignore[arg-type]


def test_workloads_and_where_they_are(daemon: Any) -> None:
    states = {item["workload"]: (item["state"], item["place"], item["detail"]) for item in status.status(daemon, 0)["workloads"]}
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


def test_holes_are_said(daemon: Any) -> None:
    from agent.kernel.condition import Condition

    daemon.access_log = AccessLog("all", len, burst=0)
    daemon.access_log(daemon.record("shop/buyer", "shop/store-v1"))
    daemon.standings["shop/buyer"] = Condition(True, error="port 15001 is taken", gaps=2, older_connections=3)
    assert [(hole["kind"], hole["workload"], hole["count"]) for hole in status.holes(daemon, daemon.conditions())] == [
        ("partly-captured", "shop/buyer", 1),
        ("older", "shop/buyer", 3),
        ("gap", "shop/buyer", 2),
        ("not-captured", "shop/store-v1", 1),
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
        pick=SimpleNamespace(workload=store, endpoint=Endpoint("10.1.0.3", 8080), service="shop/store", rule="TrafficTarget shop/buying"),
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
                {"endpoint": "10.1.0.3:8080", "workload": "shop/store-v1"},
                {"endpoint": "10.2.0.1:8080", "workload": "shop/far"},
            ],
        }
    ]
    assert store["split"]["backends"] == [{"service": "shop/store-v1", "weight": 3}, {"service": "shop/store-far", "weight": 1}]
    assert store["callers"] == [{"source": "shop/buyer", "rule": "TrafficTarget shop/buying"}]
    assert routes["shop/empty"]["ports"][0]["protocol"] == "detected"
    assert (routes["shop/empty"]["split"], routes["shop/empty"]["callers"]) == (None, [])
