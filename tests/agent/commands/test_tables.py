"""What people see, whole: on a wide terminal, on a narrow one, and in a pipe."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from agent.admin import explain, status
from agent.commands import tables
from agent.commands.tables import duration, size
from agent.gateway.shown import listeners
from policy.gateway import Condition, Listener, VirtualHost
from policy.model import PlainGrant, Problem, Service, ServicePort, Where
from policy.route import Backend, Route, Rule


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
egress    destinations outside the mesh pass (MeshConfig traffic.enableEgress: false refuses them)
policy    4 workloads, 4 services, 1 rule, from /etc/edgemesh, read 10 s ago (build 1)
lane      Python only: the native lane was not compiled, or NodeConfig nativeLane is false
on stop   closed: when edgemesh stops, captured workloads are refused every call until it is back

WORKLOAD        IDENTITY     STATE          WHERE            OUT   IN   DENIED   OPEN
shop/buyer      shop/buyer   captured       netns em-buyer   1     0    0        0
shop/far        shop/far     elsewhere      elsewhere        0     0    0        0
shop/store-v1   shop/store   not captured   netns em-store   0     2    1        0
shop/thief      shop/thief   captured       netns em-thief   1     0    1        0

not seen or not stopped
WORKLOAD     COUNT   WHAT
shop/thief   1       holds NET_RAW: it can get its own calls around the mesh, not past its servers'
shop/thief   7       UDP packets passed: UDP is not captured

/etc/edgemesh/shop.yaml:12: error: TrafficTarget shop/buying: unknown field spec.sourcs
    did you mean sources?
1 error
"""
    )


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("network namespace /run/netns/cni-7bf12d9a-6ed5-daee-a8a2-9ec15ce0c18c", "netns cni-7bf12d9a"),
        ("network namespace /run/netns/till", "netns till"),
        ("/run/netns/till", "netns till"),
        ("cgroup of /run/netns/till", "cgroup of /run/netns/till"),
        ("unit till.service", "unit till.service"),
        ("", "10.0.0.1, fd00::1"),
    ],
)
def test_a_place_is_short_and_still_tells_it_from_others(place: str, words: str) -> None:
    assert tables.place({"place": place, "addresses": ["10.0.0.1", "fd00::1"]}) == words


def test_a_lane_that_served_nothing_says_what_it_waits_for(document: Any) -> None:
    document["lane"] = {"native": True, "served": 0, "left_to_python": 9}
    (line,) = (line for line in shown(tables.status(document, now=5000.0), 200).splitlines() if line[:4] == "lane")
    assert (
        line
        == "lane      native: ready; it serves what comes again on a connection that stays open, and nothing did yet"
    )


def test_a_table_gives_up_white_space_before_it_gives_up_being_a_table() -> None:
    rows = tables.Rows("name", "", "why", prose=True)
    rows.add("a" * 10, "yes", "w" * 10)
    assert shown([rows], 29).splitlines()[1] == f"{'a' * 10}   yes   {'w' * 10}"
    assert shown([rows], 28).splitlines()[1] == f"{'a' * 10}  yes  {'w' * 10}"
    # the cell of a column without a name is in the first line of the block
    assert shown([rows], 26).splitlines() == [f"name {'a' * 10}  yes", f"  why  {'w' * 10}"]


