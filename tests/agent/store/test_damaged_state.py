"""Whatever becomes of any file of state, the data plane runs, people are told, and what signs with the rest does not."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from agent.admin.listener import AdminSocket
from agent.admin.status import status
from agent.config.schema import AuthorityConfig, NodeConfig
from agent.config.settings import Settings
from agent.daemon import node as app
from agent.daemon.node import Node
from agent.identity import csr
from agent.identity.authority import ca
from agent.identity.authority.state import AuthorityState
from agent.identity.folder import FolderError
from agent.identity.membership import Membership
from agent.identity.node import store
from agent.identity.node.store import IdentityStore, Joined
from agent.sources.directory import ManifestDirectory
from agent.store.disk import State
from tests.agent.conftest import MANIFESTS
from tests.agent.daemon.conftest import FakeCapture
from tests.agent.damages import DAMAGES, directory, gone, other_text, pipe, unreadable
from tests.ports import free_port

TD, NODE = "cluster.local", "edge-1"
ROOT, KEY = ca.make_root(TD, time.time(), 1 << 120), csr.new_key()


def run(folder: Path, check: Callable[[Node], Awaitable[None]]) -> None:
    """A node that holds the authority, on the state in `folder`, until `check` has looked at it."""
    manifests = folder / "manifests"
    manifests.mkdir(exist_ok=True)
    (manifests / "shop.yaml").write_text(MANIFESTS)
    door = AuthorityConfig(f"127.0.0.1:{free_port()}")
    settings = Settings({"node": NODE, "state_dir": str(folder / "state"), "authority": door})
    settings.remember(State(folder / "state").load()[0])

    async def main() -> None:
        node = Node([ManifestDirectory(manifests)], settings, hold_authority=True)
        admin = AdminSocket(folder / "admin.sock")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.run, admin)
                with trio.fail_after(30):
                    while node.state != "enforcing":
                        await trio.sleep(0.005)
                    await check(node)
                nursery.cancel_scope.cancel()
        finally:
            admin.close()

    trio.run(main)


async def signs(node: Node) -> bool:
    """Does the authority give out certificates? Then they are those of the mesh."""
    assert node.membership.authority is not None
    try:
        issued = await trio.to_thread.run_sync(
            node.membership.authority.certify, csr.request(KEY, f"spiffe://{TD}/authority")
        )
    except FolderError:
        return False
    csr.check(issued.chain, KEY, f"spiffe://{TD}/authority", ROOT.root, time.time())
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with a file of each kind that a node writes: it holds the authority and has joined one."""
    folder = tmp_path_factory.mktemp("whole")
    holdings = AuthorityState(folder / "state" / "authority", time.time)
    holdings.create(ROOT, TD)
    with holdings.held():
        holdings.tokens.make("edge-2", 3600.0, time.time())
    kept = IdentityStore(folder / "state")
    kept.open()
    kept.keep_joined(Joined("10.0.0.9:15012", NODE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "CaptureManager", FakeCapture)

        async def until_all_is_written(node: Node) -> None:
            while node.membership.keeper.node() is None or not (folder / "state" / "last-good.json").exists():
                await trio.sleep(0.01)
            assert await signs(node)
            assert [problem for problem in node.problems if problem.object in ("identity", "authority")] == []

        run(folder, until_all_is_written)
    return folder / "state"


def files(state: Path) -> list[Path]:
    return sorted(path.relative_to(state) for path in state.rglob("*") if path.is_file())


def test_a_node_writes_these(whole: Path) -> None:
    """Who adds a file finds it damaged below."""
    kinds = {re.sub("[0-9a-f]{16,}", "ID", str(path)) for path in files(whole)}
    assert kinds >= {
        "addresses.json", "authority/issuers/ID.crt", "authority/issuers/ID.key", "authority/ledger.jsonl", "authority/lock",
        "authority/rotation.json", "authority/tokens.json", "identity/bundle.json", "identity/joined.json", "last-good.json",
    }  # fmt: skip
    assert any(kind.endswith(".pair") for kind in kinds)


MUST_SIGN_NO_MORE = ("rotation.json", ".crt", ".key")  # where what signs is


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_node_runs_on_whatever_became_of_a_file(
    whole: Path, tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "CaptureManager", FakeCapture)
    for number, name in enumerate(files(whole)):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder / "state")
        damage(folder / "state" / name)

        async def check(node: Node, name: Path = name) -> None:
            document = status(node, time.time())
            assert document["enforcing"]
            told = [problem for problem in document["problems"] if problem["severity"] == "error"]
            can_sign = await signs(node)
            assert can_sign or any("the signing door is shut" in problem["message"] for problem in told), name
            if name.name.endswith(MUST_SIGN_NO_MORE):
                assert not can_sign, name
            await trio.sleep(0)

        run(folder, check)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_joined_json_is_one_line_and_the_node_keeps_its_certificates(
    whole: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(whole, tmp_path / "state")
    damage(tmp_path / "state" / "identity" / "joined.json")
    node = Membership(NodeConfig(node=NODE, state_dir=str(tmp_path / "state")), False, lambda: None)
    assert not node.alone
    assert node.keeper.node() is not None
    told = [problem for problem in node.problems if "joined.json" in problem.message]
    assert len(told) == (damage is not gone)
    assert all("edgemesh join --again" in problem.hint for problem in told)


@pytest.mark.parametrize("place", ["identity", "authority"])
@pytest.mark.parametrize("damage", [directory, unreadable, pipe, gone, other_text], ids=lambda damage: damage.__name__)
def test_a_whole_folder_that_is_something_else(
    whole: Path, tmp_path: Path, place: str, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written into what is not ours, above all no key."""
    monkeypatch.setattr(app, "CaptureManager", FakeCapture)
    shutil.copytree(whole, tmp_path / "state")
    shutil.rmtree(tmp_path / "state" / place)
    (tmp_path / "state" / place).touch()
    damage(tmp_path / "state" / place)

    async def check(node: Node) -> None:
        assert await signs(node) == (place == "identity")
        if place == "authority":
            assert any("the signing door is shut" in problem.message for problem in node.problems)
        elif damage not in (directory, gone):
            assert any(str(tmp_path / "state" / place) in problem.message for problem in node.problems)

    run(tmp_path, check)


def test_a_folder_of_keys_that_is_anothers_gets_none(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "CaptureManager", FakeCapture)
    shutil.copytree(whole, tmp_path / "state")
    folder = tmp_path / "state" / "identity"
    shutil.rmtree(folder)
    folder.mkdir()
    monkeypatch.setattr(store.os, "geteuid", lambda: os.getuid() + 1)

    async def check(node: Node) -> None:
        while node.membership.keeper.node() is None:
            await trio.sleep(0.01)
        assert any("belongs to user" in problem.message for problem in node.problems)
        assert list(folder.iterdir()) == []

    run(tmp_path, check)
