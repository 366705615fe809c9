"""Outward, Inward and Probed: which endpoint, by which rule, and whether a newer snapshot would still say so."""

from collections import Counter

import msgspec
import pytest
import trio
from msgspec import structs

from nodeproxy.errors import Refused
from nodeproxy.routing.route import Forwarded, Inward, Outward, Probed, tcp_probe
from nodeproxy.upstream.balance import FAILURES
from policy.balancing import Balancing
from policy.model import CallerRetry, EgressGrant, Endpoint, Grant, PlainGrant, Probe, Service, ServicePort, Workload
from policy.model import Request as Asked
from policy.route import Backend, Exact, Filter, HttpMatch, Regex, Retry, Route, Rule
from tests.nodeproxy.conftest import BUYER, E2, E3, LONER, OPAQUE, SHOP, SPARE, STORE, service, snapshot

GET_BOOKS = Grant(
    "TrafficTarget shop/reading", BUYER.identity, STORE.identity, http=(HttpMatch("books", Regex("/books"), ("GET",)),)
)
STRANGER = Endpoint("10.0.0.77", 8080)  # no workload that we know
ELSEWHERE = ("93.184.216.34", 443)


async def refused(route, request=None, tried=()):
    with pytest.raises(Refused) as caught:
        route.pick(request, tried)
    return caught.value


def split_of(*backends, matches=None):
    return Route(
        "TrafficSplit shop/split", (Rule(tuple(Backend(f"shop/{name}", weight) for name, weight in backends), matches),)
    )


def split_shop(*backends, matches=None):
    """The shop, split to v1 (one endpoint), v2 (another), "bare" (no endpoints), "other" (another port) and whatever does not exist."""
    return (
        service("store", "10.1.0.1", route=split_of(*backends, matches=matches)),
        service("v1", "10.1.0.2", E2),
        service("v2", "10.1.0.3", E3),
        service("bare", "10.1.0.4"),
        service("other", "10.1.0.5", E2, port=81),
    )


# to another node

AWAY = Workload("shop", "store", "store", STORE.addresses, node="there")


@pytest.mark.parametrize("mtls", ["strict", "permissive"])
async def test_a_node_that_has_joined_no_mesh_calls_no_other_in_plain(context, connect, mtls):
    """It may have been in one, and have lost what it held."""
    context.snapshot = snapshot(workloads=(BUYER, AWAY, SPARE), mtls=mtls)
    context.captured.discard(STORE.key)
    assert context.identities.trust() is None
    answer = await refused(Outward(connect()), tried=[E3])
    assert (answer.flag, answer.protected) == ("no-certificate", AWAY)
    assert "no roots of a mesh" in answer.detail
    assert not Outward(connect()).crosses(AWAY, E2)


async def test_where_mtls_is_disabled_another_node_is_called_in_plain(context, connect):
    context.snapshot = snapshot(workloads=(BUYER, AWAY, SPARE), mtls="disabled")
    context.captured.discard(STORE.key)
    pick = Outward(connect()).pick(None, [E3])
    assert (pick.endpoint, pick.hop) == (E2, None)


# to a service


async def test_a_service_is_balanced_over_its_endpoints(connect):
    route = Outward(connect())
    picks = [route.pick(None) for _ in range(100)]
    assert set(Counter(pick.endpoint for pick in picks)) == {E2, E3}
    pick = next(pick for pick in picks if pick.endpoint == E2)
    assert (pick.workload, pick.service, pick.rule, pick.local) == (
        STORE,
        "shop/store",
        "TrafficTarget shop/buying",
        True,
    )


async def test_an_endpoint_on_another_node_is_not_local(context, connect):
    context.captured.discard(STORE.key)
    assert not Outward(connect()).pick(None, [E3]).local


async def test_what_was_tried_is_not_picked_again(connect):
    route = Outward(connect())
    assert {route.pick(None, [E2]).endpoint for _ in range(20)} == {E3}
    answer = await refused(route, tried=[E2, E3])
    assert (answer.flag, answer.detail) == ("connect-failed", "every endpoint of shop/store:80 was tried")


