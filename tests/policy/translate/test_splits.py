"""translate/splits.py beyond the conformance rows: what is pointed out, how names are read, and the bounds of nesting."""

import itertools

import pytest

from policy.explain import explain
from policy.route import Backend, Regex
from policy.translate.splits import own_name
from tests.policy.translate.test_smi import SERVICES, group, made, object_, said

SPLITS = "split.smi-spec.io/v1alpha4"


def split(backends, service="web", name="s", version=SPLITS, **metadata):
    return object_(version, "TrafficSplit", name, {"service": service, "backends": backends}, **metadata)


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
    assert built.snapshot.service("shop/web").routes == ()


@pytest.mark.parametrize("version", ["v1alpha2", "v1alpha3", "v1alpha4"])
def test_backends_may_be_written_in_full(version):
    built = made(
        SERVICES
        + split([{"service": "web-2.shop.svc.cluster.local", "weight": 3}], version=f"split.smi-spec.io/{version}")
    )
    assert built.snapshot.service("shop/web").routes[0].rules[0].backends == (Backend("shop/web-2", 3),)
    assert built.problems == ()


def test_a_split_of_no_service_is_pointed_out():
    built = made(SERVICES + split([{"service": "web-2", "weight": 1}], service="gone"))
    assert said(built, "warning") == ["there is no Service shop/gone to split"]


def test_without_a_time_of_creation_the_first_by_name_is_in_force_and_a_dated_one_goes_before_it():
    one, two = (
        split([{"service": "web-2", "weight": 1}], name="a"),
        split([{"service": "web-2", "weight": 2}], name="b"),
    )
    built = made(SERVICES + two + one)
    assert built.snapshot.service("shop/web").routes[0].rules[0].backends[0].weight == 1
    assert any(p.object == "TrafficSplit shop/b" and "Conflict" in p.message for p in built.problems)
    dated = split([{"service": "web-2", "weight": 2}], name="b", creationTimestamp="2024-01-01T00:00:00Z")
    assert made(SERVICES + one + dated).snapshot.service("shop/web").routes[0].rules[0].backends[0].weight == 2


def test_a_split_whose_group_is_gone_does_not_hold():
    good = (
        SERVICES
        + group({"name": "m", "pathRegex": "/$"})
        + object_(
            SPLITS,
            "TrafficSplit",
            "s",
            {
                "service": "web",
                "matches": [{"kind": "HTTPRouteGroup", "name": "r"}],
                "backends": [{"service": "web-2", "weight": 1}],
            },
        )
    )
    first = made(good)
    assert first.snapshot.service("shop/web").routes
    without = made(good.replace("kind: HTTPRouteGroup\n", "kind: ConfigMap\n", 1), first.accepted)
    assert without.snapshot.service("shop/web").routes == ()
    assert any("there is no HTTPRouteGroup shop/r" in message for message in said(without, "error"))


@pytest.mark.parametrize(("weight", "severity"), [(0, "notice"), (1, "warning")])
def test_a_backend_that_is_not_there_yet_is_a_mistake_once_it_should_get_something(weight, severity):
    """SMI's own rollout begins with a backend of weight 0 that has no Service yet (traffic-split.md, "Workflow")."""
    built = made(SERVICES + split([{"service": "web-2", "weight": 1}, {"service": "web-3", "weight": weight}]))
    assert said(built, severity) == ["there is no Service shop/web-3 yet; it gets nothing"]


def services(*names):
    return "\n---\n".join(
        f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{ports: [{{port: 80}}]}}}}"
        for name in names
    )


def chain(length):
    """Splits of a0 over a1, a1 over a2, and so on."""
    return services(*(f"a{n}" for n in range(length + 1))) + "".join(
        split([{"service": f"a{n + 1}", "weight": 1}], service=f"a{n}", name=f"s{n}") for n in range(length)
    )


def rules(built, service="shop/web"):
    return [{b.service: b.weight for b in rule.backends} for rule in built.snapshot.service(service).routes[0].rules]


