"""JSON is read as the standard library reads it, with lines, and nothing in a text can hurt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sources.json_documents import documents
from agent.sources.nodes import Budget, Fault, plain


def read(text: str) -> list[Any]:
    return [plain(node, Budget())[0] for node in documents(text)]


def test_lines_tabs_and_several_values() -> None:
    first, second = documents('{\n\t"kind": "X",\n\t"list": [\n\t\t1,\n\t\t{"a": null}\n\t]\n}\n{"b": true}')
    data, lines = plain(first, Budget())
    assert data == {"kind": "X", "list": [1, {"a": None}]}
    assert dict(lines) == {"$": 1, "$.kind": 2, "$.list": 3, "$.list[0]": 4, "$.list[1]": 5, "$.list[1].a": 5}
    assert plain(second, Budget())[0] == {"b": True}
    assert read("") == []
    assert read(r'["a\nb\u00e9\ud83d\ude00\/", -1.5e3, 12]') == [["a\nb\u00e9\U0001f600/", -1500.0, 12]]


@pytest.mark.parametrize(
    ("text", "line", "column", "words", "hint"),
    [
        ('{"a": 1,}', 1, 9, "} where a key", "comma before it"),
        ("[1, 2,]", 1, 7, "] where a value", "comma before it"),
        ('{"a" 1}', 1, 6, "1 where a colon", ""),
        ('{"a": 1 "b": 2}', 1, 9, "where a comma", ""),
        ("{a: 1}", 1, 2, "unexpected 'a'", ""),
        ("{'a': 1}", 1, 2, 'unexpected "\'"', "double quotes"),
        ('{"a": 1} // x', 1, 10, "unexpected '/'", "no comments"),
        ('{"a":\n [1', 2, 3, "ends too early", "never closed"),
        ("[01]", 1, 2, "01 is no number", ""),
        ("[1e999]", 1, 2, "too large", ""),
        (r'["\ud83d"]', 1, 2, "surrogate", ""),
        (r'["\x"]', 1, 2, "escape", ""),
        ('{"a": 1, "a": 2}', 1, 0, "'a' stands here twice", "keep one"),
        ("]", 1, 1, "] where a value", ""),
        ("[}", 1, 2, "} where a value", ""),
        ('{"a": ]}', 1, 7, "] where a value", ""),
    ],
)
def test_faults_have_a_place_and_advice(text: str, line: int, column: int, words: str, hint: str) -> None:
    with pytest.raises(Fault) as caught:
        read(text)
    found = caught.value
    assert (found.line, found.column) == (line, column)
    assert words in found.message
    assert hint in found.hint


@pytest.mark.parametrize(("levels", "most"), [(200, 100), (10_000, 400)])
def test_deep_nesting_is_a_fault(levels: int, most: int) -> None:
    with pytest.raises(Fault, match=f"nested more than {most} deep"):
        read("[" * levels + "]" * levels)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=50)
@given(_JSON, st.booleans(), st.sampled_from([None, 0, 2, "\t"]))
def test_reads_what_the_standard_library_writes(value: Any, ascii_only: bool, indent: int | str | None) -> None:
    assert read(json.dumps(value, ensure_ascii=ascii_only, indent=indent)) == [value]


@given(st.text(alphabet=st.sampled_from('{}[],:" \n\t1-e.tru"falsn\\/\x00'), max_size=40) | st.text(max_size=40))
def test_any_text_is_data_or_a_fault(text: str) -> None:
    try:
        read(text)
    except Fault as found:
        assert found.line >= 1
