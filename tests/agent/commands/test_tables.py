"""What people see, whole: on a wide terminal, on a narrow one, and in a pipe."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest
from rich.console import Console

from agent import explain, status
from agent.commands import tables
from agent.commands.tables import duration, size


def shown(renderables: Iterable[Any], width: int) -> str:
    """The text, lines without the white space at their ends."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    for renderable in renderables:
        console.print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


@pytest.fixture
def document(daemon: Any, problem: Any) -> Any:
    daemon.record("shop/buyer", "shop/store-v1", status=200)
    daemon.record("shop/thief", "shop/store-v1", status=403, flag="denied", detail="no-rule: x")
    daemon.problems = [problem]
    made = status.status(daemon, now=5000.0)
    made["pid"] = 77
    made["snapshot"]["built"] = 4990.0
    return made


def test_status_wide(document: Any) -> None:
    assert (
        shown(tables.status(document, now=5000.0), 100)
        == """\
node edge-1, edgemesh 0.1.0, pid 77, up 1 h 6 min
state     enforcing
mode      SMI: a call between workloads passes when a TrafficTarget admits it
egress    destinations outside the mesh pass (MeshConfig traffic.enableEgress is true)
policy    4 workloads, 4 services, 1 rule, from /etc/edgemesh, read 10 s ago (build 1)
lane      Python only: the native lane was not compiled, or NodeConfig nativeLane is false
on stop   closed: when edgemesh stops, captured workloads are refused every call until it is back

WORKLOAD        IDENTITY     STATE          WHERE            CALLS OUT   CALLS IN   DENIED   OPEN
shop/buyer      shop/buyer   captured       netns em-buyer   1           0          0        0
shop/far        shop/far     elsewhere      elsewhere        0           0          0        0
shop/store-v1   shop/store   not captured   netns em-store   0           2          1        0
shop/thief      shop/thief   captured       netns em-thief   1           0          1        0

not seen or not stopped
WORKLOAD        COUNT   WHAT
shop/store-v1   1       not captured (there is no such network namespace): no policy holds for its
                        calls
shop/thief      1       holds NET_RAW: it can get its own calls around the mesh, not past its
                        servers'
shop/thief      7       UDP packets passed: UDP is not captured

/etc/edgemesh/shop.yaml:12: error: TrafficTarget shop/buying: unknown field spec.sourcs
    did you mean sources?
1 error
"""
    )


def test_status_narrow(document: Any) -> None:
    document["workloads"] = document["workloads"][:1]
    document["holes"] = document["holes"][:1]
    document["problems"] = []
    document["lane"] = {"native": True, "served": 12345, "left_to_python": 67}
    assert (
        shown(tables.status(document, now=5000.0), 60)
        == """\
node edge-1, edgemesh 0.1.0, pid 77, up 1 h 6 min
state     enforcing
mode      SMI: a call between workloads passes when a
          TrafficTarget admits it
egress    destinations outside the mesh pass (MeshConfig
          traffic.enableEgress is true)
policy    4 workloads, 4 services, 1 rule, from
          /etc/edgemesh, read 10 s ago (build 1)
lane      native: 12,345 requests served, 67 left to Python
on stop   closed: when edgemesh stops, captured workloads
          are refused every call until it is back

workload shop/buyer
  identity   shop/buyer
  state      captured
  where      netns em-buyer
  calls out  1
  calls in   0
  denied     0
  open       0

not seen or not stopped
workload shop/store-v1
  count  1
  what   not captured (there is no such network namespace):
         no policy holds for its calls

no problems
"""
    )


def test_status_before_the_first_build(daemon: Any) -> None:
    daemon.published, daemon.enforcing, daemon.standings = None, False, {}
    text = shown(tables.status(status.status(daemon, now=1000.0)), 100)
    assert "state     NOT enforcing yet\nmode      starting: no policy has been read yet\n" in text
    assert "policy    none read yet from /etc/edgemesh\n" in text
    assert "no workloads\n" in text