async def test_a_dead_endpoint_is_left_out(context, connect):
    for _ in range(FAILURES):
        context.live.failed(E2, 0.0)
    context.live.breakers[E2].until = float("inf")
    assert {Outward(connect()).pick(None).endpoint for _ in range(20)} == {E3}


async def test_no_such_port_names_those_that_there_are(context, connect):
    ports = (ServicePort("a", 80, endpoints=(E2,)), ServicePort("b", 443, endpoints=(E2,)))
    context.snapshot = snapshot(service("store", "10.1.0.1", ports=ports))
    answer = await refused(Outward(connect(("10.1.0.1", 81))))
    assert (answer.flag, answer.detail) == ("no-port", "shop/store has 80, 443, not 81")
    context.snapshot = snapshot(service("store", "10.1.0.1", ports=()))
    assert (await refused(Outward(connect(("10.1.0.1", 81))))).detail == "shop/store has no ports, not 81"


async def test_no_endpoint(context, connect):
    context.snapshot = snapshot(service("store", "10.1.0.1"))
    assert (await refused(Outward(connect()))).flag == "no-endpoint"


async def test_the_newest_snapshot_decides_each_time(context, connect):
    route = Outward(connect())
    assert route.pick(None)
    context.snapshot = snapshot(grants=())
    answer = await refused(route)
    assert (answer.flag, answer.detail) == (
        "denied",
        "no-rule: no TrafficTarget lets this source reach this destination",
    )
    assert answer.protected in (STORE, SPARE)


async def test_a_request_is_judged_by_its_routes_and_a_stream_by_ports(context, connect):
    context.snapshot = snapshot(grants=(GET_BOOKS,))
    route = Outward(connect())
    assert route.pick(Asked("GET", "/books")).rule == "TrafficTarget shop/reading"
    assert (await refused(route, Asked("POST", "/books"))).detail.startswith("no-http-match: ")
    assert (await refused(route)).detail.startswith("http-only: ")


async def test_a_caller_that_left_the_mesh_has_no_identity(context, connect):
    conn = connect()
    context.snapshot = snapshot(workloads=(STORE, SPARE))
    assert (await refused(Outward(conn))).flag == "no-identity"


@pytest.mark.parametrize("permissive", [True, False])
async def test_an_endpoint_that_is_no_workload(context, connect, permissive):
    context.snapshot = snapshot(service("store", "10.1.0.1", STRANGER), permissive=permissive)
    route = Outward(connect())
    if permissive:
        pick = route.pick(None)
        assert (pick.endpoint, pick.workload, pick.rule, pick.local) == (STRANGER, None, "permissive mode", False)
        assert route.still_allows(pick, None)
        context.snapshot = snapshot(service("store", "10.1.0.1", STRANGER), egress=True)
        assert not route.still_allows(pick, None)
    else:
        answer = await refused(route)
        assert (answer.flag, answer.detail.partition(":")[0]) == ("denied", "unknown-workload")


@pytest.mark.parametrize("egress", [True, False])
async def test_an_endpoint_that_is_not_in_the_mesh(context, connect, egress):
    shop = service("store", "10.1.0.1", Endpoint("10.0.0.9", 80, LONER.key))
    context.snapshot = snapshot(shop, egress=egress)
    route = Outward(connect())
    if egress:
        pick = route.pick(None)
        assert (pick.workload, pick.rule, pick.local) == (LONER, "enableEgress", False)
        assert route.still_allows(pick, None)
        context.snapshot = snapshot(shop)
        assert not route.still_allows(pick, None)
    else:
        assert (await refused(route)).detail.startswith("not-enrolled: ")


