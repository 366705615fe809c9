"""What a person asks for beside the roots, and what the server answers there."""

from __future__ import annotations

import pytest

from agent.identity.authority.rotation import Report, RootReport
from agent.identity.kubernetes import rotating
from agent.identity.kubernetes.objects import Metadata
from agent.identity.kubernetes.rotating import Answer, Asked


def metadata(name: str, said: str) -> Metadata:
    return Metadata(annotations={name: said})


def test_what_is_written_is_read() -> None:
    wanted = Asked("issue", "0123", 5.0, True)
    assert rotating.asked(metadata(rotating.ASKED, rotating.write(wanted))) == wanted
    answer = Answer(Report("cluster.local", "added", 5.0, (RootReport("ab", 9.0, "signs"),), ("node a",)), "0123", "no")
    assert rotating.answered(metadata(rotating.ANSWER, rotating.write(answer))) == answer


@pytest.mark.parametrize(
    "said",
    [
        "",
        "issue",
        "{}",
        '{"step": "forget", "id": "1", "at": 1}',
        '{"step": "add", "id": 1, "at": 1}',
        "[" * 5000,
        "\ud800",
    ],
)
def test_what_makes_no_sense_asks_for_nothing_and_answers_nothing(said: str) -> None:
    assert rotating.asked(metadata(rotating.ASKED, said)) is None
    assert rotating.answered(metadata(rotating.ANSWER, said)) is None


def test_a_request_is_bounded() -> None:
    long = rotating.write(Asked("add", "x" * 5000, 1.0))
    assert rotating.asked(metadata(rotating.ASKED, long)) is None
