"""Outward, Inward and Probed: which endpoint, by which rule, and whether a newer snapshot would still say so."""

from collections import Counter

import pytest

from nodeproxy.errors import Refused
from nodeproxy.upstream.live import FAILURES
from nodeproxy.upstream.route import Inward, Outward, Probed, tcp_probe
from policy.model import Backend, Endpoint, Grant, HttpMatch, Probe, ServicePort, Split, Workload
from policy.model import Request as Asked
from tests.nodeproxy.conftest import BUYER, E2, E3, LONER, OPAQUE, SHOP, SPARE, STORE, service, snapshot

GET_BOOKS = Grant("TrafficTarget shop/reading", BUYER.identity, STORE.identity, http=(HttpMatch("books", "/books", ("GET",)),))
STRANGER = Endpoint("10.0.0.77", 8080)  # no workload that we know
ELSEWHERE = ("93.184.216.34", 443)


async def refused(route, request=None, tried=()):
    with pytest.raises(Refused) as caught:
        route.pick(request, tried)
    return caught.value


def split_of(*backends, matches=None):
    return Split("TrafficSplit shop/split", tuple(Backend(f"shop/{name}", weight) for name, weight in backends), matches)


def split_shop(*backends, matches=None):
    """The shop, split to v1 (one endpoint), v2 (another), "bare" (no endpoints), "other" (another port) and whatever does not exist."""
    return (
        service("store", "10.1.0.1", split=split_of(*backends, matches=matches)),
        service("v1", "10.1.0.2", E2),
        service("v2", "10.1.0.3", E3),
        service("bare", "10.1.0.4"),
        service("other", "10.1.0.5", E2, port=81),
    )


# to a service


async def test_a_service_is_balanced_over_its_endpoints(connect):
    route = Outward(connect())
    picks = [route.pick(None) for _ in range(100)]
    assert set(Counter(pick.endpoint for pick in picks)) == {E2, E3}
    pick = next(pick for pick in picks if pick.endpoint == E2)
    assert (pick.workload, pick.service, pick.rule, pick.local) == (STORE, "shop/store", "TrafficTarget shop/buying", True)


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
    assert (answer.flag, answer.detail) == ("denied", "no-rule: no TrafficTarget lets this source reach this destination")
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
    assert (await refused(Outward(connect()), tried=tried)).flag == flag


async def test_a_split_with_matches_takes_only_what_matches(context, connect):
    root, *others = split_shop(("v2", 1), matches=(HttpMatch("new", "/new"),))
    root = service("store", "10.1.0.1", E2, split=root.split)
    context.snapshot = snapshot(root, *others)
    route = Outward(connect())
    assert route.pick(Asked("GET", "/new")).service == "shop/v2"
    assert route.pick(Asked("GET", "/old")).service == "shop/store"
    assert route.pick(None).endpoint == E2  # a stream matches nothing


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
    assert Outward(connect(dialled)).misdirected(host) is misdirected


async def test_services_that_share_an_address_are_told_apart_by_host(context, connect):
    context.snapshot = snapshot(SHOP, service("also", "10.1.0.1", E2, port=81))
    assert not Outward(connect()).misdirected("also")


@pytest.mark.parametrize(("host", "misdirected"), [("v1", False), ("v2", True), ("10.0.0.2", False), ("example.org", False)])
async def test_inward_host_may_name_any_service_of_the_workload(context, connect, host, misdirected):
    context.snapshot = snapshot(*split_shop(("v1", 1)))
    conn = connect(("10.0.0.2", 8080), STORE, "inbound")
    assert Inward(conn).misdirected(host) is misdirected
    assert Probed(conn).misdirected(host) is misdirected


# inbound


@pytest.mark.parametrize("permissive", [True, False])
async def test_a_caller_without_an_identity_is_never_admitted(context, connect, permissive):
    context.snapshot = snapshot(permissive=permissive)
    answer = await refused(Inward(connect(("10.0.0.2", 8080), STORE, "inbound")))
    assert (answer.flag, answer.protected) == ("no-identity", STORE)


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
