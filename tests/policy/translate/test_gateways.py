"""translate/gateways.py: which listeners a Gateway of ours becomes, which routes stand behind them, what is said of each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.sources.manifest import read
from policy.build import Built, build
from policy.gateway import CONTROLLER, Condition, GatewayState
from policy.model import Node, Request
from policy.route import ExternalAuth, RequestMirror, Rule

GROUP = "gateway.networking.k8s.io/v1"
MINE = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "front"}


def made_of(kind: str, name: str, spec: dict[str, Any], namespace: str = "shop", **metadata: Any) -> str:
    data = {
        "apiVersion": GROUP,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": spec,
    }
    return f"\n---\n{json.dumps(data)}"


def gateway(*listeners: dict[str, Any], name: str = "front", age: str = "2026-01-01T00:00:00Z", **spec: Any) -> str:
    said = {"gatewayClassName": "edgemesh", "listeners": list(listeners), **spec}
    return made_of("Gateway", name, said, creationTimestamp=age)


def http(name: str = "http", port: int = 80, protocol: str = "HTTP", **more: Any) -> dict[str, Any]:
    return {"name": name, "port": port, "protocol": protocol, **more}


def route(
    name: str = "r",
    namespace: str = "shop",
    parent: dict[str, Any] = MINE,
    kind: str = "HTTPRoute",
    to: str = "one",
    to_namespace: str = "",
    age: str = "2026-01-02T00:00:00Z",
    **spec: Any,
) -> str:
    backend = {"name": to, "port": 80, **({"namespace": to_namespace} if to_namespace else {})}
    spec = {"parentRefs": [{"namespace": "shop", **parent}], "rules": [{"backendRefs": [backend]}], **spec}
    return made_of(kind, name, spec, namespace, creationTimestamp=age)


CLASS = f"""
apiVersion: {GROUP}
kind: GatewayClass
metadata: {{name: edgemesh}}
spec: {{controllerName: {CONTROLLER}}}
---
apiVersion: {GROUP}
kind: GatewayClass
metadata: {{name: other}}
spec: {{controllerName: example.org/other}}
"""
SERVICES = "".join(
    f"""
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: web, port: 80}}]}}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{serviceAccount: {name}, labels: {{app: {name}}}, addresses: [10.0.0.{number}], ports: [{{port: 80}}]}}
"""
    for number, (name, namespace) in enumerate((("one", "shop"), ("two", "shop"), ("far", "back")), 1)
)


def made(*texts: str) -> Built:
    change = read((CLASS + SERVICES + "".join(texts)).encode(), "g.yaml")
    assert not change.problems
    return build(change.objects, nodes=(Node("n1", ("192.0.2.1",)), Node("n2", ("192.0.2.2",))))


def state(built: Built, title: str = "Gateway shop/front") -> GatewayState:
    return next(one for one in built.snapshot.gateways.states if one.title == title)


def condition(conditions: tuple[Condition, ...], kind: str) -> tuple[bool, str]:
    return next((one.holds, one.reason) for one in conditions if one.type == kind)


def of_listener(built: Built, name: str, kind: str, title: str = "Gateway shop/front") -> tuple[bool, str]:
    return condition(next(one for one in state(built, title).listeners if one.name == name).conditions, kind)


def why(built: Built, title: str = "HTTPRoute shop/r") -> str:
    return next(one.reason for one in built.snapshot.gateways.attachments if one.route == title)


def backends(built: Built, host: str, path: str = "/", port: int = 80) -> list[str] | str:
    """Return the backends of the first rule that fits, or the flag with which it refuses; [] if none fits."""
    for virtual in built.snapshot.virtual_hosts("192.0.2.1", port, host):
        rule = built.snapshot.candidates(virtual.service, port, Request("GET", path)).rule
        if rule is not None:
            return rule.refuses or [one.service for one in rule.backends]
    return []


def rules(*paths: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": [{"name": name, "port": 80}]}
        for path, name in paths
    ]


def test_a_gateway_and_its_route_become_a_listener_with_a_virtual_host() -> None:
    built = made(gateway(http(hostname="*.example")), route(hostnames=["A.example", "b.other"]))
    (listener,) = built.snapshot.listeners
    assert (listener.gateway, listener.name, listener.port, listener.protocol) == ("shop/front", "http", 80, "HTTP")
    assert [one.hostname for one in listener.hosts] == ["a.example"]
    assert backends(built, "a.example") == ["shop/one"]
    assert backends(built, "b.example") == []
    said = state(built)
    assert condition(said.conditions, "Accepted") == (True, "Accepted")
    assert condition(said.conditions, "Programmed") == (True, "Programmed")
    assert said.addresses == ("192.0.2.1", "192.0.2.2")
    assert [(one.name, one.kinds, one.attached) for one in said.listeners] == [("http", ("HTTPRoute", "GRPCRoute"), 1)]
    assert why(built) == ""
    assert not built.problems


def test_gateways_of_other_controllers_and_unknown_classes_are_left_alone() -> None:
    for name in ("other", "absent"):
        built = made(made_of("Gateway", "front", {"gatewayClassName": name, "listeners": [http()]}), route())
        assert built.snapshot.listeners == ()
        assert [one.title for one in built.snapshot.gateways.states] == ["GatewayClass edgemesh"]
        assert built.snapshot.gateways.attachments == ()
        assert not built.problems


def test_a_route_for_gateways_of_others_may_be_what_it_likes() -> None:
    wrong = [{"matches": [{"path": {"type": "Glob", "value": "x"}}]}]
    assert not made(route(rules=wrong)).problems
    (problem,) = [one for one in made(gateway(http()), route(rules=wrong)).problems if one.severity == "error"]
    assert "Glob" in problem.message


def test_a_class_with_parameters_is_not_accepted_and_its_gateways_are_not_served() -> None:
    asked = {"group": "example.org", "kind": "Config", "name": "x"}
    text = CLASS.replace(
        f"{{controllerName: {CONTROLLER}}}", json.dumps({"controllerName": CONTROLLER, "parametersRef": asked})
    )
    change = read((text + gateway(http())).encode(), "g.yaml")
    built = build(change.objects)
    assert condition(state(built, "GatewayClass edgemesh").conditions, "Accepted") == (False, "InvalidParameters")
    assert built.snapshot.listeners == ()


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        ({}, ""),
        ({"sectionName": "http"}, ""),
        ({"sectionName": "other"}, "NoMatchingParent"),
        ({"port": 80}, ""),
        ({"port": 81}, "NoMatchingParent"),
        ({"sectionName": "http", "port": 81}, "NoMatchingParent"),
    ],
)
def test_section_name_and_port_choose_listeners(parent: dict[str, Any], reason: str) -> None:
    built = made(gateway(http()), route(parent=MINE | parent))
    assert why(built) == reason
    assert backends(built, "x") == ([] if reason else ["shop/one"])


@pytest.mark.parametrize(
    ("chosen", "namespace", "admitted"),
    [
        (None, "shop", True),
        (None, "back", False),
        ({"from": "Same"}, "back", False),
        ({"from": "All"}, "back", True),
        ({"from": "Selector", "selector": {"matchLabels": {"team": "b"}}}, "back", True),
        ({"from": "Selector", "selector": {"matchLabels": {"team": "b"}}}, "shop", False),
        ({"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "back"}}}, "back", True),
        ({"from": "Selector", "selector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}}, "back", True),
        ({"from": "Selector", "selector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a"]}]}}, "back", False),
        ({"from": "Selector", "selector": {"matchExpressions": [{"key": "team", "operator": "Near"}]}}, "back", False),
        ({"from": "Selector"}, "back", False),
        ({"from": "Anyone"}, "shop", False),
    ],
)  # fmt: skip
def test_allowed_namespaces(chosen: dict[str, Any] | None, namespace: str, admitted: bool) -> None:
    labels = "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: back, labels: {team: b}}"
    allowed = {"allowedRoutes": {"namespaces": chosen}} if chosen else {}
    to = "far" if namespace == "back" else "one"
    built = made(labels, gateway(http(**allowed)), route(namespace=namespace, to=to))
    title = f"HTTPRoute {namespace}/r"
    assert why(built, title) == ("" if admitted else "NotAllowedByListeners")
    assert state(built).listeners[0].attached == int(admitted)


def test_allowed_kinds() -> None:
    only = {"allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}}
    built = made(gateway(http(**only)), route())
    assert why(built) == "NotAllowedByListeners"
    assert of_listener(built, "http", "ResolvedRefs") == (True, "ResolvedRefs")
    unknown = {"allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}, {"kind": "Other"}]}}
    built = made(gateway(http(**unknown)), route())
    assert of_listener(built, "http", "ResolvedRefs") == (False, "InvalidRouteKinds")
    assert backends(built, "x") == ["shop/one"]
    none = {"allowedRoutes": {"kinds": [{"kind": "Other"}]}}
    built = made(gateway(http(**none)), route())
    assert state(built).listeners[0].kinds == ()
    assert built.snapshot.listeners == ()


def test_a_route_without_a_host_of_its_listener_is_not_attached() -> None:
    built = made(gateway(http(hostname="a.example")), route(hostnames=["b.example"]))
    assert why(built) == "NoMatchingListenerHostname"
    assert state(built).listeners[0].attached == 0


def test_rules_of_several_routes_are_merged_by_their_matches_not_by_their_objects() -> None:
    built = made(
        gateway(http()),
        route("newer", rules=rules(("/a/b", "two")), age="2026-02-01T00:00:00Z"),
        route("older", rules=rules(("/a", "one"), ("/a/b", "one"), ("/a/b/c", "one")), age="2026-01-01T00:00:00Z"),
    )
    assert backends(built, "x", "/a/b") == ["shop/one"]
    assert backends(built, "x", "/a") == ["shop/one"]
    built = made(
        gateway(http()),
        route("newer", rules=rules(("/a/b", "two"))),
        route("older", rules=rules(("/a", "one")), age="2026-01-01T00:00:00Z"),
    )
    assert backends(built, "x", "/a/b") == ["shop/two"]
    assert backends(built, "x", "/b") == []


def test_the_closest_hostname_comes_first_and_what_it_does_not_take_goes_to_the_next() -> None:
    built = made(
        gateway(http()),
        route("all", rules=rules(("/", "one"))),
        route("exact", hostnames=["a.example"], rules=rules(("/a", "two"))),
    )
    assert backends(built, "a.example", "/a") == ["shop/two"]
    assert backends(built, "a.example", "/b") == ["shop/one"]
    assert backends(built, "b.example", "/a") == ["shop/one"]


def test_a_backend_of_another_namespace_needs_a_grant_there() -> None:
    refused = made(gateway(http()), route(to="far", to_namespace="back"))
    assert backends(refused, "x") == ["ungranted Service back/far"]
    assert refused.snapshot.service("ungranted Service back/far") is None
    for to, name in ({"group": "", "kind": "Service"}, None), ({"group": "", "kind": "Service", "name": "far"}, None):
        grant = {"from": [{"group": GROUP.partition("/")[0], "kind": "HTTPRoute", "namespace": "shop"}], "to": [to]}
        assert backends(made(gateway(http()), route(to="far", to_namespace="back"), made_of("ReferenceGrant", "g", grant, "back")), "x") == ["back/far"], name  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "shop"},
        {"from": {"kind": "GRPCRoute"}},
        {"from": {"namespace": "other"}},
        {"from": {"group": ""}},
        {"to": {"kind": "Secret"}},
        {"to": {"name": "near"}},
        {"to": {"group": "apps"}},
    ],
)
def test_a_grant_for_something_else_grants_nothing(change: dict[str, Any]) -> None:
    referring = {"group": GROUP.partition("/")[0], "kind": "HTTPRoute", "namespace": "shop"} | change.get("from", {})
    referred = {"group": "", "kind": "Service"} | change.get("to", {})
    grant = made_of("ReferenceGrant", "g", {"from": [referring], "to": [referred]}, change.get("namespace", "back"))
    assert backends(made(gateway(http()), route(to="far", to_namespace="back"), grant), "x") == [
        "ungranted Service back/far"
    ]


GRANT = {
    "from": [{"group": GROUP.partition("/")[0], "kind": "HTTPRoute", "namespace": "shop"}],
    "to": [{"group": "", "kind": "Service"}],
}


def made_rule(*texts: str) -> Rule:
    built = made(*texts)
    (virtual,) = built.snapshot.virtual_hosts("192.0.2.1", 80, "x")
    found = built.snapshot.candidates(virtual.service, 80, Request("GET", "/")).rule
    assert found is not None
    return found


ASKS = """
---
apiVersion: edgemesh.io/v1alpha1
kind: HTTPFilter
metadata: {name: asks, namespace: shop}
spec: {extAuth: {service: far, port: 80, namespace: back}}
"""


def test_copies_for_another_namespace_need_a_grant_there() -> None:
    mirror = {
        "type": "RequestMirror",
        "requestMirror": {"backendRef": {"name": "far", "port": 80, "namespace": "back"}},
    }
    for of_backend in False, True:
        backend = {"name": "one", "port": 80, **({"filters": [mirror]} if of_backend else {})}
        texts = (
            gateway(http()),
            route(rules=[{"backendRefs": [backend], **({} if of_backend else {"filters": [mirror]})}]),
        )
        rule = made_rule(*texts)
        (copies,) = rule.backends[0].filters if of_backend else rule.filters
        assert isinstance(copies, RequestMirror)
        assert copies.service == "ungranted Service back/far"
        assert [one.service for one in rule.backends] == ["shop/one"]
        (attachment,) = made(*texts).snapshot.gateways.attachments
        assert condition(attachment.conditions, "ResolvedRefs") == (False, "RefNotPermitted")
        rule = made_rule(*texts, made_of("ReferenceGrant", "g", GRANT, "back"))
        (copies,) = rule.backends[0].filters if of_backend else rule.filters
        assert isinstance(copies, RequestMirror)
        assert copies.service == "back/far"


def test_a_filter_that_asks_a_service_of_another_namespace_needs_a_grant_there() -> None:
    asks = {"type": "ExtensionRef", "extensionRef": {"group": "edgemesh.io", "kind": "HTTPFilter", "name": "asks"}}
    texts = gateway(http()), ASKS, route(rules=[{"filters": [asks], "backendRefs": [{"name": "one", "port": 80}]}])
    rule = made_rule(*texts)
    assert (rule.refuses, rule.backends) == ("bad-route", ())
    assert "no ReferenceGrant" in rule.detail
    rule = made_rule(*texts, made_of("ReferenceGrant", "g", GRANT, "back"))
    assert [one.service for one in rule.filters if isinstance(one, ExternalAuth)] == ["back/far"]


def test_roots_of_another_namespace_need_a_grant_there() -> None:
    refs = [{"group": "", "kind": "ConfigMap", "name": "own"}, {"group": "", "kind": "ConfigMap", "name": "far", "namespace": "back"}]  # fmt: skip
    tls = {"frontend": {"default": {"validation": {"caCertificateRefs": refs}}}}
    secure = http("https", 443, "HTTPS", tls={"certificateRefs": [{"name": "tls"}]})
    built = made(gateway(secure, tls=tls), route())
    (listener,) = built.snapshot.listeners
    assert listener.clients is not None
    assert listener.clients.roots == ("ConfigMap shop/own", "ungranted ConfigMap back/far")
    assert any("lets the Gateway use ConfigMap back/far" in one.message for one in built.problems)
    referring = {"group": GROUP.partition("/")[0], "kind": "Gateway", "namespace": "shop"}
    grant = {"from": [referring], "to": [{"group": "", "kind": "ConfigMap"}]}
    (listener,) = made(
        gateway(secure, tls=tls), route(), made_of("ReferenceGrant", "g", grant, "back")
    ).snapshot.listeners
    assert listener.clients is not None
    assert listener.clients.roots == ("ConfigMap shop/own", "ConfigMap back/far")


def test_a_mesh_route_to_another_namespace_needs_no_grant_beside_a_gateway() -> None:
    both = made_of(
        "HTTPRoute",
        "r",
        {
            "parentRefs": [{"group": "", "kind": "Service", "name": "one"}, MINE],
            "rules": [{"backendRefs": [{"name": "far", "namespace": "back", "port": 80}]}],
        },
    )
    built = made(gateway(http()), both)
    service = built.snapshot.service("shop/one")
    assert service is not None
    found = built.snapshot.candidates(service, 80, Request("GET", "/"))
    assert [one.service for one in found.backends] == ["back/far"]
    assert backends(built, "x") == ["ungranted Service back/far"]


def test_a_protocol_that_is_not_served_is_said_and_closes_no_other_listener() -> None:
    built = made(gateway(http(), http("odd", 81, "INVALID")), route())
    assert of_listener(built, "odd", "Accepted") == (False, "UnsupportedProtocol")
    assert of_listener(built, "http", "Accepted") == (True, "Accepted")
    assert condition(state(built).conditions, "Accepted") == (True, "ListenersNotValid")
    assert [one.name for one in built.snapshot.listeners] == ["http"]
    alone = made(gateway(http("odd", 81, "INVALID")))
    assert condition(state(alone).conditions, "Accepted") == (False, "ListenersNotValid")
    assert condition(state(alone).conditions, "Programmed") == (False, "Invalid")


def test_two_gateways_share_a_port_and_the_older_one_is_asked_first() -> None:
    second = gateway(http(), name="side", age="2026-01-05T00:00:00Z")
    built = made(
        second,
        gateway(http()),
        route("a", rules=rules(("/", "one"))),
        route("b", parent=MINE | {"name": "side"}, rules=rules(("/", "two"))),
    )
    assert [one.gateway for one in built.snapshot.listeners] == ["shop/front", "shop/side"]
    assert backends(built, "x") == ["shop/one"]


def test_addresses_that_a_gateway_names() -> None:
    built = made(gateway(http(), addresses=[{"type": "IPAddress", "value": "192.0.2.9"}, {"value": "192.0.2.10"}]))
    assert built.snapshot.listeners[0].addresses == ("192.0.2.9", "192.0.2.10")
    assert state(built).addresses == ("192.0.2.9", "192.0.2.10")
    for address in ({"type": "Hostname", "value": "a.example"}, {"type": "IPAddress", "value": "nonsense"}):
        built = made(gateway(http(), addresses=[address]))
        assert built.snapshot.listeners == ()
        assert condition(state(built).conditions, "Accepted") == (False, "UnsupportedAddress")


def test_parameters_of_a_gateway_are_refused_and_labels_of_its_infrastructure_are_not() -> None:
    asked = {"group": "example.org", "kind": "Config", "name": "x"}
    built = made(gateway(http(), infrastructure={"parametersRef": asked}))
    assert condition(state(built).conditions, "Accepted") == (False, "InvalidParameters")
    assert built.snapshot.listeners == ()
    assert made(gateway(http(), infrastructure={"labels": {"a": "b"}})).snapshot.listeners


def test_an_http_route_and_a_grpc_route_for_one_host_exclude_each_other_by_age() -> None:
    grpc = {"parentRefs": [MINE], "rules": [{"backendRefs": [{"name": "two", "port": 80}]}]}
    older = made_of("GRPCRoute", "g", grpc, creationTimestamp="2026-01-01T00:00:00Z")
    built = made(gateway(http()), route(), older)
    assert why(built) == "NotAllowedByListeners"
    assert why(built, "GRPCRoute shop/g") == ""
    apart = made(
        gateway(http()), route(hostnames=["a.example"]), older.replace('"rules"', '"hostnames": ["b.example"], "rules"')
    )
    assert why(apart) == why(apart, "GRPCRoute shop/g") == ""


def listener_set(*listeners: dict[str, Any], name: str = "more", namespace: str = "shop", **metadata: Any) -> str:
    parent = {"name": "front", "namespace": "shop"}
    return made_of("ListenerSet", name, {"parentRef": parent, "listeners": list(listeners)}, namespace, **metadata)


ALL = {"allowedListeners": {"namespaces": {"from": "All"}}}


def test_a_listener_set_adds_listeners_where_its_gateway_allows_it() -> None:
    parent = {"group": GROUP.partition("/")[0], "kind": "ListenerSet", "name": "more", "namespace": "back"}
    built = made(
        gateway(http(), **ALL), listener_set(http("extra", 81), namespace="back"), route("b", "back", parent, to="far")
    )
    assert [one.key for one in built.snapshot.listeners] == ["Gateway shop/front http", "ListenerSet back/more extra"]
    assert backends(built, "x", port=81) == ["back/far"]
    assert backends(built, "x", port=80) == []
    said = state(built, "ListenerSet back/more")
    assert condition(said.conditions, "Accepted") == (True, "Accepted")
    assert said.listeners[0].attached == 1


def test_without_leave_of_its_gateway_a_listener_set_opens_nothing() -> None:
    for more in ({}, {"allowedListeners": {"namespaces": {"from": "Same"}}}):
        built = made(gateway(http(), **more), listener_set(http("extra", 81), namespace="back"))
        assert condition(state(built, "ListenerSet back/more").conditions, "Accepted") == (False, "NotAllowed")
        assert [one.name for one in built.snapshot.listeners] == ["http"]


def test_listeners_that_exclude_each_other() -> None:
    built = made(
        gateway(http(), **ALL),
        listener_set(
            http("same", 80), http("other", 80, hostname="a.example"), creationTimestamp="2026-01-02T00:00:00Z"
        ),
        listener_set(http("late", 80, hostname="a.example"), name="newer", creationTimestamp="2026-01-03T00:00:00Z"),
    )
    assert of_listener(built, "same", "Conflicted", "ListenerSet shop/more") == (True, "HostnameConflict")
    assert of_listener(built, "other", "Conflicted", "ListenerSet shop/more") == (False, "NoConflicts")
    assert of_listener(built, "late", "Conflicted", "ListenerSet shop/newer") == (True, "HostnameConflict")
    assert of_listener(built, "late", "Programmed", "ListenerSet shop/newer")[0] is False
    assert [one.name for one in built.snapshot.listeners] == ["http", "other"]


def test_each_gateway_without_addresses_gets_one_that_stays_its_own() -> None:
    def given(*texts: str) -> dict[str, tuple[str, ...]]:
        change = read((CLASS + "".join(texts)).encode(), "g.yaml")
        built = build(change.objects, nodes=(Node("n1", ("192.0.2.1",)),), doors=("192.0.2.16/29",))
        return {one.title: one.addresses for one in built.snapshot.gateways.states if one.listeners}

    names = [f"g{number}" for number in range(5)]
    texts = [gateway(http(), name=name) for name in names]
    found = given(*texts)
    assert len({address for (address,) in found.values()}) == 5
    assert all(address.startswith("192.0.2.") for (address,) in found.values())
    said = texts[4].replace('"spec"', '"status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.18"}]}, "spec"')
    assert given(*texts[:4], said)["Gateway shop/g4"] == ("192.0.2.18",)
    own = gateway(http(), name="own", addresses=[{"value": "192.0.2.18"}])
    assert given(own)["Gateway shop/own"] == ("192.0.2.18",)
    assert given(said, own)["Gateway shop/g4"] != ("192.0.2.18",)
    many = given(*(gateway(http(), name=f"m{number}") for number in range(8)))
    assert sorted(len(one) for one in many.values()) == [1] * 8  # of six there are; the others are at all addresses
    assert list(many.values()).count(("192.0.2.1",)) == 2


def test_gateways_at_other_addresses_do_not_exclude_each_other() -> None:
    secure = {"tls": {"certificateRefs": [{"name": "c"}]}}
    both = (
        gateway(http(port=443)),
        gateway(http("s", 443, "HTTPS", **secure), name="side", age="2026-02-01T00:00:00Z"),
    )
    assert [one.name for one in made(*both).snapshot.listeners] == ["http"]
    change = read((CLASS + "".join(both)).encode(), "g.yaml")
    apart = build(change.objects, doors=("192.0.2.16/28",)).snapshot.listeners
    assert [one.name for one in apart] == ["http", "s"]


def test_an_address_of_the_ranges_is_of_no_node_in_particular() -> None:
    named = (gateway(http(), name="own", addresses=[{"value": "192.0.2.1"}]), gateway(http(), name="given"))
    one = read((CLASS + "".join(named)).encode(), "g.yaml")
    found = build(one.objects, doors=("192.0.2.16/28",)).snapshot.listeners
    assert {listener.gateway: listener.floats for listener in found} == {"shop/own": False, "shop/given": True}
    assert not any(listener.floats for listener in build(one.objects).snapshot.listeners)
