"""translate/smi.py beyond the conformance rows: what is pointed out, and where."""

import pytest
import yaml

from policy.build import build
from policy.model import Identity, Where
from policy.resources import RawObject
from policy.route import HttpMatch, Regex

SPECS, ACCESS = "specs.smi-spec.io/v1alpha4", "access.smi-spec.io/v1alpha3"
SERVICES = """
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web-2, namespace: shop}, spec: {ports: [{port: 80}]}}
"""


def made(text, previous=None):
    return build(
        [RawObject(data, Where("s.yaml", n), {}) for n, data in enumerate(yaml.safe_load_all(text), 1)], previous
    )


def object_(version, kind, name, spec, **metadata):
    return "\n---\n" + yaml.safe_dump(
        {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop", **metadata}, "spec": spec}
    )


def group(*matches, name="r"):
    return object_(SPECS, "HTTPRouteGroup", name, {"matches": list(matches)})


def target(rules, name="t", callers=("a",), **more):
    subjects = [{"kind": "ServiceAccount", "name": one, "namespace": "front"} for one in callers]
    spec = {"destination": {"kind": "ServiceAccount", "name": "web"}, "rules": rules, "sources": subjects, **more}
    return object_(ACCESS, "TrafficTarget", name, spec)


def said(built, severity):
    return [p.message for p in built.problems if p.severity == severity]


ROUTE = [{"kind": "HTTPRouteGroup", "name": "r"}]


@pytest.mark.parametrize(
    ("pattern", "noticed"),
    [
        ("/a", True),
        ("/a$", False),
        ("/a.*", False),
        ("/a/.+", False),
        ("(/a|/b)$", False),
        ("(/a/.*)", False),
        (r"/a\z", False),
        (r"/a\$", True),  # a dollar sign in the path
        (r"/a\\$", False),  # a backslash, then the end
        (r"/a\.*", True),  # dots
        ("/a[$", None),
    ],
)
def test_a_pattern_with_an_open_end_is_pointed_out(pattern, noticed):
    built = made(group({"name": "m", "pathRegex": pattern}))
    notices = [p for p in built.problems if p.severity == "notice"]
    assert len(notices) == bool(noticed)
    assert bool(said(built, "error")) == (noticed is None)


def test_a_match_is_carried_over_whole():
    match = {"name": "m", "pathRegex": "/a$", "methods": ["PUT", "GET", "PUT"], "headers": [{"X-B": "1"}, {"x-a": "2"}]}
    grant = made(group(match) + target(ROUTE)).snapshot.grants[0]
    assert grant.http == (HttpMatch("m", Regex("/a$"), ("GET", "PUT"), (("x-a", Regex("2")), ("x-b", Regex("1")))),)
    assert (grant.source, grant.destination, grant.rule) == (
        Identity("front", "a"),
        Identity("shop", "web"),
        "TrafficTarget shop/t",
    )
    assert (grant.tcp, grant.udp) == (None, None)


def test_one_star_among_methods_is_all_of_them():
    assert made(group({"name": "m", "methods": ["GET", "*"]}) + target(ROUTE)).snapshot.grants[0].http[0].methods == ()


def test_ports_of_several_routes_add_up_and_one_without_ports_opens_all():
    routes = object_(SPECS, "TCPRoute", "x", {"matches": {"ports": [2, 1]}}) + object_(
        SPECS, "TCPRoute", "y", {"matches": {"ports": [3, 1]}}
    )
    rules = [{"kind": "TCPRoute", "name": "x"}, {"kind": "TCPRoute", "name": "y"}]
    assert made(routes + target(rules)).snapshot.grants[0].tcp == (1, 2, 3)
    open_ = object_(SPECS, "TCPRoute", "z", {})
    assert made(routes + open_ + target([*rules, {"kind": "TCPRoute", "name": "z"}])).snapshot.grants[0].tcp == ()


def test_a_source_named_twice_is_one_grant_and_a_missing_namespace_is_the_targets():
    built = made(group({"name": "m"}) + target(ROUTE, callers=("a", "a", "b")))
    assert [g.source.service_account for g in built.snapshot.grants] == ["a", "b"]
    spec = {"sources": [{"kind": "ServiceAccount", "name": "near"}]}
    assert made(group({"name": "m"}) + target(ROUTE, **spec)).snapshot.grants[0].source == Identity("shop", "near")


def test_no_service_account_object_is_needed():
    assert made(group({"name": "m", "pathRegex": "/$"}) + target(ROUTE)).problems == ()


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([{"kind": "UDPRoute", "name": "gone"}], "there is no UDPRoute shop/gone"),
        ([{"kind": "HTTPRouteGroup", "name": "r", "matches": ["m", "n"]}], "has no match n"),
        ([{"kind": "Ingress", "name": "r"}], "rule kind 'Ingress' is not known"),
    ],
)
def test_a_target_with_one_bad_rule_grants_nothing(rules, says):
    built = made(group({"name": "m"}) + target([*ROUTE, *rules]))
    assert any(says in message for message in said(built, "error"))
    assert built.snapshot.grants == ()


def test_other_kinds_of_subjects_are_refused():
    for more in ({"destination": {"kind": "User", "name": "web"}}, {"sources": [{"kind": "Group", "name": "a"}]}):
        built = made(group({"name": "m"}) + target(ROUTE, **more))
        assert built.snapshot.grants == ()
        assert any("kind" in message for message in said(built, "error"))


def test_a_target_that_admits_any_bytes_beside_routes_is_pointed_out():
    tcp = object_(SPECS, "TCPRoute", "x", {"matches": {"ports": [80]}})
    both = made(
        group({"name": "m", "pathRegex": "/$"})
        + tcp
        + target(ROUTE)
        + target([{"kind": "TCPRoute", "name": "x"}], name="u")
    )
    (warning,) = [p for p in both.problems if p.severity == "warning"]
    assert warning.object == "TrafficTarget shop/u"
    assert "TrafficTarget shop/t" in warning.message
    together = made(group({"name": "m", "pathRegex": "/$"}) + tcp + target([*ROUTE, {"kind": "TCPRoute", "name": "x"}]))
    assert together.problems == ()
