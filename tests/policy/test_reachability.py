"""reachability.py, through explain(): how the destination is reached, and which node refuses whatever the rules say."""

import pytest
from msgspec.structs import replace

from policy.explain import explain
from policy.model import (
    Endpoint,
    Grant,
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
from policy.snapshot import Snapshot

WHO = Workload("buy", "buyer", "buyer", ("10.1.0.1",), node="n1")
NEAR = Workload("shop", "near", "store", ("10.1.0.2",), (80,), node="n1")
FAR = Workload("shop", "far", "store", ("10.2.0.1",), (80,), node="n2")
LONE = Workload("shop", "lone", "store", ("10.3.0.1",), (80,), node="n3")
GRANT = Grant("TrafficTarget shop/t", WHO.identity, FAR.identity, tcp=())
SNAPSHOT = Snapshot(
    "n1",
    Mesh(),
    (WHO, NEAR, FAR, LONE),
    grants=(GRANT,),
    nodes=(Node("n1", ("192.0.2.1",)), Node("n2", ("192.0.2.2",), 16000)),
)
DISABLED = replace(SNAPSHOT, modes={"shop": "disabled"})


def asked(snapshot, whom, who=WHO, **more):
    return explain(snapshot, who, whom, 80, **more)


def test_on_the_same_node():
    told = asked(SNAPSHOT, NEAR)
    assert (told.allowed, told.node, told.way, told.mtls, told.side) == (True, "n1", "direct", "strict", "")
    assert told.steps[-1] == "shop/near is on node n1, as the caller: direct, mTLS mode strict"


def test_through_the_door_of_another_node():
    told = asked(SNAPSHOT, FAR)
    assert (told.allowed, told.node, told.way) == (True, "n2", "tunnel")
    assert told.steps[-1] == (
        "shop/far is on node n2: tunnel to node n2 at 192.0.2.2:16000, expecting spiffe://cluster.local/node/n2, mTLS mode strict"
    )


def test_through_its_own_door():
    told = asked(replace(SNAPSHOT, modes={"shop": "permissive"}), LONE)
    assert told.steps[-1] == (
        "shop/lone is on node n3: tunnel to its own door at 10.3.0.1:15008, expecting spiffe://cluster.local/ns/shop/sa/store, "
        "mTLS mode permissive"
    )


def test_what_says_where_it_runs_but_names_no_node_is_on_this_one():
    unit = replace(NEAR, node="", unit="near.service")
    assert asked(SNAPSHOT, unit).way == "direct"
    assert asked(replace(SNAPSHOT, node="n2"), unit).way == "tunnel"
    nowhere = asked(SNAPSHOT, replace(NEAR, node=""))
    assert (nowhere.way, nowhere.node) == ("tunnel", "")
    assert nowhere.steps[-1].startswith(
        "no manifest says which node shop/near is on: tunnel to its own door at 10.1.0.2:15008"
    )
    assert nowhere.steps[-1].endswith("direct while this node has joined no mesh")


def test_two_of_which_nothing_says_where_they_are_are_not_neighbours():
    assert asked(SNAPSHOT, replace(NEAR, node=""), replace(WHO, node="")).way == "tunnel"


def test_in_plain_text_the_other_node_needs_an_access_control():
    told = asked(DISABLED, FAR)
    assert (told.allowed, told.rule, told.reason, told.way, told.side) == (
        False,
        "",
        "no-identity",
        "plain",
        "node n2, the destination's",
    )
    assert told.lacked == "no AccessControl or IngressBackend lets plain text from 10.1.0.1 reach port 80 of shop/far"
    assert told.steps[-2:] == (
        "shop/far is on node n2: dialled in plain text at 10.2.0.1, mTLS mode disabled",
        "refused by node n2, the destination's",
    )
    admitted = asked(
        replace(DISABLED, plain=(PlainGrant("AccessControl shop/a", "shop/far", (80,), ("10.1.0.0/16",)),)), FAR
    )
    assert (admitted.allowed, admitted.rule, admitted.side) == (True, GRANT.rule, "")
    assert admitted.steps[-1].endswith("AccessControl shop/a lets it in")
    assert asked(DISABLED, NEAR).allowed, "on one node nothing is sent over a wire"


def test_the_callers_node_asks_the_rules_first():
    told = asked(replace(SNAPSHOT, grants=()), FAR)
    assert (told.reason, told.side) == ("no-rule", "node n1, the caller's")
    assert asked(replace(SNAPSHOT, grants=()), NEAR).side == "node n1"
    assert asked(replace(SNAPSHOT, grants=()), FAR, replace(WHO, node="")).side == "the caller's node"


@pytest.mark.parametrize(
    ("revoked", "whom", "reason", "side", "why"),
    [
        (Revoked(nodes=("n2",)), FAR, "revoked", "node n1, the caller's", "node n2 is revoked"),
        (Revoked(nodes=("n3",)), LONE, "revoked", "node n1, the caller's", "node n3 is revoked"),
        (
            Revoked(identities=(FAR.identity,)),
            LONE,
            "revoked",
            "node n1, the caller's",
            "identity shop/store is revoked",
        ),
        (Revoked(nodes=("n1",)), FAR, "peer-revoked", "node n2, the destination's", "node n1 is revoked"),
        (Revoked(identities=(WHO.identity,)), FAR, "revoked", "node n1, the caller's", "identity buy/buyer is revoked"),
        (Revoked(identities=(WHO.identity,)), NEAR, "revoked", "node n1", "identity buy/buyer is revoked"),
    ],
)
def test_who_is_revoked_and_who_refuses(revoked, whom, reason, side, why):
    told = asked(replace(SNAPSHOT, revoked=revoked), whom)
    assert (told.allowed, told.rule, told.reason, told.side, told.lacked) == (False, "", reason, side, why)
    assert told.revoked == (why,)
    assert told.steps[-2:] == (why, f"refused by {side}")


def test_a_revocation_of_others_changes_nothing():
    told = asked(replace(SNAPSHOT, revoked=Revoked(("n9",), (Identity("x", "y"),), ("ab",))), FAR)
    assert (told.allowed, told.revoked) == (True, ())


def test_endpoints_on_several_nodes_are_told_one_by_one():
    endpoints = tuple(Endpoint(w.addresses[0], 80, w.key) for w in (FAR, LONE, NEAR))
    service = Service("shop", "store", ("10.9.0.1",), (ServicePort("web", 80, endpoints=endpoints),))
    told = asked(replace(SNAPSHOT, services=(service,), revoked=Revoked(nodes=("n3",))), service)
    assert [(choice.node, choice.way, choice.allowed) for choice in told.choices] == [
        ("n2", "tunnel", True),
        ("n3", "tunnel", False),
        ("n1", "direct", True),
    ]
    assert (told.allowed, told.side, told.lacked) == (False, "node n1, the caller's", "node n3 is revoked")


def test_a_denial_before_any_endpoint_is_the_callers_nodes():
    service = Service("shop", "store", ("10.9.0.1",), (ServicePort("web", 80),))
    told = asked(SNAPSHOT, service, request=Request("GET", "/"))
    assert (told.reason, told.side, told.way) == ("no-endpoint", "node n1, the caller's", "")


def test_datagrams_have_no_way():
    told = asked(replace(SNAPSHOT, grants=(replace(GRANT, tcp=None, udp=()),)), FAR, udp=True)
    assert (told.allowed, told.way, told.mtls) == (True, "", "")
