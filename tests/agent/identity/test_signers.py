"""Who signs for a node: the first row that can, by where the node stands; and nobody knows why without being told."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.config.schema import NodeConfig
from agent.identity import signers
from agent.identity.authority.authority import Authority
from agent.identity.authority.local import LocalSigner
from agent.identity.kubernetes.signer import KubernetesSigner
from agent.identity.node.client import RemoteSigner
from agent.identity.node.clock import Clock
from agent.identity.node.manager import CertificateManager
from agent.identity.node.store import IdentityStore
from agent.identity.protocol import AuthorityUnreachable
from agent.identity.signers import LostSigner, Position, signer
from agent.kubernetes.access import Access
from agent.kubernetes.api import ApiServer

CLUSTER = ApiServer(Access("10.43.0.1", 443, "a test"))


def position(path: Path, joined: str = "", holds: bool = False, cluster: ApiServer | None = None) -> Position:
    authority = Authority(
        path / "authority", time.time, 3600, lambda node, spiffe: "", lambda node, identity, serial: ""
    )
    keeper = CertificateManager(IdentityStore(path), "edge-1", Clock(300.0))
    return Position(NodeConfig(node="edge-1"), keeper, authority if holds else None, joined, cluster)


@pytest.mark.parametrize(
    ("joined", "holds", "kind"),
    [
        ("", True, LocalSigner),
        ("boss:15012", True, LocalSigner),
        ("boss:15012", False, RemoteSigner),
        ("", False, LostSigner),
    ],
)
def test_the_first_row_that_can_signs(tmp_path: Path, joined: str, holds: bool, kind: type) -> None:
    assert type(signer(position(tmp_path, joined, holds))) is kind


def test_in_a_cluster_its_own_authority_signs_whatever_was_joined_before(tmp_path: Path) -> None:
    made = signer(position(tmp_path, "boss:15012", cluster=CLUSTER))
    assert isinstance(made, KubernetesSigner)
    assert made._api is CLUSTER, "its requests count with all others of the node"


def test_a_row_before_the_others_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = position(tmp_path, "boss:15012")
    mine = LostSigner(here.keeper.vault)
    monkeypatch.setattr(
        signers, "SIGNERS", {"mine": lambda given: mine if given.config.node == "edge-1" else None, **signers.SIGNERS}
    )
    assert signer(here) is mine


async def test_where_the_authority_is_no_longer_known_nothing_is_asked_and_it_is_said() -> None:
    lost = LostSigner(IdentityStore(Path("/state")))
    for asked in (lost.bundle(), lost.sign("spiffe://x", "csr")):
        with pytest.raises(
            AuthorityUnreachable, match=r"/state/identity/joined.json, which says where it is, cannot be read"
        ):
            await asked


def test_the_table_brings_no_cryptography_to_a_node_without_the_authority() -> None:
    code = (
        "import sys; import agent.identity.membership, agent.identity.signers; sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
