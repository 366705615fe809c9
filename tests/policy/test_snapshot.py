"""snapshot.py: what was encoded answers alike; addresses, names and splits."""

import msgspec
import pytest
from msgspec.structs import replace

from policy.authz import Authority
from policy.model import (
    Endpoint,
    Grant,
    Hop,
    Identity,
    Mesh,
    Node,
    PlainGrant,
    Request,
    Revoked,
    Service,
    ServicePort,
    Workload,
)
from policy.route import Backend, Fields, HttpMatch, Regex, RequestFields, ResponseFields, Route, Rule
from policy.snapshot import Snapshot

W1 = Workload("shop", "w1", "web", ("10.0.0.1", "fd00::1"), (8080,), "n1")
W2 = Workload("shop", "w2", "web", ("10.0.0.2",), (8080,), "n2")
LEFT_OUT = Workload("shop", "left-out", "x", ("10.0.0.3",), enrolled=False)
UNIT_A = Workload("box", "a", "a", ("192.168.0.1",), (80, 81), unit="a.service")
UNIT_B = Workload("box", "b", "b", ("192.168.0.1",), (82,), unit="b.service")
E1, E2 = Endpoint("10.0.0.1", 8080, "shop/w1"), Endpoint("10.0.0.2", 8080, "shop/w2")
MATCHES = (HttpMatch("beta", headers=(("x-beta", Regex("^1$")),)),)
FILTERS = (RequestFields(Fields((("x-a", "1"),), (("x-b", "2"),), ("x-c",))), ResponseFields(Fields(remove=("x-d",))))
WEB = Service(
    "shop",
    "web",
    ("10.96.0.1", "fd00:96::1"),
    (ServicePort("http", 80, "", "tcp", (E1, E2)), ServicePort("dns", 53, "", "udp", (E1,))),
    (
        Route("HTTPRoute front/h", (Rule((Backend("shop/web-2", 1),), (HttpMatch("all"),), FILTERS),), 80, "front"),
        Route("TrafficSplit shop/s", (Rule((Backend("shop/web-2", 3), Backend("shop/gone", 1)), MATCHES),)),
    ),
)
WEB_2 = Service(
    "shop",
    "web-2",
    ("10.96.0.2",),
    (ServicePort("http", 80, "http", "tcp", (E2,)),),
    (Route("TrafficSplit shop/t", (Rule(()),)),),
)
HEADLESS = Service(
    "shop", "headless", (), (ServicePort("db", 3306, "tcp", "tcp", (Endpoint("10.0.0.1", 3306, "shop/w1"),)),)
)
READ = Grant(
    "TrafficTarget shop/t",
    Identity("front", "a"),
    W1.identity,
    http=(HttpMatch("a", Regex("/a$"), ("GET",), (("x", Regex("y")),)),),
)
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
        assert copy.candidates(WEB, 80, request).rule == SNAPSHOT.candidates(WEB, 80, request).rule
    assert copy.authorize(READ.source, W1, 80, Request("GET", "/a", [(b"x", b"y")])).allowed


def test_a_split_with_matches_is_for_requests_that_fit():
    assert SNAPSHOT.candidates(WEB, 80, BETA).rule.backends == (Backend("shop/web-2", 3), Backend("shop/gone", 1))
    assert SNAPSHOT.candidates(WEB, 80, PLAIN).rule is None
    assert SNAPSHOT.candidates(WEB, 80, None).rule is None
    assert SNAPSHOT.candidates(WEB_2, 80, None).rule.backends == (), "without matches: everything"
    assert SNAPSHOT.candidates(HEADLESS, 80, BETA).rule is None


def test_a_route_may_hold_for_one_port_and_for_callers_of_one_namespace():
    for request in (BETA, PLAIN):
        assert SNAPSHOT.candidates(WEB, 80, request, caller="front").rule.filters == FILTERS
    assert SNAPSHOT.candidates(WEB, 80, None, caller="front").rule is None, "a stream is no request"
    assert SNAPSHOT.candidates(WEB, 81, PLAIN, caller="front").route.name == "TrafficSplit shop/s"
    assert SNAPSHOT.candidates(WEB, 80, PLAIN, caller="shop").route.name == "TrafficSplit shop/s"
    assert not SNAPSHOT.is_settled(WEB, 80, "front"), "it has filters"
    assert SNAPSHOT.is_settled(WEB_2, 80, "front")


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
    assert FAR.hop(TILL, "fd02::1") == replace(door, address="2001:db8::2"), (
        "of the family that was dialled, where there is one"
    )
    assert replace(FAR, nodes=(Node("n2", ("192.0.2.2",), 15018, True),)).hop(TILL, "fd02::1") == door


def test_otherwise_a_workload_is_dialled_at_its_own_door():
    assert FAR.hop(LONE, "10.3.0.1") == Hop("10.3.0.1", 16000, "spiffe://edge.test/ns/shop/sa/lone", "", True)
    usual = replace(LONE, tunnel_port=0, node="unheard-of")
    assert FAR.hop(usual, "10.3.0.1") == Hop("10.3.0.1", 15008, "spiffe://edge.test/ns/shop/sa/lone", "", False)


def test_without_mtls_there_is_no_hop():
    assert FAR.hop(OPEN, "10.3.0.2") is None
    assert FAR.hop(replace(OPEN, namespace="yard"), "10.3.0.2") is not None, (
        "permissive concerns callers from outside the mesh"
    )
    assert replace(FAR, mesh=Mesh(mtls="disabled")).hop(TILL, "10.2.0.1") is None


def test_the_mode_of_a_namespace_goes_before_that_of_the_mesh():
    assert [FAR.mtls(namespace) for namespace in ("shop", "lab", "yard")] == ["strict", "disabled", "permissive"]
    assert replace(FAR, mesh=Mesh(mtls="permissive")).mtls("shop") == "permissive"


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
