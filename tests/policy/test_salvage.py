"""salvage.py, through build(): nothing but an object that can be read lifts a revocation."""

import pytest

from policy.model import Revoked
from tests.policy.translate.test_revocation import ALL, OTHER, STOLEN, errors, made


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
    nobody = "apiVersion: edgemesh.io/v1alpha1\nkind: Revocation\nmetadata: {name: stolen}\n"
    assert made(nobody, previous=good.accepted).snapshot.revoked == Revoked()


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
    built = made(
        STOLEN,
        "kind: Revocation\napiVersion: edgemesh.io/v1alpha1\nmetadata: {name: stolen}\nspec: 7\n",
        previous=good.accepted,
    )
    assert built.snapshot.revoked == good.snapshot.revoked
    assert "last good" in errors(built)[0].hint
