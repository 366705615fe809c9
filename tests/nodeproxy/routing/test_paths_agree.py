"""The slow path, the fast path and explain choose among the same backends and endpoints, and say the same of each."""

from types import SimpleNamespace

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeproxy.errors import Refused
from nodeproxy.routing.route import Outward
from policy.balancing import Balancing
from policy.explain import explain
from policy.model import Endpoint, Grant, Identity, Mesh, Request, Service, ServicePort, Workload
from policy.route import Backend, Exact, HttpMatch, Prefix, Route, Rule
from policy.snapshot import Snapshot

BUYER = Workload("buy", "buyer", "buyer", ("10.1.0.1",), node="here")
PLACES = [(f"10.0.0.{number}", f"s{number}") for number in range(1, 5)]
NAMES = ("v1", "v2", "v3", "gone")


def some(least):
    return st.lists(st.sampled_from(PLACES), min_size=least, max_size=3, unique=True).map(
        lambda places: tuple(Endpoint(address, 8080, f"shop/{name}") for address, name in places)
    )


usual = st.builds(lambda found: (ServicePort("", 80, "", "tcp", found),), some(1))
odd = st.builds(
    ServicePort, st.just(""), st.sampled_from((80, 81)), st.just(""), st.sampled_from(("tcp", "udp")), some(0)
)
ports = st.one_of(usual, usual, usual, st.lists(odd, max_size=3).map(tuple))
matches = st.lists(
    st.builds(HttpMatch, st.just("m"), st.none() | st.builds(Exact, st.just("/a")) | st.builds(Prefix, st.just("/a"))),
    max_size=2,
).map(tuple)
backends = st.tuples(st.sampled_from((False, False, True)), *(st.sampled_from((1, 2, 0, None)) for _ in NAMES)).map(
    lambda drawn: tuple(
        Backend(f"shop/{name}", weight, strict=drawn[0], port=80 * drawn[0])
        for name, weight in zip(NAMES, drawn[1:], strict=True)
        if weight is not None
    )
)
refusing = st.builds(lambda found: Rule((), found, refuses="no-route", detail="r"), st.none() | matches)
rules = st.one_of(*[st.builds(Rule, backends, st.none() | matches)] * 4, refusing)
routes = st.lists(
    st.builds(
        Route,
        st.just("TrafficSplit shop/s"),
        st.one_of(st.tuples(rules), st.tuples(rules, rules), st.just(())),
        st.sampled_from((0, 0, 80, 81)),
        st.sampled_from(("", "", "buy", "else")),
    ),
    max_size=2,
).map(tuple)
meshes = st.builds(Mesh, permissive=st.booleans(), egress=st.booleans())


class Script:
    """Live, without chance: it takes the backend and endpoint that it is told, and keeps what it was offered."""

    def __init__(self, backend, number):
        self._backend, self._number = backend, number
        self.offered = ()

    def turn(self, caller, service, port, opaque, backends, rule=0):
        self.names = [backend.key for backend in backends]
        return self.names[self._backend % len(self.names)]

    def turns(self, caller, service, port, opaque, backends, rule=0):
        return [backend.key for backend in backends]

    def balanced(self, caller, taker, how, key, tried, now):
        return self.least_loaded(taker.endpoints, tried, now)

    def least_loaded(self, endpoints, tried, now):
        self.offered = endpoints
        return endpoints[self._number % len(endpoints)]


def connection(snapshot, live):
    identities = SimpleNamespace(trust=lambda: None)
    context = SimpleNamespace(
        snapshot=snapshot, live=live, captured={workload.key for workload in snapshot.workloads}, identities=identities
    )
    conn = SimpleNamespace(
        context=context,
        peer=(BUYER.addresses[0], 1),
        workload=BUYER,
        identity=BUYER.identity,
        dialled=("10.9.0.1", 80),
        direction="outbound",
    )
    conn.route = Outward(conn)
    return conn


def slow(snapshot, request):
    """What the slow path may do: (endpoint, allowed, rule or reason); without endpoint: (None, False, flag)."""
    found = set()

    async def ask():
        for backend in range(4):
            for number in range(3):
                live = Script(backend, number)
                try:
                    pick = connection(snapshot, live).route.pick(request)
                    found.add((pick.endpoint, True, pick.rule))
                except Refused as refused:
                    if live.offered:
                        found.add((live.offered[number % len(live.offered)], False, refused.detail.partition(":")[0]))
                    else:
                        found.add((None, False, refused.flag))

    trio.run(ask)
    return found


def fast(snapshot):
    """The endpoints that the fast path spreads calls over; None: it leaves them to the slow path."""
    spread = connection(snapshot, Script(0, 0)).route.spread()
    return spread and {endpoint for group in spread.groups.values() for endpoint in group}


def explained(snapshot, root, request):
    told = explain(snapshot, BUYER, root, 80, request)
    return {
        (choice.endpoint or None, choice.allowed, choice.rule if choice.allowed else choice.reason)
        for choice in told.choices or (told,)
    }


def alike(found):
    """explain says more closely what every backend lacks."""
    same = {"no-port": "no-endpoint"}
    return {(endpoint and str(endpoint), allowed, same.get(said, said)) for endpoint, allowed, said in found}


@settings(max_examples=250)
@given(
    st.tuples(ports, ports, ports, ports),
    routes,
    meshes,
    st.sets(st.sampled_from(PLACES)),
    st.sampled_from(PLACES),
    st.sampled_from((None, Request("GET", "/a"), Request("GET", "/a/b"), Request("GET", "/"))),
    st.sampled_from((None, None, Balancing("b", "round-robin"), Balancing("b", "ring-hash", header="x"))),
)
def test_they_agree(given_ports, given_routes, mesh, admitted, left_out, request, balancing):
    """Each server is another identity with another rule, so that explain tells them apart."""
    servers = [
        Workload("shop", name, name, (address,), node="here", enrolled=(address, name) != left_out)
        for address, name in PLACES
    ]
    grants = tuple(
        Grant(f"TrafficTarget shop/{name}", BUYER.identity, Identity("shop", name), tcp=())
        for _, name in sorted(admitted)
    )
    root = Service("shop", "root", ("10.9.0.1",), given_ports[0], given_routes, balancing=balancing)
    others = [
        Service("shop", name, (), ports, balancing=balancing)
        for name, ports in zip(NAMES, given_ports[1:], strict=False)
    ]
    snapshot = Snapshot("here", mesh, (BUYER, *servers), (root, *others), grants)
    went, told = alike(slow(snapshot, request)), alike(explained(snapshot, root, request))
    assert told <= went
    assert {one[1:] for one in told} == {one[1:] for one in went}
    route = connection(snapshot, Script(0, 0)).route
    ruled = route.ruled()
    share = ruled and request and ruled.shares.get(route.rule(request))
    if share:
        ways = {endpoint for way in share.ways.values() for endpoint in way.endpoints}
        assert {str(endpoint) for endpoint in ways} == {endpoint for endpoint, *_ in went}
    groups = fast(snapshot)
    requests = went if request is not None else alike(slow(snapshot, Request("GET", "/")))  # it serves no streams
    if groups is not None and balancing is not None:
        spread = connection(snapshot, Script(0, 0)).route.spread()
        assert all(len(group) == 1 for group in spread.groups.values()), "the fast path goes by load alone"
    if groups is not None:
        assert {str(endpoint) for endpoint in groups} == {endpoint for endpoint, *_ in requests}
    elif all(endpoint for endpoint, *_ in requests) and balancing is None:
        assert not snapshot.is_settled(root, 80, "buy"), "only what depends on the request has rules"
