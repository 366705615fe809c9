"""translate/gateway.py: what an HTTPRoute of a Service becomes, what is pointed out, and what is refused.

How its statements behave over sockets is in tests/journeys/test_http_routes.py.
"""

import json

import pytest

from agent.sources.manifest import read
from policy.build import build
from policy.explain import explain
from policy.model import Request
from policy.route import (
    Backend,
    Cors,
    Exact,
    Fields,
    HttpMatch,
    PathChange,
    Redirect,
    Regex,
    RequestFields,
    RequestMirror,
    ResponseFields,
    Rewrite,
    Timeouts,
)
from policy.translate.gateway_checks import seconds_of


def service(name, namespace="shop", ports="[{name: web, port: 80}, {name: chat, port: 81}]"):
    return f"""
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: {ports}}}
---
apiVersion: edgemesh.io/v1alpha1
kind: Workload
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{serviceAccount: {name}, labels: {{app: {name}}}, addresses: [10.0.0.{sum(name.encode()) % 200 + 1}], ports: [{{port: 80}}, {{port: 81}}]}}
"""


SERVICES = service("web") + service("one") + service("two") + service("far", "front")
PARENT = {"group": "", "kind": "Service", "name": "web"}
ONE, TWO = {"name": "one", "port": 80}, {"name": "two", "port": 80}


def route(*rules, name="r", namespace="shop", version="v1", parents=(PARENT,), age=None, **more):
    metadata = {"name": name, "namespace": namespace, **({"creationTimestamp": age} if age else {})}
    spec = {"parentRefs": list(parents), "rules": list(rules), **more}
    return "\n---\n" + json.dumps(
        {"apiVersion": f"gateway.networking.k8s.io/{version}", "kind": "HTTPRoute", "metadata": metadata, "spec": spec},
        indent=1,
    )


def made(*texts, previous=None):
    change = read((SERVICES + "".join(texts)).encode(), "r.yaml")
    assert not change.problems
    return build(change.objects, previous)


def rules(built, key="shop/web", port=80, caller="shop"):
    found = built.snapshot.route(built.snapshot.service(key), port, caller)
    return None if found is None else found.rules


def told(built, severity="warning"):
    return [(p.message, p.hint) for p in built.problems if p.severity == severity]


def chosen(built, request, port=80, caller="shop"):
    """The backends of the rule that is taken, or the flag with which it refuses."""
    found = built.snapshot.candidates(built.snapshot.service("shop/web"), port, request, caller=caller)
    if found.rule is None:
        return "own"
    return found.rule.refuses or [backend.service for backend in found.rule.backends]


def get(path, method="GET", **fields):
    target = path.encode()
    said = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return Request(method, path.partition("?")[0], said, (), target)


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_rule_becomes_one_of_the_model(version):
    built = made(
        route(
            {
                "name": "api",
                "matches": [
                    {
                        "path": {"type": "Exact", "value": "/a"},
                        "method": "GET",
                        "headers": [
                            {"name": "X-Beta", "value": "yes"},
                            {"name": "x-team", "value": "a|b", "type": "RegularExpression"},
                            {"name": "x-beta", "value": "ignored"},
                        ],
                        "queryParams": [{"name": "Lang", "value": "de"}, {"name": "Lang", "value": "ignored"}],
                    }
                ],
                "filters": [
                    {
                        "type": "RequestHeaderModifier",
                        "requestHeaderModifier": {
                            "set": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "ignored"}],
                            "add": [{"name": "X-B", "value": "2"}],
                            "remove": ["X-C"],
                        },
                    },
                    {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["Server"]}},
                ],
                "backendRefs": [
                    ONE | {"weight": 3},
                    {"name": "far", "namespace": "front", "port": 81},
                    ONE | {"weight": 0},
                ],
            },
            version=version,
        )
    )
    assert told(built) == told(built, "error") == []
    one, rest = rules(built)
    assert one.name == "HTTPRoute shop/r, rule api"
    assert one.matches == (
        HttpMatch(
            "GET /a, X-Beta: yes, x-team: ~ a|b, x-beta: ignored, ?Lang=de, ?Lang=ignored",
            Exact("/a"),
            ("GET",),
            (("x-beta", Exact("yes")), ("x-team", Regex("^(?:a|b)$"))),
            (("Lang", Exact("de")),),
        ),
    )
    assert one.filters == (
        RequestFields(Fields((("x-a", "1"),), (("x-b", "2"),), ("x-c",))),
        ResponseFields(Fields(remove=("server",))),
    )
    assert one.backends == (
        Backend("shop/one", 3, 80, strict=True),
        Backend("front/far", 1, 81, strict=True),
        Backend("shop/one", 0, 80, strict=True, number=1),
    )
    assert (rest.refuses, rest.matches) == ("no-route", (HttpMatch("every request"),))


