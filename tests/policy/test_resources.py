"""resources.py: the line of a path, and what names an object."""

import pytest

from policy.decode import decode
from policy.model import Where
from policy.resources import RawObject, key_of

LINES = {"$": 1, "$.spec": 3, "$.spec.rules": 4, "$.spec.rules[1]": 6, "$.spec.rules[1].name": 7}


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("$.spec.rules[1].name", 7),
        ("$.spec.rules[1].matches[0]", 6),
        ("$.spec.rules[2].name", 4),
        ("$.spec.sources[0]", 3),
        ("$.metadata.name", 1),
        ("", 2),
    ],
)
def test_a_path_has_its_line_or_that_of_what_it_is_in(path, line):
    assert RawObject({}, Where("a.yaml", 2), LINES).line(path) == line


@pytest.mark.parametrize(
    ("kind", "api", "title", "key"),
    [
        ("Service", "v1", "Service n/x", "Service n/x"),
        ("Revocation", "edgemesh.io/v1alpha1", "Revocation x", "Revocation /x"),
    ],
)
def test_an_object_is_named_by_kind_namespace_and_name(kind, api, title, key):
    found = decode(
        RawObject(
            {"apiVersion": api, "kind": kind, "metadata": {"name": "x", "namespace": "n"}}, Where("a.yaml", 1), LINES
        )
    )
    assert (found.title, key_of(found.kind, found.namespace, found.name)) == (title, key)
    assert str(found.problem("error", "$.spec.rules[1]", "is wrong")) == f"a.yaml:6: error: {title}: is wrong"
