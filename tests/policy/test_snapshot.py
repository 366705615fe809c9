"""snapshot.py: what was encoded answers alike; addresses, names and splits."""

import msgspec
import pytest
from msgspec.structs import replace

from policy.authz import Authority
from policy.model import (
    Backend,
    Endpoint,
    Grant,
    Hop,
    HttpMatch,
    Identity,
    Mesh,
    Node,
    PlainGrant,
    Request,
    Revoked,
    Service,
    ServicePort,
    Split,
    Workload,
)
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


# several nodes

TILL = Workload("shop", "till", "till", ("10.2.0.1", "fd02::1"), (8080,), "n2")
LONE = Workload("shop", "lone", "lone", ("10.3.0.1",), (8080,), "n3", tunnel_port=16000)
OPEN = Workload("lab", "open", "open", ("10.3.0.2",), (80,), "n2")
NODES = (Node("n2", ("192.0.2.2", "2001:db8::2"), 15018, True), Node("n3", metered=True))
FAR = Snapshot(
    "n1",
    Mesh(permissive=True, trust_domain="edge.test"),
    (TILL, LONE, OPEN),
    nodes=NODES,
    modes={"lab": "disabled", "yard": "permissive"},
    revoked=Revoked(("n9",), (Identity("shop", "thief"),), ("1ab",)),
    plain=(
        PlainGrant("AccessControl lab/a", "lab/open", (80, 81), ("10.9.0.0/16", "fd09::/64")),
        PlainGrant("AccessControl lab/b", "lab/open", (80,), ("10.9.0.7/32",)),
        PlainGrant("AccessControl shop/c", "shop/till", (8080,), ("0.0.0.0/0",)),
    ),
)


def test_a_node_that_says_where_it_is_has_one_door_for_all():
    door = Hop("192.0.2.2", 15018, "spiffe://edge.test/node/n2", "n2", True)
    assert FAR.hop(TILL, "10.2.0.1") == door
    assert FAR.hop(TILL, "fd02::1") == replace(door, address="2001:db8::2"), "of the family that was dialled, where there is one"
    assert replace(FAR, nodes=(Node("n2", ("192.0.2.2",), 15018, True),)).hop(TILL, "fd02::1") == door


def test_otherwise_a_workload_is_dialled_at_its_own_door():
    assert FAR.hop(LONE, "10.3.0.1") == Hop("10.3.0.1", 16000, "spiffe://edge.test/ns/shop/sa/lone", "", True)
    usual = replace(LONE, tunnel_port=0, node="unheard-of")
    assert FAR.hop(usual, "10.3.0.1") == Hop("10.3.0.1", 15008, "spiffe://edge.test/ns/shop/sa/lone", "", False)


def test_without_mtls_there_is_no_hop():
    assert FAR.hop(OPEN, "10.3.0.2") is None
    assert FAR.hop(replace(OPEN, namespace="yard"), "10.3.0.2") is not None, "permissive concerns callers from outside the mesh"
    assert replace(FAR, mesh=Mesh(mtls="disabled")).hop(TILL, "10.2.0.1") is None


def test_the_mode_of_a_namespace_goes_before_that_of_the_mesh():
    assert [FAR.mtls(namespace) for namespace in ("shop", "lab", "yard")] == ["strict", "disabled", "permissive"]
    assert replace(FAR, mesh=Mesh(mtls="permissive")).mtls("shop") == "permissive"


@pytest.mark.parametrize(
    ("identity", "node", "serial", "why"),
    [
        (Identity("shop", "till"), "n2", "2ab", ""),
        (Identity("shop", "till"), "n9", "2ab", "node n9 is revoked"),
        (None, "n9", "", "node n9 is revoked"),
        (Identity("shop", "thief"), "n2", "2ab", "identity shop/thief is revoked"),
        (Identity("shop", "till"), "n2", "01:AB", "certificate 1ab is revoked"),
        (None, "", "", ""),
    ],
)
def test_who_is_refused(identity, node, serial, why):
    assert FAR.refuses(identity, node, serial) == why
    assert not Snapshot("n").refuses(identity, node, serial)


def test_a_revoked_source_is_denied_in_permissive_mode_too():
    thief, honest = Identity("shop", "thief"), Identity("shop", "till")
    assert FAR.authorize(honest, TILL, 8080).allowed
    assert FAR.authorize(thief, TILL, 8080).reason == "revoked"
    assert FAR.authorize_udp(thief, TILL, 53).reason == "revoked"
    strict = Snapshot("n", workloads=(W1,), grants=(READ,), revoked=Revoked(identities=(READ.source,)))
    assert strict.authorize(READ.source, W1, 80, Request("GET", "/a", [(b"x", b"y")])).reason == "revoked"


@pytest.mark.parametrize("server", [replace(TILL, service_account="thief"), replace(TILL, node="n9")], ids=["identity", "node"])
def test_nobody_calls_a_server_that_is_revoked(server):
    honest = Identity("shop", "till")
    assert FAR.authorize(honest, server, 8080).reason == "revoked"
    assert FAR.authorize_udp(honest, server, 53).reason == "revoked"
    opened = replace(FAR, workloads=(server,), modes={"shop": "permissive"})
    assert not opened.plain_rule("10.9.9.9", server, 8080)
    assert replace(opened, revoked=Revoked()).plain_rule("10.9.9.9", server, 8080)


@pytest.mark.parametrize(
    ("address", "port", "rule"),
    [
        ("10.9.1.1", 80, "AccessControl lab/a"),
        ("10.9.0.7", 80, "AccessControl lab/b"),
        ("10.9.0.7", 81, "AccessControl lab/a"),
        ("::ffff:10.9.1.1", 80, "AccessControl lab/a"),
        ("fd09::5", 80, "AccessControl lab/a"),
        ("fd09:0:0:1::5", 80, ""),
        ("10.8.0.1", 80, ""),
        ("10.9.1.1", 82, ""),
        ("nonsense", 80, ""),
    ],
)
def test_plain_text_is_let_in_by_a_rule_for_that_network_and_port(address, port, rule):
    assert FAR.plain_rule(address, OPEN, port) == rule


def test_in_strict_mode_no_rule_lets_plain_text_in():
    assert FAR.plain_rule("10.9.1.1", TILL, 8080) == ""
    assert replace(FAR, mesh=Mesh(mtls="permissive")).plain_rule("10.9.1.1", TILL, 8080) == "AccessControl shop/c"


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_what_several_nodes_need_is_encoded_too(codec):
    data = codec.encode(FAR.warm())
    copy = codec.decode(data, type=Snapshot)
    assert copy == FAR
    assert codec.encode(copy) == data
    assert copy.hop(TILL, "10.2.0.1") == FAR.hop(TILL, "10.2.0.1")
    assert copy.plain_rule("10.9.0.7", OPEN, 80) == "AccessControl lab/b"
    assert copy.refuses(None, "n9") == FAR.refuses(None, "n9")
