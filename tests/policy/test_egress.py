"""egress.py: what a source may call outside the mesh, by host, address, port and request, and why not."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.egress import fitting, named
from policy.explain_outside import explain_outside
from policy.model import EgressGrant, Identity, Mesh, Outgoing, Request, Revoked, Workload
from policy.route import HttpMatch, Regex
from policy.snapshot import Snapshot

TILL = Workload("shop", "till", "till", ("10.0.0.1",))
A, B = "203.0.113.1", "203.0.113.2"
DNS = {("pay.example", A), ("a.bank.example", A), ("other.example", A)}


def grant(*ports, hosts=(), networks=(), http=None, rule="Egress shop/e", source=TILL.identity):
    return EgressGrant(rule, source, ports, hosts, networks, http)


def decided(*grants, address=A, port=443, protocol="https", host="", request=None, source=TILL.identity, **mesh):
    snapshot = Snapshot("n", Mesh(**{"egress": False, **mesh}), (TILL,), egress=grants)
    call = Outgoing(address, port, protocol, host, request)
    verdict = snapshot.lets_out(source, call, lambda name: (name, address) in DNS)
    return verdict.rule if verdict.allowed else verdict.reason


HTTPS = grant((443, "https"), hosts=("pay.example", "*.bank.example"))
TCP = grant((443, "tcp"), networks=("203.0.113.0/30",), rule="Egress shop/tcp")


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        ({"host": "pay.example"}, "Egress shop/e"),
        ({"host": "a.bank.example"}, "Egress shop/e"),
        ({"host": "bank.example"}, "egress-host"),
        ({"host": "other.example"}, "egress-host"),
        ({"host": ""}, "egress-no-name"),
        ({"host": "pay.example", "address": B}, "egress-untied"),
        ({"host": "pay.example", "port": 444}, "egress-port"),
        ({"host": "pay.example", "protocol": "http"}, "egress-port"),
        ({"protocol": "tcp"}, "egress-port"),
        ({"host": "pay.example", "source": Identity("shop", "other")}, "outside"),
        ({"host": "pay.example", "source": None}, "no-identity"),
        ({"host": "pay.example", "egress": True, "source": None}, "enableEgress"),
    ],
)
def test_by_host(call, outcome):
    assert decided(HTTPS, **call) == outcome


def test_any_bytes_by_address():
    for protocol, host in (("tcp", ""), ("http", "evil.example"), ("https", "")):
        assert decided(TCP, HTTPS, protocol=protocol, host=host) == "Egress shop/tcp"
    assert decided(TCP, address="203.0.113.9", protocol="tcp") == "egress-port"
    assert decided(grant((443, "tcp")), address="192.0.2.1", protocol="tcp") == "Egress shop/e"


def test_host_and_address_both_have_to_hold():
    both = grant((443, "https"), hosts=("pay.example",), networks=(f"{B}/32",))
    assert decided(both, host="pay.example") == "egress-address"
    assert decided(both, HTTPS, host="pay.example") == "Egress shop/e", "another one lets it out"
    only = grant((443, "https"), networks=(f"{A}/32",))
    assert decided(only, host="") == decided(only, host="any.example") == "Egress shop/e"
    assert decided(only, host="", address=B) == "egress-address"


def test_requests():
    http = grant((80, "http"), hosts=("pay.example",), http=(HttpMatch("get", Regex("/get"), ("GET",)),))
    call = {"port": 80, "protocol": "http", "host": "pay.example"}
    assert decided(http, **call, request=Request("GET", "/get/1")) == "Egress shop/e"
    assert decided(http, **call, request=Request("PUT", "/get/1")) == "egress-no-match"
    assert decided(http, **call, request=Request("GET", "/get", others=("/x",))) == "egress-no-match"
    assert decided(http, **call) == "egress-no-match"
    nothing = grant((80, "http"), hosts=("pay.example",), http=())
    assert decided(nothing, **call, request=Request("GET", "/get")) == "egress-no-match"


def test_egresses_add_up_and_the_furthest_reason_is_told():
    near = grant((443, "https"), hosts=("*.bank.example",), networks=(f"{B}/32",), rule="Egress shop/near")
    assert decided(near, HTTPS, host="a.bank.example") == "Egress shop/e"
    assert decided(near, grant((443, "https"), hosts=("x.example",)), host="a.bank.example") == "egress-address"


def test_a_revoked_identity_calls_nothing():
    snapshot = Snapshot("n", Mesh(egress=False), (TILL,), egress=(TCP,), revoked=Revoked(identities=(TILL.identity,)))
    assert snapshot.lets_out(TILL.identity, Outgoing(A, 443)).reason == "revoked"


def test_where_bytes_and_names_matter():
    snapshot = Snapshot("n", Mesh(egress=False), (TILL,), egress=(HTTPS, TCP))
    assert not snapshot.looks_outside(TILL.identity, A, 443)
    assert snapshot.looks_outside(TILL.identity, "192.0.2.1", 443)
    assert not snapshot.looks_outside(Identity("shop", "other"), "192.0.2.1", 443)
    assert not snapshot.looks_outside(None, "192.0.2.1", 443)
    assert snapshot.goes_by_names(TILL.identity) and not snapshot.goes_by_names(Identity("shop", "other"))
    assert not Snapshot("n", Mesh(), (TILL,), egress=(HTTPS,)).goes_by_names(TILL.identity)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Pay.Example", "pay.example"),
        ("pay.example.", "pay.example"),
        ("pay.example:80", "pay.example"),
        ("pay.example:81", ""),
        ("pay.example:", ""),
        ("[2001:DB8::1]:80", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:81", ""),
        ("[2001:db8::1]x", ""),
        ("[2001:db8::1", ""),
        ("", ""),
    ],
)
def test_the_name_in_a_host(host, name):
    assert named(host, 80) == name


def test_which_hosts_fit_a_name():
    assert fitting("a.b.example") == ["a.b.example", "*.b.example", "*.example", "*", ""]
    assert fitting("203.0.113.1") == ["203.0.113.1", "*", ""], "an address has no domain"
    assert fitting("") == [""]


# against the plain meaning, said another way

NAMES = ("pay.example", "a.pay.example", "example", "evil.test", "203.0.113.1")
HOSTS = ("pay.example", "*.pay.example", "*.example", "*", "203.0.113.1")
NETWORKS = ("203.0.113.1/32", "203.0.113.0/24", "198.51.100.0/24")
PORTS = ((80, "http"), (443, "https"), (443, "tcp"), (80, "tcp"), (443, "http"))
grants = st.lists(
    st.builds(
        EgressGrant,
        st.sampled_from(("Egress shop/a", "Egress shop/b")),
        st.sampled_from((TILL.identity, Identity("shop", "other"))),
        st.sets(st.sampled_from(PORTS), min_size=1, max_size=2).map(lambda ports: tuple(sorted(ports))),
        st.sets(st.sampled_from(HOSTS), max_size=2).map(lambda hosts: tuple(sorted(hosts))),
        st.sets(st.sampled_from(NETWORKS), max_size=2).map(lambda networks: tuple(sorted(networks))),
        st.sampled_from((None, (), (HttpMatch("get", Regex("/get"), ("GET",)),))),
    ),
    max_size=4,
)
calls = st.builds(
    Outgoing,
    st.sampled_from((A, B, "192.0.2.1")),
    st.sampled_from((80, 443, 8080)),
    st.sampled_from(("http", "https", "tcp")),
    st.sampled_from((*NAMES, *(f"{name}:80" for name in NAMES), "")),
    st.sampled_from((Request("GET", "/get"), Request("PUT", "/get"), Request("GET", "/"))),
)


def fits(host, name):
    return name != "" and (
        host in ("*", name) or (host.startswith("*.") and name.endswith(host[1:]) and not name[0].isdigit())
    )


def lets_out(grant, call, tied):
    """What docs/howto/egress.md says of one Egress."""
    if grant.networks and not any(
        ipaddress.ip_address(call.address) in ipaddress.ip_network(n) for n in grant.networks
    ):
        return False
    if (call.port, "tcp") in grant.ports:
        return True
    if call.protocol == "tcp" or (call.port, call.protocol) not in grant.ports:
        return False
    name, _, port = call.host.partition(":")
    name = name if port in ("", str(call.port)) else ""
    if grant.hosts and not (any(fits(host, name) for host in grant.hosts) and tied(name)):
        return False
    if call.protocol == "http" and grant.http is not None:
        return any(call.request.method == "GET" and call.request.path.startswith("/get") for _ in grant.http)
    return True


@settings(max_examples=400)
@given(grants, calls, st.sets(st.sampled_from(NAMES)), st.booleans())
def test_it_means_what_is_written(written, call, names, egress):
    snapshot = Snapshot("n", Mesh(egress=egress), (TILL,), egress=tuple(written))
    verdict = snapshot.lets_out(TILL.identity, call, names.__contains__)
    mine = [one for one in written if one.source == TILL.identity]
    passing = {one.rule for one in mine if lets_out(one, call, names.__contains__)}
    assert verdict.allowed == (egress or bool(passing)), verdict
    assert verdict.rule in ({"enableEgress"} if egress else passing or {""})
    if not verdict.allowed:
        assert verdict.reason == ("outside" if not mine else verdict.reason) != ""
    # the data plane relays unseen only where nothing that is said matters
    if not snapshot.looks_outside(TILL.identity, call.address, call.port):
        assert snapshot.lets_out(TILL.identity, Outgoing(call.address, call.port)).allowed == verdict.allowed


@settings(max_examples=400)
@given(grants, calls)
def test_explain_says_the_same(written, call):
    snapshot = Snapshot("n", Mesh(egress=False), (TILL,), egress=tuple(written))
    verdict = snapshot.lets_out(TILL.identity, call, lambda name: True)
    request = call.request if call.protocol == "http" else None
    told = explain_outside(snapshot, TILL, call.host, call.address, call.port, call.protocol, request)
    assert (told.allowed, told.rule, told.reason) == (verdict.allowed, verdict.rule, verdict.reason)
    assert told.allowed or told.lacked
    anyhow = explain_outside(snapshot, TILL, call.host, call.address, call.port)
    assert anyhow.allowed or anyhow.requests or not verdict.allowed
