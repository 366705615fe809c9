"""A manifest's bytes become objects, or Problems with a place; nothing in them can hurt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources import manifest, nodes
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "---\n" * 1_000_000),
        ("a.yaml", "--- {}\n" * 1_000_000),
        ("a.json", "{}\n" * 1_000_000),
    ],
)
def test_a_file_of_documents_without_end_is_given_up_at_a_bound(name: str, text: str) -> None:
    change = manifest.read(text.encode(), name)
    assert change.objects is None
    (problem,) = change.problems
    assert "holds more than 10,000 documents" in problem.message
    assert 10_000 <= problem.where.line <= 10_003, "and no more of it was read"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "kind: A\na:\n" + "- a\n" * 1000),
        ("a.yaml", "kind: A\n" + "a: {}\n" * 1000),
        ("a.json", '{"kind": "A", "a": [' + "1, " * 1000 + "1]}"),
        ("a.json", "[" * 1000),
    ],
)
def test_values_are_counted_while_they_are_read_not_when_all_of_them_are_there(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setattr(nodes.Budget.__init__, "__defaults__", (100, False))
    change = manifest.read(text.encode(), name)
    assert change.objects is None
    assert "holds more than" in change.problems[0].message


def test_a_daemons_thread_rests_between_slices_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], []

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    monkeypatch.setattr(nodes.time, "monotonic", clock)
    monkeypatch.setattr(nodes.time, "sleep", slept.append)
    text = "kind: A\na:\n" + "- a\n" * 2000
    for data, name in ((text, "a.yaml"), ('{"kind": "A", "a": [' + "1," * 2000 + "1]}", "a.json")):
        slept.clear()
        assert manifest.read(data.encode(), name).objects
        assert slept == []
        assert manifest.read(data.encode(), name, rest=True).objects
        assert len(slept) > 10, "while it is read, and while it is made plain"
