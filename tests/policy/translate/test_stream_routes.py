"""translate/stream_routes.py: what TLSRoutes and TCPRoutes become at listeners, and what their status says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cluster.route_status import parents
from agent.sources.kubernetes.cluster import wanted
from agent.sources.manifest import read
from policy.build import Built, build
from tests.policy.translate.test_gateways import CLASS, MINE, made_of

TCP = "TCPRoute.gateway.networking.k8s.io"


def listener(name: str, protocol: str, port: int = 9000, mode: str = "Passthrough", **more: Any) -> dict[str, Any]:
    tls = {"tls": {"mode": mode}} if protocol == "TLS" else {}
    return {"name": name, "port": port, "protocol": protocol, **tls, **more}


def gateway(*listeners: dict[str, Any], name: str = "front", age: str = "2026-01-01T00:00:00Z") -> str:
    spec = {"gatewayClassName": "edgemesh", "listeners": list(listeners)}
    return made_of("Gateway", name, spec, creationTimestamp=age)


def route(kind: str, name: str = "r", to: str = "one", age: str = "2026-01-02T00:00:00Z", **spec: Any) -> str:
    rules = [{"backendRefs": [{"name": to, "port": 80}]}]
    return made_of(kind, name, {"parentRefs": [MINE], "rules": rules, **spec}, creationTimestamp=age)


SERVICE = """
---
{apiVersion: v1, kind: Service, metadata: {name: one, namespace: shop}, spec: {ports: [{port: 80}]}}
"""


def built(*objects: str) -> Built:
    return build(read((CLASS + SERVICE + "".join(objects)).encode(), "a.yaml").objects)


def said(made: Built, title: str) -> list[tuple[str, bool, str]]:
    (one,) = made.snapshot.attachments_of(title)
    return [(condition.type, condition.holds, condition.reason) for condition in one.conditions]


def state(made: Built, name: str = "Gateway shop/front") -> Any:
    return next(one for one in made.snapshot.gateways.states if one.title == name)


GOOD = [("Accepted", True, "Accepted"), ("ResolvedRefs", True, "ResolvedRefs")]


def test_a_tls_route_is_there_for_the_hosts_that_it_and_the_listener_have() -> None:
    made = built(
        gateway(listener("tls", "TLS", hostname="*.example")),
        route("TLSRoute", hostnames=["a.example", "*.b.example", "a.other"]),
    )
    (one,) = made.snapshot.listeners
    assert [host.hostname for host in one.hosts] == ["a.example", "*.b.example"]
    assert (one.protocol, one.passes, one.certificates) == ("TLS", True, ())
    assert said(made, "TLSRoute shop/r") == GOOD
    assert [(one.kinds, one.attached) for one in state(made).listeners] == [(("TLSRoute",), 1)]


def test_two_kinds_of_one_name_are_read_side_by_side() -> None:
    smi = "\n---\n{apiVersion: specs.smi-spec.io/v1alpha4, kind: TCPRoute, metadata: {name: r, namespace: shop}, "
    made = built(gateway(listener("tcp", "TCP")), smi + "spec: {matches: {ports: [80]}}}", route("TCPRoute"))
    assert not [one for one in made.problems if one.severity == "error"]
    assert {"TCPRoute shop/r", f"{TCP} shop/r"} <= made.accepted.keys()
    assert said(made, f"{TCP} shop/r") == GOOD
    asked = wanted()
    assert asked["specs.smi-spec.io", "TCPRoute"].versions == ("v1alpha3", "v1alpha4")
    assert asked["gateway.networking.k8s.io", "TCPRoute"].versions == ("v1alpha2", "v1")


def test_of_two_routes_the_older_one_has_the_connections_and_both_are_accepted() -> None:
    made = built(
        gateway(listener("tcp", "TCP")),
        route("TCPRoute", "a", age="2026-01-04T00:00:00Z"),
        route("TCPRoute", "b", age="2026-01-03T00:00:00Z"),
    )
    (one,) = made.snapshot.listeners
    assert one.hosts[0].service.routes[0].name == f"{TCP} shop/b"
    assert said(made, f"{TCP} shop/a") == said(made, f"{TCP} shop/b") == GOOD
    assert state(made).listeners[0].attached == 2
    assert any("is older" in problem.message for problem in made.problems)


@pytest.mark.parametrize(
    ("kind", "protocol"), [("TLSRoute", "TCP"), ("TLSRoute", "HTTP"), ("TCPRoute", "TLS"), ("HTTPRoute", "TCP")]
)
def test_a_listener_takes_only_routes_of_its_protocol(kind: str, protocol: str) -> None:
    made = built(gateway(listener("one", protocol)), route(kind))
    title = f"{TCP} shop/r" if kind == "TCPRoute" else f"{kind} shop/r"
    assert said(made, title)[0] == ("Accepted", False, "NotAllowedByListeners")
    assert state(made).listeners[0].attached == 0


def test_what_a_backend_lacks_is_said() -> None:
    for to, reason in (("two", "BackendNotFound"), ("one", "")):
        made = built(gateway(listener("tcp", "TCP")), route("TCPRoute", to=to))
        assert said(made, f"{TCP} shop/r")[1][2] == (reason or "ResolvedRefs")
    backend = {"name": "one", "namespace": "else", "port": 80}
    made = built(gateway(listener("tcp", "TCP")), route("TCPRoute", rules=[{"backendRefs": [backend]}]))
    assert said(made, f"{TCP} shop/r")[1] == ("ResolvedRefs", False, "RefNotPermitted")
    assert any("its connections are closed" in one.message for one in made.problems)


def test_a_grant_names_the_kind_as_manifests_write_it() -> None:
    grant = {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "TCPRoute", "namespace": "shop"}],
        "to": [{"group": "", "kind": "Service"}],
    }
    there = (
        "\n---\n{apiVersion: v1, kind: Service, metadata: {name: one, namespace: else}, spec: {ports: [{port: 80}]}}"
    )
    backend = {"name": "one", "namespace": "else", "port": 80}
    rules = [{"backendRefs": [backend]}]
    granted = made_of("ReferenceGrant", "g", grant, "else")
    made = built(there, granted, gateway(listener("tcp", "TCP")), route("TCPRoute", rules=rules))
    assert said(made, f"{TCP} shop/r") == GOOD


@pytest.mark.parametrize("name", ["10.0.0.1", "*", "a.*.example", "a b"])
def test_what_no_client_names_is_a_fault(name: str) -> None:
    made = built(gateway(listener("tls", "TLS")), route("TLSRoute", hostnames=[name]))
    assert any("is no server name" in one.message for one in made.problems if one.severity == "error")
    assert not made.snapshot.listeners[0].hosts


def test_a_port_of_tcp_has_one_gateway() -> None:
    made = built(
        gateway(listener("tcp", "TCP")),
        gateway(listener("tcp", "TCP"), name="later", age="2026-02-01T00:00:00Z"),
    )
    assert [one.gateway for one in made.snapshot.listeners] == ["shop/front"]
    conditions = state(made, "Gateway shop/later").listeners[0].conditions
    assert ("Conflicted", True) in [(one.type, one.holds) for one in conditions]


def test_a_service_as_parent_is_said_to_be_not_done() -> None:
    made = built(route("TCPRoute", parentRefs=[{"group": "", "kind": "Service", "name": "one"}]))
    assert [one.unmet for one in made.problems if "not done here" in one.message] == [True]
    raw = next(one for one in read(json.dumps(made.accepted[f"{TCP} shop/r"].data).encode(), "a.yaml").objects)
    (told,) = parents(raw, made.snapshot, "")
    assert (told.conditions[0].type, told.conditions[0].holds) == ("Accepted", False)
