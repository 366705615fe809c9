"""decode.py: typing, lines, versions."""

import pytest

from policy.decode import decode, unwrap
from policy.model import Problem, Where
from policy.resources import RawObject, Resource


def raw(data, lines=None):
    return RawObject(data, Where("a.yaml", 1), lines or {})


def target(**more):
    return {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": {"name": "t", "namespace": "n"},
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": "a", "namespace": "n"},
            "rules": [{"kind": "TCPRoute", "name": "r"}],
            "sources": [{"kind": "ServiceAccount", "name": "b", "namespace": "n"}],
            **more,
        },
    }


def test_a_good_object_is_typed():
    found = decode(raw(target()))
    assert isinstance(found, Resource)
    assert (found.kind, found.version, found.namespace, found.name) == ("TrafficTarget", "v1alpha3", "n", "t")
    assert found.spec.rules[0].name == "r"


def test_an_unknown_field_is_named_with_its_line():
    found = decode(
        raw(target(rules=[{"kind": "TCPRoute", "nam": "r"}]), {"$.spec.rules[0]": 7, "$.spec.rules[0].nam": 8})
    )
    assert isinstance(found, Problem)
    assert str(found.where) in {"a.yaml:7", "a.yaml:8"}
    assert found.object == "TrafficTarget n/t"


def test_a_wrong_type_is_named_with_its_path():
    found = decode(raw(target(rules=[{"kind": "TCPRoute", "name": 3}]), {"$.spec.rules[0].name": 9}))
    assert isinstance(found, Problem)
    assert found.where.line == 9
    assert "spec.rules[0].name" in found.message


def test_null_counts_as_absent():
    assert isinstance(decode(raw(target(rules=[{"kind": "TCPRoute", "name": "r", "matches": None}]))), Resource)


def test_a_list_is_unwrapped_with_its_lines():
    outer = raw(
        {"kind": "List", "items": [target(rules=[{"kind": 1, "name": "r"}])]},
        {"$.items[0]": 4, "$.items[0].spec.rules[0].kind": 12},
    )
    (inner,) = unwrap([outer])
    assert inner.where.line == 4
    found = decode(inner)
    assert isinstance(found, Problem)
    assert found.where.line == 12


def test_a_version_that_is_not_read_says_which_are():
    found = decode(raw(target() | {"apiVersion": "access.smi-spec.io/v1alpha1"}))
    assert isinstance(found, Problem)
    assert "v1alpha3" in found.hint


def test_lists_in_lists_and_what_is_no_object():
    inner = {"kind": "List", "items": [target()]}
    found = list(unwrap([raw({"kind": "List", "items": [inner, 1]}, {"$.items[0].items[0].spec": 5, "$.items[1]": 9})]))
    assert [one.data.get("kind") for one in found] == ["TrafficTarget", None]
    assert found[0].line("$.spec.destination") == 5
    assert isinstance(problem := decode(found[1]), Problem)
    assert problem.where.line == 9
    assert list(unwrap([raw({"kind": "List", "items": None})])) == []


def test_lists_without_end_are_left_alone():
    data = target()
    for _ in range(3000):
        data = {"apiVersion": "v1", "kind": "List", "items": [data]}
    assert [one.data["kind"] for one in unwrap([raw(data)])] == ["List"]


@pytest.mark.parametrize("metadata", [{"name": "b/c", "namespace": "a"}, {"name": "c", "namespace": "a/b"}])
def test_names_have_no_slash(metadata):
    found = decode(raw({**target(), "metadata": metadata}))
    assert isinstance(found, Problem)
    assert "no slash" in found.hint


def test_a_wrong_key_is_named_with_its_path():
    found = decode(raw({**target(), "metadata": {"name": "t", "labels": {1: "x"}}}, {"$.metadata.labels": 3}))
    assert isinstance(found, Problem)
    assert (found.where.line, found.message) == (3, "metadata.labels.1: expected text, got 1")