async def test_an_egress_lets_any_bytes_out_to_an_endpoint_outside_behind_a_service(context, connect):
    beyond = Endpoint("192.0.2.7", 6443, outside=True)
    shop = service("store", "10.1.0.1", beyond)
    grant = EgressGrant("Egress shop/api", BUYER.identity, ((6443, "tcp"),), (), ("192.0.2.7/32",))
    for endpoint, reason in ((beyond, "outside"), (Endpoint("10.0.0.9", 6443, LONER.key), "not-enrolled")):
        shop = service("store", "10.1.0.1", endpoint)
        context.snapshot = snapshot(shop)
        assert (await refused(Outward(connect()))).detail.startswith(f"{reason}: ")
        let = msgspec.structs.replace(grant, networks=(f"{endpoint.address}/32",))
        context.snapshot = msgspec.structs.replace(snapshot(shop), egress=(let,))
        route = Outward(connect())
        pick = route.pick(None)
        assert (pick.endpoint, pick.rule) == (endpoint, "Egress shop/api")
        assert route.pick(Asked("GET", "/")).rule == "Egress shop/api"
        assert route.still_allows(pick, None)
        elsewhere = msgspec.structs.replace(grant, networks=("192.0.2.8/32",))
        context.snapshot = msgspec.structs.replace(snapshot(shop), egress=(elsewhere,))
        assert not route.still_allows(pick, None)
        assert (await refused(route)).detail.startswith(f"{reason}: ")


# to a TrafficSplit


@pytest.mark.parametrize("unready", ["nowhere", "bare", "other"])
async def test_a_backend_that_is_not_ready_takes_no_turns(context, connect, unready):
    context.snapshot = snapshot(*split_shop((unready, 99), ("v1", 1)))
    picks = [Outward(connect()).pick(None) for _ in range(10)]
    assert {(pick.endpoint, pick.service) for pick in picks} == {(E2, "shop/v1")}


async def test_weights_are_exact_and_a_tried_backend_leaves_its_turns_to_the_others(context, connect):
    context.snapshot = snapshot(*split_shop(("v1", 3), ("v2", 1), ("bare", 5)))
    route = Outward(connect())
    assert Counter(route.pick(None).service for _ in range(40)) == {"shop/v1": 30, "shop/v2": 10}
    assert {route.pick(None, [E2]).service for _ in range(10)} == {"shop/v2"}


@pytest.mark.parametrize(
    ("backends", "tried", "flag"),
    [
        ([("v1", 0), ("v2", 0)], (), "all-weights-zero"),
        ([("v1", 0), ("bare", 1)], (), "no-endpoint"),  # weight 0 is not a last resort
        ([("nowhere", 1)], (), "no-endpoint"),
        ([], (), "no-endpoint"),
        ([("v1", 1)], (E2,), "no-endpoint"),
    ],
)
async def test_no_backend_can_take_it(context, connect, backends, tried, flag):
    context.snapshot = snapshot(*split_shop(*backends))
    told = await refused(Outward(connect()), tried=tried)
    assert told.flag == flag
    if flag == "all-weights-zero":
        assert told.detail == "TrafficSplit shop/split, of shop/store"


async def test_a_split_with_matches_takes_only_what_matches(context, connect):
    root, *others = split_shop(("v2", 1), matches=(HttpMatch("new", Regex("/new")),))
    root = service("store", "10.1.0.1", E2, route=root.routes[0])
    context.snapshot = snapshot(root, *others)
    route = Outward(connect())
    assert route.pick(Asked("GET", "/new")).service == "shop/v2"
    assert route.pick(Asked("GET", "/old")).service == "shop/store"
    assert route.pick(None).endpoint == E2  # a stream matches nothing


async def test_a_pick_has_the_filters_of_the_rule_that_was_taken(context, connect):
    rules = (
        Rule((Backend("shop/v1", 1),), (HttpMatch("new", Regex("/new")),), filters=(Filter(),)),
        Rule((Backend("shop/v2", 1),), (HttpMatch("old", Regex("/old")),)),
    )
    root, *others = split_shop()
    root = service("store", "10.1.0.1", E2, route=Route("a route", rules))
    context.snapshot = snapshot(root, *others)
    route = Outward(connect())
    assert route.pick(Asked("GET", "/new")).filters is rules[0].filters
    assert route.pick(Asked("GET", "/old")).filters == ()
    assert route.pick(Asked("GET", "/else")).filters == ()
    assert route.pick(None).filters == ()