def test_without_matches_it_is_for_every_request_and_the_fast_path_may_repeat_it():
    built = made(route({"backendRefs": [ONE, TWO]}))
    assert rules(built)[0].matches == (HttpMatch("/*"),)
    service = built.snapshot.service("shop/web")
    assert built.snapshot.is_settled(service, 80, "shop")
    assert chosen(built, get("/")) == ["shop/one", "shop/two"]
    assert chosen(built, None) == "own", "a stream is no HTTP call"
    filtered = {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["server"]}}
    built = made(route({"backendRefs": [ONE, TWO | {"filters": [filtered]}]}))
    assert not built.snapshot.is_settled(built.snapshot.service("shop/web"), 80, "shop")


def path(value, type_="PathPrefix"):
    return {"path": {"type": type_, "value": value}}


@pytest.mark.parametrize(
    ("match", "fits", "fits_not"),
    [
        ({}, [get("/"), get("/a/b"), get("*", "OPTIONS")], []),
        (path("/"), [get("/"), get("/a")], []),
        (path("/a"), [get("/a"), get("/a/"), get("/a/b"), get("/a?b=c")], [get("/ab"), get("/"), get("/b/a")]),
        (path("/a/"), [get("/a"), get("/a/b")], [get("/ab")]),
        (path("/a", "Exact"), [get("/a"), get("/a?x=1")], [get("/a/"), get("/a/b")]),
        (path("/a.b", "Exact"), [get("/a.b")], [get("/axb")]),
        (path("/[ab]|/c", "RegularExpression"), [get("/a"), get("/c")], [get("/ab"), get("/c/d"), get("/x/c")]),
        ({"method": "POST"}, [get("/", "POST")], [get("/"), get("/", "PUT")]),
        ({"headers": [{"name": "X", "value": "a"}]}, [get("/", x="a")], [get("/"), get("/", x="b"), get("/", x="A")]),
        (
            {"headers": [{"name": "X", "type": "RegularExpression", "value": "a+|b"}]},
            [get("/", x="aa"), get("/", x="b")],
            [get("/", x="ab"), get("/", x="xb"), get("/")],
        ),
        (
            {"headers": [{"name": "x", "value": "1"}, {"name": "y", "value": "2"}]},
            [get("/", x="1", y="2")],
            [get("/", x="1"), get("/", x="2", y="1")],
        ),
        (
            {"queryParams": [{"name": "q", "value": "a b"}]},
            [get("/?q=a+b"), get("/?z=1&q=a%20b&q=c")],
            [get("/"), get("/?q=c&q=a+b"), get("/?Q=a+b")],
        ),
        (
            {"queryParams": [{"name": "q", "type": "RegularExpression", "value": "[0-9]"}]},
            [get("/?q=1")],
            [get("/?q=12")],
        ),
        (path("/a") | {"method": "GET"}, [get("/a")], [get("/a", "POST"), get("/b")]),
    ],
)
def test_what_a_match_fits(match, fits, fits_not):
    built = made(route({"matches": [match], "backendRefs": [ONE]}))
    assert told(built, "error") == []
    assert [chosen(built, request) for request in fits] == [["shop/one"]] * len(fits)
    assert [chosen(built, request) for request in fits_not] == ["no-route"] * len(fits_not)


