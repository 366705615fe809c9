"""What a caller is told does not depend on where its server runs: the same talks on one node and over two, with and without the native lane."""

from __future__ import annotations

import re

import pytest

from tests.journeys import test_two_lanes as one
from tests.journeys import test_two_lanes_cross as two
from tests.journeys.conftest import LANES

NAMES = (
    "plain",
    "host of another service",
    "empty host",
    "http 1.0 without host",
    "encoded slash",
    "encoded slash, denied",
    "hidden dots",
    "hidden dots, escaped twice",
    "escaped twice",
    "99 fields",
    "100 fields",
    "many fields",
    "large head",
    "response of 150 fields",
    "response of 999 fields",
    "response of 1001 fields",
    "response large head",
    "response space before colon",
    "response identity",
    "response gzip",
)
# A reason phrase and the spelling of field names do not cross HTTP/2, and framing is said anew for each connection.
_FRAMING = (b"content-length", b"transfer-encoding", b"connection")


def told(heard):
    """Status and body of the first answer, and its fields but for framing."""
    head, _, body = heard.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    kept = sorted(re.sub(rb": *", b": ", field.lower()) for field in fields if not field.lower().startswith(_FRAMING))
    return line[:12], kept, re.sub(rb"127\.[0-9.:]+", b"ADDRESS", body)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", NAMES)
async def test_one_node_and_two_say_the_same(monkeypatch, quick_clock, mint, name, lane):
    sent, answer = one.TALKS[name]
    near = await one.talk(monkeypatch, lane, sent, answer, "", one.WAYS["at once"])
    far = await two.talk(monkeypatch, mint, ("west", "east") if lane else (), sent, answer, "", one.WAYS["at once"])
    assert told(far[1]) == told(near[1])
    assert bool(far[0]) == bool(near[0]), "the server hears of it, or does not"