def test_eight_splits_nest_and_the_ninth_is_refused_alone():
    built = made(chain(8))
    assert built.problems == ()
    assert rules(built, "shop/a0") == [{"shop/a8": 1}]
    assert built.snapshot.service("shop/a0").routes[0].name == ", ".join(f"TrafficSplit shop/s{n}" for n in range(8))
    built = made(chain(9))
    (problem,) = built.problems
    assert (problem.object, problem.severity) == ("TrafficSplit shop/s0", "error")
    assert "nest deeper than 8: a0 -> a1 -> a2" in problem.message
    assert built.snapshot.service("shop/a0").routes == ()
    assert rules(built, "shop/a1") == [{"shop/a9": 1}]


def test_a_loop_that_an_edit_closes_leaves_what_was_in_force():
    before = made(
        services("a", "b", "c")
        + split([{"service": "b", "weight": 1}], service="a", name="z-one")
        + split([{"service": "c", "weight": 1}], service="b", name="y-two")
    )
    edited = (
        services("a", "b", "c")
        + split([{"service": "b", "weight": 1}], service="a", name="z-one")
        + split([{"service": "a", "weight": 1}], service="b", name="y-two")
    )
    # The youngest of the loop is z-one, which says what it said before: it is refused, and y-two holds
    again = made(edited, before.accepted)
    assert [p.object for p in again.problems if p.severity == "error"] == ["TrafficSplit shop/z-one"]
    assert rules(again, "shop/b") == [{"shop/a": 1}]
    # The other way about the edited one is the youngest: its last good version holds
    renamed = (
        edited.replace("y-two", "zz-two"),
        {key.replace("y-two", "zz-two"): raw for key, raw in before.accepted.items()},
    )
    good = made(
        services("a", "b", "c")
        + split([{"service": "b", "weight": 1}], service="a", name="z-one")
        + split([{"service": "c", "weight": 1}], service="b", name="zz-two")
    )
    again = made(renamed[0], good.accepted)
    (problem,) = [p for p in again.problems if p.severity == "error"]
    assert problem.object == "TrafficSplit shop/zz-two"
    assert "in a loop: b -> a -> b" in problem.message
    assert "last good version stays in force" in problem.hint
    assert rules(again, "shop/a") == [{"shop/c": 1}]


def test_a_split_above_a_loop_is_not_in_it():
    built = made(
        services("top", "a", "b")
        + split([{"service": "a", "weight": 1}], service="top", name="z")
        + split([{"service": "b", "weight": 1}], service="a", name="x")
        + split([{"service": "a", "weight": 1}], service="b", name="y")
    )
    assert [p.object for p in built.problems] == ["TrafficSplit shop/y"]
    assert rules(built, "shop/top") == [{"shop/b": 1}]


def test_a_backend_that_two_ways_lead_to_gets_the_sum():
    built = made(
        services("web", "a", "b", "c")
        + split([{"service": "a", "weight": 1}, {"service": "b", "weight": 1}])
        + split([{"service": "b", "weight": 1}, {"service": "c", "weight": 1}], service="a", name="t")
    )
    assert rules(built) == [{"shop/b": 3, "shop/c": 1}]
    assert built.problems == ()


def test_weights_that_make_great_numbers_are_rounded_and_none_becomes_nothing():
    primes = [999_983, 999_979, 999_961, 999_959]
    built = made(
        services("web", "leaf", *(f"a{n}" for n in range(4)), *(f"b{n}" for n in range(4)))
        + split([{"service": f"a{n}", "weight": 1} for n in range(4)])
        + "".join(
            split(
                [{"service": "leaf", "weight": 1}, {"service": f"b{n}", "weight": prime}], service=f"a{n}", name=f"t{n}"
            )
            for n, prime in enumerate(primes)
        )
    )
    (found,) = rules(built)
    assert found == {"shop/leaf": 4, **{f"shop/b{n}": found[f"shop/b{n}"] for n in range(4)}}
    assert all(999_000 < found[f"shop/b{n}"] <= 1_000_000 for n in range(4))


def test_a_split_below_that_gives_nobody_a_weight_gets_nothing():
    inner = split([{"service": "b", "weight": 0}], service="a", name="t")
    built = made(services("web", "a", "b", "c") + split([{"service": "a", "weight": 1}]) + inner)
    assert rules(built) == [{"shop/b": 0}]
    built = made(
        services("web", "a", "b", "c") + split([{"service": "a", "weight": 1}, {"service": "c", "weight": 1}]) + inner
    )
    assert rules(built) == [{"shop/b": 0, "shop/c": 1}]


