"""The demo table by kubectl: the bookstore's manifests applied unchanged, step by step, and who then gets books.

The tests of this file run in its order: each begins where the one before it ended, as a person's evening with the demo does.
"""

from __future__ import annotations

import pytest

from tests.kube.bookstores import Bookstore
from tests.kube.clusters import PROGRAMS, answers, until

V1, V2 = "bookstore-v1", "bookstore-v2"


@pytest.fixture(scope="module")
def cluster(mesh):
    return mesh.cluster


@pytest.fixture(scope="module")
def books(mesh):
    made = Bookstore(mesh.cluster)
    made.down()
    made.up()
    yield made
    made.down()


# what is applied, bookbuyer has books, bookthief has, at which stores
STEPS = {
    "permissive: everybody may": (("mesh-permissive",), True, True, {V1}),
    "permissive off, no policy: nobody may": (("mesh-smi",), False, False, set()),
    "traffic-access-v1: bookbuyer may": (("traffic-access-v1",), True, False, {V1}),
    "bookthief is allowed": (("traffic-access-v1-allow-bookthief",), True, True, {V1}),
    "back to traffic-access-v1": (("traffic-access-v1",), True, False, {V1}),
    "bookstore-v2 with its own target": (("bookstore-v2", "traffic-access-v2"), True, False, {V1, V2}),
    "split: all to v1": (("traffic-split-v1",), True, False, {V1}),
    "split: half and half": (("traffic-split-50-50",), True, False, {V1, V2}),
    "split: all to v2": (("traffic-split-v2",), True, False, {V2}),
}


def test_shoppers_and_stores_are_on_different_nodes(books):
    if len(books.cluster.nodes) > 1:
        assert books.node("bookbuyer", "bookbuyer") != books.node("bookstore", "bookstore")


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_table(books, step):
    files, buyer, thief, stores = STEPS[step]
    if V2 in files:
        with books.only(books.cluster.nodes[0]):
            books.apply(*files)
            books.running("bookstore", V2)
    else:
        books.apply(*files)
    books.shows(buyer, thief, frozenset(stores))


def test_who_is_denied_is_told_so_with_403(books):
    assert books.last("bookthief").startswith("/buy-a-book/new: 403") or "403" in books.last("bookthief")


def test_half_and_half_is_about_half(books):
    books.apply("traffic-split-50-50")
    books.shows(True, False, frozenset({V1, V2}))
    seen = books.grown(12.0)["bookbuyer"]
    assert 0.3 < seen[V1] / seen["books"] < 0.7, seen


def test_behind_the_store_the_warehouse_and_its_database_work(books):
    """HTTP with a rule on the method, and TCP whose server speaks first, behind a headless Service."""
    before = books.counts("bookwarehouse")

    def stored():
        return books.counts("bookwarehouse").get("stored", 0) > before.get("stored", 0)

    until("the database has stored a new total", stored)


@pytest.mark.parametrize("at", ["first", "last"])
def test_the_outside_buys_nothing_by_a_node_port(books, own, at):
    """Whether the store is on the node that is asked or on another one: kube-proxy then hides who asks."""
    node = own.nodes[0 if at == "first" else -1]
    metadata = {"name": "outside", "namespace": "bookstore"}
    spec = {"type": "NodePort", "selector": {"app": "bookstore"}, "ports": [{"name": "http", "port": 14001}]}
    own.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    port = own.get("service", "outside", "bookstore")["spec"]["ports"][0]["nodePort"]
    for path in ("buy-a-book/new", "books-bought", "readiness", "raw"):
        call = (str(PROGRAMS / "probe"), "get", f"http://{own.address(node)}:{port}/{path}", "4")
        until("kube-proxy knows the port", lambda call=call: "refused" not in own.outside(*call).stdout)
        said = own.outside(*call).stdout
        assert answers(said) == {"403"}, said