def test_what_is_the_same_of_many_workloads_is_said_once(document: Any) -> None:
    document["holes"] += [
        {"kind": "powers", "workload": f"shop/pod-{number}", "count": 2, "meaning": "holds NET_RAW"}
        for number in range(20)
    ]
    document["holes"].append({"kind": "powers", "workload": "", "count": 1, "meaning": "holds NET_RAW"})
    text = shown(tables.status(document, now=5000.0), 200)
    told = [line for line in text.splitlines() if "holds NET_RAW" in line]
    assert len(told) == 3
    assert told[0].startswith("shop/thief")
    assert told[1].split(maxsplit=3)[:3] == ["20", "workloads", "40"]
    assert "shop/pod-0, shop/pod-1" in told[1]
    assert "shop/pod-19" not in told[1]
    assert told[2].startswith("the node")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "https://10.0.0.1:6443 v1.37.2, connected for 10 s, 41 requests, 1.5 MB"),
        ({"synced": False}, "1.5 MB; not everything is read yet"),
        ({"connected": False}, "https://10.0.0.1:6443, not reached for 10 s: Connection refused"),
        ({"since": 0.0}, "https://10.0.0.1:6443, not asked yet"),
    ],
)
def test_status_of_an_api_server(document: Any, changed: dict[str, Any], words: str) -> None:
    cluster = {
        "place": "https://10.0.0.1:6443",
        "version": "v1.37.2",
        "connected": True,
        "since": 4990.0,
        "synced": True,
        "error": "Connection refused",
        "requests": 41,
        "received_bytes": 1_500_000,
    }
    document["clusters"] = [{**cluster, **changed}]
    assert words in shown(tables.status(document, now=5000.0), 200)


def test_status_of_names(document: Any) -> None:
    assert "DNS" not in shown(tables.status(document, now=5000.0), 200)
    document["names"]["questions"].update(answered=1200, stale=3, failed=1, dropped=2)
    down = {"resolver": "10.43.0.10", "since": 4700.0, "workloads": [f"shop/till-{number}" for number in range(9)]}
    document["names"]["down"] = [down]
    said = shown(tables.status(document, now=5000.0), 200)
    assert "1,206 questions: 1,200 answered here, 3 with old answers, for lack of new ones, 1 failed" in said
    assert "resolver 10.43.0.10 has not answered for 5 m" in said
    assert "shop/till-0" in said and "more): names of the cluster and old answers are given" in said


def test_status_of_circuits(document: Any) -> None:
    assert "half-open" not in shown(tables.status(document, now=5000.0), 200)
    by = "UpstreamTrafficSetting shop/limits"
    document["circuits"] = [
        {"caller": "shop/buyer", "service": "shop/store", "port": 8080, "by": by, "state": "half-open"}
    ]
    said = shown(tables.status(document, now=5000.0), 200)
    assert all(words in said for words in ("shop/buyer", "shop/store, port 8080", "half-open", by))


def test_status_of_listeners(document: Any) -> None:
    assert "LISTENER" not in shown(tables.status(document, now=5000.0), 200)
    front = Listener("shop/front", "http", 80, "HTTP", "Gateway shop/front")
    lacks = {"Gateway shop/side web": Condition("Programmed", False, "PortUnavailable", "port 443: in use")}
    side = Listener("shop/side", "web", 443, "HTTPS", "Gateway shop/side", hostname="a.example")
    away = Listener("shop/away", "x", 81, "HTTP", "Gateway shop/away", ("198.51.100.1",))
    document["listeners"] = listeners((front, side, away), {("192.0.2.1", 80)}, (), lacks)
    said = shown(tables.status(document, now=5000.0), 200)
    for words in ("Gateway shop/front http", "HTTP 80", "open at 192.0.2.1", "every host", "none"):
        assert words in said, words
    for words in ("a.example", "port 443: in use", "not at an address of this node"):
        assert words in said, words


def test_routes_of_listeners(daemon: Any) -> None:
    rule = Rule((Backend("shop/store", 3), Backend("shop/other", 1)), name="HTTPRoute shop/r, rule 1")
    refuses = Rule((), name="HTTPRoute shop/r, rule 2", refuses="bad-route")
    virtual = Service("shop", "Gateway shop/front http, a", (), (ServicePort("http", 80, "http"),))
    virtual = structs.replace(virtual, routes=(Route("HTTPRoute shop/r", (rule, refuses)),))
    front = Listener("shop/front", "http", 80, "HTTP", "x", hosts=(VirtualHost("a.example", virtual),))
    (at,) = daemon.snapshot.service("shop/store").ports[0].endpoints[:1]
    opens = PlainGrant("IngressBackend shop/i", at.workload, (at.port,), (), True, None, ("shop/front",), ("till",))
    document = status.routes(structs.replace(daemon.snapshot, listeners=(front,), plain=(opens,)))
    assert [one["host"] for one in document if one["listener"]] == ["a.example"]
    said = shown(tables.routes(document), 200)
    for words in ("a.example", "HTTPRoute shop/r, rule 1", "shop/store 3", "shop/other 1", "refused: bad-route"):
        assert words in said, words
    assert "Gateway shop/front, from outside" in said and "certificate till, from outside" in said


