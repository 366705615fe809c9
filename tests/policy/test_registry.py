"""registry.py: a row is all that a kind needs, and rows stand below those that they need."""

from typing import Annotated

import pytest
from msgspec import Meta

from policy import build as building
from policy import registry, unknown
from policy.build import build
from policy.kinds.base import Strict
from policy.model import Mesh, Where
from policy.registry import KINDS, TRANSLATORS, Kind
from policy.resources import RawObject
from policy.translate import mtls, osm, services, smi, tunnel_doors


class Toy(Strict, frozen=True):
    size: Annotated[int, Meta(ge=1)]
    paint: str = ""


def _check(toy, resources):
    if toy.spec.size > 9:
        yield "$.spec.size", "it is too large", ""
    if toy.spec.paint and resources.get("ServiceAccount", f"{toy.namespace}/{toy.spec.paint}") is None:
        yield "$.spec.paint", "nobody paints so", ""


def _translate(resources, draft):
    draft.mesh = Mesh(trust_domain=f"toy-{sum(toy.spec.size for toy in resources.all('Toy'))}")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    row = Kind(
        "toys.example", ("v1",), Toy, check=_check, stays_in_force=frozenset(("$.spec.paint",)), translate=(_translate,)
    )
    monkeypatch.setitem(KINDS, "Toy", row)
    monkeypatch.setattr(building, "TRANSLATORS", (*TRANSLATORS, _translate))


def toy(name, **spec):
    return RawObject(
        {"apiVersion": "toys.example/v1", "kind": "Toy", "metadata": {"name": name}, "spec": spec},
        Where("t.yaml", 1),
        {},
    )


def built(*objects, previous=None):
    made = build(objects, previous)
    return made.snapshot.mesh.trust_domain, [problem.message for problem in made.problems], made


def test_a_row_is_decoded_and_translated():
    assert built(toy("a", size=2), toy("b", size=3))[:2] == ("toy-5", [])


def test_its_shape_is_held():
    domain, told, _ = built(toy("a", size=0), toy("b", size=3))
    assert (domain, len(told)) == ("toy-3", 1)


def test_its_check_is_asked_and_the_last_good_version_stays():
    good = built(toy("a", size=2))[2]
    assert built(toy("a", size=10))[:2] == ("toy-0", ["it is too large"])
    assert built(toy("a", size=10), previous=good.accepted)[:2] == ("toy-2", ["it is too large"])


def test_a_fault_that_it_can_do_without_leaves_it_in_force():
    assert built(toy("a", size=2, paint="red"))[:2] == ("toy-2", ["nobody paints so"])
    assert built(toy("a", size=10, paint="red"))[:2] == ("toy-0", ["it is too large", "nobody paints so"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (osm.translate, services.translate),  # exclusions of the mesh
        (mtls.translate, tunnel_doors.translate),  # modes
        (services.translate, tunnel_doors.translate),  # workloads with their ports
        (services.translate, smi.translate),  # Services
    ],
)
def test_translators_come_after_what_they_need(first, second):
    assert TRANSLATORS.index(first) < TRANSLATORS.index(second)


def test_kinds_stand_below_those_that_they_name():
    order = list(KINDS)
    for kind, named in (
        ("Workload", "Deployment"),
        ("TrafficTarget", "HTTPRouteGroup"),
        ("TrafficSplit", "HTTPRouteGroup"),
    ):
        assert order.index(named) < order.index(kind)


def test_each_translator_runs_once():
    assert len(set(TRANSLATORS)) == len(TRANSLATORS)
    assert set(TRANSLATORS) == {one for name, row in registry.KINDS.items() if name != "Toy" for one in row.translate}


OTHER = "Toy.puppets.example"


def puppet(name, version="v1", **spec):
    raw = toy(name, **spec)
    return RawObject({**raw.data, "apiVersion": f"puppets.example/{version}"}, Where("p.yaml", 1), {})


@pytest.fixture
def puppets(monkeypatch):
    """A kind Toy of another group."""
    monkeypatch.setitem(KINDS, OTHER, Kind("puppets.example", ("v1",), Toy, check=_check))


def test_two_groups_have_a_kind_of_one_name(puppets):
    trust_domain, messages, made = built(toy("a", size=2), puppet("a", size=5))
    assert (trust_domain, messages) == ("toy-2", [])
    assert {"Toy default/a", f"{OTHER} default/a"} <= made.accepted.keys()
    assert registry.row_name("puppets.example", "Toy") == OTHER
    assert registry.row_name("toys.example", "Toy") == "Toy"


def test_a_broken_object_falls_back_to_its_own_last_good_version(puppets):
    before = built(toy("a", size=2), puppet("a", size=5))[2].accepted
    for broken in (puppet("a", size="five"), puppet("a", size=10), puppet("a", version="v7", size=5)):
        made = build([toy("a", size=3), broken], before)
        assert [(one.severity, one.object) for one in made.problems] == [("error", f"{OTHER} default/a")]
        assert "last good version" in made.problems[0].hint
        assert made.accepted[f"{OTHER} default/a"] == before[f"{OTHER} default/a"]
        assert made.snapshot.mesh.trust_domain == "toy-3"


def test_a_misspelt_kind_is_that_of_its_group(puppets, monkeypatch):
    monkeypatch.setattr(unknown, "_WHOLE", frozenset(("toys.example", "puppets.example")))
    made = build([toy("a", size=2), puppet("a", size=5)])
    raw = puppet("a", size=6)
    raw = RawObject({**raw.data, "kind": "Toi"}, raw.where, {})
    again = build([toy("a", size=2), raw], made.accepted)
    assert again.accepted[f"{OTHER} default/a"] == made.accepted[f"{OTHER} default/a"]
    assert again.snapshot.mesh.trust_domain == "toy-2"
