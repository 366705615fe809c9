"""translate/egress.py: an Egress as OSM documents it, and each field that cannot mean anything."""

import pytest

from policy.build import build
from policy.model import EgressGrant, Identity, Where
from policy.resources import RawObject
from policy.route import HttpMatch, Regex

GROUP = "policy.openservicemesh.io/v1alpha1"
SOURCE = {"kind": "ServiceAccount", "name": "curl", "namespace": "curl"}
HTTP, HTTPS, TCP = ({"number": n, "protocol": p} for n, p in ((80, "http"), (443, "https"), (443, "tcp")))
OFF = {"traffic": {"enableEgress": False}}


def config(spec):
    meta = {"name": "osm-mesh-config", "namespace": "osm-system"}
    return {"apiVersion": "config.openservicemesh.io/v1alpha2", "kind": "MeshConfig", "metadata": meta, "spec": spec}


ROUTES = {
    "apiVersion": "specs.smi-spec.io/v1alpha4",
    "kind": "HTTPRouteGroup",
    "metadata": {"name": "routes", "namespace": "curl"},
    "spec": {
        "matches": [{"name": "get", "pathRegex": "/get", "methods": ["GET"]}, {"name": "any", "pathRegex": "/any.*"}]
    },
}
REF = {"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "routes"}


def made(*ports, mesh=OFF, api=GROUP, previous=None, **spec):
    spec = {"sources": [SOURCE], "ports": list(ports), **spec}
    egress = {"apiVersion": api, "kind": "Egress", "metadata": {"name": "e", "namespace": "curl"}, "spec": spec}
    objects = [RawObject(data, Where("e.yaml", n), {}) for n, data in enumerate((config(mesh), ROUTES, egress), 1)]
    return build(objects, previous, node="n")


def told(built, kind="Egress"):
    return [(p.severity, p.message) for p in built.problems if p.object.startswith(kind)]


def grant(*ports, **more):
    return EgressGrant("Egress curl/e", Identity("curl", "curl"), ports, **more)


@pytest.mark.parametrize("api", [GROUP, "policy.flomesh.io/v1alpha1"])
def test_hosts_addresses_and_ports(api):
    built = made(
        HTTP, HTTPS, TCP, api=api, hosts=["HTTPbin.org.", "*.Example", "2001:DB8::1"], ipAddresses=["10.1.2.3/8"]
    )
    assert told(built) == []
    hosts = ("*.example", "2001:db8::1", "httpbin.org")
    assert built.snapshot.egress == (
        grant((80, "http"), (443, "https"), (443, "tcp"), hosts=hosts, networks=("10.0.0.0/8",)),
    )


def test_a_server_that_speaks_first_is_any_bytes():
    built = made({"number": 3306, "protocol": "tcp-server-first"})
    assert (told(built), built.snapshot.egress) == ([], (grant((3306, "tcp")),))


def test_each_source_once_and_the_namespace_may_be_left_out():
    bare = {"kind": "ServiceAccount", "name": "curl"}
    other = {"kind": "ServiceAccount", "name": "b", "namespace": "a"}
    found = made(TCP, sources=[SOURCE, bare, other]).snapshot.egress
    assert [one.source for one in found] == [Identity("a", "b"), Identity("curl", "curl")]


@pytest.mark.parametrize("group", ["", "specs.smi-spec.io", "specs.smi-spec.io/v1alpha4"])
def test_matches_name_groups(group):
    built = made(HTTP, hosts=["a.example"], matches=[{**REF, "apiGroup": group}])
    http = (HttpMatch("get", Regex("/get"), ("GET",)), HttpMatch("any", Regex("/any.*")))
    assert (told(built), built.snapshot.egress) == ([], (grant((80, "http"), hosts=("a.example",), http=http),))


def test_matches_bind_requests_alone_and_that_is_said():
    built = made(HTTP, HTTPS, hosts=["a.example"], matches=[REF])
    ((severity, message),) = told(built)
    assert severity == "warning" and "matches bind only ports of protocol http" in message
    assert len(built.snapshot.egress) == 1


def test_an_upstream_traffic_setting_that_is_not_there_restricts_nothing():
    built = made(HTTP, hosts=["a.example"], matches=[{"kind": "UpstreamTrafficSetting", "name": "u"}])
    ((severity, message),) = told(built)
    assert severity == "warning" and "there is no UpstreamTrafficSetting" in message
    assert built.snapshot.egress == (grant((80, "http"), hosts=("a.example",)),)
    assert built.snapshot.outside == {}


@pytest.mark.parametrize(
    ("ports", "spec", "path", "words"),
    [
        ([TCP], {"sources": []}, "sources", "is an empty list"),
        ([], {}, "ports", "is an empty list"),
        ([HTTP], {"hosts": []}, "hosts", "is an empty list"),
        ([TCP], {"ipAddresses": []}, "ipAddresses", "is an empty list"),
        ([HTTP], {"hosts": ["a.example"], "matches": []}, "matches", "is an empty list"),
        ([TCP], {"sources": [{**SOURCE, "kind": "Service"}]}, "sources[0].kind", "'Service' is not known"),
        ([TCP], {"sources": [{**SOURCE, "mtls": {"issuer": "osm"}}]}, "sources[0].mtls", "in plain text"),
        ([{"number": 80, "protocol": "htps"}], {}, "ports[0].protocol", "'htps' is not known"),
        ([{"number": 0, "protocol": "tcp"}], {}, "ports[0].number", ">= 1"),
        ([HTTP], {}, "ports[0].protocol", "needs hosts or ipAddresses"),
        ([TCP, HTTPS], {}, "ports[1].protocol", "needs hosts or ipAddresses"),
        ([HTTP], {"hosts": ["a.example:80"]}, "hosts[0]", "is no host"),
        ([HTTP], {"hosts": ["a.example", "http://b"]}, "hosts[1]", "is no host"),
        ([HTTP], {"hosts": ["*example"]}, "hosts[0]", "is no host"),
        ([HTTP], {"hosts": ["a.*.example"]}, "hosts[0]", "is no host"),
        ([TCP], {"ipAddresses": ["10.0.0.0/8", "all"]}, "ipAddresses[1]", "is not an address range"),
        ([HTTP], {"hosts": ["a"], "matches": [{"kind": "TCPRoute", "name": "t"}]}, "matches[0].kind", "is not known"),
        ([HTTP], {"hosts": ["a"], "matches": [{**REF, "name": "route"}]}, "matches[0].name", "curl/route"),
        ([HTTP], {"hosts": ["a"], "matches": [{**REF, "apiGroup": "x.y"}]}, "matches[0].apiGroup", "has no kind"),
        ([TCP], {"host": ["a"]}, "host", "host"),
    ],
)
def test_what_cannot_be_meant_lets_nothing_out_and_keeps_what_was_good(ports, spec, path, words):
    built = made(*ports, **spec)
    (problem,) = [one for one in built.problems if one.object == "Egress curl/e"]
    assert problem.severity == "error" and words in f"{problem.message} {problem.hint}", problem
    assert built.snapshot.egress == ()
    good = made(HTTPS, hosts=["pay.example"])
    again = made(*ports, previous=good.accepted, **spec)
    assert again.snapshot.egress == good.snapshot.egress
    assert path


def test_while_egress_is_open_it_refuses_nothing_and_that_is_said():
    for mesh in ({}, {"traffic": {"enableEgress": True}}):
        ((severity, message),) = told(made(TCP, mesh=mesh))
        assert severity == "warning" and "refuses nothing" in message


def test_osms_switch_turns_it_off():
    built = made(TCP, mesh={**OFF, "featureFlags": {"enableEgressPolicy": False}})
    assert built.snapshot.egress == () and "does nothing" in told(built)[0][1]
    for flags in ({}, {"enableEgressPolicy": True}):
        built = made(TCP, mesh={**OFF, "featureFlags": flags})
        assert len(built.snapshot.egress) == 1 and told(built) == [] and told(built, "MeshConfig") == []
