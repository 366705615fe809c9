"""The token of the metrics: what is accepted, what is no secret, and a file that changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.admin import bearer
from agent.admin.bearer import BearerToken

TOKEN = "0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o640)
    return path


def test_the_token_and_nothing_else(path: Path) -> None:
    token = BearerToken(str(path))
    assert token.fault == ""
    for shown in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer  {TOKEN}"):
        assert token.accepts(shown), shown
    for shown in (
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}0",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \xe9",
    ):
        assert not token.accepts(shown), shown
    assert TOKEN not in repr(token)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"", 0o600, "holds no token: openssl"),
        (b" \n", 0o600, "holds no token"),
        (b"0123456789abcde", 0o600, "too short a token"),
        (b"x" * 5000, 0o600, "too long a token"),
        (b"0123456789 abcdef", 0o600, "more than one word"),
        (b"0123456789abcde\xff", 0o600, "more than one word"),
        (TOKEN.encode(), 0o604, "may be read by everybody"),
    ],
)
def test_what_is_no_secret_admits_nobody(path: Path, content: bytes, mode: int, said: str) -> None:
    path.write_bytes(content)
    path.chmod(mode)
    token = BearerToken(str(path))
    assert said in token.fault
    assert str(path) in token.fault
    for shown in (content.decode("latin-1").strip(), "", TOKEN):
        assert not token.accepts(f"Bearer {shown}")


def test_what_is_no_file_admits_nobody(tmp_path: Path) -> None:
    assert "No such file" in BearerToken(str(tmp_path / "none")).fault
    assert "no regular file" in BearerToken(str(tmp_path)).fault
    os.mkfifo(tmp_path / "fifo")
    token = BearerToken(str(tmp_path / "fifo"))
    assert "no regular file" in token.fault
    assert not token.accepts("Bearer ")


def test_a_token_that_was_changed_counts_within_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(bearer.time, "monotonic", lambda: now)
    token = BearerToken(str(path))
    path.write_text(TOKEN[::-1])
    assert token.accepts(f"Bearer {TOKEN}"), "the file is not read for every question of a stranger"
    now = 101.0
    assert not token.accepts(f"Bearer {TOKEN}")
    assert token.accepts(f"Bearer {TOKEN[::-1]}")
    path.unlink()
    now = 102.0
    assert not token.accepts(f"Bearer {TOKEN[::-1]}")
    assert token.fault
