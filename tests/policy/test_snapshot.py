"""snapshot.py: what was encoded answers alike; addresses, names and splits."""

import msgspec
import pytest

from policy.authz import Authority
from policy.model import Backend, Endpoint, Grant, HttpMatch, Identity, Mesh, Request, Service, ServicePort, Split, Workload
from policy.snapshot import Snapshot

W1 = Workload("shop", "w1", "web", ("10.0.0.1", "fd00::1"), (8080,), "n1")
W2 = Workload("shop", "w2", "web", ("10.0.0.2",), (8080,), "n2")
LEFT_OUT = Workload("shop", "left-out", "x", ("10.0.0.3",), enrolled=False)
UNIT_A = Workload("box", "a", "a", ("192.168.0.1",), (80, 81), unit="a.service")
UNIT_B = Workload("box", "b", "b", ("192.168.0.1",), (82,), unit="b.service")
E1, E2 = Endpoint("10.0.0.1", 8080, "shop/w1"), Endpoint("10.0.0.2", 8080, "shop/w2")
MATCHES = (HttpMatch("beta", headers=(("x-beta", "^1$"),)),)
WEB = Service(
    "shop",
    "web",
    ("10.96.0.1", "fd00:96::1"),
    (ServicePort("http", 80, "", "tcp", (E1, E2)), ServicePort("dns", 53, "", "udp", (E1,))),
    Split("TrafficSplit shop/s", (Backend("shop/web-2", 3), Backend("shop/gone", 1)), MATCHES),
)
WEB_2 = Service("shop", "web-2", ("10.96.0.2",), (ServicePort("http", 80, "http", "tcp", (E2,)),), Split("TrafficSplit shop/t", ()))
HEADLESS = Service("shop", "headless", (), (ServicePort("db", 3306, "tcp", "tcp", (Endpoint("10.0.0.1", 3306, "shop/w1"),)),))
READ = Grant("TrafficTarget shop/t", Identity("front", "a"), W1.identity, http=(HttpMatch("a", "/a$", ("GET",), (("x", "y"),)),))
SNAPSHOT = Snapshot(
    "n1",
    Mesh(cluster_domain="edge.local"),
    (W1, W2, LEFT_OUT, UNIT_A, UNIT_B),
    (WEB, WEB_2, HEADLESS),
    (READ, Grant("TrafficTarget shop/u", Identity("front", "a"), W1.identity, tcp=(9000,), udp=())),
    {"shop/web-2": ("10.96.0.2",)},
)
BETA, PLAIN = Request("GET", "/", [(b"x-beta", b"1")]), Request("GET", "/", [(b"x-beta", b"11")])


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_a_copy_from_its_bytes_answers_alike(codec):
    SNAPSHOT.destination("10.96.0.1", 80)  # indexes that exist already are not encoded
    data = codec.encode(SNAPSHOT)
    copy = codec.decode(data, type=Snapshot)
    assert copy == SNAPSHOT
    assert codec.encode(copy) == data
    for address in ("10.96.0.1", "10.96.0.2", "fd00:96::1", "10.0.0.1", "10.0.0.3", "192.168.0.1", "1.1.1.1"):
        for port in (80, 53, 82, 8080):
            assert copy.destination(address, port) == SNAPSHOT.destination(address, port)
            assert copy.workload_at(address, port) == SNAPSHOT.workload_at(address, port)
    for request in (None, BETA, PLAIN, Request("GET", "/a", [(b"x", b"y")])):
        assert copy.authorize(READ.source, W1, 80, request) == SNAPSHOT.authorize(READ.source, W1, 80, request)
        assert copy.backends(WEB, request) == SNAPSHOT.backends(WEB, request)
    assert copy.authorize(READ.source, W1, 80, Request("GET", "/a", [(b"x", b"y")])).allowed


@pytest.mark.parametrize(
    ("address", "port", "kind", "service", "workload"),
    [
        ("10.96.0.1", 80, "service", WEB, None),
        ("fd00:96::1", 80, "service", WEB, None),
        ("10.96.0.1", 53, "no-port", WEB, None),  # that port is for datagrams
        ("10.96.0.1", 81, "no-port", WEB, None),
        ("10.0.0.1", 8080, "workload", WEB, W1),
        ("10.0.0.1", 9999, "workload", None, W1),
        ("10.0.0.3", 80, "external", None, None),
        ("192.168.0.1", 82, "workload", None, UNIT_B),
        ("192.168.0.1", 22, "external", None, None),
        ("1.1.1.1", 80, "external", None, None),
    ],
)
def test_what_was_dialled(address, port, kind, service, workload):
    found = SNAPSHOT.destination(address, port)
    assert (found.kind, found.service, found.workload) == (kind, service, workload)
    if kind == "workload":
        assert found.endpoint == Endpoint(address, port, workload.key)


