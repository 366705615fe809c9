"""store.py: what was kept is there after a restart, whole, for nobody else to read, and what is not is left out."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.identity.node.roots import fingerprint
from agent.identity.node.store import BUNDLE, IdentityStore, IdentityStoreError, Joined, KeyPair
from agent.identity.protocol import Bundle
from nodeproxy.tls.credentials import Credentials

DAY = 86400.0


def pem(content: str) -> str:
    encoded = base64.encodebytes(content.encode()).decode()
    return f"-----BEGIN CERTIFICATE-----\n{encoded}-----END CERTIFICATE-----\n"


def pair(identity: str = "ns/shop/sa/buyer", serial: str = "01") -> KeyPair:
    spiffe = f"spiffe://cluster.local/{identity}"
    return KeyPair(
        Credentials(spiffe, f"chain {serial}".encode(), f"key {serial}".encode(), serial, 1000.0, 2000.0), "r1"
    )


BUNDLE_1 = Bundle("cluster.local", (pem("root 1"),), "r1", 5000.0)
NODE = Joined("boss:15012", "edge-1")


def opened(path: Path) -> IdentityStore:
    vault = IdentityStore(path)
    vault.open()
    return vault


def file_of(path: Path, beginning: str = "shop.buyer") -> Path:
    (found,) = (path / "identity").glob(f"{beginning}*.pair")
    return found


def test_an_empty_folder_holds_nothing_and_is_ours_alone(tmp_path: Path) -> None:
    vault = opened(tmp_path / "state")
    assert vault.load() == (None, None, [])
    assert vault.problems == []
    assert (tmp_path / "state/identity").stat().st_mode & 0o777 == 0o700


def test_keeps_everything(tmp_path: Path) -> None:
    vault = opened(tmp_path)
    vault.keep_joined(NODE)
    vault.keep_bundle(BUNDLE_1)
    for kept in (pair(), pair("node/edge-1", "02")):
        vault.keep(kept)
    again = opened(tmp_path)
    assert again.load() == (NODE, BUNDLE_1, [pair("node/edge-1", "02"), pair()])
    assert again.problems == []
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "identity").iterdir()} == {0o600}
    assert len(os.listdir(tmp_path / "identity")) == 4
    assert "key" not in repr(again.load())


def test_forgets_what_is_dropped(tmp_path: Path) -> None:
    vault = opened(tmp_path)
    vault.keep(pair())
    vault.drop(pair().credentials.spiffe)
    vault.drop(pair().credentials.spiffe)
    assert opened(tmp_path).load() == (None, None, [])
    vault.keep(pair())
    assert opened(tmp_path).load()[2] == [pair()]


def test_names_that_look_alike_have_files_of_their_own(tmp_path: Path) -> None:
    vault = opened(tmp_path)
    kept = [pair("ns/a.b/sa/c"), pair("ns/a/sa/b.c"), pair("ns/a:b/sa/c"), pair("ns/" + "x" * 253 + "/sa/" + "y" * 253)]
    for one in kept:
        vault.keep(one)
    assert vault.problems == []
    assert sorted(one.credentials.spiffe for one in opened(tmp_path).load()[2]) == sorted(
        one.credentials.spiffe for one in kept
    )


def test_writes_only_what_changed_also_after_a_restart(tmp_path: Path) -> None:
    def files() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in (tmp_path / "identity").iterdir()}

    vault = opened(tmp_path)
    vault.keep(pair())
    vault.keep_joined(NODE)
    vault.keep_bundle(BUNDLE_1)
    before = files()
    again = opened(tmp_path)
    again.load()
    for one in (vault, again):
        one.keep(pair())
        one.keep_joined(NODE)
        one.keep_bundle(replace(BUNDLE_1, now=5000.0 + DAY - 1))
        assert files() == before
    again.keep(pair(serial="02"))
    again.keep_bundle(replace(BUNDLE_1, now=5000.0 + DAY))
    assert {name for name, number in files().items() if number != before[name]} == {BUNDLE, file_of(tmp_path).name}
    before = files()
    again.keep_bundle(replace(BUNDLE_1, now=5000.0 + DAY, issuer="r2"))
    assert {name for name, number in files().items() if number != before[name]} == {BUNDLE}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b'"chain"') + 12  # a bit that still is base64
    data[at] = ord("A") if data[at] != ord("A") else ord("B")
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "other": lambda path: path.write_bytes(b'{"digest": "", "content": {}}'),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "bit": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_left_out_and_written_anew(tmp_path: Path, damage: str) -> None:
    vault = opened(tmp_path)
    vault.keep(pair())
    vault.keep(pair("node/edge-1"))
    DAMAGES[damage](file_of(tmp_path))
    again = opened(tmp_path)
    assert again.load() == (None, None, [pair("node/edge-1")])
    (problem,) = again.problems
    assert "left out" in problem.message
    assert "key 01" not in str(problem)
    again.keep(pair())
    assert again.problems == []
    assert pair() in opened(tmp_path).load()[2]


def test_a_file_under_another_name_is_left_out(tmp_path: Path) -> None:
    vault = opened(tmp_path)
    vault.keep(pair())
    file_of(tmp_path).rename(tmp_path / "identity" / "shop.thief-00.pair")
    again = opened(tmp_path)
    assert again.load()[2] == []
    assert "of another identity" in again.problems[0].message


def test_modes_are_repaired_and_said(tmp_path: Path) -> None:
    vault = opened(tmp_path)
    vault.keep(pair())
    file_of(tmp_path).chmod(0o640)
    (tmp_path / "identity").chmod(0o755)
    again = opened(tmp_path)
    assert again.load()[2] == [pair()]
    assert file_of(tmp_path).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "identity").stat().st_mode & 0o777 == 0o700
    assert [("could be read by others" in problem.message, "revoke" in problem.hint) for problem in again.problems] == [
        (True, True)
    ] * 2


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(IdentityStoreError, match="belongs to user"):
        IdentityStore(tmp_path).open()


def test_a_file_of_somebody_else_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = opened(tmp_path)
    vault.keep(pair())
    again = opened(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert again.load()[2] == []
    assert "not a file of ours" in again.problems[0].message


def test_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "identity").write_text("a file")
    with pytest.raises(IdentityStoreError, match="cannot be made"):
        IdentityStore(tmp_path).open()
    (tmp_path / "identity").unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "identity").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IdentityStoreError, match="is no folder"):
        IdentityStore(tmp_path).open()


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    vault = opened(tmp_path)
    vault.keep(pair())
    path = file_of(tmp_path)
    path.rename(tmp_path / "stolen")
    path.symlink_to(tmp_path / "stolen")
    os.mkfifo(path.with_name("pipe-00.pair"))
    again = opened(tmp_path)
    assert again.load()[2] == []
    assert len(again.problems) == 2
    again.keep(pair(serial="02"))
    assert not path.is_symlink()
    assert opened(tmp_path).load()[2] == [pair(serial="02")]


def test_a_disk_that_is_full_is_a_problem_until_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = opened(tmp_path)
    vault.keep(pair())
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        vault.keep(pair(serial="02"))
    assert "No space left" in vault.problems[0].message
    assert opened(tmp_path).load()[2] == [pair()]
    vault.keep(pair(serial="02"))
    assert vault.problems == []
    assert opened(tmp_path).load()[2] == [pair(serial="02")]


# power cuts

CALLS = ("open", "fchmod", "fsync", "rename", "unlink", "close")


class PowerCut(BaseException):
    """Nothing that the process would still do happens."""


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any], int], bool]:
    """Do something, but after so many calls of the system the power fails. Answers whether it did."""

    def doing(what: Callable[[], Any], after: int) -> bool:
        left = iter(range(after))

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **keywords: Any) -> Any:
                if next(left, None) is None:
                    raise PowerCut
                return real(*args, **keywords)

            return call

        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                what()
            except PowerCut:
                return True
        return False

    return doing


def test_power_cuts_leave_the_older_or_the_newer_pair(
    tmp_path: Path, cut: Callable[[Callable[[], Any], int], bool]
) -> None:
    seen = []
    for at in range(100):
        path = tmp_path / str(at)
        vault = opened(path)
        vault.keep(pair())
        failed = cut(lambda kept=vault: kept.keep(pair(serial="02")), at)  # type: ignore[misc]
        again = opened(path)
        (found,) = again.load()[2]
        again.sweep()
        assert again.problems == []
        assert not [name for name in os.listdir(path / "identity") if name.endswith(".new")]
        seen.append(found.credentials.serial)
        if not failed:
            break
    assert seen == sorted(seen)
    assert set(seen) == {"01", "02"}
    assert len(seen) > 5


@pytest.mark.parametrize("new", [".{}.new", "{}.new"], ids=["ours", "of the version before"])
def test_a_torn_new_file_counts_for_nothing(tmp_path: Path, new: str) -> None:
    vault = opened(tmp_path)
    vault.keep(pair())
    path = file_of(tmp_path)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole)):
        path.with_name(new.format(path.name)).write_bytes(whole[:length])
        again = opened(tmp_path)
        assert again.load()[2] == [pair()]
        assert path.with_name(new.format(path.name)).exists(), "the daemon before us may be writing it"
        again.sweep()
        assert again.problems == []
        assert not path.with_name(new.format(path.name)).exists()


def test_a_new_file_is_on_the_disk_before_it_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that is on the disk before the content would leave an empty file."""
    calls: list[str] = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, name=name: (calls.append(name), real(*args))[1])
    vault = opened(tmp_path)
    vault.keep(pair())
    assert calls == ["fsync", "rename", "fsync"]


def test_fingerprints_are_of_what_is_in_the_text() -> None:
    assert fingerprint(f"Root of ours\n{pem('root 1')}") == hashlib.sha256(b"root 1").hexdigest()
    assert [fingerprint(text) for text in ("", "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----")] == ["", ""]
