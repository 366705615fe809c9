"""YAML is read as kubectl reads it, every line is known, and nothing in a text can hurt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources.nodes import Budget, Fault, plain
from agent.sources.yaml_documents import documents, resolve


def read(text: str, nodes: int = 100_000) -> list[Any]:
    budget = Budget(nodes)
    return [plain(node, budget)[0] for node in documents(text)]


def fault(text: str) -> Fault:
    with pytest.raises(Fault) as caught:
        read(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("off", "off"),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-12", -12),
        ("0o17", 15),
        ("017", 15),
        ("0x1F", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1e999", "1e999"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2024-01-02", "2024-01-02"),
        ("12:30:45", "12:30:45"),
        ("1.2.3", "1.2.3"),
        ("09", 9.0),
        ("-", "-"),
        ("18446744073709551615", 18446744073709551615),
        ("18446744073709551616", 18446744073709551616.0),
        ("9" * 100, "9" * 100),
    ],
)
def test_plain_scalars_mean_what_kubectl_takes_them_for(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_quoted_scalars_and_tags() -> None:
    text = """a: "12"\nb: '12'\nc: !!str 12\nd: !!int "12"\ne: ! 12\nf: |\n  12\n"""
    assert read(text) == [{"a": "12", "b": "12", "c": "12", "d": 12, "e": "12", "f": "12\n"}]


def test_several_documents_and_empty_ones() -> None:
    assert read("---\n---\na: 1\n---\n# nothing\n---\nb: 2\n...\n") == [{"a": 1}, {"b": 2}]


def test_anchors_aliases_and_merges() -> None:
    text = "base: &base {a: 1, b: 2}\nother: &other {b: 3, c: 3}\nuse: {<<: [*base, *other], b: 9}\nlist: *base\n"
    (data,) = read(text)
    assert data["use"] == {"b": 9, "a": 1, "c": 3}
    assert data["list"] == {"a": 1, "b": 2}
    assert data["list"] is not data["base"]


def test_keys_are_text() -> None:
    assert read("1: a\ntrue: b\n1.5: c\non: d\n") == [{"1": "a", "true": "b", "1.5": "c", "on": "d"}]


def test_every_line_is_known() -> None:
    (node,) = documents("kind: X\nspec:\n  rules:\n  - kind: A\n    names:\n    - a\n    - b\n  -\n    kind: B\n")
    _, lines = plain(node, Budget())
    assert dict(lines) == {
        "$": 1,
        "$.kind": 1,
        "$.spec": 2,
        "$.spec.rules": 3,
        "$.spec.rules[0]": 4,
        "$.spec.rules[0].kind": 4,
        "$.spec.rules[0].names": 5,
        "$.spec.rules[0].names[0]": 6,
        "$.spec.rules[0].names[1]": 7,
        "$.spec.rules[1]": 9,
        "$.spec.rules[1].kind": 9,
    }
    assert lines["$.spec.rules[1].missing"] == 9
    assert lines["$.spec.rulesX"] == 2
    assert lines["$.nothing"] == 1
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("text", "line", "words", "hint"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' stands here twice", "keep one"),
        ("a: b: c\n", 1, "mapping values are not allowed", "quote"),
        ("a:\n\t- b\n", 2, "cannot start any token", "not with tabs"),
        ('a: "b\nc: d\n', 3, "unexpected end of stream", "never closed"),
        ("a: *nowhere\n", 1, "undefined alias *nowhere", "anchor"),
        ("a: &a [*a]\n", 1, "undefined alias *a", "anchor"),
        ("a: 1\n---\nb: *x\n---\nc: &x 1\n", 3, "undefined alias *x", "same document"),
        ("a: !!python/object:os.system x\n", 1, "!!python/object:os.system", "plain value"),
        ("a: !!map x\n", 1, "!!map", "plain value"),
        ("a: !!int x\n", 1, "'x' is not a int", ""),
        ("a: {<<: 1}\n", 1, "not a mapping", ""),
        ("? [1, 2]\n: x\n", 1, "a key that is no text", "quote"),
        ("a: \x07\n", 1, "control characters", "remove"),
        ("a: 1\n  b: 2\n", 2, "mapping values are not allowed", "indentation"),
        ("%YAML 3.0\n---\na: 1\n", 1, "incompatible YAML document", ""),
    ],
)
def test_faults_have_a_line_and_advice(text: str, line: int, words: str, hint: str) -> None:
    found = fault(text)
    assert (found.line, words in found.message, hint in found.hint) == (line, True, True), (
        found.line,
        found.message,
        found.hint,
    )


def test_an_alias_bomb_is_a_fault_before_it_is_memory() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "expands to more" in fault("\n".join(levels)).message


def test_a_merge_bomb_is_a_fault_too() -> None:
    levels = ["a0: &a0 {x: 1}"]
    levels += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    assert "expands to more" in fault("\n".join(levels)).message


@pytest.mark.parametrize(("levels", "most"), [(200, 100), (2000, 400)])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
def test_deep_nesting_is_a_fault(begin: str, end: str, levels: int, most: int) -> None:
    assert f"nested more than {most} deep" in fault(f"{begin * levels}x{end * levels}").message


def test_what_is_nested_without_end_is_not_read_to_its_end() -> None:
    """The work of libyaml for each bracket grows with those that are open: half a million of them take it an hour."""
    budget = Budget()
    with pytest.raises(Fault):
        list(documents("[" * 5000, budget))
    read_on = Budget()
    with pytest.raises(Fault):
        list(documents("[" * 500, read_on))
    assert budget._parsed == read_on._parsed, "it stopped where it was too deep"


@given(
    st.text(alphabet=st.sampled_from("ab: -[]{}&*!|>'\"%#,?\n\t<1~\\x\x00\ufeff"), max_size=60) | st.text(max_size=60)
)
def test_any_text_is_data_or_a_fault(text: str) -> None:
    try:
        read(text)
    except Fault as found:
        assert found.line >= 0
        assert found.message
