"""durations.py: times as Go writes them."""

import pytest

from policy.translate.durations import go_seconds


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("5s", 5),
        ("1m", 60),
        ("1m30s", 90),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("2h", 7200),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_what_they_mean(words, seconds):
    assert go_seconds(words) == pytest.approx(seconds)


@pytest.mark.parametrize("words", ["", "5", "s", "-5s", "5 s", "1d", "5s ", "1..5s", "5S", "9" * 10 + "s", "1s" * 9])
def test_what_is_none(words):
    assert go_seconds(words) is None