def test_one_of_several_matches_is_enough():
    built = made(route({"matches": [path("/a"), {"method": "PUT"}], "backendRefs": [ONE]}))
    assert [chosen(built, one) for one in (get("/a"), get("/b", "PUT"), get("/b"))] == [
        ["shop/one"],
        ["shop/one"],
        "no-route",
    ]


def rewrite(**said):
    return {"type": "URLRewrite", "urlRewrite": said}


def redirect(**said):
    return {"type": "RequestRedirect", "requestRedirect": said}


def test_a_prefix_is_replaced_that_the_fitting_match_names():
    change = rewrite(hostname="b.example", path={"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"})
    own = ONE | {"filters": [rewrite(path={"type": "ReplacePrefixMatch", "replacePrefixMatch": ""})]}
    built = made(route({"matches": [path("/a"), path("/b/c")], "filters": [change], "backendRefs": [own]}))
    assert told(built) == []
    found = rules(built)[:2]
    assert [one.filters for one in found] == [
        (Rewrite(PathChange("/x", prefix), "b.example"),) for prefix in ("/b/c", "/a")
    ]
    assert [one.backends[0].filters for one in found] == [
        (Rewrite(PathChange("", prefix)),) for prefix in ("/b/c", "/a")
    ]


def test_a_redirect_names_no_backend_and_explain_tells_it():
    said = redirect(
        scheme="https",
        hostname="b.example",
        port=8443,
        statusCode=301,
        path={"type": "ReplaceFullPath", "replaceFullPath": "/x"},
    )
    built = made(route({"name": "away", "filters": [said]}))
    assert told(built) == []
    assert rules(built)[0].filters == (Redirect(301, "https", "b.example", 8443, PathChange("/x")),)
    who = built.snapshot.workload("shop/web")
    found = explain(built.snapshot, who, built.snapshot.service("shop/web"), 80, get("/"))
    assert (found.allowed, found.rule) == (True, "HTTPRoute shop/r, rule away")
    assert found.steps[-1] == "answer: 301 to https://b.example:8443, path becomes /x"


@pytest.mark.parametrize(
    ("path", "prefix", "value", "becomes"),
    [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/bar", "/foo", "/", "/bar"),
        ("/foo", "/", "/xyz", "/xyz/foo"),
        ("/foo", None, "/xyz", "/xyz"),
    ],
)
def test_paths_become_what_the_gateway_api_says(path, prefix, value, becomes):
    assert PathChange(value, prefix).of(path) == becomes


OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


