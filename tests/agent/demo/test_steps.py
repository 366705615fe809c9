"""The nine steps say what the bookstore demo of osm-edge says, as a table."""

from __future__ import annotations

from agent.demo.steps import STEPS

# bookbuyer, bookthief, bookstore v1, bookstore v2
TABLE = [
    ("rises", "rises", "rises", "absent"),
    ("frozen", "frozen", "frozen", "absent"),
    ("rises", "frozen", "rises", "absent"),
    ("rises", "rises", "rises", "absent"),
    ("rises", "frozen", "rises", "absent"),
    ("rises", "frozen", "rises", "rises"),
    ("rises", "frozen", "rises", "frozen"),
    ("rises", "frozen", "half", "half"),
    ("rises", "frozen", "frozen", "rises"),
]


def test_the_table():
    assert [tuple(step.expectations.values()) for step in STEPS] == TABLE


def test_only_the_first_step_is_permissive():
    assert [step.permissive for step in STEPS] == [True] + [False] * 8


def test_v2_is_deployed_with_its_manifest():
    assert [step.has_v2 for step in STEPS] == ["bookstore-v2.yaml" in step.files for step in STEPS]


def test_a_step_edits_files_where_it_changes_objects():
    assert set(STEPS[0].files) == set(STEPS[1].files)
    assert set(STEPS[2].files) == set(STEPS[3].files) == set(STEPS[4].files)
    assert set(STEPS[6].files) == set(STEPS[7].files) == set(STEPS[8].files)
