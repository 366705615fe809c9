"""The authority's folder in memory: a rotation works on it, and the journal is not in the Secret."""

from __future__ import annotations

import pytest

from agent.identity.authority import ca, rotation
from agent.identity.authority.authority import Authority
from agent.identity.authority.rotation import NotNow
from agent.identity.authority.state import AuthorityState
from agent.identity.csr import new_key, request
from agent.identity.folder import FolderError
from agent.identity.kubernetes.memory import MemoryFolder, key_of, path_of
from agent.identity.protocol import SignRequest

NOW = 1_800_000_000.0


def begun() -> MemoryFolder:
    folder = MemoryFolder("Secret one")
    AuthorityState(folder, lambda: NOW).create(ca.make_root("cluster.local", NOW, 7), "cluster.local")
    return folder


def authority(folder: MemoryFolder) -> Authority:
    return Authority(folder, lambda: NOW, 3600.0, lambda node, spiffe: "", lambda node, who, serial: "")


def test_its_files_are_keys_of_a_secret_and_come_back() -> None:
    files = begun().files()
    assert all("/" not in key_of(name) for name in files)
    back = {path_of(key_of(name)): data for name, data in files.items()}
    assert back == files
    assert sorted(name.partition("/")[0] for name in files) == ["issuers", "issuers", "rotation.json"]
    assert authority(MemoryFolder("again", back)).bundle() == authority(begun_from(files)).bundle()


def begun_from(files: dict[str, bytes]) -> MemoryFolder:
    return MemoryFolder("copy", files)


def test_it_signs_and_a_lifetime_only_shortens() -> None:
    from agent.identity.csr import facts

    signs = authority(begun())
    ask = SignRequest("spiffe://cluster.local/ns/shop/sa/till", request(new_key(), "spiffe://x/y"))
    assert facts(signs.sign("n-a", ask).chain).not_after == NOW + 3600
    assert facts(signs.sign("n-a", ask, lifetime=600.0).chain).not_after == NOW + 600
    assert facts(signs.sign("n-a", ask, lifetime=1e9).chain).not_after == NOW + 3600


def test_another_content_is_taken_up_at_the_next_answer() -> None:
    folder = begun()
    signs = authority(folder)
    before = signs.bundle()
    files = folder.files()
    other = MemoryFolder("other", files)
    held = AuthorityState(other, lambda: NOW)
    with held.held():
        rotation.add(held)
    folder.load(other.files())
    after = signs.bundle()
    assert len(after.roots) == 2
    assert after.issuer == before.issuer
    folder.load(files)
    assert signs.bundle() == before


def test_a_new_holder_retires_no_root_before_what_it_may_not_know_has_ended() -> None:
    held = AuthorityState(MemoryFolder("again", begun().files(), gap=NOW), lambda: NOW)
    with held.held():
        assert held.ledger.gap == NOW
        rotation.add(held)
        rotation.issue(held, force=True)
        with pytest.raises(NotNow, match="may be cut off"):
            rotation.retire(held)


def test_the_maker_of_the_authority_has_no_gap() -> None:
    folder = begun()
    held = AuthorityState(folder, lambda: NOW)
    with held.held():
        assert held.ledger.gap == 0


def test_a_secret_without_an_authority_is_an_error() -> None:
    with pytest.raises(FolderError):
        authority(MemoryFolder("empty", {})).bundle()
    damaged = {**begun().files(), "rotation.json": b"{}"}
    with pytest.raises(FolderError, match="cannot be read"):
        authority(MemoryFolder("damaged", damaged)).bundle()


def test_files_move_and_go() -> None:
    folder = MemoryFolder("one", {"a": b"1"})
    stamp = folder.stamp("a")
    folder.load({"a": b"1", "b": b"2"})
    assert folder.stamp("a") == stamp, "what did not change is not read again"
    folder.move("a", "c")
    folder.remove("b")
    assert folder.files() == {"c": b"1"}
    with pytest.raises(FolderError):
        folder.move("a", "d")
