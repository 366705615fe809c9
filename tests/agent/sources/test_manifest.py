"""A manifest's bytes become objects, or Problems with a place; nothing in them can hurt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources import manifest
from policy.model import Problem, Where


def test_objects_know_their_file_and_lines() -> None:
    change = manifest.read(b"kind: A\nmetadata:\n  name: a\n---\nkind: B\n", "x.yaml")
    assert change.objects is not None
    first, second = change.objects
    assert (first.data["kind"], first.where, first.line("$.metadata.name")) == ("A", Where("x.yaml", 1), 3)
    assert (second.data["kind"], second.where) == ("B", Where("x.yaml", 5))
    assert change.problems == ()


def test_a_document_that_is_no_object_is_a_problem_and_the_others_count() -> None:
    change = manifest.read(b"kind: A\n---\n- just\n- a list\n---\nkind: B\n", "x.yaml")
    assert change.objects is not None
    assert [raw.data["kind"] for raw in change.objects] == ["A", "B"]
    assert [str(problem) for problem in change.problems] == [
        "x.yaml:3: error: document 2 is not an object (a mapping with apiVersion, kind and metadata is expected)"
    ]


def test_a_file_that_is_not_well_formed_says_nothing() -> None:
    change = manifest.read(b"kind: A\n---\nkind: 'B\n", "x.yaml")
    assert change.objects is None
    (problem,) = change.problems
    assert problem.where == Where("x.yaml", 4)
    assert "(column 1)" in problem.message


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"kind": "A"}', "A"),
        ("\ufeffkind: A".encode(), "A"),
        ("\ufeffkind: \u00e9".encode("utf-16-le"), "\u00e9"),
        ("\ufeffkind: \u00e9".encode("utf-16-be"), "\u00e9"),
    ],
)
def test_syntaxes_and_encodings(data: bytes, kind: str) -> None:
    change = manifest.read(data, "x.json" if data.startswith(b"{") else "x.yml")
    assert change.objects is not None
    assert [raw.data["kind"] for raw in change.objects] == [kind]


def test_what_is_no_text_or_too_much_is_a_problem() -> None:
    assert manifest.read(b"a: 1\nb: \xff\n", "x.yaml").problems == (
        Problem("error", Where("x.yaml", 2), "", "is not UTF-8 text", "save it as UTF-8"),
    )
    (problem,) = manifest.read(b"#" * (manifest.MAX_BYTES + 1), "x.yaml").problems
    assert str(problem) == "x.yaml: error: is larger than 8 MiB (split it)"
    assert manifest.read(b"", "x.yaml").objects == ()


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode), st.sampled_from(["a.yaml", "a.json"]))
def test_never_raises(data: bytes, name: str) -> None:
    change = manifest.read(data, name)
    assert change.objects is not None or change.problems
