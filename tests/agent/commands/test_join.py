"""join: what is kept when it works, and what is said when it does not."""

from __future__ import annotations

import io
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import cli
from agent.commands import NO, OK, UNREACHABLE, USAGE
from agent.identity.node import client
from agent.identity.node.client import Address, WrongRoots
from agent.identity.node.clock import Clock
from agent.identity.node.store import IdentityStore, Joined, KeyPair
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle
from nodeproxy.tls.credentials import Credentials

TOKEN = "secret." + "0" * 64


class Answers:
    """agent.identity.node.client.join without a network: what it was asked, and what it does."""

    def __init__(self) -> None:
        self.asked: list[tuple[Address, str, str]] = []
        self.trust_domain = "cluster.local"
        self.error: Exception | None = None
        self.serial = 0

    async def join(self, address: Address, node: str, token: str, clock: Clock) -> tuple[KeyPair, Bundle]:
        self.asked.append((address, node, token.strip()))
        if self.error:
            raise self.error
        self.serial += 1
        spiffe = f"spiffe://{self.trust_domain}/node/{node}"
        credentials = Credentials(spiffe, b"chain", b"key", f"{self.serial:02x}", 1.0, 2.0)
        return KeyPair(credentials, "r"), Bundle(self.trust_domain, ("root",), "r", 1e9 + self.serial)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    answers = Answers()
    monkeypatch.setattr(client, "join", answers.join)
    monkeypatch.delenv("EDGEMESH_NODE", raising=False)
    return answers


@pytest.fixture
def run(tmp_path: Path, answers: Answers) -> Callable[..., int]:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")

    def run(*words: str, node: str = "till-3") -> int:
        return cli.main(
            [
                "join",
                "--authority",
                "boss:15012",
                "--node",
                node,
                "--state",
                str(tmp_path / "state"),
                "--token-file",
                str(token),
                *words,
            ]
        )

    return run


def kept(path: Path) -> Any:
    return IdentityStore(path / "state").load()


def test_what_the_authority_gave_is_kept(
    run: Callable[..., int], answers: Answers, tmp_path: Path, capsys: Any
) -> None:
    assert run() == OK
    assert answers.asked == [(Address("boss", 15012), "till-3", TOKEN)]
    joined, bundle, pairs = kept(tmp_path)
    assert joined == Joined("boss:15012", "till-3")
    assert bundle.trust_domain == "cluster.local"
    assert [pair.credentials.spiffe for pair in pairs] == ["spiffe://cluster.local/node/till-3"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state/identity").iterdir()} == {0o600}
    out, err = capsys.readouterr()
    assert "till-3 has joined the mesh cluster.local" in out
    assert "secret" not in out + err
    assert err == ""


def test_a_node_that_has_joined_says_so_and_keeps_its_token(
    run: Callable[..., int], answers: Answers, tmp_path: Path, capsys: Any
) -> None:
    run()
    assert run() == NO
    assert len(answers.asked) == 1
    assert "has joined already, as till-3, with the authority at boss:15012" in capsys.readouterr().err
    assert run("--again") == OK
    assert [pair.credentials.serial for pair in kept(tmp_path)[2]] == ["02"]


def test_another_mesh_takes_the_place_of_the_first(run: Callable[..., int], answers: Answers, tmp_path: Path) -> None:
    run()
    answers.trust_domain = "elsewhere"
    assert run("--again", node="till-4") == OK
    joined, bundle, pairs = kept(tmp_path)
    assert (joined.node, bundle.trust_domain) == ("till-4", "elsewhere")
    assert [pair.credentials.spiffe for pair in pairs] == ["spiffe://elsewhere/node/till-4"]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            AuthorityRefused("the token is not good for this node", "make another"),
            NO,
            ("refused: the token is not good", "make another"),
        ),
        (
            AuthorityUnreachable("the authority at boss:15012 cannot be reached"),
            UNREACHABLE,
            ("cannot be reached", "does it run there"),
        ),
        (WrongRoots("who answers has not the root"), NO, ("has not the root", "the token was not sent")),
    ],
)
def test_failures_are_told_and_keep_nothing(
    run: Callable[..., int],
    answers: Answers,
    tmp_path: Path,
    capsys: Any,
    error: Exception,
    code: int,
    words: tuple[str, ...],
) -> None:
    answers.error = error
    assert run() == code
    err = capsys.readouterr().err
    assert all(word in err for word in words)
    assert kept(tmp_path) == (None, None, [])


def test_a_clock_that_is_wrong_is_named_when_the_authority_cannot_be_reached(
    run: Callable[..., int], answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from agent.commands import join

    monkeypatch.setattr(join, "Clock", lambda tolerance: Clock(tolerance, wall=lambda: 5.0))
    answers.error = AuthorityUnreachable("peer-expired")
    run()
    assert "the clock says 1970-01-01" in capsys.readouterr().err


def test_the_token_comes_from_standard_input(answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TOKEN}\n"))
    assert cli.main(["join", "--authority", "boss:1", "--node", "a", "--state", str(tmp_path)]) == OK
    assert answers.asked[0][2] == TOKEN


def test_the_token_is_asked_for_at_a_terminal_and_not_shown(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.commands import join

    monkeypatch.setattr(sys, "stdin", Namespace(isatty=lambda: True))
    monkeypatch.setattr(join.getpass, "getpass", lambda prompt: TOKEN)
    assert cli.main(["join", "--authority", "boss:1", "--node", "a", "--state", str(tmp_path)]) == OK
    assert answers.asked[0][2] == TOKEN


def test_no_token_no_address_no_folder(run: Callable[..., int], answers: Answers, tmp_path: Path, capsys: Any) -> None:
    assert run("--token-file", str(tmp_path / "none")) == NO
    assert "the token cannot be read" in capsys.readouterr().err
    assert run("--authority", "boss") == USAGE
    assert "is no HOST:PORT" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("--node", "a/b")
    assert run("--state", str(tmp_path / "token")) == NO
    assert "cannot be made" in capsys.readouterr().err
    assert answers.asked == []


def test_a_full_disk_is_not_called_a_success(
    run: Callable[..., int], answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run() == NO
    err = capsys.readouterr().err
    assert "No space left" in err
    assert "--again" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "it is empty"), (" \n", "it is empty"), ("secret", "is no token"), ("a b." + "0" * 64, "is no token")],
)
def test_what_is_no_token_is_told_before_anybody_is_asked(
    text: str, said: str, run: Callable[..., int], answers: Answers, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "token").write_text(text)
    assert run() == NO
    assert answers.asked == []
    err = capsys.readouterr().err
    assert said in err
    assert "edgemesh ca token --node till-3" in err
    assert "authority at" not in err
