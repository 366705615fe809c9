"""route_status.py: what an HTTPRoute's status says to each Service that is its parent, for what is in force."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from agent.cluster.route_status import merged, ours, parents
from policy.build import build
from policy.gateway import CONTROLLER, Condition
from policy.model import Where
from policy.resources import RawObject
from policy.snapshot import Snapshot

WEB = {"group": "", "kind": "Service", "name": "web"}
ONE = {"name": "one", "port": 80}
ALL_GOOD = (Condition("Accepted", True, "Accepted"), Condition("ResolvedRefs", True, "ResolvedRefs"))


def service(name: str) -> RawObject:
    data = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}}
    return RawObject(
        {**data, "spec": {"ports": [{"name": "web", "port": 80}]}}, Where(f"kubernetes:Service/{name}"), {}
    )


def route(*rules: dict[str, Any], refs: tuple[dict[str, Any], ...] = (WEB,)) -> RawObject:
    data = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "shop"},
        "spec": {"parentRefs": list(refs), "rules": list(rules)},
    }
    return RawObject(data, Where("kubernetes:HTTPRoute/shop/r"), {})


def said(raw: RawObject, wrong: str = "") -> list[tuple[Condition, ...]]:
    snapshot = build([service("web"), service("one"), raw]).snapshot
    return [parent.conditions for parent in parents(raw, snapshot, wrong)]


def test_a_route_that_is_followed() -> None:
    assert said(route({"backendRefs": [ONE]})) == [ALL_GOOD]
    assert said(route({"backendRefs": [ONE]}, refs=(WEB, WEB | {"port": 80, "sectionName": "web"}))) == [ALL_GOOD] * 2


def test_a_grpc_route_is_told_the_same() -> None:
    found = route({"backendRefs": [ONE]})
    found.data["kind"] = "GRPCRoute"
    found.data["spec"]["rules"][0]["matches"] = [{"method": {"service": "shop.Stock"}}]
    assert said(found) == [ALL_GOOD]
    found.data["spec"]["rules"] = [{"backendRefs": [{"name": "gone", "port": 80}]}]
    assert [one.reason for one in said(found)[0]] == ["Accepted", "BackendNotFound"]


def test_only_parents_that_are_services_are_ours() -> None:
    refs = ({"name": "gate"}, {"kind": "Service", "name": "web"}, {"kind": 1}, "web", WEB)
    assert [ref for ref, *_ in ours(route(refs=refs), Snapshot("n1"))] == [WEB]  # type: ignore[arg-type]
    for spec in (None, [], {"parentRefs": None}, {"parentRefs": {}}):
        broken = route()
        broken.data["spec"] = spec
        assert ours(broken, Snapshot("n1")) == []


def test_a_gateway_of_ours_is_told_what_became_of_the_route() -> None:
    gate = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gate"}
    raw = route({"backendRefs": [{"name": "gone", "port": 80}]}, refs=(WEB, gate, gate | {"sectionName": "other"}))
    version = "gateway.networking.k8s.io/v1"
    owners = [
        {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}
        for kind, name, spec in (
            ("GatewayClass", "edgemesh", {"controllerName": CONTROLLER}),
            (
                "Gateway",
                "gate",
                {"gatewayClassName": "edgemesh", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
            ),
        )
    ]
    owners[0]["metadata"] = {"name": "edgemesh"}
    snapshot = build([service("web"), raw, *(RawObject(one, Where("kubernetes:x"), {}) for one in owners)]).snapshot
    found = parents(raw, snapshot, "")
    assert [parent.ref for parent in found] == [WEB, gate, gate | {"sectionName": "other"}]
    assert [[one.reason for one in parent.conditions] for parent in found] == [
        ["Accepted", "BackendNotFound"],
        ["Accepted", "BackendNotFound"],
        ["NoMatchingParent", "BackendNotFound"],
    ]
    refused = parents(raw, snapshot, "it is wrong")[1].conditions[0]
    assert refused == Condition("Accepted", False, "UnsupportedValue", "it is wrong")


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (WEB | {"name": "gone"}, "there is no Service shop/gone"),
        (WEB | {"port": 81}, "Service shop/web has no such port"),
        (WEB | {"sectionName": "chat"}, "Service shop/web has no such port"),
        (WEB | {"port": 80, "sectionName": "chat"}, "Service shop/web has no such port"),
    ],
)
def test_a_parent_that_is_not_there(ref: dict[str, Any], message: str) -> None:
    (found,) = said(route({"backendRefs": [ONE]}, refs=(ref,)))
    assert found[0] == Condition("Accepted", False, "NoMatchingParent", message)


@pytest.mark.parametrize(
    ("backend", "reason", "message"),
    [
        ({"name": "gone", "port": 80}, "BackendNotFound", "there is no Service shop/gone"),
        ({"name": "one", "port": 81}, "BackendNotFound", "shop/one has no port 81"),
        ({"name": "x", "kind": "Bucket", "group": "a.b"}, "InvalidKind", "Bucket.a.b shop/x is no Service"),
    ],
)
def test_a_backend_that_cannot_be_resolved(backend: dict[str, Any], reason: str, message: str) -> None:
    ((accepted, resolved),) = said(route({"backendRefs": [ONE, backend]}))
    assert accepted == ALL_GOOD[0]
    assert resolved == Condition("ResolvedRefs", False, reason, message)


def test_a_service_that_is_to_get_copies_and_cannot() -> None:
    def mirror(name: str, port: int = 80) -> dict[str, Any]:
        return {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": name, "port": port}}}

    assert said(route({"filters": [mirror("one")], "backendRefs": [ONE]})) == [ALL_GOOD]
    missing = Condition("ResolvedRefs", False, "BackendNotFound", "there is no Service shop/gone")
    assert said(route({"filters": [mirror("one"), mirror("gone")], "backendRefs": [ONE]})) == [(ALL_GOOD[0], missing)]
    assert said(route({"backendRefs": [ONE | {"filters": [mirror("gone")]}]})) == [(ALL_GOOD[0], missing)]


def test_an_http_filter_that_is_not_there() -> None:
    named = {"type": "ExtensionRef", "extensionRef": {"group": "edgemesh.io", "kind": "HTTPFilter", "name": "gone"}}
    missing = Condition("ResolvedRefs", False, "FilterNotFound", "no HTTPFilter shop/gone is in force")
    assert said(route({"filters": [named], "backendRefs": [ONE]})) == [(ALL_GOOD[0], missing)]
    named["extensionRef"] = {"group": "a.b", "kind": "C", "name": "d"}
    other = Condition("ResolvedRefs", False, "InvalidKind", "C.a.b d is no filter here")
    assert said(route({"backendRefs": [ONE | {"filters": [named]}]})) == [(ALL_GOOD[0], other)]


def test_rules_that_cannot_be_followed() -> None:
    odd = {"filters": [{"type": "Banana"}], "backendRefs": [ONE]}
    why = "answered 500: HTTPRoute shop/r, rule 1: a filter of type Banana is not done here"
    ((accepted, resolved),) = said(route(odd))
    assert accepted == Condition("Accepted", False, "UnsupportedValue", why)
    assert resolved == ALL_GOOD[1]
    good = {"matches": [{"path": {"value": "/a"}}, {"path": {"value": "/b"}}], "backendRefs": [ONE]}
    assert said(route(odd, good)) == [(*ALL_GOOD, Condition("PartiallyInvalid", True, "UnsupportedValue", why))]


def test_a_version_that_is_not_in_force() -> None:
    (found,) = said(route({"backendRefs": [ONE]}), "no path; the last good version stays in force")
    assert found[0] == Condition("Accepted", False, "UnsupportedValue", "no path; the last good version stays in force")


NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def test_what_others_say_stays_and_a_condition_keeps_its_time_until_it_changes() -> None:
    raw = route({"backendRefs": [ONE]})
    snapshot = build([service("web"), service("one"), raw]).snapshot
    theirs = {"controllerName": "example.org/x", "parentRef": WEB, "conditions": []}
    first = merged([theirs, "odd"], parents(raw, snapshot, ""), 1, NOW)
    assert first[0] == theirs
    assert (first[1]["controllerName"], first[1]["parentRef"]) == (CONTROLLER, WEB)
    assert {one["lastTransitionTime"] for one in first[1]["conditions"]} == {NOW}
    assert merged(copy.deepcopy(first), parents(raw, snapshot, ""), 1, LATER) == first
    second = merged(first, parents(raw, snapshot, "broken"), 2, LATER)
    assert [(one["type"], one["status"], one["lastTransitionTime"]) for one in second[1]["conditions"]] == [
        ("Accepted", "False", LATER),
        ("ResolvedRefs", "True", NOW),
    ]
    assert {one["observedGeneration"] for one in second[1]["conditions"]} == {2}
    assert merged(second, (), 3, LATER) == [theirs], "a parent that is no longer named"
    assert merged(None, (), 1, NOW) == merged({}, (), 1, NOW) == []
