"""CertificateRequests: what is asked of cert-manager, and what each of its answers becomes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.identity.kubernetes import cert_manager
from agent.identity.kubernetes.cert_manager import Refused, Silent
from agent.identity.kubernetes.objects import Metadata, RequestSpec, SigningRequest
from policy.kinds.osm import CertManager
from tests.agent.kubernetes.fake import Answer, Asked, FakeServer, api_of, serving

WHO = cert_manager.who(CertManager("company", "ClusterIssuer"))
OWNER = SigningRequest(Metadata("csr-1", uid="u-1"), RequestSpec())
FOLDER = "/apis/cert-manager.io/v1/namespaces/edgemesh-system/certificaterequests"


def coded(text: str) -> str:
    return b64encode(text.encode()).decode()


class Manager:
    """A stand-in: keeps requests, and gives each the status that a test says."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {}
        self.refuse: tuple[int, str] | None = None
        self.held: dict[str, Any] = {}
        self.deleted: list[str] = []

    async def handle(self, asked: Asked, answer: Answer) -> None:
        name = asked.path.removeprefix(FOLDER).lstrip("/")
        if asked.method == "POST":
            made = asked.json
            if self.refuse:
                await answer.send(self.refuse[0], {"kind": "Status", "reason": self.refuse[1], "message": "no"})
            elif made["metadata"]["name"] in self.held:
                await answer.send(409, {"kind": "Status", "reason": "AlreadyExists", "message": "there"})
            else:
                self.held[made["metadata"]["name"]] = made
                await answer.send(201, made)
        elif asked.method == "GET":
            await answer.send(200, {**self.held[name], "status": self.status})
        else:
            self.deleted.append(name)
            self.held.pop(name, None)
            await answer.send(200, {"kind": "Status"})


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
async def server(manager: Manager) -> AsyncIterator[FakeServer]:
    async with serving(manager.handle) as server:
        yield server


async def asked(server: FakeServer) -> cert_manager.Answer:
    return await cert_manager.sign(api_of(server), "edgemesh-system", WHO, "a request", 3600.0, OWNER)


async def test_what_was_checked_is_asked_for_and_nothing_is_left(manager: Manager, server: FakeServer) -> None:
    manager.status = {"certificate": coded("a chain"), "ca": coded("a root")}
    got = await asked(server)
    assert (got.chain, got.root) == ("a chain", b"a root")
    made = server.asked[0].json
    assert made["spec"] == {
        "request": coded("a request"),
        "issuerRef": {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "company"},
        "duration": "3600s",
        "isCA": False,
        "usages": ["client auth", "digital signature", "server auth"],
    }
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u-1", "it goes with what it was made for"
    assert manager.deleted == ["edgemesh-u-1"]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            {"conditions": [{"type": "Ready", "status": "False", "reason": "Failed", "message": "no such key"}]},
            "ClusterIssuer company of cert-manager has refused: Failed: no such key",
        ),
        ({"conditions": [{"type": "Denied", "status": "True", "reason": "Policy"}]}, "has refused: Policy"),
        ({"conditions": [{"type": "InvalidRequest", "status": "True", "message": "?"}]}, "InvalidRequest: ?"),
        ({"certificate": "%%%"}, "no PEM in base64"),
        ({"certificate": coded("ä")}, "no PEM in base64"),
        ({"certificate": "A" * 100_000}, "larger than 64 KiB"),
    ],
)
async def test_a_refusal_is_an_answer(manager: Manager, server: FakeServer, status: dict[str, Any], said: str) -> None:
    manager.status = status
    with pytest.raises(Refused, match=said):
        await asked(server)
    assert manager.held == {}


async def test_silence_is_bounded_and_the_next_attempt_finds_the_answer(
    manager: Manager, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cert_manager, "PATIENCE", 0.3)
    manager.status = {"conditions": [{"type": "Ready", "status": "False", "reason": "Pending"}]}
    with pytest.raises(Silent, match="has not answered CertificateRequest edgemesh-system/edgemesh-u-1"):
        await asked(server)
    assert list(manager.held) == ["edgemesh-u-1"]
    manager.status = {"certificate": coded("a chain")}
    assert (await asked(server)).chain == "a chain"
    assert [one.method for one in server.asked].count("POST") == 2
    assert manager.held == {}


async def test_an_answer_to_another_request_of_that_name_is_not_taken(manager: Manager, server: FakeServer) -> None:
    manager.status = {"certificate": coded("a chain")}
    manager.held["edgemesh-u-1"] = {"spec": {"request": coded("another"), "issuerRef": {"name": "company"}}}
    with pytest.raises(Silent):
        await asked(server)
    assert manager.held == {}
    assert (await asked(server)).chain == "a chain"


@pytest.mark.parametrize(
    ("refusal", "kind", "said"),
    [
        ((404, "NotFound"), Silent, "cert-manager is not there"),
        ((403, "Forbidden"), Silent, "may not make a CertificateRequest"),
        ((422, "Invalid"), Refused, "takes no such request"),
    ],
)
async def test_why_nothing_can_be_asked_is_said(
    manager: Manager, server: FakeServer, refusal: tuple[int, str], kind: type[Exception], said: str
) -> None:
    manager.refuse = refusal
    with pytest.raises(kind, match=said):
        await asked(server)


async def test_the_root_is_seen_in_an_answer(manager: Manager, server: FakeServer) -> None:
    issuer = CertManager("company")
    manager.status = {"certificate": coded("a chain"), "ca": coded("a root")}
    assert await cert_manager.root_of(api_of(server), "edgemesh-system", issuer, "cluster.local") == b"a root"
    assert manager.held == {}
    manager.status = {"certificate": coded("a chain")}
    with pytest.raises(Refused, match="name a Secret with it in secretName"):
        await cert_manager.root_of(api_of(server), "edgemesh-system", issuer, "cluster.local")
