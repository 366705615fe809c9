"""What commit debe046 wrote is read: a box that is updated keeps all that it knew. `state_before.json` has each file, by its path.

Its keys belong to a mesh that there never was. What was written is never edited: a format that changes gets a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.identity import csr
from agent.identity.authority.authority import Authority
from agent.identity.authority.state import AuthorityState
from agent.identity.node.clock import Clock
from agent.identity.node.manager import CertificateManager
from agent.identity.node.store import IdentityStore, Joined
from agent.identity.protocol import AuthorityRefused, JoinRequest, SignRequest
from agent.ota.keys import Keys, TrustedKeys
from agent.ota.releases import Releases
from agent.store.disk import State

WRITTEN = 1_900_000_000.0  # when it was, by the clock of that mesh
TOKEN = "nE3sgq1O9Fr0BcQmaCs9DTbLAt4eg6wtF8GjgwoEhGg"
BOOT = "5f0c2c1e-0000-4000-8000-000000000001"
TILL = "spiffe://cluster.local/ns/shop/sa/till"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    found = json.loads(Path(__file__).with_name("state_before.json").read_text("utf-8"))
    for name, text in found.items():
        path = tmp_path / "state" / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        path.chmod(0o600)
    return tmp_path / "state"


def now() -> float:
    return WRITTEN + 60


def nothing(*_: object) -> str:
    return ""


def contents(state: Path, names: Iterable[str]) -> dict[str, bytes]:
    return {name: (state / name).read_bytes() for name in names}


def test_objects_addresses_and_places(state: Path) -> None:
    kept = State(state)
    objects, addresses = kept.load()
    assert [(raw.data["kind"], raw.where.file, raw.where.line) for raw in objects] == [
        ("ServiceAccount", "/etc/edgemesh/shop.yaml", 3),
        ("NodeConfig", "/etc/edgemesh/node.yaml", 1),
    ]
    assert addresses == {"shop/till": ("240.240.0.7", "fdce:ed6e:5e55::7")}
    assert kept.places() == {"netns /run/netns/till": "shop/till", "unit till.service": "shop/till-unit"}
    assert kept.met(BOOT) == {4026531840: ("10.0.0.7",), 4026532000: ()}
    assert not kept.problems
    names = ("last-good.json", "addresses.json", "places.json", "namespaces.json")
    before = contents(state, names)
    kept.save(objects, addresses)
    assert kept.save_places(kept.places()) == kept.save_met(BOOT, kept.met(BOOT)) == ()
    assert contents(state, names) == before, "what has not changed costs the flash nothing"


def test_certificates_of_the_node(state: Path) -> None:
    vault = IdentityStore(state)
    vault.open()
    joined, bundle, pairs = vault.load()
    assert vault.problems == []
    assert joined == Joined("10.0.0.9:15012", "till-3")
    assert bundle is not None
    assert (bundle.trust_domain, len(bundle.roots)) == ("cluster.local", 1)
    assert [pair.credentials.spiffe for pair in pairs] == ["spiffe://cluster.local/node/till-3", TILL]
    for pair in pairs:
        csr.check(
            pair.credentials.chain.decode(), pair.credentials.key, pair.credentials.spiffe, bundle.roots[0], now()
        )
    keeper = CertificateManager(vault, "till-3", Clock(300.0, wall=now))
    keeper.load()
    assert {credentials.spiffe for credentials in keeper.credentials()} == {"spiffe://cluster.local/node/till-3", TILL}


def test_the_authority_signs_on(state: Path) -> None:
    authority = Authority(state / "authority", now, 14 * 86400, nothing, nothing)
    root = authority.bundle().roots[0]
    key = csr.new_key()
    issued = authority.sign("till-3", SignRequest(TILL, csr.request(key, TILL)))
    csr.check(issued.chain, key, TILL, root, now())
    with pytest.raises(AuthorityRefused, match="not good for this node"):
        authority.join(JoinRequest("till-3", TOKEN, csr.request(key, "x")), "10.0.0.9")
    issued = authority.join(JoinRequest("till-4", TOKEN, csr.request(key, "x")), "10.0.0.9")
    csr.check(issued.chain, key, "spiffe://cluster.local/node/till-4", root, now())


def test_what_the_authority_has_issued(state: Path) -> None:
    holdings = AuthorityState(state / "authority", now)
    with holdings.held():
        newest = {(entry.node, entry.spiffe) for entry in holdings.ledger.newest(now())}
        assert newest == {("till-3", "spiffe://cluster.local/node/till-3"), ("till-3", TILL)}
        assert holdings.ledger.gap == 0, "nothing of it is lost"
        assert list(holdings.ledger.nodes) == ["till-3"]
        assert [node for node, _ in holdings.tokens.outstanding(now())] == ["till-4"]


def test_keys_and_releases_of_updates(state: Path) -> None:
    trust = TrustedKeys(state)
    assert trust.keys() == Keys(3, (b"\1" * 32, b"\2" * 32))
    assert trust.epoch() == 7
    assert [(line["what"], line["version"], line["outcome"]) for line in Releases(state).history()] == [
        ("update", "2.0", "took over")
    ]