async def test_a_stream_that_is_no_http_does_not_pass_a_rule_with_filters(context, connect):
    root, *others = split_shop()
    rule = Rule((Backend("shop/v1", 1),), filters=(Filter(),))
    root = service("store", "10.1.0.1", E2, route=Route("a route", (rule,)))
    context.snapshot = snapshot(root, *others)
    assert (await refused(Outward(connect()))).flag == "filter-failed"
    assert Outward(connect()).pick(Asked("GET", "/")).filters == rule.filters


# to a workload's own address, and to what is not the mesh's


async def test_a_workload_is_dialled_straight(context, connect):
    route = Outward(connect(("10.0.0.2", 8080)))
    pick = route.pick(None)
    assert (pick.endpoint, pick.workload, pick.service, pick.local) == (E2, STORE, "shop/store", True)
    assert (await refused(route, tried=[E2])).flag == "connect-failed"
    assert Outward(connect(("10.0.0.2", 9999))).pick(None).service == ""
    context.snapshot = snapshot(grants=())
    assert (await refused(route)).flag == "denied"
    assert not route.still_allows(pick, None)


@pytest.mark.parametrize("dialled", [ELSEWHERE, ("10.0.0.9", 80)], ids=["unknown", "not enrolled"])
async def test_what_is_not_the_meshs_passes_while_egress_is_allowed(context, connect, dialled):
    route = Outward(connect(dialled))
    assert (await refused(route)).flag == "egress-denied"
    context.snapshot = snapshot(egress=True)
    pick = route.pick(None)
    assert (pick.endpoint, pick.workload, pick.rule, pick.local) == (Endpoint(*dialled), None, "enableEgress", False)
    assert (await refused(route, tried=[pick.endpoint])).flag == "connect-failed"
    assert route.still_allows(pick, None)
    context.snapshot = snapshot()
    assert not route.still_allows(pick, None)


async def test_an_address_that_becomes_the_meshs_is_no_longer_passed(context, connect):
    context.snapshot = snapshot(egress=True)
    route = Outward(connect(ELSEWHERE))
    pick = route.pick(None)
    context.snapshot = snapshot(SHOP, service("new", ELSEWHERE[0], E2, port=443), egress=True)
    assert not route.still_allows(pick, None)


async def test_a_service_call_is_asked_again_about_the_same_endpoint(context, connect):
    context.snapshot = snapshot(grants=(OPAQUE, GET_BOOKS))
    route = Outward(connect())
    pick = route.pick(None, [E3])
    context.snapshot = snapshot(grants=(GET_BOOKS,))
    assert not route.still_allows(pick, None)
    assert route.still_allows(pick, Asked("GET", "/books"))
    assert not route.still_allows(pick, Asked("GET", "/admin"))
    other = Workload("shop", "store", "somebody", STORE.addresses)
    context.snapshot = snapshot(workloads=(BUYER, other))  # the same workload under another account
    assert not route.still_allows(pick, None)
    context.snapshot = snapshot(workloads=(BUYER,))
    assert not route.still_allows(pick, None)


# whose name Host is


@pytest.mark.parametrize(
    ("dialled", "host", "misdirected"),
    [
        (("10.1.0.1", 80), "store", False),
        (("10.1.0.1", 80), "store.shop.svc.cluster.local:80", False),
        (("10.1.0.1", 80), "v1", True),
        (("10.1.0.1", 81), "v1", True),  # no such port, and still a service
        (("10.1.0.1", 80), "v1.elsewhere", False),  # no service of the mesh
        (("10.1.0.1", 80), "example.org", False),
        (("10.0.0.2", 8080), "v1", False),  # the workload serves it
        (("10.0.0.2", 8080), "v2", True),
        (ELSEWHERE, "v1", False),  # outside, names mean what they like
    ],
)
async def test_outward_host_may_name_what_was_dialled(context, connect, dialled, host, misdirected):
    context.snapshot = snapshot(*split_shop(("v1", 1)))
    context.refuse_other_hosts = True
    assert Outward(connect(dialled)).misdirected(host) is misdirected
    context.refuse_other_hosts = False
    assert not Outward(connect(dialled)).misdirected(host)


