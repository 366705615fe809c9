"""Two pods of a cluster: how they are named, and what is known of them."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from agent.commands.pods import Found, Name, pod_name
from policy.enrolment import Enrolment


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("shop/till", Name("shop", "till")),
        ("till", Name("default", "till")),
        ("a/stock-7d4b9c.x", Name("a", "stock-7d4b9c.x")),
    ],
)
def test_a_pod_s_name(words: str, name: Name) -> None:
    assert pod_name(words) == name


@pytest.mark.parametrize("words", ["", "/", "shop/", "/till", "a/b/c", "Shop/till", "shop/ti ll", "-a/b", "../b"])
def test_what_is_no_name(words: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no pod"):
        pod_name(words)


def test_a_pod_of_which_little_is_known() -> None:
    found = Found(Name("shop", "till"), {"metadata": {}}, {"metadata": {}}, Enrolment(False))
    assert (found.node, found.phase, found.identity) == ("", "Unknown", "shop/default")
