"""Types of values that several commands take."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from agent.commands.options import node_name, number


@pytest.mark.parametrize(("word", "value"), [("1", 1), ("80", 80)])
def test_a_number_in_its_bounds(word: str, value: int) -> None:
    assert number(word, 80, "number") == value


@pytest.mark.parametrize("word", ["", "0", "81", "-1", "+1", "1.0", "\u0661", "1_0", " 1"])
def test_anything_else_is_refused(word: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no number from 1 to 80"):
        number(word, 80, "number")


def test_names_of_nodes() -> None:
    assert node_name("edge-1.shop") == "edge-1.shop"
    for word in ("", "Edge", "a/b", "-a", "a" * 254):
        with pytest.raises(ArgumentTypeError, match="no name of a node"):
            node_name(word)
