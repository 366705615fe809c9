"""Keys and epochs of one box: a newer list takes the place of an older one, and nobody goes back without saying so."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.ota.bundle import BundleError, Manifest, read_manifest
from agent.ota.keys import Keys, TrustedKeys, TrustError
from agent.ota.releases import ReleaseError, Releases
from tests.agent.damages import DAMAGES, flip, gone
from tests.agent.ota.made import PROGRAMS, bundle, manifest, public


@pytest.fixture
def trust(tmp_path: Path) -> TrustedKeys:
    return TrustedKeys(tmp_path / "state")


def listed(serial: int, *numbers: int, epoch: int = 1) -> Manifest:
    return manifest(epoch=epoch, key_serial=serial, keys=tuple(public(number).hex() for number in numbers))


def test_a_box_that_was_told_nothing_trusts_nobody(trust: TrustedKeys) -> None:
    assert trust.keys() == Keys()
    assert trust.epoch() == 0


def test_keys_that_were_written_are_read(trust: TrustedKeys) -> None:
    trust.write(Keys(3, (public(1), public(2))))
    assert trust.keys() == Keys(3, (public(1), public(2)))
    assert trust.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "x", "1\nzz", "1\n00", "1\n" + "0" * 66, "é", "\n"])
def test_keys_that_cannot_be_read_are_not_none(trust: TrustedKeys, text: str) -> None:
    trust.write(Keys())
    (trust.folder / "keys").write_text(text, "utf-8")
    with pytest.raises(TrustError, match="edgemesh update trust writes it anew"):
        trust.keys()


@pytest.mark.parametrize("text", ["", "x", "1 2", "é"])
def test_an_epoch_that_cannot_be_read_is_not_none(trust: TrustedKeys, text: str) -> None:
    trust.came_to(manifest(epoch=5))
    (trust.folder / "epoch").write_text(text, "utf-8")
    with pytest.raises(TrustError, match="write the number"):
        trust.epoch()
    with pytest.raises(TrustError):
        trust.admit(manifest(epoch=9), 5)
    with pytest.raises(TrustError):
        trust.came_to(manifest(epoch=9))


def test_the_rotation_of_keys(trust: TrustedKeys) -> None:
    """A bundle that the old key signed brings a new list; from then on the old key counts for nothing."""
    trust.write(Keys(0, (public(1),)))
    second = bundle(listed(1, 2, 3), keys=[1])
    trust.came_to(read_manifest(second, trust.keys().keys))
    assert trust.keys() == Keys(1, (public(2), public(3)))
    with pytest.raises(BundleError, match="none of the keys"):
        read_manifest(bundle(manifest("9.0", 9), keys=[1]), trust.keys().keys)
    assert read_manifest(bundle(manifest("9.0", 9), keys=[3]), trust.keys().keys)
    for stale in (
        listed(1, 1),
        listed(0, 1),
        listed(1, 2, 3),
    ):  # the same bundle again, and older ones, bring nothing back
        trust.came_to(stale)
        assert trust.keys() == Keys(1, (public(2), public(3)))
    trust.came_to(listed(2, 3))
    assert trust.keys() == Keys(2, (public(3),))


def test_a_number_without_a_list_changes_nothing(trust: TrustedKeys) -> None:
    trust.write(Keys(0, (public(1),)))
    trust.came_to(manifest(key_serial=9))
    assert trust.keys() == Keys(0, (public(1),))


def test_the_epoch_only_rises(trust: TrustedKeys) -> None:
    for epoch, reached in ((3, 3), (2, 3), (4, 4)):
        trust.came_to(manifest(epoch=epoch))
        assert trust.epoch() == reached


def test_an_older_release_is_taken_by_its_name_only(trust: TrustedKeys) -> None:
    trust.came_to(manifest(epoch=5))
    for name in ("", "1.1", "1"):
        with pytest.raises(BundleError, match=r"say --downgrade 1\.0"):
            trust.admit(manifest("1.0", 4), 5, name)
    trust.admit(manifest("1.0", 4), 5, "1.0")
    trust.admit(manifest("1.0", 5), 5)
    trust.admit(manifest("1.0", 6), 5)


def test_what_runs_counts_where_nobody_wrote_it_down(trust: TrustedKeys) -> None:
    """Whoever took it up was killed right after."""
    with pytest.raises(BundleError, match="older than what ran here"):
        trust.admit(manifest(epoch=4), 5)


def test_a_release_between_comes_first(trust: TrustedKeys) -> None:
    with pytest.raises(BundleError, match="from epoch 4 on, and this box runs 3"):
        trust.admit(manifest(epoch=9, minimum=4), 3, "1.0")
    trust.admit(manifest(epoch=9, minimum=4), 4)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_files_are_told_and_pass_for_nothing_else(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Neither for no key nor for no epoch, by which an old bundle would come in; and no program ends by them without a word."""
    keys = Keys(3, (public(1), public(2)))
    trust, releases = TrustedKeys(tmp_path), Releases(tmp_path)
    trust.write(keys)
    trust.came_to(manifest(epoch=7))
    name = releases.stage(io.BytesIO(PROGRAMS["x86_64"]), manifest().files[0], manifest())
    releases.switch(name)
    releases.record("update", "1.0", "took over")
    for path in (tmp_path / "update" / "keys", tmp_path / "update" / "epoch"):
        damage(path)
    for read, absent in ((trust.keys, Keys()), (trust.epoch, 0)):
        try:
            found = read()
        except TrustError as error:
            assert str(tmp_path / "update") in str(error)
        else:
            assert found == absent if damage is gone else damage is flip, "another digit is told by nothing"
    for path in ("history", f"{name}/manifest.json", f"{name}/edgemesh"):
        damage(releases.folder / path)
    releases.history()
    assert releases.current() == name
    with pytest.raises(ReleaseError):
        releases.command(name)
