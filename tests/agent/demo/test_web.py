"""The server of the chapters."""

from __future__ import annotations

import time

import pytest

from agent.demo.application import Settings
from agent.demo.web import Web


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/status/503", 503),
        ("/status/99", 200),
        ("/status/", 200),
        ("/status/٣", 200),
        ("/status/2/x", 200),
    ],
)
def test_it_responds_as_the_path_says(path, status):
    assert Web(Settings(identity="v1")).answer("GET", path, {}, b"").status == status


def test_it_says_who_responds_to_what_and_counts_it():
    web = Web(Settings(identity="v1"))
    answer = web.answer("POST", "/a/b", {"x-edge": "1", "host": "h", "x-a": "2"}, b"")
    assert answer.body == "v1 POST /a/b\nx-a: 2\nx-edge: 1\n"
    assert web.raw() == {"asked": 1}
    assert web.answer("GET", "/raw", {}, b"").body == '{"asked": 1}'
    assert web.raw() == {"asked": 1}, "who asks for the count is not counted"


def test_it_is_slow_when_asked(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    web = Web(Settings())
    web.answer("GET", "/slow/250", {}, b"")
    web.answer("GET", "/slow/99999999", {}, b"")
    assert slept == [0.25, 10.0]
