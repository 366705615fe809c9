"""What is believed of another node that passes on a call from outside the mesh."""

import pytest

from policy.doors import Came
from policy.entering import distrusts, judge, may_be_http, shown
from policy.gateway import ClientCheck, Listener
from policy.model import Grant, Identity, Mesh, Node, PlainGrant, Request, Revoked, Workload
from policy.route import Exact, HttpMatch
from policy.snapshot import Snapshot

WEB = Workload("shop", "web", "web", ("10.0.0.1",), node="n1")
NODES = (Node("n1", ("192.0.2.1",)), Node("n2", ("192.0.2.2",)), Node("n3"))
TILL = Identity("partners", "till")
ASKS = ClientCheck(("ConfigMap shop/roots",))


def listener(gateway="shop/front", addresses=(), **more):
    return Listener(gateway, "web", 443, "HTTPS", "Gateway shop/front", addresses, **more)


def snapshot(*listeners, plain=(), **more):
    return Snapshot("n1", workloads=(WEB,), nodes=NODES, listeners=listeners, plain=plain, **more)


def opens(networks=(), **more):
    return PlainGrant("IngressBackend shop/web", "shop/web", (80,), networks, strict=True, **more)


def test_a_gateway_without_an_address_is_at_every_node_that_manifests_name():
    here = snapshot(listener())
    for node in ("n1", "n2", "n3"):
        assert distrusts(here, node, "shop/front") == distrusts(here, node) == ""
    for node in ("n4", ""):
        assert f"names node {node}" in distrusts(here, node, "shop/front")
        assert distrusts(here, node)
    assert distrusts(here, "n2", "shop/other") == "no listener of Gateway shop/other is served"
    assert distrusts(here, "n2", "IngressClass edgemesh") == "no listener of IngressClass edgemesh is served"


def test_a_gateway_with_an_address_is_at_the_node_that_has_it():
    here = snapshot(listener(addresses=("192.0.2.2", "198.51.100.1")))
    assert distrusts(here, "n2", "shop/front") == distrusts(here, "n2") == ""
    assert "at 192.0.2.2, 198.51.100.1, which no NodeConfig or MeshNode gives to node n1" in distrusts(
        here, "n1", "shop/front"
    )
    assert distrusts(here, "n3", "shop/front")
    assert distrusts(here, "n3") == "no Gateway has a listener at node n3"


def test_an_address_of_no_node_is_at_whichever_has_it():
    assert distrusts(snapshot(listener(addresses=("198.51.100.1",))), "n2", "shop/front")
    assert not distrusts(snapshot(listener(addresses=("198.51.100.1",), floats=True)), "n2", "shop/front")


def test_without_listeners_no_node_is_a_gateway():
    assert distrusts(snapshot(), "n2", "shop/front")
    assert distrusts(snapshot(), "n2")


def test_it_is_judged_as_at_a_listener_of_here():
    here = snapshot(listener(), plain=(opens(("192.0.2.0/24",)),))
    assert judge(here, Came("192.0.2.9", "shop/front"), WEB, 80).rule == "IngressBackend shop/web"
    assert judge(here, Came("198.51.100.9", "shop/front"), WEB, 80).reason == "no-identity"
    assert not judge(here, Came("192.0.2.9", "shop/front"), WEB, 81).allowed
    through = snapshot(listener(), listener("shop/back"), plain=(opens(gateways=("shop/front",)),))
    assert judge(through, Came("198.51.100.9", "shop/front"), WEB, 80).allowed
    assert not judge(through, Came("198.51.100.9", "shop/back"), WEB, 80).allowed
    cut = snapshot(listener(), plain=(opens(("192.0.2.0/24",)),), isolated=(("192.0.2.9/32", "Isolation x"),))
    assert judge(cut, Came("192.0.2.9", "shop/front"), WEB, 80).reason == "isolated"
    assert judge(snapshot(listener(), mesh=Mesh(permissive=True)), Came("192.0.2.9", "shop/front"), WEB, 80).allowed


@pytest.mark.parametrize(
    ("one", "counts"),
    [(listener(clients=ASKS), True), (listener(), False), (listener(clients=ClientCheck((), True)), False)],
)
def test_names_and_identities_count_where_certificates_are_asked_for(one, counts):
    grant = Grant("TrafficTarget shop/t", TILL, WEB.identity, tcp=(80,))
    here = snapshot(one, plain=(opens(principals=("till.example",)),), grants=(grant,))
    assert judge(here, Came("192.0.2.9", "shop/front", ("till.example",)), WEB, 80).allowed is counts
    assert judge(here, Came("192.0.2.9", "shop/front", identity=TILL), WEB, 80).allowed is counts


def test_an_identity_of_a_namespace_of_the_mesh_is_not_believed():
    """Whoever has it runs on a node of the mesh, and calls from there."""
    inside = Identity("shop", "never-seen")
    grants = tuple(Grant("TrafficTarget shop/t", one, WEB.identity, tcp=(80,)) for one in (inside, TILL))
    here = snapshot(listener(clients=ASKS), grants=grants)
    assert judge(here, Came("192.0.2.9", "shop/front", identity=TILL), WEB, 80).allowed
    assert judge(here, Came("192.0.2.9", "shop/front", identity=inside), WEB, 80).reason == "no-identity"


@pytest.mark.parametrize("revoked", [Revoked(identities=(TILL,)), Revoked(serials=("a1",)), Revoked(nodes=("n9",))])
def test_a_revoked_certificate_is_refused_whatever_else_would_let_it_in(revoked):
    here = snapshot(listener(clients=ASKS), plain=(opens(("192.0.2.0/24",)),), revoked=revoked)
    came = Came("192.0.2.9", "shop/front", (), 1, TILL, "n9", "a1")
    assert judge(here, came, WEB, 80).reason == "revoked"


def test_where_some_requests_may_come_in():
    match = (HttpMatch("items", Exact("/items"), ("GET",)),)
    came = Came("192.0.2.9", "shop/front", identity=TILL)
    assert may_be_http(snapshot(listener(), plain=(opens(gateways=("shop/front",), http=match),)), came, WEB, 80)
    grant = Grant("TrafficTarget shop/t", TILL, WEB.identity, http=match)
    here = snapshot(listener(clients=ASKS), grants=(grant,))
    assert may_be_http(here, came, WEB, 80)
    assert judge(here, came, WEB, 80, Request("GET", "/items")).allowed
    assert not judge(here, came, WEB, 80).allowed
    assert not may_be_http(here, Came("192.0.2.9", "shop/front"), WEB, 80)
    assert not may_be_http(snapshot(listener()), came, WEB, 80)


def test_words():
    assert (shown("shop/front"), shown("IngressClass edgemesh")) == ("Gateway shop/front", "IngressClass edgemesh")