async def test_a_workload_is_its_services_by_each_of_its_addresses(context, connect):
    store = msgspec.structs.replace(STORE, addresses=("10.0.0.2", "fd00::22"))
    context.snapshot = snapshot(*split_shop(("v1", 1)), workloads=(BUYER, store, SPARE))
    context.refuse_other_hosts = True
    assert not Outward(connect(("fd00::22", 8080))).misdirected("v1")
    assert Outward(connect(("fd00::22", 8080))).misdirected("v2")


async def test_services_that_share_an_address_are_told_apart_by_host(context, connect):
    context.snapshot = snapshot(SHOP, service("also", "10.1.0.1", E2, port=81))
    context.refuse_other_hosts = True
    assert not Outward(connect()).misdirected("also")


@pytest.mark.parametrize(
    ("host", "misdirected"), [("v1", False), ("v2", True), ("10.0.0.2", False), ("example.org", False)]
)
async def test_inward_host_may_name_any_service_of_the_workload(context, connect, host, misdirected):
    context.snapshot = snapshot(*split_shop(("v1", 1)))
    conn = connect(("10.0.0.2", 8080), STORE, "inbound")
    context.refuse_other_hosts = True
    assert Inward(conn).misdirected(host) is misdirected
    assert Probed(conn).misdirected(host) is misdirected
    context.refuse_other_hosts = False
    assert not Inward(conn).misdirected(host)


# inbound


@pytest.mark.parametrize("permissive", [True, False])
async def test_a_caller_without_an_identity_is_never_admitted(context, connect, permissive):
    context.snapshot = snapshot(permissive=permissive)
    answer = await refused(Inward(connect(("10.0.0.2", 8080), STORE, "inbound")))
    assert (answer.flag, answer.protected) == ("no-identity", STORE)
    assert answer.detail == "nothing lets callers without one in", "the flag itself says that there is no identity"


async def test_a_caller_whose_identity_is_proved_is_judged_by_it(context, connect):
    conn = connect(("10.0.0.2", 8080), STORE, "inbound")
    conn.source, conn.identity = BUYER, BUYER.identity
    route = Inward(conn)
    pick = route.pick(None)
    assert (pick.endpoint, pick.workload, pick.rule, pick.local) == (E2, STORE, "TrafficTarget shop/buying", True)
    assert (await refused(route, tried=[E2])).flag == "connect-failed"
    assert route.still_allows(pick, None)
    for newer in (snapshot(grants=()), snapshot(workloads=(BUYER,))):
        context.snapshot = newer
        assert not route.still_allows(pick, None)


async def test_who_has_proved_an_identity_is_judged_by_that_and_not_by_its_address(context, connect):
    """An AccessControl lets plain text of an address in. Who proves to be somebody whom no rule admits is refused from there all the same."""
    context.snapshot = msgspec.structs.replace(
        snapshot(mtls="permissive"),
        plain=(PlainGrant("AccessControl shop/open", STORE.key, (8080,), ("10.0.0.9/32",)),),
    )
    conn = connect(("10.0.0.2", 8080), STORE, "inbound", ("10.0.0.9", 1))
    route, asked = Inward(conn), Asked("GET", "/books")
    pick = route.pick(asked)
    assert pick.rule == "AccessControl shop/open"
    assert route.refuses(E2, asked) is None
    assert route.still_allows(pick, asked)
    conn.source, conn.identity = LONER, LONER.identity
    assert (await refused(route, asked)).flag == "denied"
    refusal = route.refuses(E2, asked)
    assert refusal is not None and refusal.flag == "denied"
    assert not route.still_allows(pick, asked)