def test_what_lacks_a_port_of_the_root_passes_nothing_on():
    built = made(
        services("web", "b").replace("[{port: 80}]", "[{port: 80, name: a}, {port: 81, name: b}]")
        + "\n---\n"
        + services("a")
        + split([{"service": "a", "weight": 1}])
        + split([{"service": "b", "weight": 1}], service="a", name="t")
    )
    assert rules(built) == [{"shop/a": 1}]
    assert said(built, "warning") == [
        "shop/a has no port 81 and gets nothing there, and TrafficSplit shop/t does not hold for its calls"
    ]


def test_methods_that_exclude_each_other_make_no_rule():
    def of(name, method):
        return group({"name": "m", "pathRegex": "/", "methods": [method]}, name=name)

    def matching(service, backend, name):
        spec = {
            "service": service,
            "matches": [{"kind": "HTTPRouteGroup", "name": name}],
            "backends": [{"service": backend, "weight": 1}],
        }
        return object_(SPLITS, "TrafficSplit", name, spec)

    built = made(
        services("web", "a", "b")
        + of("get", "GET")
        + of("put", "PUT")
        + matching("web", "a", "get")
        + matching("a", "b", "put")
    )
    assert rules(built) == [{"shop/a": 1}]
    (match,) = built.snapshot.service("shop/web").routes[0].rules[0].matches
    assert (match.path, match.methods, match.also) == (Regex("/"), ("GET",), ())


def test_wide_nests_are_refused_before_they_are_made():
    # Each service of a layer leads to all ten of the next: 10**8 ways from the top
    layers = [[f"l{deep}x{n}" for n in range(10)] for deep in range(8)]
    text = services("web", *(name for layer in layers for name in layer))
    text += split([{"service": name, "weight": 1} for name in layers[0]])
    for above, below in itertools.pairwise(layers):
        for name in above:
            text += split([{"service": one, "weight": 1} for one in below], service=name, name=name)
    built = made(text)
    told = {p.object: p.message for p in built.problems if p.severity == "error"}
    assert told["TrafficSplit shop/s"] == "more than 256 ways lead through the splits below it"
    assert rules(built, "shop/l5x0") == [{f"shop/{one}": 1 for one in layers[7]}]


def test_many_rules_are_refused():
    # Seven backends with matches of their own: 2**7 combinations
    names = [f"a{n}" for n in range(7)]
    text = services("web", "leaf", *names) + split([{"service": name, "weight": 1} for name in names])
    for name in names:
        text += group({"name": "m", "headers": {f"x-{name}": "1"}}, name=name)
        spec = {
            "service": name,
            "matches": [{"kind": "HTTPRouteGroup", "name": name}],
            "backends": [{"service": "leaf", "weight": 1}],
        }
        text += object_(SPLITS, "TrafficSplit", name, spec)
    built = made(text)
    (problem,) = [p for p in built.problems if p.severity == "error"]
    assert problem.object == "TrafficSplit shop/s"
    assert "more than 64 rules" in problem.message
    assert built.snapshot.service("shop/web").routes == ()


def test_a_split_that_nests_nothing_has_no_bound_of_backends():
    names = [f"a{n}" for n in range(300)]
    built = made(services("web", *names) + split([{"service": name, "weight": 1} for name in names]))
    assert built.problems == ()
    assert len(rules(built)[0]) == 300


def test_explain_names_every_split_that_has_a_say():
    who = {"serviceAccount": "till", "addresses": ["10.0.0.9"]}
    built = made(
        services("web", "a", "b", "c")
        + split([{"service": "a", "weight": 1}, {"service": "c", "weight": 1}])
        + split([{"service": "b", "weight": 1}], service="a", name="t")
        + object_("edgemesh.io/v1alpha1", "Workload", "till", who)
    )
    snapshot = built.snapshot
    told = explain(snapshot, snapshot.workload("shop/till"), snapshot.service("shop/web"), 80)
    assert "TrafficSplit shop/s, TrafficSplit shop/t splits shop/web: shop/b 1, shop/c 1" in told.steps
