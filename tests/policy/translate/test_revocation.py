"""translate/revocation.py: nothing but an object that can be read lifts a revocation."""

import pytest

from agent.sources.manifest import read
from policy.build import build
from policy.model import Identity, Node, Revoked

STOLEN = """apiVersion: edgemesh.io/v1alpha1
kind: Revocation
metadata: {name: stolen}
spec:
  nodes: [till-3]
  identities:
    - {namespace: shop, serviceAccount: thief}
  serials:
    - "0A:1B"
"""
OTHER = STOLEN.replace("name: stolen", "name: other").replace("till-3", "till-4").replace("0A:1B", "ff")
ALL = Revoked(("till-3",), (Identity("shop", "thief"),), ("a1b",))


def made(*texts, previous=None, node="", nodes=()):
    objects = [raw for number, text in enumerate(texts) for raw in read(text.encode(), f"r{number}.yaml").objects]
    return build(objects, previous, node=node, nodes=nodes)


def errors(built):
    return [p for p in built.problems if p.severity == "error"]


def test_it_is_read():
    built = made(STOLEN, nodes=[Node("till-3")])
    assert built.snapshot.revoked == ALL
    assert built.problems == ()
    assert built.snapshot.refuses(None, "till-3") == "node till-3 is revoked"


def test_several_add_up():
    assert made(STOLEN, OTHER).snapshot.revoked == Revoked(("till-3", "till-4"), (Identity("shop", "thief"),), ("a1b", "ff"))


def test_a_duplicate_is_merged():
    twice = OTHER.replace("name: other", "name: stolen")
    for texts in ((STOLEN, twice), (twice, STOLEN)):
        built = made(*texts)
        assert built.snapshot.revoked.nodes == ("till-3", "till-4")
        (told,) = [p for p in built.problems if p.severity != "notice"]
        assert (told.severity, told.where.file) == ("warning", "r1.yaml")
        again = made(*texts, previous=built.accepted)
        assert (again.snapshot, again.accepted) == (built.snapshot, built.accepted)


def test_one_that_can_be_read_lifts():
    good = made(STOLEN)
    assert made(STOLEN.replace("till-3", "till-9"), previous=good.accepted).snapshot.revoked.nodes == ("till-9",)
    assert made(previous=good.accepted).snapshot.revoked == Revoked()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nodes: [till-3]", "nodes: till-3"),
        ("nodes: [till-3]", "nodez: []"),
        ("serviceAccount: thief", "account: thief"),
        ('"0A:1B"', "xyz"),
        ('"0A:1B"', "1234"),
        ("v1alpha1", "v1"),
        ("{name: stolen}", "{}"),
        ("{name: stolen}", "{name: renamed, labels: 3}"),
        ("kind: Revocation", "kind: Revokation"),
        ("kind: Revocation", "sort: Revocation"),
        ("edgemesh.io", "edgemsh.io"),
    ],
)
def test_one_that_cannot_be_read_lifts_nothing_however_often_it_is_looked_at(old, new):
    previous = made(STOLEN, OTHER).accepted
    for _ in range(3):
        built = made(STOLEN.replace(old, new), OTHER, previous=previous)
        assert set(ALL.nodes) <= set(built.snapshot.revoked.nodes)
        assert set(ALL.identities) <= set(built.snapshot.revoked.identities)
        assert set(ALL.serials) <= set(built.snapshot.revoked.serials)
        assert [p for p in built.problems if p.where.file == "r0.yaml"], "somebody is told"
        previous = built.accepted
    mended = made(STOLEN.replace("till-3", "till-5"), OTHER, previous=previous).snapshot.revoked
    assert mended.nodes == ("till-4", "till-5")


def test_what_can_be_read_of_a_new_one_counts():
    built = made(STOLEN.replace('"0A:1B"', '1234\n    - "0A:1B"'))
    assert built.snapshot.revoked == ALL
    (problem,) = errors(built)
    assert str(problem.where) == "r0.yaml:9"
    assert "spec.serials[0]" in problem.message
    assert problem.hint == "write it in quotes", "YAML takes a serial of digits for a number"


def test_a_broken_duplicate_keeps_what_it_said():
    good = made(STOLEN, OTHER.replace("name: other", "name: stolen"))
    built = made(STOLEN, "kind: Revocation\napiVersion: edgemesh.io/v1alpha1\nmetadata: {name: stolen}\nspec: 7\n", previous=good.accepted)
    assert built.snapshot.revoked == good.snapshot.revoked
    assert "last good" in errors(built)[0].hint


def test_a_deleted_one_stays_while_another_cannot_be_read():
    good = made(STOLEN)
    built = made(OTHER.replace("nodes:", "nodez:"), previous=good.accepted)
    assert "till-3" in built.snapshot.revoked.nodes
    (told,) = [p for p in built.problems if p.severity == "warning"]
    assert told.object == "Revocation stolen"
    assert "stays revoked" in told.message
    assert made(OTHER, previous=built.accepted).snapshot.revoked.nodes == ("till-4",)


def test_other_broken_objects_hold_nothing_back():
    good = made(STOLEN)
    broken = "apiVersion: edgemesh.io/v1alpha1\nkind: Workload\nmetadata: {name: w}\nspec: {netnz: x}\n"
    assert made(broken, previous=good.accepted).snapshot.revoked == Revoked()


def test_this_node_and_unknown_ones_are_pointed_out():
    (told,) = made(STOLEN, node="till-3").problems
    assert (told.severity, told.message) == ("warning", "this node, till-3, is revoked: other nodes refuse it")
    (told,) = made(STOLEN, node="till-1").problems
    assert (told.severity, str(told.where), told.message) == ("notice", "r0.yaml:5", "no node till-3 is known here")


def test_one_that_revokes_nobody_is_pointed_out():
    (told,) = made("apiVersion: edgemesh.io/v1alpha1\nkind: Revocation\nmetadata: {name: none}\n").problems
    assert (told.severity, told.message) == ("notice", "revokes nobody")
