"""Which listener and which virtual hosts take a call, and whom a listener lets in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.gateway import Front, Listener, VirtualHost, covers, fitting, host_of, order, shared
from policy.model import Identity, Mesh, PlainGrant, Revoked, Service, ServicePort, Workload
from policy.route import Route, Rule
from policy.snapshot import Snapshot


def virtual(hostname: str, name: str = "") -> VirtualHost:
    service = Service("shop", name or f"front/http/{hostname}", ports=(ServicePort("http", 80),))
    return VirtualHost(hostname, service)


def listener(name: str, hostname: str = "", *hosts: str, port: int = 80, addresses: tuple[str, ...] = ()) -> Listener:
    virtuals = tuple(virtual(host, f"{name}/{host}") for host in hosts)
    return Listener(
        "shop/front", name, port, "HTTP", "Gateway shop/front", hostname=hostname, hosts=virtuals, addresses=addresses
    )


@pytest.mark.parametrize(
    ("hostname", "host", "does"),
    [
        ("", "anything.example", True),
        ("a.example", "a.example", True),
        ("a.example", "b.a.example", False),
        ("*.example", "a.example", True),
        ("*.example", "b.a.example", True),
        ("*.example", "example", False),
        ("*.example", ".example", False),
        ("*.example", "aexample", False),
    ],
)
def test_covers(hostname: str, host: str, does: bool) -> None:
    assert covers(hostname, host) is does


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("", "", ""),
        ("", "a.example", "a.example"),
        ("*.example", "a.example", "a.example"),
        ("a.example", "b.example", None),
        ("*.example", "*.a.example", "*.a.example"),
        ("*.example", "*.other", None),
        ("*.example", "example", None),
        ("*.example", "*.aexample", None),
    ],
)
def test_shared_is_the_narrower_one_whichever_comes_first(one: str, other: str, both: str | None) -> None:
    assert shared(one, other) == both
    assert shared(other, one) == both


NAMES = [
    "",
    "example",
    "*.example",
    "a.example",
    "*.a.example",
    "b.a.example",
    "*.b.a.example",
    "*",
    ".example",
    "..a.example",
]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=4)), max_size=5),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
)
def test_a_front_finds_what_a_look_at_each_finds(said: list[tuple[str, list[str]]], sni: str, host: str) -> None:
    front = Front(listener(f"l{number}", hostname, *hosts) for number, (hostname, hosts) in enumerate(said))
    fit = sorted((one for one in front.listeners if covers(one.hostname, sni)), key=lambda one: order(one.hostname))
    closest = [one for one in fit if one.hostname == fit[0].hostname]
    assert list(front.named(sni)) == closest
    hosts = [one for each in closest for one in each.hosts if covers(one.hostname, host)]
    assert list(front.virtual_hosts(sni, host)) == sorted(hosts, key=lambda one: order(one.hostname))


@pytest.mark.parametrize("host", NAMES)
def test_the_hostnames_that_fit_are_those_that_cover_it(host: str) -> None:
    assert {one for one in NAMES if covers(one, host)} == set(fitting(host)) & set(NAMES)
    assert fitting(host) == sorted(fitting(host), key=lambda one: (one != host, *order(one)))


def test_order_puts_whole_names_first_then_longer_wildcards() -> None:
    names = ["", "*.example", "a.example", "*.a.example", "long.name.example"]
    assert sorted(names, key=order) == ["long.name.example", "a.example", "*.a.example", "*.example", ""]


@pytest.mark.parametrize(
    ("field", "host"),
    [
        ("A.Example:8080", "a.example"),
        ("a.example.", "a.example"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("10.0.0.1", "10.0.0.1"),
        ("a.example:", "a.example"),
        ("[::1]:", "[::1]"),
        ("a:b", "a:b"),
    ],
)
def test_host_of(field: str, host: str) -> None:
    assert host_of(field) == host


def hosts(snapshot: Snapshot, host: str, address: str = "10.0.0.1", port: int = 80) -> list[str]:
    return [one.service.name for one in snapshot.virtual_hosts(address, port, host)]


def test_the_listener_with_the_closest_hostname_takes_the_call_alone() -> None:
    both = (listener("all", "", "", "a.shop.example"), listener("shop", "*.shop.example", "b.shop.example"))
    snapshot = Snapshot("n1", listeners=both)
    assert hosts(snapshot, "b.shop.example:80") == ["shop/b.shop.example"]
    assert hosts(snapshot, "a.shop.example") == []
    assert hosts(snapshot, "other.example") == ["all/"]


def test_virtual_hosts_are_asked_the_closest_first() -> None:
    snapshot = Snapshot("n1", listeners=(listener("all", "", "", "*.example", "a.example"),))
    assert hosts(snapshot, "a.example") == ["all/a.example", "all/*.example", "all/"]
    assert hosts(snapshot, "b.example") == ["all/*.example", "all/"]


def test_listeners_of_one_hostname_share_a_port_in_their_order() -> None:
    snapshot = Snapshot("n1", listeners=(listener("older", "", ""), listener("newer", "", "", "a.example")))
    assert hosts(snapshot, "b.example") == ["older/", "newer/"]
    assert hosts(snapshot, "a.example") == ["newer/a.example", "older/", "newer/"]


def test_an_address_that_a_listener_names_is_its_own() -> None:
    both = (listener("all", "", ""), listener("one", "", "", addresses=("10.0.0.2",)))
    snapshot = Snapshot("n1", listeners=both)
    assert [one.name for one in snapshot.listeners_at("10.0.0.2", 80)] == ["one"]
    assert [one.name for one in snapshot.listeners_at("10.0.0.1", 80)] == ["all"]
    assert snapshot.listeners_at("10.0.0.1", 81) == ()


def test_candidates_of_a_virtual_host_come_from_its_route() -> None:
    route = Route("HTTPRoute shop/r", (Rule((), None, refuses="bad-route"),))
    service = Service("shop", "front/http/", ports=(ServicePort("http", 80),), routes=(route,))
    one = Listener("shop/front", "http", 80, "HTTP", "Gateway shop/front", hosts=(VirtualHost("", service),))
    snapshot = Snapshot("n1", listeners=(one,)).warm()
    found = snapshot.candidates(service, 80)
    assert found.rule is route.rules[0]
    assert snapshot.candidates(service, 80) is found


MESH = Workload("shop", "stock", "stock", ("10.1.0.3",))


def test_a_server_outside_the_mesh_needs_no_more_than_the_route() -> None:
    assert Snapshot("n1").lets_in("192.0.2.1", None, 8080).allowed
    outside = Workload("shop", "stock", "stock", ("10.1.0.3",), enrolled=False)
    assert Snapshot("n1").lets_in("192.0.2.1", outside, 8080).rule == "gateway"


def test_to_a_server_of_the_mesh_a_route_opens_nothing() -> None:
    assert Snapshot("n1").lets_in("192.0.2.1", MESH, 8080).reason == "no-identity"
    grant = PlainGrant("IngressBackend shop/stock", "shop/stock", (8080,), ("192.0.2.0/24",), strict=True)
    snapshot = Snapshot("n1", plain=(grant,))
    assert snapshot.lets_in("192.0.2.1", MESH, 8080).rule == "IngressBackend shop/stock"
    assert not snapshot.lets_in("192.0.2.1", MESH, 8081).allowed
    assert not snapshot.lets_in("198.51.100.1", MESH, 8080).allowed


def test_an_access_control_admits_only_where_mtls_is_not_strict() -> None:
    grant = PlainGrant("AccessControl shop/x", "shop/stock", (8080,), ("192.0.2.0/24",))
    assert not Snapshot("n1", plain=(grant,)).lets_in("192.0.2.1", MESH, 8080).allowed
    assert Snapshot("n1", mesh=Mesh(mtls="permissive"), plain=(grant,)).lets_in("192.0.2.1", MESH, 8080).allowed


def test_a_permissive_mesh_lets_callers_in_but_not_to_a_revoked_server() -> None:
    mesh = Mesh(permissive=True)
    assert Snapshot("n1", mesh=mesh).lets_in("192.0.2.1", MESH, 8080).rule == "permissive mode"
    revoked = Revoked(identities=(Identity("shop", "stock"),))
    assert Snapshot("n1", mesh=mesh, revoked=revoked).lets_in("192.0.2.1", MESH, 8080).reason == "revoked"