def test_in_a_cluster_what_is_outside_the_mesh_is_one_line(document: Any) -> None:
    template = document["workloads"][0]
    for key in ("kube-system/coredns-1", "edgemesh-system/edgemesh-agent-1", "edgemesh-system/edgemesh-server-1"):
        document["workloads"].append({**template, "workload": key, "state": "not enrolled", "place": ""})
    assert "edgemesh-system/edgemesh-agent-1" in shown(tables.status(document, now=5000.0), 100)  # of a directory
    document["clusters"] = [{"place": "https://10.0.0.1:6443", "since": 0.0, "requests": 0, "received_bytes": 0}]
    said = shown(tables.status(document, now=5000.0), 100)
    assert "coredns" not in said
    assert "edgemesh-agent-1" not in said
    line = "outside the mesh: 3 workloads (2 of edgemesh-system, 1 of kube-system); -o json says why"
    assert said.count(line) == said.count("outside the mesh: ") == 1
    assert "shop/far" in said


def test_status_of_other_nodes(document: Any) -> None:
    document["nodes"] = [
        {
            "node": "till-3",
            "addresses": ["10.0.0.3"],
            "reachable": True,
            "since_seconds": 7200.0,
            "seen_seconds": 0.0,
            "connections": 2,
            "flag": "",
            "error": "",
        },
        {
            "node": "till-4",
            "addresses": ["10.0.0.4"],
            "reachable": False,
            "since_seconds": 65.0,
            "seen_seconds": 90.0,
            "connections": 0,
            "flag": "node-unreachable",
            "error": "No route to host",
        },
        {
            "node": "till-5",
            "addresses": ["10.0.0.5"],
            "reachable": None,
            "since_seconds": None,
            "seen_seconds": None,
            "connections": 0,
            "flag": "",
            "error": "",
        },
    ]
    lines = shown(tables.status(document, now=5000.0), 160).splitlines()
    found = [" ".join(line.split()) for line in lines if "till-" in line]
    assert found == [
        "till-3 10.0.0.3 yes 2 h 0 min now 2",
        "till-4 10.0.0.4 NO 1 min 5 s 1 min 30 s ago 0 node-unreachable: No route to host",
        "till-5 10.0.0.5 no call yet 0",
    ]


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
          traffic.enableEgress: false refuses them)
policy    4 workloads, 4 services, 1 rule, from
          /etc/edgemesh, read 10 s ago (build 1)
lane      native: 12,345 requests served; for 67 Python had
          a connection to open
on stop   closed: when edgemesh stops, captured workloads
          are refused every call until it is back

workload shop/buyer
  identity  shop/buyer
  state     captured
  where     netns em-buyer
  out       1
  in        0
  denied    0
  open      0

not seen or not stopped
WORKLOAD    COUNT  WHAT
shop/thief  1      holds NET_RAW: it can get its own calls
                   around the mesh, not past its servers'

no problems
"""
    )


def test_what_is_asked_for_and_not_done_is_told_by_itself(problem: Any) -> None:
    unmet = Problem(
        "warning",
        Where("shop.yaml", 3),
        "MeshConfig osm",
        "spec.observability.tracing is not heeded",
        "ask",
        unmet=True,
    )
    assert (
        shown(tables.problems(status.problems([unmet, problem])), 100)
        == """\
/etc/edgemesh/shop.yaml:12: error: TrafficTarget shop/buying: unknown field spec.sourcs
    did you mean sources?
asked for and not done
shop.yaml:3: warning: MeshConfig osm: spec.observability.tracing is not heeded
    ask
