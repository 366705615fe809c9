"""registry.py: a row is all that a kind needs, and rows stand below those that they need."""

from typing import Annotated

import pytest
from msgspec import Meta

from policy import build as building
from policy import registry
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
