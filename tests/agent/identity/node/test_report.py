"""What people are told of certificates: problems, the document of `edgemesh certs` and its table, metrics."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from agent.admin import status
from agent.admin.api import handler
from agent.commands import NO, OK, certs
from agent.daemon import gauges
from agent.http.server import HttpRequest
from agent.identity.node import report
from agent.identity.node.clock import MADE, Clock
from agent.identity.node.lifecycle import Failed, Passed, step
from agent.identity.node.manager import CertificateManager
from agent.identity.node.roots import fingerprint
from agent.identity.node.store import IdentityStore, KeyPair
from agent.identity.protocol import Bundle
from nodeproxy.tls.credentials import Credentials
from policy.model import Identity, Revoked
from tests.agent.identity.node.test_store import pem

DAY = 86400.0
NOW = MADE + 100 * DAY
BUYER = Identity("shop", "buyer")
ROOT = pem("root 1")


class Shown:
    """A keeper that does not run, in which everything can be set."""

    def __init__(self, path: Path) -> None:
        self.now = NOW
        self.keeper = CertificateManager(
            IdentityStore(path), "edge-1", Clock(300.0, lambda: self.now, lambda: self.now)
        )
        self.keeper.roots.take(Bundle("cluster.local", (ROOT,), fingerprint(ROOT), NOW))

    def hold(self, identity: Identity | None, life: float = 14 * DAY) -> None:
        if identity:
            self.keeper.want({*filter(None, self.keeper.holdings), identity})
        spiffe = self.keeper.spiffe(identity)
        self.keeper._hold(
            self.keeper.holdings[identity],
            KeyPair(Credentials(spiffe, b"", b"", "0a", self.now, self.now + life), fingerprint(ROOT)),
        )

    def fail(self, identity: Identity | None, why: str = "no route", refused: bool = False) -> None:
        holding = self.keeper.holdings[identity]
        holding.standing = step(
            holding.standing, Failed(why, refused, 0.0, "do something" if refused else ""), self.now
        )

    def told(self) -> list[tuple[str, str]]:
        return [(problem.severity, problem.message) for problem in report.problems(self.keeper)]


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    shown = Shown(tmp_path)
    shown.hold(None)
    shown.hold(BUYER)
    return shown


def test_a_third_of_life_left_is_said(shown: Shown) -> None:
    assert shown.told() == []
    shown.now += 9 * DAY
    shown.fail(BUYER)
    assert shown.told() == []
    shown.now += 0.4 * DAY
    shown.hold(None)
    assert shown.told() == [("warning", "the certificate of shop/buyer ends in 4 d and is not renewed: no route")]
    shown.now += 5 * DAY
    shown.keeper._step(shown.keeper.holdings[BUYER], Passed())
    assert shown.told() == [("error", "the certificate of shop/buyer has expired: no route")]


def test_who_has_none_is_said_and_those_alike_in_one_line(shown: Shown) -> None:
    many = [Identity("shop", f"w{n}") for n in range(8)]
    shown.keeper.want([BUYER, *many])
    assert shown.told() == []  # just wanted
    for identity in many:
        shown.fail(identity, "not placed here", refused=True)
    (problem,) = report.problems(shown.keeper)
    assert (
        problem.message
        == "the certificate of shop/w0, shop/w1, shop/w2, shop/w3, shop/w4 and 3 more is not there: not placed here"
    )
    assert problem.hint == "do something"
    shown.keeper.want([BUYER])
    assert shown.told() == []


def test_silence_names_and_foreign_roots(shown: Shown) -> None:
    shown.keeper.silence = (NOW, "no route")
    assert shown.told() == []
    shown.now += 2 * 3600
    shown.keeper.misnamed = "edge-0"
    shown.keeper.roots.foreign = "it is another"
    assert shown.told() == [
        ("error", "this node joined the mesh as edge-0 and runs as edge-1, so its certificate is not used"),
        ("error", "what the authority sends is not used: it is another"),
        ("warning", "the authority has been out of reach for 2 h: no route"),
    ]


def test_the_clock_is_among_them(shown: Shown) -> None:
    shown.keeper.clock.heard(NOW - 200)
    assert "200 s ahead" in shown.told()[0][1]


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "0 s"), (59.4, "59 s"), (60, "1 min"), (7200, "2 h"), (3 * DAY - 1, "2 d")]
)
def test_spans(seconds: float, words: str) -> None:
    assert report.span(seconds) == words


def lines(document: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    for renderable in certs.shown(document):
        console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


async def test_the_page_and_its_table(shown: Shown, daemon: Any) -> None:
    daemon.keeper = shown.keeper
    daemon.published = replace(
        daemon.published, snapshot=replace(daemon.snapshot, revoked=Revoked(nodes=("till-9",), identities=(BUYER,)))
    )
    shown.fail(BUYER, "not placed here", refused=True)
    shown.keeper.silence = (NOW, "no route")
    shown.keeper.clock.heard(shown.keeper.clock.wall() + 7.0)
    shown.now += 60
    document = msgspec.json.decode((await handler(daemon)(HttpRequest("/certs"))).body)
    assert document["trust_domain"] == "cluster.local"
    first, second = document["certificates"]
    assert (first["identity"], first["state"], first["expires_in_seconds"]) == ("node edge-1", "fresh", 14 * DAY - 60)
    assert (second["identity"], second["serial"], second["error"], second["asked_in_seconds"]) == (
        "shop/buyer",
        "0a",
        "not placed here",
        0.0,
    )
    assert document["roots"] == [{"fingerprint": fingerprint(ROOT), "issuing": True}]
    assert document["revoked"] == {"nodes": ["till-9"], "identities": ["shop/buyer"], "serials": []}
    text = lines(document)
    for words in (
        "node edge-1 of cluster.local",
        "13 d 23 h",
        "not placed here: do something",
        f"root {fingerprint(ROOT)}, which signs",
    ):
        assert words in text
    assert "the authority is out of reach for 1 min 0 s: no route" in text
    assert "clock is 7 s behind" in text
    assert "revoked nodes: till-9" in text


async def test_what_an_open_request_waits_for(shown: Shown, daemon: Any) -> None:
    daemon.keeper = shown.keeper
    words = "CertificateSigningRequest edgemesh-x7 waits since 08:00:00 UTC for the server on node n1"
    shown.keeper.awaited = {"spiffe://cluster.local/node/edge-1": words}.get
    own = shown.keeper.holdings[None]
    for own.asking in (True, False):
        document = msgspec.json.decode((await handler(daemon)(HttpRequest("/certs"))).body)
        assert [one["awaits"] for one in document["certificates"]] == [words if own.asking else "", ""]
        assert (words in lines(document)) is own.asking


async def test_a_node_that_stands_alone(daemon: Any) -> None:
    document = msgspec.json.decode((await handler(daemon)(HttpRequest("/certs"))).body)
    assert document["certificates"] == []
    assert "this node has joined no mesh" in lines(document)
    assert status.status(daemon, 0.0)["certificates"] is None


def test_the_verb_s_exit_code(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent import cli

    document = {**report.document(shown.keeper), "revoked": {}}
    monkeypatch.setattr(certs.asking.client, "get", lambda *_: document)
    assert cli.main(["certs"]) == OK
    shown.keeper.want([BUYER, Identity("shop", "new")])
    document = {**report.document(shown.keeper), "revoked": {}}
    assert cli.main(["certs", "-o", "json"]) == NO


def test_status_in_short(shown: Shown, daemon: Any) -> None:
    daemon.keeper = shown.keeper
    assert status.status(daemon, 0.0)["certificates"] == {
        "trust_domain": "cluster.local",
        "wanted": 2,
        "states": {"fresh": 2},
        "first_ends_in_seconds": 14 * DAY,
    }


def test_metrics(shown: Shown) -> None:
    shown.keeper.renewals["spiffe://cluster.local/ns/shop/sa/buyer", "refused"] = 3
    shown.now += DAY

    def samples() -> dict[str, float]:
        return {
            f"{s.name}{sorted(s.labels.values())}": s.value
            for family in gauges.certificates(shown.keeper)
            for s in family.samples
        }

    assert samples() == {
        "edgemesh_certificate_expiry_seconds['spiffe://cluster.local/node/edge-1']": 13 * DAY,
        "edgemesh_certificate_expiry_seconds['spiffe://cluster.local/ns/shop/sa/buyer']": 13 * DAY,
        "edgemesh_certificate_renewals_total['refused', 'spiffe://cluster.local/ns/shop/sa/buyer']": 3,
    }
    shown.keeper.clock.heard(shown.now - 2)
    assert samples()["edgemesh_clock_offset_seconds[]"] == 2


@pytest.mark.parametrize(
    ("ends", "severity", "says"),
    [(91, "", ""), (89.5, "warning", "ends in 89 d"), (-1, "error", "has ended")],
)
def test_the_authoritys_own_end(ends, severity, says):
    found = report.of_authority(NOW + ends * DAY, NOW)
    assert [problem.severity for problem in found] == ([severity] if severity else [])
    assert all(says in problem.message and "edgemesh ca rotate" in problem.hint for problem in found)
