"""Keys and epochs of one box: a newer list takes the place of an older one, and nobody goes back without saying so."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.ota.bundle import BundleError, Manifest, read_manifest
from agent.ota.trust import Keys, Trust, TrustError, make, write_whole
from tests.agent.ota.made import bundle, manifest, public


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path / "state")


def listed(serial: int, *numbers: int, epoch: int = 1) -> Manifest:
    return manifest(epoch=epoch, key_serial=serial, keys=tuple(public(number).hex() for number in numbers))


def test_a_box_that_was_told_nothing_trusts_nobody(trust: Trust) -> None:
    assert trust.keys() == Keys()
    assert trust.epoch() == 0


def test_keys_that_were_written_are_read(trust: Trust) -> None:
    trust.write(Keys(3, (public(1), public(2))))
    assert trust.keys() == Keys(3, (public(1), public(2)))
    assert trust.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "x", "1\nzz", "1\n00", "1\n" + "0" * 66, "é", "\n"])
def test_keys_that_cannot_be_read_are_not_none(trust: Trust, text: str) -> None:
    trust.write(Keys())
    (trust.folder / "keys").write_text(text, "utf-8")
    with pytest.raises(TrustError, match="edgemesh update trust writes it anew"):
        trust.keys()


@pytest.mark.parametrize("text", ["", "x", "1 2", "é"])
def test_an_epoch_that_cannot_be_read_is_not_none(trust: Trust, text: str) -> None:
    trust.came_to(manifest(epoch=5))
    (trust.folder / "epoch").write_text(text, "utf-8")
    with pytest.raises(TrustError, match="write the number"):
        trust.epoch()
    with pytest.raises(TrustError):
        trust.admit(manifest(epoch=9), 5)
    with pytest.raises(TrustError):
        trust.came_to(manifest(epoch=9))


def test_the_rotation_of_keys(trust: Trust) -> None:
    """A bundle that the old key signed brings a new list; from then on the old key counts for nothing."""
    trust.write(Keys(0, (public(1),)))
    second = bundle(listed(1, 2, 3), keys=[1])
    trust.came_to(read_manifest(second, trust.keys().keys))
    assert trust.keys() == Keys(1, (public(2), public(3)))
    with pytest.raises(BundleError, match="none of the keys"):
        read_manifest(bundle(manifest("9.0", 9), keys=[1]), trust.keys().keys)
    assert read_manifest(bundle(manifest("9.0", 9), keys=[3]), trust.keys().keys)
    for stale in (listed(1, 1), listed(0, 1), listed(1, 2, 3)):  # the same bundle again, and older ones, bring nothing back
        trust.came_to(stale)
        assert trust.keys() == Keys(1, (public(2), public(3)))
    trust.came_to(listed(2, 3))
    assert trust.keys() == Keys(2, (public(3),))


def test_a_number_without_a_list_changes_nothing(trust: Trust) -> None:
    trust.write(Keys(0, (public(1),)))
    trust.came_to(manifest(key_serial=9))
    assert trust.keys() == Keys(0, (public(1),))


def test_the_epoch_only_rises(trust: Trust) -> None:
    for epoch, reached in ((3, 3), (2, 3), (4, 4)):
        trust.came_to(manifest(epoch=epoch))
        assert trust.epoch() == reached


def test_an_older_release_is_taken_by_its_name_only(trust: Trust) -> None:
    trust.came_to(manifest(epoch=5))
    for name in ("", "1.1", "1"):
        with pytest.raises(BundleError, match=r"say --downgrade 1\.0"):
            trust.admit(manifest("1.0", 4), 5, name)
    trust.admit(manifest("1.0", 4), 5, "1.0")
    trust.admit(manifest("1.0", 5), 5)
    trust.admit(manifest("1.0", 6), 5)


def test_what_runs_counts_where_nobody_wrote_it_down(trust: Trust) -> None:
    """Whoever took it up was killed right after."""
    with pytest.raises(BundleError, match="older than what ran here"):
        trust.admit(manifest(epoch=4), 5)


def test_a_release_between_comes_first(trust: Trust) -> None:
    with pytest.raises(BundleError, match="from epoch 4 on, and this box runs 3"):
        trust.admit(manifest(epoch=9, minimum=4), 3, "1.0")
    trust.admit(manifest(epoch=9, minimum=4), 4)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.new").write_text("left by somebody who was killed, and longer than what comes")
    write_whole(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / ".file.new").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "precious").read_text() == "keep"


def test_directories_last_with_those_above_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("agent.ota.trust.sync", synced.append)
    make(tmp_path / "a" / "b", 0o700)
    assert synced == [tmp_path, tmp_path / "a"]
    make(tmp_path / "a" / "b", 0o700)
    assert len(synced) == 2
