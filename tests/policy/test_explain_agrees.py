"""explain.py says what authorize() says, whatever the grants, and goes the way that the proxy goes."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from policy.explain import explain
from policy.model import Endpoint, Grant, Identity, Mesh, Request, Revoked, Service, ServicePort, Workload
from policy.route import Backend, Exact, HttpMatch, Prefix, Regex, Route, Rule
from policy.snapshot import Snapshot

STORE, BUYER = Identity("shop", "store"), Identity("buy", "buyer")
SERVER = Workload("shop", "s1", "store", ("10.0.0.1",), (8080,), node="till-1")
CALLERS = (Workload("buy", "b1", "buyer"), Workload("thief", "t1", "thief"))

PORTS = st.none() | st.sets(st.sampled_from((80, 8080)), max_size=2).map(lambda ports: tuple(sorted(ports)))
MATCHES = st.builds(
    HttpMatch,
    st.sampled_from("abc"),
    st.sampled_from((None, Regex("/a"), Regex("/a$"), Regex(".*b"), Exact("/a"), Prefix("/a"))),
    st.sampled_from(((), ("GET",), ("POST", "PUT"))),
    st.sampled_from(
        (
            (),
            (("x", Regex("^1$")),),
            (("x", Regex("1")), ("y", Regex(".*"))),
            (("host", Regex("^Store$")),),
            (("x", Exact("1")),),
        )
    ),
)
GRANTS = st.builds(
    Grant,
    st.sampled_from(("TrafficTarget shop/a", "TrafficTarget shop/b")),
    st.sampled_from((BUYER, Identity("buy", "other"))),
    st.sampled_from((STORE, Identity("shop", "other"))),
    PORTS,
    PORTS,
    st.none() | st.lists(MATCHES, max_size=3).map(tuple),
)
REQUESTS = st.none() | st.builds(
    Request,
    st.sampled_from(("GET", "POST", "TRACE")),
    st.sampled_from(("/", "/a", "/ab", "/x/b")),
    st.sampled_from(((), ((b"x", b"1"),), ((b"x", b"12"), (b"y", b"")), ((b"host", b"sTORE"),))),
)
REVOKED = st.sampled_from(
    (Revoked(), Revoked(identities=(BUYER,)), Revoked(identities=(STORE,)), Revoked(("till-1",)), Revoked(("till-2",)))
)


@given(
    st.lists(GRANTS, max_size=4),
    REQUESTS,
    st.sampled_from(CALLERS),
    st.sampled_from((80, 8080)),
    st.booleans(),
    st.booleans(),
    REVOKED,
)
def test_it_says_what_authorize_says_and_every_denial_has_words(grants, request, who, port, udp, permissive, revoked):
    snapshot = Snapshot(
        "till-1", Mesh(permissive=permissive), (SERVER, *CALLERS), grants=tuple(grants), revoked=revoked
    )
    who = structs.replace(who, node="till-1")
    verdict = (
        snapshot.authorize_udp(who.identity, SERVER, port)
        if udp
        else snapshot.authorize(who.identity, SERVER, port, request)
    )
    found = explain(snapshot, who, SERVER, port, request, udp)
    assert (found.allowed, found.rule, found.reason) == (verdict.allowed, verdict.rule, verdict.reason)
    assert bool(found.lacked) != found.allowed
    assert found.nearest in {"", *(grant.rule for grant in grants if grant.destination == STORE)}
    if verdict.reason == "revoked":
        assert (found.nearest, found.lacked.endswith(" is revoked")) == ("", True)


def split(**backends):
    """shop/root, split by weight over services that have an endpoint, have none ("empty"), or are not there ("gone")."""
    port = ServicePort("web", 80, endpoints=(Endpoint("10.0.0.1", 8080, "shop/s1"),))
    services = [Service("shop", name, ports=(port,)) for name in ("v1", "v2")]
    services += [
        Service("shop", "empty", ports=(ServicePort("web", 80),)),
        Service("shop", "other-port", ports=(ServicePort("web", 81),)),
    ]
    shares = tuple(Backend(f"shop/{name.replace('_', '-')}", weight) for name, weight in backends.items())
    root = Service("shop", "root", ports=(port,), routes=(Route("TrafficSplit shop/s", (Rule(shares),)),))
    grants = (Grant("TrafficTarget shop/t", BUYER, STORE, tcp=()),)
    snapshot = Snapshot("node", workloads=(SERVER, *CALLERS), services=(*services, root), grants=grants)
    return explain(snapshot, CALLERS[0], root, 80)


def test_a_backend_without_endpoints_takes_no_turns():
    found = split(v1=1, empty=1, other_port=1, gone=1)
    assert found.allowed
    assert any("shop/empty, shop/other-port has no endpoint for port 80" in step for step in found.steps)


def test_a_split_without_a_backend_that_could_take_it_is_refused():
    assert split(empty=1).reason == "no-endpoint"
    assert split(other_port=1).reason == "no-port"
    assert split(gone=1).reason == "no-endpoint"
    assert split(v1=0).reason == "all-weights-zero"