async def test_where_only_some_requests_come_in_each_is_decided_by_itself(context, connect):
    """No plan for the fast path, which would repeat the decision on one request for another."""
    grant = PlainGrant(
        "IngressBackend shop/i", STORE.key, (8080,), ("10.0.0.9/32",), True, (HttpMatch("a", Exact("/a")),)
    )
    context.snapshot = msgspec.structs.replace(snapshot(), plain=(grant,))
    conn = connect(("10.0.0.2", 8080), STORE, "inbound", ("10.0.0.9", 1))
    route = Inward(conn)
    pick = route.pick(Asked("GET", "/a"))
    assert pick.rule == "IngressBackend shop/i"
    assert route.refuses(E2, Asked("GET", "/a")) is None
    for asked in (Asked("GET", "/b"), None):
        assert (await refused(route, asked)).flag == "no-identity"
        assert not route.still_allows(pick, asked)
    assert route.spread() is None
    conn.source, conn.identity = LONER, LONER.identity
    assert route.spread() is not None  # who has an identity is judged by that


def probed(context, connect, *probes, port=8080):
    workload = Workload("shop", "store", "store", STORE.addresses, probes=probes)
    context.snapshot = snapshot(workloads=(BUYER, workload))
    return Probed(connect(("10.0.0.2", port), workload, "inbound", ("10.0.0.254", 1)))


async def test_a_declared_probe_is_admitted(context, connect):
    route = probed(context, connect, Probe("http", 8080, "/healthz?full=1"), Probe("http", 8080, "/ready", "HEAD"))
    pick = route.pick(Asked("GET", "/healthz"))  # policy sees paths without their query
    assert (pick.endpoint, pick.rule, pick.local) == (E2, "declared probe", True)
    assert route.pick(Asked("HEAD", "/ready"))
    assert route.still_allows(pick, Asked("GET", "/healthz"))
    assert (await refused(route, Asked("GET", "/healthz"), tried=[E2])).flag == "connect-failed"


@pytest.mark.parametrize(
    ("port", "request_"),
    [
        (8080, Asked("POST", "/healthz")),
        (8080, Asked("GET", "/healthz/more")),
        (8080, Asked("GET", "/")),
        (8080, None),
        (8081, Asked("GET", "/healthz")),
        (9000, Asked("GET", "/")),  # declared, but as a tcp probe
        (9000, None),
    ],
)
async def test_nothing_else_is_admitted_from_the_nodes_address(context, connect, port, request_):
    route = probed(context, connect, Probe("http", 8080, "/healthz"), Probe("tcp", 9000), port=port)
    context.snapshot = snapshot(workloads=context.snapshot.workloads, permissive=True)
    assert (await refused(route, request_)).flag == "no-identity"
    assert not route.still_allows(None, request_)


async def test_a_probe_that_is_no_longer_declared_is_refused(context, connect):
    route = probed(context, connect, Probe("http", 8080, "/healthz"))
    pick = route.pick(Asked("GET", "/healthz"))
    context.snapshot = snapshot()
    assert (await refused(route, Asked("GET", "/healthz"))).flag == "no-identity"
    assert not route.still_allows(pick, Asked("GET", "/healthz"))


def test_tcp_probe():
    workload = Workload("shop", "w", "a", probes=(Probe("tcp", 9000), Probe("http", 8080)))
    assert [tcp_probe(workload, port) for port in (9000, 8080, 1)] == [True, False, False]


# what may be repeated without asking


async def test_calls_are_spread_over_every_backend_that_may_take_them(context, connect):
    context.snapshot = snapshot(*split_shop(("v1", 3), ("v2", 1), ("bare", 5), ("gone", 5)))
    spread = Outward(connect()).spread()
    assert spread.groups == {"shop/v1": (E2,), "shop/v2": (E3,)}
    assert spread.turns.weights == (("shop/v1", 3), ("shop/v2", 1))
    context.snapshot = snapshot(*split_shop(("v1", 3), ("bare", 5)))
    assert Outward(connect()).spread() == (None, {"shop/v1": (E2,)})
    context.snapshot = snapshot()
    assert Outward(connect()).spread() == (None, {"shop/store": (E2, E3)})
    assert Outward(connect((E2.address, E2.port))).spread() == (None, {"": (E2,)}), "a workload's own address"


