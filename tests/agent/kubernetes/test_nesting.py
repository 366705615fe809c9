"""nesting.py: what is nested too deep is cut off, and nothing else changes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubernetes.nesting import shallow

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def cut(value, left):
    if not isinstance(value, list | dict):
        return value
    if left == 0:
        return None
    if isinstance(value, list):
        return [cut(one, left - 1) for one in value]
    return {name: cut(one, left - 1) for name, one in value.items()}


@given(VALUES, st.integers(1, 5), st.booleans())
def test_what_is_deeper_is_null(value, deepest, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert json.loads(shallow(text, deepest)) == cut(value, deepest)


def test_what_is_not_deep_is_the_same():
    text = b'{"a": ["}]\\"", {"b": 1}]}'
    assert shallow(text) == text


def test_thousands_of_levels():
    text = b'{"a":' + b"[" * 9000 + b"]" * 9000 + b',"b":1}'
    found = json.loads(shallow(text))
    assert found["b"] == 1


@pytest.mark.parametrize("text", [b"[[[", b"]]]", b'"', b"", b"{]"])
def test_what_is_no_json_stays_none(text):
    with pytest.raises(ValueError):
        json.loads(shallow(text, 1))
