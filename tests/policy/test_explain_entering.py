"""Callers from outside the mesh in words: the data plane's verdict, and what the nearest rule lacks."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from msgspec import structs

from agent.sources.manifest import read
from policy.build import build
from policy.doors import Came
from policy.explain_entering import explain_by_route, explain_entering
from policy.model import Node, PlainGrant, Request
from policy.snapshot import Snapshot

ADDRESS = "198.51.100.9"
NODES = (Node("n1", ("192.0.2.1",)), Node("n2", ("192.0.2.2",)))
GET = Request("GET", "/items", [(b"host", b"a.example")])


def made(kind: str, name: str, spec: dict[str, Any], version: str = "gateway.networking.k8s.io/v1") -> str:
    metadata = {"name": name, "namespace": "shop"}
    return json.dumps({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}) + "\n---\n"


def own(name: str, node: str, address: str) -> str:
    spec = {"serviceAccount": "web", "labels": {"app": "web"}, "addresses": [address], "netns": name, "node": node}
    return made("Workload", name, spec | {"ports": [{"port": 8080}]}, "edgemesh.io/v1alpha1")


def opens(*sources: dict[str, str], port: int = 8080, kind: str = "IngressBackend", **more: Any) -> str:
    backends = [{"name": "web", "port": {"number": port, "protocol": "http"}}]
    spec = {"backends": backends, "sources": list(sources), **more}
    return made(kind, "b", spec, "policy.openservicemesh.io/v1alpha1")


RANGE = {"kind": "IPRange", "name": "198.51.100.0/24"}
FRONT = {"kind": "Gateway", "name": "front"}
GROUP = made(
    "HTTPRouteGroup", "items", {"matches": [{"name": "items", "pathRegex": "/items", "methods": ["GET"]}]},
    "specs.smi-spec.io/v1alpha4",
)  # fmt: skip
MATCHES = {"matches": [{"kind": "HTTPRouteGroup", "name": "items"}]}


def world(*more: str, addresses: tuple[str, ...] = (), rules: list[dict[str, Any]] | None = None) -> Snapshot:
    gateway: dict[str, Any] = {"gatewayClassName": "edgemesh"}
    gateway["listeners"] = [{"name": "http", "port": 80, "protocol": "HTTP"}]
    gateway |= {"addresses": [{"value": one} for one in addresses]} if addresses else {}
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    rules = rules or [{"backendRefs": [{"name": "web", "port": 80}]}]
    text = (
        made("GatewayClass", "edgemesh", {"controllerName": "edgemesh.io/gateway-controller"})
        + made("Gateway", "front", gateway)
        + made("HTTPRoute", "r", {"parentRefs": [{"name": "front"}], "hostnames": ["a.example"], "rules": rules})
        + made("Service", "web", {"selector": {"app": "web"}, "clusterIP": "10.9.0.1", "ports": ports}, "v1")
        + own("here", "n1", "10.0.0.1")
        + own("there", "n2", "10.0.0.2")
        + "".join(more)
    )
    change = read(text.removesuffix("---\n").encode(), "w.yaml")
    built = build(change.objects, node="n1", nodes=NODES)
    assert not [one for one in (*change.problems, *built.problems) if one.severity == "error"], built.problems
    return built.snapshot


def by_route(snapshot: Snapshot, came: Came, request: Request | None = GET) -> Any:
    (listener,) = snapshot.listeners
    return explain_by_route(snapshot, came, listener.hosts, request)


BY, ITSELF = Came(ADDRESS, "shop/front"), Came(ADDRESS)


def test_a_server_of_each_node_and_how_it_is_reached() -> None:
    found = by_route(world(opens(FRONT)), BY)
    assert found.allowed
    near, far = found.choices
    assert (near.node, near.way, far.node, far.way) == ("n1", "direct", "n2", "tunnel")
    assert "shop/there is on node n2: node n1 passes it on by mTLS, and says who calls" in far.steps
    assert near.rule == far.rule == "IngressBackend shop/b"


def test_a_gateway_that_the_other_node_does_not_believe() -> None:
    found = by_route(world(opens(FRONT), addresses=("192.0.2.2",)), BY)
    assert not found.allowed
    near, far = found.choices
    assert near.allowed
    assert (far.reason, far.side) == ("not-a-gateway", "node n2")
    assert "at 192.0.2.2, which no NodeConfig or MeshNode gives to node n1" in far.lacked


@pytest.mark.parametrize(
    ("text", "came", "lacked"),
    [
        ("", BY, "no IngressBackend and no AccessControl opens shop/here to the outside"),
        (opens(FRONT, port=9000), BY, "no IngressBackend and no AccessControl opens"),
        (opens(FRONT), ITSELF, "b lets in Gateway shop/front, not 198.51.100.9, which comes by no Gateway"),
        (opens({"kind": "IPRange", "name": "10.0.0.0/8"}), BY, "lets in 10.0.0.0/8, not 198.51.100.9 by Gateway"),
        (opens({"kind": "AuthenticatedPrincipal", "name": "till.example"}), BY, "lets in the certificate till.example"),
        (GROUP + opens(FRONT, **MATCHES), BY, "admits HTTP requests only"),
    ],
)
def test_what_the_nearest_rule_lacks(text: str, came: Came, lacked: str) -> None:
    snapshot = world(text)
    here = snapshot.workload("shop/here")
    assert here is not None
    found = explain_entering(snapshot, came, here, 8080)
    assert not found.allowed
    assert lacked in found.lacked


def test_an_access_control_where_mtls_is_strict() -> None:
    grant = PlainGrant("AccessControl shop/b", "shop/here", (8080,), ("198.51.100.0/24",))
    snapshot = structs.replace(world(), plain=(grant,))
    found = explain_entering(snapshot, BY, snapshot.workloads[0], 8080)
    assert found.lacked == f"{grant.rule} counts only where mTLS is not strict, and in namespace shop it is"


def test_which_requests_come_in() -> None:
    snapshot = world(GROUP + opens(FRONT, **MATCHES))
    here = snapshot.workload("shop/here")
    assert here is not None
    assert explain_entering(snapshot, BY, here, 8080).requests == ("GET /items (match items of IngressBackend shop/b)",)
    assert explain_entering(snapshot, BY, here, 8080, GET).allowed
    found = explain_entering(snapshot, BY, here, 8080, Request("PUT", "/items"))
    assert "has match items, which wants method GET, this is PUT" in found.lacked


def test_plain_text_from_the_address_of_a_node_is_nobody() -> None:
    snapshot = world(opens({"kind": "IPRange", "name": "192.0.2.0/24"}))
    here = snapshot.workload("shop/here")
    assert here is not None
    assert explain_entering(snapshot, Came("192.0.2.9"), here, 8080).allowed
    assert "NAT lends" in explain_entering(snapshot, Came("192.0.2.2"), here, 8080).lacked


def test_isolation_and_servers_that_the_mesh_does_not_guard() -> None:
    snapshot = world(opens(FRONT))
    here = snapshot.workload("shop/here")
    assert here is not None
    cut = structs.replace(snapshot, isolated=((f"{ADDRESS}/32", "Isolation shop/x"),))
    assert explain_entering(cut, BY, here, 8080).lacked == f"Isolation shop/x cuts off {ADDRESS}"
    out = structs.replace(snapshot, workloads=(structs.replace(here, enrolled=False),))
    found = explain_entering(out, BY, out.workloads[0], 8080)
    assert (found.allowed, found.steps[-1]) == (True, "shop/here is not in the mesh: the route is enough")


def test_routes_that_lead_nowhere() -> None:
    def told(*rules: dict[str, Any]) -> tuple[str, str]:
        found = by_route(world(rules=list(rules)), BY)
        assert not found.allowed
        return found.reason, found.lacked

    match = {"matches": [{"path": {"type": "Exact", "value": "/other"}}]}
    assert told(match | {"backendRefs": [{"name": "web", "port": 80}]})[0] == "no-route"
    assert told({"backendRefs": [{"name": "absent", "port": 80}]})[0] == "bad-route"
    assert told({"backendRefs": [{"name": "web", "port": 80, "weight": 0}]})[0] in ("all-weights-zero", "bad-route")
    redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": "there.example"}}
    found = by_route(world(rules=[{"filters": [redirect]}]), BY)
    assert (found.allowed, found.steps[-1]) == (True, "no server is asked")


def test_it_says_what_the_data_plane_does() -> None:
    """For every combination of what opens the server and who comes how: as `lets_in` and `plain_rule` decide."""
    openings = ("", opens(RANGE), opens(FRONT), GROUP + opens(RANGE, **MATCHES), opens(RANGE, kind="AccessControl"))
    for text, came, request in product(openings, (BY, ITSELF, Came("203.0.113.1", "shop/front")), (None, GET)):
        snapshot = world(text)
        for key in ("shop/here", "shop/there"):
            whom = snapshot.workload(key)
            assert whom is not None
            if came.gateway:
                wanted = snapshot.lets_in(came.address, whom, 8080, request, came.gateway).allowed
            else:
                wanted = bool(snapshot.plain_rule(came.address, whom, 8080, request))
            assert explain_entering(snapshot, came, whom, 8080, request).allowed is wanted, (text, came, request)
