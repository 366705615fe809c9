"""collect.py, through build(): duplicates, kinds that are not read, last good versions of what cannot be decoded."""

import pytest

from policy.model import Where
from policy.resources import RawObject
from tests.policy.test_build import allowed, changed, made, of, raws


def test_a_duplicate_names_the_first_place():
    twice = [*raws(), RawObject(of(raws(), "TrafficTarget").data, Where("y.yaml", 3), {})]
    (problem,) = [p for p in made(twice).problems if p.severity == "error"]
    assert str(problem.where) == "y.yaml:3"
    assert "x.yaml:7" in problem.message


def test_unread_kinds_are_named_once():
    more = [
        RawObject({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": str(n)}}, Where("z.yaml", n), {})
        for n in (1, 2)
    ]
    notices = [p for p in made([*raws(), *more]).problems if "ConfigMap" in p.message]
    assert len(notices) == 1
    assert notices[0].severity == "notice"


def test_unread_kinds_that_somebody_counts_on_are_asked_for_and_not_done():
    raw = RawObject(
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x"}},
        Where("z.yaml", 1),
        {},
    )
    assert [p.object for p in made([*raws(), raw]).problems if p.unmet] == ["NetworkPolicy (networking.k8s.io)"]


def test_a_hint_that_asks_is_a_sentence_of_its_own():
    built = made(changed(raws(), "TrafficTarget", sourcs=[]), made(raws()).accepted)
    assert any("did you mean sources? The last good version" in p.hint for p in built.problems)


def test_of_two_at_one_place_the_older_stands_whatever_their_order():
    place = Where("https://api/", 0)
    routes = of(raws(), "HTTPRouteGroup").data
    pair = [
        RawObject(
            {
                **routes,
                "metadata": {**routes["metadata"], "creationTimestamp": f"202{n}-01-01T00:00:00Z"},
                "spec": spec,
            },
            place,
            {},
        )
        for n, spec in (
            (5, {"matches": [{"name": "a", "pathRegex": "/new"}]}),
            (4, {"matches": [{"name": "a", "pathRegex": "/old"}]}),
        )
    ]
    rest = [raw for raw in raws() if raw.data["kind"] != "HTTPRouteGroup"]
    for order in (pair, pair[::-1]):
        built = made([*rest, *order])
        assert allowed(built, "/old")
        assert not allowed(built, "/new")
        assert [p.object for p in built.problems if p.severity == "error"] == ["HTTPRouteGroup shop/r"]


def namespace(where: str, **labels: str) -> RawObject:
    data = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "inn", "labels": labels}}
    return RawObject(data, Where(where, 1), {})


@pytest.mark.parametrize(
    ("here", "there", "effect"),
    [
        ({}, {"edgemesh.io/mesh": "enabled"}, ", and takes its pods out of the mesh"),
        (
            {"edgemesh.io/mesh": "enabled", "openservicemesh.io/ignore": "true"},
            {"openservicemesh.io/monitored-by": "osm"},
            ", and takes its pods out of the mesh",
        ),
        ({"edgemesh.io/mesh": "enabled"}, {}, ", and puts its pods into the mesh"),
        ({"edgemesh.io/mesh": "enabled"}, {"openservicemesh.io/monitored-by": "osm"}, ""),
        ({}, {}, ""),
    ],
)
def test_a_namespace_of_the_directory_counts_whole_and_the_problem_says_what_follows(here, there, effect):
    built = made([*raws(), namespace("kubernetes:Namespace/inn", **there), namespace("shop/a.yaml", **here)])
    assert built.accepted["Namespace /inn"].where.file == "shop/a.yaml"
    (problem,) = [one for one in built.problems if one.severity == "error"]
    assert problem.where.file == "kubernetes:Namespace/inn"
    assert problem.message == f"stands in the directory too; that one, at shop/a.yaml:1, is in force{effect}"