async def test_what_depends_on_the_request_or_on_more_than_policy_is_not_repeated(context, connect):
    context.snapshot = snapshot(*split_shop(("v1", 1), matches=(HttpMatch("new", Regex("/new")),)))
    assert Outward(connect()).spread() is None
    context.snapshot = snapshot(*split_shop(("bare", 1)))
    assert Outward(connect()).spread() is None, "nobody can take it"
    assert Outward(connect(ELSEWHERE)).spread() is None
    assert Outward(connect(("10.1.0.1", 81))).spread() is None, "no such port"
    call = connect((E2.address, E2.port), STORE, "inbound")
    assert Inward(call).spread() == (None, {"": (E2,)})
    assert Probed(call).spread() is None
    assert Forwarded(call).spread() is None
    assert not Inward(call).crosses(STORE, E2)


@pytest.mark.parametrize("egress", [True, False])
async def test_an_endpoint_outside_the_mesh(context, connect, egress):
    context.snapshot = snapshot(service("store", "10.1.0.1", Endpoint("192.0.2.1", 443, outside=True)), egress=egress)
    route = Outward(connect())
    if egress:
        pick = route.pick(None)
        assert (pick.workload, pick.rule, pick.local, pick.hop) == (None, "enableEgress", False, None)
        assert route.still_allows(pick, None)
    else:
        assert (await refused(route)).detail.startswith("outside: ")


async def test_callers_of_this_node_get_the_endpoints_that_are_for_them(context, connect):
    port = ServicePort("", 80, "", "tcp", (STRANGER, E2), None, (E2,), "internalTrafficPolicy Local of node here")
    context.snapshot = snapshot(Service("shop", "store", ("10.1.0.1",), (port,)), grants=(OPAQUE,))
    route = Outward(connect())
    assert {route.pick(None).endpoint for _ in range(9)} == {E2}
    assert route.spread().groups == {"shop/store": (E2,)}
    nobody = ServicePort("", 80, "", "tcp", (E2,), None, (), port.nearness)
    context.snapshot = snapshot(Service("shop", "store", ("10.1.0.1",), (nobody,)), grants=(OPAQUE,))
    answer = await refused(Outward(connect()))
    assert (answer.flag, answer.detail) == ("no-endpoint", f"shop/store:80, {port.nearness}")


async def test_session_affinity_holds_on_both_paths(context, connect):
    port = ServicePort("", 80, "", "tcp", (E2, E3))
    store = Service("shop", "store", ("10.1.0.1",), (port,), affinity=60.0)
    context.snapshot = snapshot(store, workloads=(BUYER, STORE, SPARE), permissive=True)
    route = Outward(connect())
    (one,) = {route.pick(None).endpoint for _ in range(20)}
    assert route.spread().groups == {"shop/store": (one,)}
    assert route.pick(None, (one,)).endpoint != one, "another is tried where it does not answer"


# what a LoadBalancing says


def balance(context, algorithm, *endpoints, **hashed):
    its = endpoints or (E2, E3)
    store = Service("shop", "store", ("10.1.0.1",), (ServicePort("", 80, "", "tcp", its),))
    store = structs.replace(store, balancing=Balancing("LoadBalancing shop/b", algorithm, **hashed))
    context.snapshot = snapshot(store, workloads=(BUYER, STORE, SPARE), permissive=True)


def user(name):
    return Asked("GET", "/", ((b"x-user", name),))


@pytest.mark.parametrize("algorithm", ["ring-hash", "maglev"])
async def test_a_fields_value_chooses_the_endpoint_and_every_request_is_python_s(context, connect, algorithm):
    balance(context, algorithm, header="x-user")
    route, other = Outward(connect()), Outward(connect())
    names = [b"user-%d" % number for number in range(40)]
    found = {name: route.pick(user(name)).endpoint for name in names}
    assert set(found.values()) == {E2, E3}
    assert all(each.pick(user(name)).endpoint == found[name] for name in names for each in (route, other))
    assert {route.pick(Asked("GET", "/")).endpoint for _ in range(40)} == {E2, E3}, "without the field, by load"
    assert {route.pick(None).endpoint for _ in range(40)} == {E2, E3}
    assert (route.spread(), route.ruled()) == (None, None)