@pytest.mark.parametrize(
    ("closer", "looser"),
    [
        (path("/a", "Exact"), path("/a/a/a")),
        (path("/a", "Exact"), path("/a.*", "RegularExpression")),
        (path("/a.*", "RegularExpression"), path("/a")),
        (path("/a"), path("/")),
        (path("/a"), {"method": "GET"}),
        (path("/a"), {"headers": [{"name": "x", "value": "1"}]}),
        ({"method": "GET"}, {"headers": [{"name": "x", "value": "1"}]}),
        ({"headers": [{"name": "x", "value": "1"}]}, {"queryParams": [{"name": "q", "value": "1"}]}),
        (
            {"headers": [{"name": "x", "value": "1"}, {"name": "y", "value": "1"}]},
            {"headers": [{"name": "x", "value": "1"}]},
        ),
        (
            {"queryParams": [{"name": "q", "value": "1"}, {"name": "r", "value": "1"}]},
            {"queryParams": [{"name": "q", "value": "1"}]},
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("apart", [False, True], ids=["one route", "two routes"])
def test_the_closest_match_counts_wherever_it_stands(closer, looser, turned, apart):
    pair = [{"matches": [closer], "backendRefs": [ONE]}, {"matches": [looser], "backendRefs": [TWO]}]
    pair = pair[::-1] if turned else pair
    built = made(*(route(one, name=f"r{n}") for n, one in enumerate(pair))) if apart else made(route(*pair))
    assert chosen(built, get("/a?q=1&r=1", x="1", y="1")) == ["shop/one"]


def test_of_equal_matches_the_oldest_route_counts_then_the_first_name_then_the_first_rule():
    first, second = {"backendRefs": [ONE]}, {"backendRefs": [TWO]}
    assert chosen(made(route(first, second)), get("/")) == ["shop/one"]
    assert chosen(made(route(second, name="b"), route(first, name="a")), get("/")) == ["shop/one"]
    assert chosen(made(route(second, name="a", age=NEW), route(first, name="b", age=OLD)), get("/")) == ["shop/one"]
    assert chosen(made(route(second, name="a"), route(first, name="b", age=OLD)), get("/")) == ["shop/one"]


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("1h1m1s1ms", 3661.001), ("0s", 0), ("99999h", 359996400)]
    + [(odd, None) for odd in ("", "1", "s", "-1s", "1.5s", "1s ", "100000s", "1d", "1s1s1s1s1s")],
)
def test_durations(words, seconds):
    assert seconds_of(words) == seconds


def test_timeouts_of_a_rule_are_told():
    built = made(route({"timeouts": {"request": "10s", "backendRequest": "500ms"}, "backendRefs": [ONE]}))
    assert rules(built)[0].timeouts == Timeouts(10.0, 0.5)
    assert not built.snapshot.is_settled(built.snapshot.service("shop/web"), 80, "shop")
    who = built.snapshot.workload("shop/web")
    found = explain(built.snapshot, who, built.snapshot.service("shop/web"), 80, get("/"))
    assert "timeouts: the request 10 s, each attempt 0.5 s" in found.steps
    for none in ({}, {"request": "0s"}, {"request": "0s", "backendRequest": "0ms"}):
        assert rules(made(route({"timeouts": none, "backendRefs": [ONE]})))[0].timeouts is None


# parents


def test_a_route_of_another_parent_is_left_alone_whatever_it_says():
    parents = [{"name": "gate"}, {"group": "example.org", "kind": "Mesh", "name": "m"}]
    odd = {
        "filters": [{"type": "ExtensionRef", "extensionRef": {"group": "a.b", "kind": "C", "name": "d"}}],
        "matches": [path("(", "RegularExpression")],
    }
    built = made(route(odd, parents=parents))
    assert (rules(built), built.problems) == (None, ())


def test_a_parent_without_its_group_is_pointed_out():
    """Kubernetes fills it in with the Gateway API's own group."""
    for parent in ({"kind": "Service", "name": "web"}, PARENT | {"group": "gateway.networking.k8s.io"}):
        built = made(route({"backendRefs": [ONE]}, parents=[parent]))
        assert rules(built) is None
        assert told(built) == [
            ("group gateway.networking.k8s.io has no kind Service, so the route is not for web", 'write group: ""')
        ]


def test_a_port_is_named_by_its_number_or_name():
    for place in ({"port": 81}, {"sectionName": "chat"}, {"port": 81, "sectionName": "chat"}):
        built = made(route({"backendRefs": [ONE]}, parents=[PARENT | place]))
        assert rules(built, port=80) is None
        assert chosen(built, get("/"), port=81) == ["shop/one"]
    for place in ({"port": 82}, {"sectionName": "none"}, {"port": 80, "sectionName": "chat"}):
        built = made(route({"backendRefs": [ONE]}, parents=[PARENT | place]))
        assert rules(built, port=80) is None
        ((message, hint),) = told(built)
        assert message.startswith("Service shop/web has no port ")
        assert hint == "it has web 80, chat 81"


def test_routes_for_one_port_and_for_all_are_merged_there():
    everywhere = route({"matches": [path("/a")], "backendRefs": [ONE]}, name="all")
    there = route({"matches": [path("/b")], "backendRefs": [TWO]}, name="there", parents=[PARENT | {"port": 81}])
    built = made(everywhere, there)
    assert [chosen(built, get(one), port=81) for one in ("/a", "/b")] == [["shop/one"], ["shop/two"]]
    assert [chosen(built, get(one), port=80) for one in ("/a", "/b")] == [["shop/one"], "no-route"]


def test_a_consumer_route_holds_for_callers_of_its_own_namespace_in_the_place_of_producers():
    producer = route({"backendRefs": [ONE]}, name="p")
    parent = PARENT | {"namespace": "shop"}
    backend = TWO | {"namespace": "shop"}
    consumer = route({"matches": [path("/a")], "backendRefs": [backend]}, name="c", namespace="front", parents=[parent])
    built = made(producer, consumer)
    assert [chosen(built, get(one), caller="front") for one in ("/a", "/b")] == [["shop/two"], "no-route"]
    assert [chosen(built, get(one), caller="shop") for one in ("/a", "/b")] == [["shop/one"]] * 2
    assert [chosen(made(consumer), get("/b"), caller=one) for one in ("front", "shop")] == ["no-route", "own"]


def test_a_parent_that_is_not_there():
    built = made(route({"backendRefs": [ONE]}, parents=[PARENT | {"name": "gone"}, PARENT]))
    assert told(built) == [("there is no Service shop/gone, which the route is for", "")]
    assert chosen(built, get("/")) == ["shop/one"]


def test_hostnames_do_not_narrow_it():
    built = made(route({"backendRefs": [ONE]}, hostnames=["a.example"]))
    assert told(built, "notice") == [("hostnames do not narrow a route of a Service", "")]
    assert chosen(built, get("/", host="b.example")) == ["shop/one"]


def test_it_is_in_force_beside_a_split():
    split = """
---
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: s, namespace: shop}
spec: {service: web, backends: [{service: two, weight: 1}]}
"""
    built = made(split, route({"matches": [path("/a")], "backendRefs": [ONE]}, parents=[PARENT | {"port": 80}]))
    assert [chosen(built, get(one)) for one in ("/a", "/b")] == [["shop/one"], "no-route"]
    assert chosen(built, get("/a"), port=81) == ["shop/two"]
    assert told(built) == [
        ("TrafficSplit shop/s splits shop/web too; the HTTPRoute is in force for its calls", "keep one of them")
    ]


# what cannot be followed


def refused(built, request=None):
    """How explain tells it: reason and words."""
    who = built.snapshot.workload("shop/web")
    found = explain(built.snapshot, who, built.snapshot.service("shop/web"), 80, request or get("/"))
    return found.reason, found.lacked


@pytest.mark.parametrize(
    ("rule", "at", "why"),
    [
        (
            {"backendRefs": [ONE | {"filters": [{"type": "RequestRedirect", "requestRedirect": {}}]}]},
            "type",
            "a filter of a backend of type RequestRedirect is not done here",
        ),
        ({"filters": [{"type": "Banana"}]}, "type", "a filter of type Banana is not done here"),
        (
            {"backendRefs": [ONE | {"filters": [{"type": "Banana"}]}]},
            "type",
            "a filter of type Banana is not done here",
        ),
        ({"sessionPersistence": {}}, "sessionPersistence", "sessionPersistence is not done here"),
        ({"backendRefs": []}, "rules", "it names no backend"),
    ],
)
def test_a_rule_that_asks_for_what_is_not_done_refuses_its_calls_and_no_others(rule, at, why):
    good = {"matches": [path("/good")], "backendRefs": [ONE]}
    built = made(route({"backendRefs": [TWO], **rule}, good))
    name = "HTTPRoute shop/r, rule 1"
    assert told(built) == [(f"rule 1: {why}: its calls are answered 500", "")], "the report names the route itself"
    (problem,) = (p for p in built.problems if p.severity == "warning")
    lines = (SERVICES + route({"backendRefs": [TWO], **rule}, good)).splitlines()
    assert f'"{at}"' in lines[problem.where.line - 1] or at == "rules"
    assert chosen(built, get("/")) == "bad-route"
    assert refused(built) == ("bad-route", f"{name}: {why}")
    assert chosen(built, get("/good")) == ["shop/one"]
    assert not built.snapshot.is_settled(built.snapshot.service("shop/web"), 80, "shop")


def test_a_route_without_rules_refuses_every_request():
    assert chosen(made(route()), get("/")) == "bad-route"


@pytest.mark.parametrize(
    ("backend", "told_", "lacks"),
    [
        (
            {"name": "gone", "port": 80},
            "there is no Service shop/gone: its calls are answered 500",
            "the backend shop/gone does not exist",
        ),
        (
            {"name": "one", "port": 9},
            "Service shop/one has no port 9: its calls are answered 500",
            "the backend shop/one has no port 9",
        ),
        (
            {"name": "x", "kind": "ServiceImport", "group": "multicluster.x-k8s.io"},
            "backend ServiceImport.multicluster.x-k8s.io shop/x is no Service: its calls are answered 500",
            "the backend ServiceImport.multicluster.x-k8s.io shop/x does not exist",
        ),
    ],
)
def test_a_backend_that_is_not_there_keeps_its_share(backend, told_, lacks):
    built = made(route({"backendRefs": [backend, ONE]}))
    assert [message for message, _ in told(built)] == [told_]
    found = built.snapshot.candidates(built.snapshot.service("shop/web"), 80, get("/"))
    assert [one.backend.service for one in found.takers] == ["shop/one"]
    assert len(found.backends) == 2
    assert refused(built) == ("bad-route", lacks)


@pytest.mark.parametrize(
    ("rule", "line", "message"),
    [
        ({"matches": [path("a")]}, '"value": "a"', "path 'a' does not begin with a slash"),
        ({"matches": [path("/a//b")]}, '"value"', "no path of a request is '/a//b'"),
        ({"matches": [path("/a?b")]}, '"value"', "no path of a request is '/a?b'"),
        ({"matches": [path("/a/..")]}, '"value"', "no path of a request is '/a/..'"),
        ({"matches": [path("(", "RegularExpression")]}, '"value"', "pattern '(': missing ): ("),
        ({"matches": [path("\\Qa", "RegularExpression")]}, '"value"', "pattern '\\\\Qa': missing ): (?:\\Qa)$"),
        ({"matches": [path("/a", "Prefix")]}, '"type"', "'Prefix' is not a type of path"),
        ({"matches": [{"method": "get"}]}, '"method"', "'get' is not a method"),
        (
            {"matches": [{"headers": [{"name": "x", "value": "[", "type": "RegularExpression"}]}]},
            '"value"',
            "pattern '['",
        ),
        ({"matches": [{"headers": [{"name": "x", "value": "a", "type": "Regex"}]}]}, '"type"', "'Regex' is not a type"),
        (
            {"matches": [{"queryParams": [{"name": "x", "value": "a", "type": "R"}]}]},
            '"type"',
            "'R' is not a type of match",
        ),
        ({"matches": [{"headers": [{"name": "x"}]}]}, '"name"', "spec.rules[0].matches[0].headers[0].value is missing"),
        ({"matches": [{"paths": {}}]}, '"paths"', "unknown field spec.rules[0].matches[0].paths"),
        ({"backendRefs": [{"name": "one"}]}, '"name"', "backend one has no port"),
        ({"backendRefs": [ONE | {"weight": -1}]}, '"weight"', "spec.rules[0].backendRefs[0].weight: expected"),
        ({"backendRefs": [ONE | {"port": 0}]}, '"port"', "spec.rules[0].backendRefs[0].port: expected"),
        ({"filters": [{"type": "RequestHeaderModifier"}]}, '"type"', "a filter of type RequestHeaderModifier without"),
        (
            {"filters": [{"requestHeaderModifier": {}}]},
            '"requestHeaderModifier"',
            "spec.rules[0].filters[0].type is missing",
        ),
        ({"filters": [redirect(hostname="A.example")], "backendRefs": []}, '"hostname"', "'A.example' is no host name"),
        ({"filters": [rewrite(hostname="a.example:80")]}, '"hostname"', "'a.example:80' is no host name"),
        ({"filters": [redirect(scheme="ftp")], "backendRefs": []}, '"scheme"', "'ftp' is not a scheme"),
        (
            {"filters": [redirect(statusCode=200)], "backendRefs": []},
            '"statusCode"',
            "200 is not the status of a redirect",
        ),
        ({"filters": [redirect()]}, '"backendRefs"', "a rule with a RequestRedirect has backends"),
        (
            {"filters": [redirect(), rewrite()], "backendRefs": []},
            '"filters"',
            "a rule with a RequestRedirect has a URLRewrite",
        ),
        ({"timeouts": {"request": "1"}}, '"request"', "'1' is no time"),
        ({"timeouts": {"backendRequest": "-1s"}}, '"backendRequest"', "'-1s' is no time"),
        (
            {"timeouts": {"request": "1s", "backendRequest": "1001ms"}},
            '"backendRequest"',
            "backendRequest is longer than request",
        ),
        ({"filters": [rewrite(), rewrite()]}, '"filters"', "a rule has several filters of type URLRewrite"),
        ({"filters": [rewrite(path={"type": "Replace"})]}, '"type": "Replace"', "'Replace' is not a type of change"),
        (
            {"filters": [rewrite(path={"type": "ReplaceFullPath", "replacePrefixMatch": "/"})]},
            '"type": "ReplaceFullPath"',
            "a change of type ReplaceFullPath without replaceFullPath",
        ),
        *(
            (
                {"filters": [rewrite(path={"type": "ReplaceFullPath", "replaceFullPath": value})]},
                '"replaceFullPath"',
                f"{value!r} is no path to be sent",
            )
            for value in ("a", "/a b", "/a?b", "//a", "/a/../b", "/a\nb")
        ),
        (
            {
                "matches": [path("/a", "Exact")],
                "filters": [rewrite(path={"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"})],
            },
            '"type": "ReplacePrefixMatch"',
            "ReplacePrefixMatch in a rule that matches no prefix",
        ),
        *(
            ({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": change}]}, line, message)
            for change, line, message in (
                (
                    {"set": [{"name": "Host", "value": "x"}]},
                    '"name": "Host"',
                    "the field 'Host' is not a filter's to set",
                ),
                ({"add": [{"name": "x y", "value": "x"}]}, '"name": "x y"', "the field 'x y' is malformed"),
                ({"add": [{"name": "x", "value": "a\r\nb: c"}]}, '"name": "x"', "the field 'x' is malformed"),
                (
                    {"remove": ["X-Edgemesh-Reason"]},
                    '"X-Edgemesh',
                    "the field 'X-Edgemesh-Reason' is not a filter's to set",
                ),
            )
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_the_last_good_version_stays(rule, line, message):
    good = made(route({"backendRefs": [ONE]}))
    text = route({"backendRefs": [ONE], **rule})
    built = made(text, previous=good.accepted)
    (problem,) = (p for p in built.problems if p.severity == "error")
    assert problem.message.startswith(message), problem
    assert "the last good version stays in force" in problem.hint.replace("The", "the")
    assert problem.object == "HTTPRoute shop/r"
    lines = (SERVICES + text).splitlines()
    near = "\n".join(lines[problem.where.line - 2 : problem.where.line + 1])
    assert line in near, (problem.where.line, near)
    assert chosen(built, get("/")) == ["shop/one"]
    assert rules(made(text)) is None, "without a good version there is none"


def mirror(name="two", port=80, **more):
    said = {"backendRef": {"name": name, **({"port": port} if port else {})}, **more}
    return {"type": "RequestMirror", "requestMirror": said}


def test_copies_for_other_services():
    half = {"fraction": {"numerator": 1, "denominator": 2}}
    all_of = [mirror(), mirror(percent=5), mirror(**half), mirror(fraction={"numerator": 3})]
    built = made(route({"filters": all_of, "backendRefs": [ONE | {"filters": [mirror()]}]}))
    assert told(built) == told(built, "error") == []
    (rule, _) = rules(built)
    assert rule.filters == (
        RequestMirror("shop/two", 80),
        RequestMirror("shop/two", 80, 5, 100),
        RequestMirror("shop/two", 80, 1, 2),
        RequestMirror("shop/two", 80, 3, 100),
    )
    assert rule.backends[0].filters == (RequestMirror("shop/two", 80),)
    who = built.snapshot.workload("shop/one")
    steps = explain(built.snapshot, who, built.snapshot.service("shop/web"), 80, get("/")).steps
    assert "request: a copy of 1 in 2 goes to shop/two port 80, where the caller has to be allowed too" in steps


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (mirror("gone"), "there is no Service shop/gone: no copies go there"),
        (mirror(port=82), "Service shop/two has no port 82: no copies go there"),
        (
            {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "x", "kind": "Bucket", "group": "a.b"}}},
            "Bucket.a.b shop/x is no Service: no copies go there",
        ),
    ],
)
def test_copies_that_nobody_gets_are_pointed_out_and_the_call_is_served(said, why):
    built = made(route({"filters": [said], "backendRefs": [ONE]}))
    assert [message for message, _ in told(built)] == [why]
    assert chosen(built, get("/")) == ["shop/one"]


@pytest.mark.parametrize(
    ("said", "at"),
    [
        ({"type": "RequestMirror"}, "$.spec.rules[0].filters[0].requestMirror"),
        (mirror(percent=101), "percent"),
        (mirror(percent=5, fraction={"numerator": 1}), "both percent and fraction"),
        (mirror(fraction={"numerator": 3, "denominator": 2}), "3 of 2"),
        (mirror(fraction={"numerator": 3, "denominator": 0}), "denominator"),
        (mirror(port=0), "backend two has no port"),
    ],
)
def test_a_mirror_with_a_mistake_leaves_the_last_good_version_in_force(said, at):
    good = made(route({"backendRefs": [TWO]}))
    built = made(route({"filters": [said], "backendRefs": [ONE]}), previous=good.accepted)
    assert chosen(built, get("/")) == ["shop/two"]
    assert told(built, "error")
    assert at.rpartition(".")[2] in "".join(message for message, _ in told(built, "error"))


def test_cors_becomes_one_of_the_model_and_the_preflight_is_explained():
    said = {
        "allowOrigins": ["https://Shop.example", "http://*.example:81"],
        "allowMethods": ["PUT"],
        "allowHeaders": ["X-A"],
        "exposeHeaders": ["X-B"],
        "allowCredentials": True,
        "maxAge": 60,
    }
    built = made(route({"filters": [{"type": "CORS", "cors": said}], "backendRefs": [ONE]}))
    assert told(built) == told(built, "error") == []
    origins = ("https://shop.example", "http://*.example:81")
    assert rules(built)[0].filters == (Cors(origins, ("PUT",), ("X-A",), ("X-B",), True, 60),)
    who, web = built.snapshot.workload("shop/one"), built.snapshot.service("shop/web")
    asked = get("/", "OPTIONS", origin="https://shop.example", access_control_request_method="PUT")
    found = explain(built.snapshot, who, web, 80, asked)
    assert found.allowed
    assert found.steps[-2:] == (
        "HTTPRoute shop/r, rule 1: no server is asked",
        f"pages of other origins: origins {', '.join(origins)}; methods PUT; fields X-A; with credentials",
    )
    assert not explain(built.snapshot, who, web, 80, get("/", "OPTIONS", origin="https://shop.example")).allowed
    built = made(route({"filters": [{"type": "CORS", "cors": {}}], "backendRefs": [ONE]}))
    assert rules(built)[0].filters == (Cors(),)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "a filter of type CORS without cors"),
        ({"allowOrigins": ["shop.example"]}, "'shop.example' is no origin"),
        ({"allowOrigins": ["https://a.example/x"]}, "'https://a.example/x' is no origin"),
        ({"allowOrigins": ["*", "https://a.example"]}, "* beside other values"),
        ({"allowMethods": ["get"]}, "'get' is not a method"),
        ({"allowHeaders": ["a b"]}, "'a b' is no name of a field"),
        ({"exposeHeaders": ["a,b"]}, "'a,b' is no name of a field"),
    ],
)
def test_cors_with_a_mistake_is_refused(said, message):
    built = made(route({"filters": [{"type": "CORS", **({"cors": said} if said else {})}], "backendRefs": [ONE]}))
    assert [one for one, _ in told(built, "error")] == [message]


def test_cors_is_of_a_rule_and_of_http():
    built = made(route({"backendRefs": [ONE | {"filters": [{"type": "CORS", "cors": {}}]}]}))
    assert chosen(built, get("/")) == "bad-route"
    twice = [{"type": "CORS", "cors": {}}] * 2
    assert told(made(route({"filters": twice, "backendRefs": [ONE]})), "error")