1 error, 1 warning
"""
    )


def test_status_before_the_first_build(daemon: Any) -> None:
    daemon.published, daemon.state, daemon.standings = None, "starting", {}
    text = shown(tables.status(status.status(daemon, now=1000.0)), 100)
    assert "state     NOT enforcing yet\nmode      starting: no policy has been read yet\n" in text
    assert "policy    none read yet from /etc/edgemesh\n" in text
    assert "no workloads\n" in text


def test_routes_wide(daemon: Any) -> None:
    assert (
        shown(tables.routes(status.routes(daemon.snapshot)), 100)
        == """\
SERVICE          PORT     PROTOCOL   ENDPOINT        WORKLOAD        NODE
shop/empty       80       detected   none
shop/store       80       http       10.1.0.3:8080   shop/store-v1
                                     10.2.0.1:8080   shop/far        elsewhere
shop/store-far   80       http       10.2.0.1:8080   shop/far        elsewhere
shop/store-far   53/udp   detected   10.2.0.1:53     shop/far        elsewhere
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
    route["splits"][0]["matches"] = ["firefox"]
    for backend in route["splits"][0]["backends"]:
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
        id=8,
        source="",
        service="",
        destination="",
        dialled="10.1.0.3:80",
        endpoint="",
        protocol="tcp",
        active=False,
        request="",
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
missing   TrafficTarget shop/buying names source shop/buyer, not shop/thief
steps     shop/thief is identity shop/thief
          service shop/store-v1 port 80 -> endpoint 10.1.0.3:8080
          shop/store-v1 is identity shop/store
          shop/store-v1 is on node edge-1, as the caller: direct, mTLS mode strict
          refused by node edge-1
"""
    )
    assert "why       no-rule: no TrafficTarget lets this source reach\n          this destination\n" in shown(
        tables.explain(denied), 60
    )


def test_explain_of_endpoints_that_differ(daemon: Any) -> None:
    split = explain.answer(daemon.snapshot, explain.Question("buyer", "store", path="/buy"))
    lines = shown(tables.explain(split), 100).splitlines()
    assert [line for line in lines if not line.startswith((" ", "steps"))] == [
        "denied at some endpoints: shop/buyer -> shop/store port 80, GET /buy",
        "",
        "allowed: endpoint 10.1.0.3:8080",
        "by        TrafficTarget shop/buying",
        "",
        "denied: endpoint 10.2.0.1:8080",
        "why       no-rule: no TrafficTarget lets this source reach this destination",
        "missing   no TrafficTarget has shop/far as its destination",
    ]


def test_a_refusal_says_what_to_ask_next() -> None:
    """Ready to paste: which rule is nearest is another question than what became of one request."""
    from agent.telemetry.recent_denials import RecentDenials
    from nodeproxy.telemetry.record import Record
    from policy.model import Workload

    till = Workload("shop", "till", "till")
    about: dict[str, Any] = {
        "started": 0.0,
        "duration": 0.0,
        "source": till,
        "source_address": "10.1.0.2",
        "destination": None,
    }
    about |= {
        "service": "shop/stock",
        "dialled": "240.240.0.1:80",
        "endpoint": "",
        "protocol": "http",
        "flag": "denied",
        "id": "a",
    }
    remembered = RecentDenials("n", 10)
    remembered(Record(kind="request", direction="outbound", method="DELETE", path="/it ems", **about))
    remembered(Record(kind="connection", direction="outbound", **{**about, "service": "", "dialled": "[fd00::1]:8080"}))
    remembered(Record(kind="connection", direction="inbound", **{**about, "source": None}))
    lines = shown(tables.refusals(remembered.find("a")), 120).splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("ask ")] == [
        "edgemesh explain shop/till shop/stock --port 80 --method DELETE --path '/it ems'",
        "edgemesh explain shop/till [fd00::1]:8080",
    ]


def test_a_summary_counts_each_severity() -> None:
    found = [{"severity": severity} for severity in ("error", "notice", "error", "warning")]
    assert tables.summary(found) == "2 errors, 1 warning, 1 notice"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (7322, "2 h 2 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (20480, "20 KiB"),
        (5 << 30, "5.0 GiB"),
        (5 << 50, "5242880 GiB"),
    ],
)
def test_sizes(count: int, words: str) -> None:
    assert size(count) == words
