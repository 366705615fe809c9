"""translate/smi.py beyond the conformance rows: what is pointed out, where, and how names are read."""

import pytest
import yaml

from policy.build import build
from policy.model import Backend, HttpMatch, Identity, Where
from policy.resources import RawObject
from policy.translate.smi import own_name

SPECS, ACCESS, SPLITS = "specs.smi-spec.io/v1alpha4", "access.smi-spec.io/v1alpha3", "split.smi-spec.io/v1alpha4"
SERVICES = """
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web-2, namespace: shop}, spec: {ports: [{port: 80}]}}
"""


def made(text, previous=None):
    return build([RawObject(data, Where("s.yaml", n), {}) for n, data in enumerate(yaml.safe_load_all(text), 1)], previous)


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


def split(backends, service="web", name="s", version=SPLITS, **metadata):
    return object_(version, "TrafficSplit", name, {"service": service, "backends": backends}, **metadata)


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


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("web", "web"),
        ("web.shop", "web"),
        ("web.shop.svc", "web"),
        ("web.shop.svc.cluster.local.", "web"),
        ("web.other", None),
        ("web.shop.example.com", None),
        ("web.other.svc.cluster.local", None),
    ],
)
def test_names_of_services_of_the_own_namespace(name, own):
    assert own_name(name, "shop") == own


def test_a_match_is_carried_over_whole():
    match = {"name": "m", "pathRegex": "/a$", "methods": ["PUT", "GET", "PUT"], "headers": [{"X-B": "1"}, {"x-a": "2"}]}
    grant = made(group(match) + target(ROUTE)).snapshot.grants[0]
    assert grant.http == (HttpMatch("m", "/a$", ("GET", "PUT"), (("x-a", "2"), ("x-b", "1"))),)
    assert (grant.source, grant.destination, grant.rule) == (Identity("front", "a"), Identity("shop", "web"), "TrafficTarget shop/t")
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
        ([{"kind": "Ingress", "name": "r"}], "rule kind Ingress"),
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


@pytest.mark.parametrize(
    ("backends", "says"),
    [
        ([{"service": "web", "weight": 1}], "is the root service itself"),
        ([{"service": "web.shop.svc", "weight": 1}], "is the root service itself"),
        ([{"service": "web-2.other", "weight": 1}], "backend web-2.other is in another namespace"),
        ([{"service": "web-2", "namespace": "other", "weight": 1}], "backend other/web-2 is in another namespace"),
        ([{"service": "web-2", "weight": 1}, {"service": "web-2.shop", "weight": 2}], "web-2 is named twice"),
        ([{"service": "web-2", "weight": -1}], "weight"),
        ([{"service": "web-2", "weight": 1.5}], "weight"),
        ([{"service": "web-2"}], "weight"),
        ([], "no backends"),
    ],
)
def test_a_bad_split_does_not_hold(backends, says):
    built = made(SERVICES + split(backends))
    assert any(says in message for message in said(built, "error")), built.problems
    assert built.snapshot.service("shop/web").split is None


@pytest.mark.parametrize("version", ["v1alpha2", "v1alpha3", "v1alpha4"])
def test_backends_may_be_written_in_full(version):
    built = made(SERVICES + split([{"service": "web-2.shop.svc.cluster.local", "weight": 3}], version=f"split.smi-spec.io/{version}"))
    assert built.snapshot.service("shop/web").split.backends == (Backend("shop/web-2", 3),)
    assert built.problems == ()


def test_a_split_of_no_service_is_pointed_out():
    built = made(SERVICES + split([{"service": "web-2", "weight": 1}], service="gone"))
    assert said(built, "warning") == ["there is no Service shop/gone to split"]


def test_without_a_time_of_creation_the_first_by_name_is_in_force_and_a_dated_one_goes_before_it():
    one, two = split([{"service": "web-2", "weight": 1}], name="a"), split([{"service": "web-2", "weight": 2}], name="b")
    built = made(SERVICES + two + one)
    assert built.snapshot.service("shop/web").split.backends[0].weight == 1
    assert any(p.object == "TrafficSplit shop/b" and "Conflict" in p.message for p in built.problems)
    dated = split([{"service": "web-2", "weight": 2}], name="b", creationTimestamp="2024-01-01T00:00:00Z")
    assert made(SERVICES + one + dated).snapshot.service("shop/web").split.backends[0].weight == 2


def test_a_split_whose_group_is_gone_does_not_hold():
    good = (
        SERVICES
        + group({"name": "m", "pathRegex": "/$"})
        + object_(
            SPLITS,
            "TrafficSplit",
            "s",
            {"service": "web", "matches": [{"kind": "HTTPRouteGroup", "name": "r"}], "backends": [{"service": "web-2", "weight": 1}]},
        )
    )
    first = made(good)
    assert first.snapshot.service("shop/web").split is not None
    without = made(good.replace("kind: HTTPRouteGroup\n", "kind: ConfigMap\n", 1), first.accepted)
    assert without.snapshot.service("shop/web").split is None
    assert any("there is no HTTPRouteGroup shop/r" in message for message in said(without, "error"))


def test_a_target_that_admits_any_bytes_beside_routes_is_pointed_out():
    tcp = object_(SPECS, "TCPRoute", "x", {"matches": {"ports": [80]}})
    both = made(group({"name": "m", "pathRegex": "/$"}) + tcp + target(ROUTE) + target([{"kind": "TCPRoute", "name": "x"}], name="u"))
    (warning,) = [p for p in both.problems if p.severity == "warning"]
    assert warning.object == "TrafficTarget shop/u"
    assert "TrafficTarget shop/t" in warning.message
    together = made(group({"name": "m", "pathRegex": "/$"}) + tcp + target([*ROUTE, {"kind": "TCPRoute", "name": "x"}]))
    assert together.problems == ()
