"""authz.py and explain.py against an oracle: every grant looked at one by one, with Python's own regular expressions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from policy.authz import DENIALS, Authority, Pair
from policy.explain import explain
from policy.model import Grant, Identity, Mesh, Request, Workload
from policy.route import Exact, HttpMatch, Prefix, Regex
from policy.snapshot import Snapshot

WEB = Workload("shop", "web", "web", ("10.0.0.1",))
OTHER = Workload("shop", "other", "other", ("10.0.0.2",))
CALLERS = tuple(Workload("front", name, name, (f"10.0.1.{number}",)) for number, name in enumerate("ab", 1))

ports = st.none() | st.lists(st.sampled_from([80, 81]), max_size=2, unique=True).map(tuple)
values = st.builds(Regex, st.sampled_from(["1", "^1$", ".*"])) | st.builds(Exact, st.sampled_from(["1", "2.1", ""]))
matches = st.builds(
    HttpMatch,
    st.sampled_from(["m", "n"]),
    st.none()
    | st.builds(Regex, st.sampled_from(["/a", "/a$", "/.*b", "b", "^/a|/b$", "(/a|/b)c?$"]))
    | st.builds(Exact, st.sampled_from(["/a", "/x/b", "*", "", "/."]))
    | st.builds(Prefix, st.sampled_from(["/a", "/x", "/x/", "/", "/.", "/x/b"])),
    st.lists(st.sampled_from(["GET", "POST"]), max_size=2, unique=True).map(tuple),
    st.lists(st.tuples(st.sampled_from(["x", "y"]), values), max_size=2).map(tuple),
    st.lists(st.tuples(st.sampled_from(["p", "host"]), values), max_size=1).map(tuple),
)
grants = st.builds(
    Grant,
    st.sampled_from(["TrafficTarget shop/t", "TrafficTarget shop/u", "TrafficTarget shop/v"]),
    st.sampled_from([w.identity for w in CALLERS]),
    st.sampled_from([WEB.identity, OTHER.identity]),
    ports,
    ports,
    st.none() | st.lists(matches, max_size=3).map(tuple),
)
requests = st.none() | st.builds(
    Request,
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from(["/a", "/ab", "/b", "/x/b", "*", "", "/bc"]),
    st.lists(st.tuples(st.sampled_from([b"x", b"y"]), st.sampled_from([b"1", b"21", b""])), max_size=3).map(tuple),
    st.sampled_from([(), ("/a/b",), ("/x/b", "/b")]),
    st.sampled_from([b"", b"/?", b"/?p=1", b"/?p=21&p=1", b"/?p", b"/?host=2.1&p=%31"]),
)


def match_fits(match, request):
    if match.path is not None and not all(path_fits(match.path, path) for path in (request.path, *request.others)):
        return False
    if match.methods and request.method not in match.methods:
        return False
    for name, wanted in match.headers:
        values = [value.decode() for field, value in request.fields if field == name.encode()]
        if not values or not value_fits(wanted, ", ".join(values)):
            return False
    parameters = PARAMETERS[request.target]
    return all(name in parameters and value_fits(wanted, parameters[name]) for name, wanted in match.query)


PARAMETERS = {
    b"": {},
    b"/?": {},
    b"/?p=1": {"p": "1"},
    b"/?p=21&p=1": {"p": "21"},
    b"/?p": {"p": ""},
    b"/?host=2.1&p=%31": {"host": "2.1", "p": "1"},
}


def path_fits(wanted, path):
    if isinstance(wanted, Regex):
        return re.match(wanted.value, path)
    below = wanted.value.removesuffix("/") + "/"
    return path == wanted.value or (isinstance(wanted, Prefix) and (path + "/").startswith(below))


def value_fits(wanted, value):
    return re.search(wanted.value, value) if isinstance(wanted, Regex) else value == wanted.value


def grant_fits(grant, source, destination, port, request):
    if (grant.source, grant.destination) != (source, destination) or (grant.tcp is None and grant.http is None):
        return False
    if grant.tcp and port not in grant.tcp:
        return False
    return grant.http is None or (request is not None and any(match_fits(m, request) for m in grant.http))


@given(
    st.lists(grants, max_size=5),
    st.sampled_from(CALLERS),
    st.sampled_from([WEB, OTHER]),
    st.sampled_from([80, 81, 82]),
    requests,
)
def test_streams_and_requests_are_admitted_as_the_oracle_says(given_grants, who, whom, port, request):
    snapshot = Snapshot("n", workloads=(WEB, OTHER, *CALLERS), grants=tuple(given_grants))
    fitting = {g.rule for g in given_grants if grant_fits(g, who.identity, whom.identity, port, request)}
    verdict = snapshot.authorize(who.identity, whom, port, request)
    assert verdict.allowed == bool(fitting)
    assert verdict.rule in fitting if fitting else (verdict.rule == "" and verdict.reason in DENIALS)
    told = explain(snapshot, who, whom, port, request)
    assert (told.allowed, told.rule, told.reason) == (verdict.allowed, verdict.rule, verdict.reason)
    assert bool(told.lacked) == (not told.allowed)
    between = [g for g in given_grants if (g.source, g.destination) == (who.identity, whom.identity)]
    if between and not told.allowed:
        assert told.nearest in {g.rule for g in between}, "a rule between these two is nearer than any other"


@given(st.lists(grants, max_size=5), st.sampled_from(CALLERS), st.sampled_from([80, 81]))
def test_datagrams_are_admitted_by_udp_alone(given_grants, who, port):
    snapshot = Snapshot("n", workloads=(WEB, *CALLERS), grants=tuple(given_grants))
    fitting = [
        g for g in given_grants if g.source == who.identity and g.destination == WEB.identity and g.udp is not None
    ]
    verdict = snapshot.authorize_udp(who.identity, WEB, port)
    assert verdict.allowed == any(not g.udp or port in g.udp for g in fitting)
    told = explain(snapshot, who, WEB, port, udp=True)
    assert (told.allowed, told.rule, told.reason) == (verdict.allowed, verdict.rule, verdict.reason)


@given(st.lists(grants, max_size=4), st.lists(grants, max_size=4), st.sampled_from([80, 81]), requests)
def test_grants_only_add(some, more, port, request):
    fewer, all_of_them = (Snapshot("n", grants=tuple(g)) for g in (some, some + more))
    for who in CALLERS:
        if fewer.authorize(who.identity, WEB, port, request).allowed:
            assert all_of_them.authorize(who.identity, WEB, port, request).allowed


def pair(**kinds):
    return Pair([Grant("TrafficTarget shop/t", CALLERS[0].identity, WEB.identity, **kinds)])


GET_A = (HttpMatch("a", Regex("/a$"), ("GET",)),)


@pytest.mark.parametrize(
    ("kinds", "port", "request_", "reason"),
    [
        ({"http": GET_A}, 80, None, "http-only"),
        ({"http": GET_A}, 80, Request("GET", "/b"), "no-http-match"),
        ({"http": GET_A, "tcp": (80,)}, 81, Request("GET", "/a"), "port-not-allowed"),
        ({"http": GET_A, "tcp": (80,)}, 81, None, "port-not-allowed"),
        ({"tcp": (80,)}, 81, None, "port-not-allowed"),
        ({"udp": (80,)}, 80, None, "no-rule"),
        ({"udp": ()}, 80, Request("GET", "/a"), "no-rule"),
        ({"http": GET_A}, 80, Request("GET", "/a"), ""),
        ({"tcp": ()}, 1, Request("GET", "/x"), ""),
        # /a%2Fb: whoever cannot tell it from /a/b admits it; whoever admits one of them alone refuses it, and says why.
        ({"tcp": ()}, 1, Request("GET", "/a%2Fb", (), ("/a/b",)), ""),
        ({"http": (HttpMatch("a", Regex("/a.*")),)}, 80, Request("GET", "/a%2Fb", (), ("/a/b",)), ""),
        ({"http": (HttpMatch("a"),)}, 80, Request("GET", "/a%2Fb", (), ("/a/b",)), ""),
        ({"http": (HttpMatch("a", Regex("/[^/]*$")),)}, 80, Request("GET", "/a%2Fb", (), ("/a/b",)), "ambiguous-path"),
        ({"http": (HttpMatch("a", Regex("/a/b$")),)}, 80, Request("GET", "/a%2Fb", (), ("/a/b",)), "ambiguous-path"),
        (
            {"http": (HttpMatch("a", Regex("/[^/]*$")), HttpMatch("b", Regex("/a/b$")))},
            80,
            Request("GET", "/a%2Fb", (), ("/a/b",)),
            "ambiguous-path",
        ),
        (
            {"http": (HttpMatch("a", Regex("/a.*")),)},
            80,
            Request("GET", "/a%2F%2Fb", (), ("/a//b", "/x")),
            "ambiguous-path",
        ),
        ({"http": (HttpMatch("a", Regex("/b.*")),)}, 80, Request("GET", "/a%2Fb", (), ("/a/b",)), "no-http-match"),
        (
            {"http": (HttpMatch("a", Regex("/a.*"), ("PUT",)),)},
            80,
            Request("GET", "/a%2Fb", (), ("/a/b",)),
            "no-http-match",
        ),
    ],
)
def test_the_reason_says_what_was_missing(kinds, port, request_, reason):
    assert pair(**kinds).decide(port, request_).reason == reason


def test_a_server_that_says_how_it_reads_an_encoded_slash_is_asked_by_that_alone():
    grants = [Grant("r", CALLERS[0].identity, WEB.identity, http=(HttpMatch("a", Regex("/[^/]*$")),))]
    for literal in (False, True):
        web = structs.replace(WEB, literal_slash=literal)
        snapshot = Snapshot("n", workloads=(web, *CALLERS), grants=tuple(grants))
        request = Request("GET", "/a%2Fb", (), ("/a/b",))
        assert snapshot.authorize(CALLERS[0].identity, web, 80, request).reason == ("" if literal else "ambiguous-path")
        told = explain(snapshot, CALLERS[0], web, 80, request)
        assert told.allowed is literal
        assert literal or "or '/a/b' for a server that takes %2F for a slash" in told.lacked


def test_nobody_is_denied_in_permissive_mode_too():
    snapshot = Snapshot("n", Mesh(permissive=True), (WEB,))
    assert snapshot.authorize(None, WEB, 80).reason == "no-identity"
    assert snapshot.authorize_udp(None, WEB, 80).reason == "no-identity"
    assert snapshot.authorize(CALLERS[0].identity, WEB, 80).rule == "permissive mode"
    assert snapshot.authorize_udp(CALLERS[0].identity, WEB, 80).rule == "permissive mode"


def test_a_pair_is_made_once_and_only_where_there_is_a_grant():
    authority = Authority([Grant("r", CALLERS[0].identity, WEB.identity, tcp=())])
    assert authority.pair(WEB.identity, CALLERS[0].identity) is authority.pair(WEB.identity, CALLERS[0].identity)
    assert authority.pair(CALLERS[0].identity, WEB.identity) is None
    assert authority.pair(WEB.identity, Identity("other", "a")) is None, "the namespace is part of the identity"
