"""Nodes become objects: Lists are unwrapped, budgets hold."""

from __future__ import annotations

import pytest

from agent.sources.nodes import Budget, Fault, Node, objects, plain
from agent.sources.yaml_documents import documents


def test_a_list_is_its_items_each_with_its_own_lines() -> None:
    (node,) = documents(
        "apiVersion: v1\nkind: List\nitems:\n- kind: A\n  apiVersion: x/v1\n- kind: B\n  apiVersion: y/v1\n"
    )
    (first, first_lines, first_line), (second, second_lines, second_line) = objects(node, Budget())
    assert (first, first_line, first_lines["$.apiVersion"]) == ({"kind": "A", "apiVersion": "x/v1"}, 4, 5)
    assert (second, second_line, second_lines["$.apiVersion"]) == ({"kind": "B", "apiVersion": "y/v1"}, 6, 7)


def test_items_of_a_typed_list_get_its_type() -> None:
    (node,) = documents("apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n")
    ((data, lines, line),) = objects(node, Budget())
    assert data == {"metadata": {"name": "a"}, "apiVersion": "v1", "kind": "Service"}
    assert (line, lines["$.metadata.name"], lines["$.kind"]) == (4, 4, 4)


def test_items_that_are_no_list_are_a_field() -> None:
    (node,) = documents("kind: ShoppingList\nitems: many\n")
    ((data, _, _),) = objects(node, Budget())
    assert data == {"kind": "ShoppingList", "items": "many"}


def test_items_that_are_no_objects_are_a_fault() -> None:
    (node,) = documents("kind: List\nitems:\n- a\n")
    with pytest.raises(Fault) as caught:
        list(objects(node, Budget()))
    assert caught.value.line == 3


def test_lists_inside_lists_end_somewhere() -> None:
    (node,) = documents("kind: Thing\n")
    for _ in range(101):
        node = Node([(Node("kind", 1), Node("List", 1)), (Node("items", 1), Node([node], 1))], 1, is_map=True)
    with pytest.raises(Fault, match="a List inside a List"):
        list(objects(node, Budget()))


def test_the_budget_is_for_all_documents_of_a_file() -> None:
    budget = Budget(5)
    (node,) = documents("[1, 2]")
    plain(node, budget)
    with pytest.raises(Fault, match="expands to more"):
        plain(node, budget)


def test_nodes_show_what_they_are() -> None:
    (node,) = documents("a: [1]")
    assert [repr(node), repr(node.value[0][1]), repr(node.value[0][0])] == [
        "<Node map line 1>",
        "<Node list line 1>",
        "<Node scalar line 1>",
    ]