@pytest.mark.parametrize("algorithm", ["least-request", "round-robin"])
async def test_what_takes_turns_is_python_s_as_long_as_there_is_a_choice(context, connect, algorithm):
    balance(context, algorithm)
    route = Outward(connect())
    assert {route.pick(None).endpoint for _ in range(40)} == {E2, E3}
    assert (route.spread(), route.ruled()) == (None, None)
    balance(context, algorithm, E2)
    assert Outward(connect()).spread().groups == {"shop/store": (E2,)}


async def test_by_address_both_paths_have_one_endpoint(context, connect):
    balance(context, "maglev", address=True)
    route = Outward(connect())
    (one,) = {route.pick(request).endpoint for request in (None, user(b"a"), user(b"b")) for _ in range(20)}
    assert route.spread().groups == {"shop/store": (one,)}
    (other,) = {E2, E3} - {one}
    assert route.pick(None, (one,)).endpoint == other
    context.live.failed(one, trio.current_time())
    assert route.spread() is None, "calls have to come back when it is well again"
    for _ in range(FAILURES):
        context.live.failed(one, trio.current_time())
    assert {route.pick(None).endpoint for _ in range(20)} == {other}
    context.live.connected(one)
    assert route.spread().groups == {"shop/store": (one,)}


async def test_a_balanced_backend_of_a_split_keeps_its_share(context, connect):
    half = split_of(("even", 1), ("plain", 1))
    even = structs.replace(service("even", "10.1.0.2", E2, E3), balancing=Balancing("b", "round-robin"))
    context.snapshot = snapshot(
        service("store", "10.1.0.1", route=half), even, service("plain", "10.1.0.3", E2), permissive=True
    )
    route = Outward(connect())
    found = Counter((pick.service, pick.endpoint) for pick in (route.pick(None) for _ in range(80)))
    assert found == {("shop/even", E2): 20, ("shop/even", E3): 20, ("shop/plain", E2): 40}
    assert route.spread() is None


async def test_a_rule_with_a_balanced_backend_is_python_s_and_the_others_are_not(context, connect):
    rules = (
        Rule((Backend("shop/even", 1),), (HttpMatch("even", Exact("/even")),)),
        Rule((Backend("shop/plain", 1),), (HttpMatch("plain", Exact("/plain")),)),
    )
    even = structs.replace(service("even", "10.1.0.2", E2, E3), balancing=Balancing("b", "least-request"))
    root = service("store", "10.1.0.1", E2, route=Route("HTTPRoute shop/r", rules))
    context.snapshot = snapshot(root, even, service("plain", "10.1.0.3", E2, E3), permissive=True)
    assert set(Outward(connect()).ruled().shares) == {-1, 1}


# what is sent again


def again(context, attempts=2):
    """The caller's Retry for the Service of the test, beside what is there."""
    one = CallerRetry("shop/store", BUYER.identity, Retry(attempts, name="Retry shop/r"))
    context.snapshot = structs.replace(context.snapshot, retries=(one,))
    return one.retry


async def test_a_retry_is_the_callers_and_the_rules_own_has_precedence(context, connect):
    route = Outward(connect())
    assert route.pick(Asked("GET", "/")).retry is None
    retry = again(context)
    assert route.pick(Asked("GET", "/")).retry == retry
    own = Retry(1, (503,))
    route_of = Route("HTTPRoute shop/r", (Rule((Backend("shop/store", 1),), retry=own),))
    context.snapshot = snapshot(service("store", "10.1.0.1", E2, route=route_of))
    again(context)
    assert route.pick(Asked("GET", "/")).retry == own


async def test_what_is_sent_again_is_never_decided_beforehand(context, connect):
    assert Outward(connect()).spread() is not None
    again(context)
    assert Outward(connect()).spread() is None
    assert Outward(connect((E2.address, E2.port))).spread() is None, "also where a server of it is dialled itself"
