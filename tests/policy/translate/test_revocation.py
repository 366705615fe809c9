"""translate/revocation.py: nothing but an object that can be read lifts a revocation."""

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
    assert made(STOLEN, OTHER).snapshot.revoked == Revoked(
        ("till-3", "till-4"), (Identity("shop", "thief"),), ("a1b", "ff")
    )


def test_one_that_is_gone_lifts_nothing():
    """A file that was moved away, a transfer that broke off: no thief is to be trusted again because of it."""
    previous = made(STOLEN, OTHER).accepted
    for _ in range(3):
        built = made(OTHER, previous=previous)
        assert built.snapshot.revoked.nodes == ("till-3", "till-4")
        (told,) = [p for p in built.problems if p.severity == "warning"]
        assert (told.object, "edgemesh release Revocation/stolen" in told.hint) == ("Revocation stolen", True)
        previous = built.accepted
    assert made(
        OTHER, previous={k: v for k, v in previous.items() if k != "Revocation /stolen"}
    ).snapshot.revoked.nodes == ("till-4",)


def test_this_node_and_unknown_ones_are_pointed_out():
    (told,) = made(STOLEN, node="till-3").problems
    assert (told.severity, told.message) == ("warning", "this node, till-3, is revoked: other nodes refuse it")
    (told,) = made(STOLEN, node="till-1").problems
    assert (told.severity, str(told.where), told.message) == ("notice", "r0.yaml:5", "no node till-3 is known here")


def test_one_that_revokes_nobody_is_pointed_out():
    (told,) = made("apiVersion: edgemesh.io/v1alpha1\nkind: Revocation\nmetadata: {name: none}\n").problems
    assert (told.severity, told.message) == ("notice", "revokes nobody")