def test_routes_wide(daemon: Any) -> None:
    assert (
        shown(tables.routes(status.routes(daemon.snapshot)), 100)
        == """\
SERVICE          PORT     PROTOCOL   ENDPOINT        WORKLOAD
shop/empty       80       detected   none
shop/store       80       http       10.1.0.3:8080   shop/store-v1
                                     10.2.0.1:8080   shop/far
shop/store-far   80       http       10.2.0.1:8080   shop/far
shop/store-far   53/udp   detected   10.2.0.1:53     shop/far
shop/store-v1    80       http       10.1.0.3:8080   shop/store-v1

SERVICE      SPLIT                      BACKENDS
shop/store   TrafficSplit shop/halves   shop/store-v1 3 (75 %)
                                        shop/store-far 1 (25 %)

SERVICE         MAY BE CALLED BY   RULE
shop/store      shop/buyer         TrafficTarget shop/buying
shop/store-v1   shop/buyer         TrafficTarget shop/buying

SERVICE          ADDRESSES
shop/empty       240.240.239.31, fdce:ed6e:5e55:0:dd35:7f5f:69ed:69fb
shop/store       240.240.244.179, fdce:ed6e:5e55:0:22b0:301:f993:1f83
shop/store-far   240.240.76.144, fdce:ed6e:5e55:0:a104:db5a:6f04:8fd0
shop/store-v1    240.240.240.23, fdce:ed6e:5e55:0:2e82:7891:9c1a:2dd9
"""
    )


def test_a_split_with_matches_and_one_without_weight(daemon: Any) -> None:
    (route,) = [route for route in status.routes(daemon.snapshot) if route["service"] == "shop/store"]
    route["split"]["matches"] = ["firefox"]
    for backend in route["split"]["backends"]:
        backend["weight"] = 0
    text = shown(tables.routes([route]), 100)
    assert "TrafficSplit shop/halves (only firefox)   shop/store-v1 0 (no turns)" in text


def test_nothing_to_show() -> None:
    assert shown(tables.routes([]), 60) == "no services\n"
    assert shown(tables.connections([]), 60) == "no connection is open\n"
    assert shown(tables.problems([]), 60) == "no problems\n"


def connection(**fields: Any) -> Any:
    values = {
        "id": 7,
        "source": "shop/buyer",
        "source_address": "10.1.0.1 40000",
        "dialled": "240.240.0.1:80",
        "service": "shop/store",
        "destination": "shop/store-v1",
        "endpoint": "10.1.0.3:8080",
        "protocol": "http",
        "active": True,
        "request": "GET /buy",
        "age_seconds": 3.5,
        "bytes_in": 5,
        "bytes_out": 123456,
    }
    return values | fields


def test_connections_wide() -> None:
    stranger = connection(
        id=8, source="", service="", destination="", dialled="10.1.0.3:80", endpoint="", protocol="tcp", active=False, request=""
    )
    assert (
        shown(tables.connections([connection(), stranger]), 130)
        == """\
ID   FROM             TO                            ENDPOINT        PROTOCOL   AGE     IN    OUT       NOW
7    shop/buyer       shop/store (240.240.0.1:80)   10.1.0.3:8080   http       3.5 s   5 B   121 KiB   GET /buy
8    10.1.0.1 40000   10.1.0.3:80                                   tcp        3.5 s   5 B   121 KiB   idle
"""
    )


def test_explain_wide_and_narrow(daemon: Any) -> None:
    denied = explain.answer(daemon.snapshot, explain.Question("thief", "store-v1", path="/buy"))
    assert (
        shown(tables.explain(denied), 100)
        == """\
denied: shop/thief -> shop/store-v1 port 80, GET /buy
why       no-rule: no TrafficTarget lets this source reach this destination
lacked    TrafficTarget shop/buying names source shop/buyer, not shop/thief
way       shop/thief is identity shop/thief
          service shop/store-v1 port 80 -> endpoint 10.1.0.3:8080
          shop/store-v1 is identity shop/store
          shop/store-v1 is on node edge-1, as the caller: direct, mTLS mode strict
          refused by node edge-1
"""
    )
    assert "why       no-rule: no TrafficTarget lets this source reach\n          this destination\n" in shown(tables.explain(denied), 60)


def test_explain_of_endpoints_that_differ(daemon: Any) -> None:
    split = explain.answer(daemon.snapshot, explain.Question("buyer", "store", path="/buy"))
    lines = shown(tables.explain(split), 100).splitlines()
    assert [line for line in lines if not line.startswith((" ", "way"))] == [
        "denied at some endpoints: shop/buyer -> shop/store port 80, GET /buy",
        "",
        "allowed: endpoint 10.1.0.3:8080",
        "by        TrafficTarget shop/buying",
        "",
        "denied: endpoint 10.2.0.1:8080",
        "why       no-rule: no TrafficTarget lets this source reach this destination",
        "lacked    no TrafficTarget has shop/far as its destination",
    ]


def test_a_summary_counts_each_severity() -> None:
    found = [{"severity": severity} for severity in ("error", "notice", "error", "warning")]
    assert tables.summary(found) == "2 errors, 1 warning, 1 notice"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (7322, "2 h 2 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (20480, "20 KiB"), (5 << 30, "5.0 GiB"), (5 << 50, "5242880 GiB")]
)
def test_sizes(count: int, words: str) -> None:
    assert size(count) == words