def test_a_workloads_port_has_the_protocol_that_a_service_declares():
    assert SNAPSHOT.destination("10.0.0.2", 8080).protocol == "http", "web-2 declares it, web does not"
    assert SNAPSHOT.destination("10.0.0.1", 3306).protocol == "tcp"
    assert SNAPSHOT.destination("10.0.0.1", 9999).protocol == ""


def test_workloads_that_share_an_address_are_told_apart_by_the_port():
    assert SNAPSHOT.workload_at("192.168.0.1", 81) is UNIT_A
    assert SNAPSHOT.workload_at("192.168.0.1", 82) is UNIT_B
    assert SNAPSHOT.workload_at("192.168.0.1") is None
    assert SNAPSHOT.workload_at("10.0.0.1") is W1, "an address of its own needs no port"


@pytest.mark.parametrize(
    "host",
    [
        "web",
        "WEB",
        "web:80",
        "web.shop",
        "web.shop.",
        "web.shop.svc",
        "web.shop.svc.edge",
        "web.shop.svc.edge.local",
        "Web.Shop.svc.edge.local.:80",
    ],
)
def test_names_of_a_service(host):
    assert SNAPSHOT.named(host, "shop") is WEB


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        ".web",
        "web.other",
        "web.shop.svc.cluster.local",
        "web.shop.com",
        "web.shop.sv",
        "web.shop.svc.edge.locale",
        "10.96.0.1",
        "[::1]:80",
        "x.web.shop",
    ],
)
def test_names_of_no_service(host):
    assert SNAPSHOT.named(host, "shop") is None


def test_a_short_name_is_the_askers_own_namespace():
    assert SNAPSHOT.named("web", "front") is None
    assert SNAPSHOT.named("web.shop", "front") is WEB


def test_a_headless_service_has_a_name_and_no_address():
    assert SNAPSHOT.named("headless", "shop") is HEADLESS
    assert SNAPSHOT.destination("10.0.0.1", 3306).kind == "workload"


def test_a_split_with_matches_is_for_requests_that_fit():
    assert SNAPSHOT.backends(WEB, BETA) == (Backend("shop/web-2", 3), Backend("shop/gone", 1))
    assert SNAPSHOT.backends(WEB, PLAIN) is None
    assert SNAPSHOT.backends(WEB, None) is None
    assert SNAPSHOT.backends(WEB_2, None) == (), "without matches: everything"
    assert SNAPSHOT.backends(HEADLESS, BETA) is None


def test_lookups_by_key():
    assert SNAPSHOT.workload("shop/w1") is W1
    assert SNAPSHOT.service("shop/web") is WEB
    assert SNAPSHOT.workload("shop/web") is None
    assert SNAPSHOT.service("shop/w1") is None


def test_a_decision_touches_the_grants_between_two_identities_alone(monkeypatch):
    """What makes the cost independent of the number of policies."""
    ready = []
    pair = Authority.pair

    def recorded(self, destination, source):
        found = pair(self, destination, source)
        ready.append(len(found.grants) if found else 0)
        return found

    monkeypatch.setattr(Authority, "pair", recorded)
    strangers = tuple(Grant(f"r{i}", Identity("front", f"s{i}"), W1.identity, tcp=()) for i in range(500))
    crowded = Snapshot("n", workloads=(W1,), grants=(*strangers, READ))
    assert not crowded.authorize(READ.source, W1, 80, PLAIN).allowed
    assert not crowded.authorize(Identity("front", "nobody"), W1, 80, PLAIN).allowed
    assert ready == [1, 0]


def test_a_warm_snapshot_has_nothing_left_to_make():
    snapshot = Snapshot("node").warm()
    made = set(snapshot.__dict__)
    snapshot.destination("10.0.0.1", 80)
    snapshot.workload("a/b")
    snapshot.named("a.b", "c")
    assert set(snapshot.__dict__) == made
