"""Files and links are whole after every power cut, whatever was in their place, and have the mode that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.identity.folder import Folder
from agent.install import files as installed
from agent.ota.keys import Keys, TrustedKeys
from agent.store.disk import State
from agent.system import files
from agent.system.files import make_directory, replace_file, replace_link
from policy.model import Where
from policy.resources import RawObject
from tests.agent.system import powercut

OLD, NEW = b"old" * 40, b"new" * 50


@pytest.fixture(params=[0o000, 0o022, 0o777], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.new").write_text("left by somebody who was killed, and longer than what comes")
    replace_file(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_modes_are_those_asked_for(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "file"
    replace_file(path, b"one", 0o640)
    replace_file(path, b"two", mode)
    assert mode_of(path) == mode
    make_directory(tmp_path / "a" / "b", mode | 0o700)
    assert [mode_of(tmp_path / "a"), mode_of(tmp_path / "a" / "b")] == [mode | 0o700] * 2


def test_a_secret_is_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even before its mode is set."""
    before = os.umask(0)
    seen = []
    real = os.fchmod

    def fchmod(descriptor: int, mode: int) -> None:
        seen.append(os.fstat(descriptor).st_mode & 0o777)
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", fchmod)
    try:
        replace_file(tmp_path / "key", b"secret", 0o600)
    finally:
        os.umask(before)
    assert seen == [0o600]


@pytest.mark.parametrize("at", [".file.new", "file"])
def test_a_link_that_somebody_laid_is_not_followed(tmp_path: Path, at: str) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / at).symlink_to("precious")
    replace_file(tmp_path / "file", b"new", 0o600)
    assert (tmp_path / "precious").read_text() == "keep"
    assert not (tmp_path / "file").is_symlink()
    assert names(tmp_path) == ["file", "precious"]


@pytest.mark.parametrize("call", ["fsync", "fchmod", "rename"])
def test_what_fails_leaves_the_old_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    replace_file(path, OLD, 0o600)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    open_before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            replace_file(path, NEW, 0o600)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_link_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / ".link.new").symlink_to("left by somebody who was killed")
    for target in ("one", "two"):
        replace_link(link, target)
        assert os.readlink(link) == target
    assert names(tmp_path) == ["link"]


def test_directories_last_with_those_above_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_directory", synced.append)
    make_directory(tmp_path / "a" / "b", 0o700)
    assert synced == [tmp_path, tmp_path / "a"]
    (tmp_path / "a").chmod(0o750)
    make_directory(tmp_path / "a" / "b", 0o700)
    assert len(synced) == 2
    assert mode_of(tmp_path / "a") == 0o750, "one that is there is somebody's choice"


def test_a_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(FileExistsError):
        make_directory(tmp_path / "a", 0o700)


# power cuts: each user of these, as it calls them


def _file(folder: Path, data: bytes) -> None:
    replace_file(folder / "file", data, 0o640)


def _authority(folder: Path, data: bytes) -> None:
    Folder(folder).replace("file", data)


def _setup(folder: Path, data: bytes) -> None:
    installed.put(folder / "file", data.decode())


def read_file(folder: Path) -> bytes | None:
    path = folder / "file"
    return path.read_bytes() if path.exists() else None


def _last_good(folder: Path, data: bytes) -> None:
    state = State(folder)
    state.save([RawObject({"kind": data.decode()}, Where("a.yaml", 1), {})], {})
    assert not state.problems


def read_last_good(folder: Path) -> bytes | None:
    state = State(folder)
    objects, _ = state.load()
    assert not state.problems
    return objects[0].data["kind"].encode() if objects else None


def _keys(folder: Path, data: bytes) -> None:
    TrustedKeys(folder).write(Keys(len(data), (data[:3].ljust(32, b"x"),)))


def read_keys(folder: Path) -> bytes | None:
    keys = TrustedKeys(folder).keys()
    return {0: None, len(OLD): OLD, len(NEW): NEW}[keys.serial]


def _link(folder: Path, data: bytes) -> None:
    replace_link(folder / "link", data.decode())


def read_link(folder: Path) -> bytes | None:
    path = folder / "link"
    return os.readlink(path).encode() if path.is_symlink() else None


Write = Callable[[Path, bytes], None]
Read = Callable[[Path], bytes | None]
USERS: dict[str, tuple[Write, Read]] = {
    "a file": (_file, read_file),
    "the authority": (_authority, read_file),
    "setup": (_setup, read_file),
    "the last good objects": (_last_good, read_last_good),
    "keys of updates": (_keys, read_keys),
    "a link": (_link, read_link),
}


@pytest.mark.parametrize("before", [None, OLD], ids=["first", "again"])
@pytest.mark.parametrize("user", USERS)
def test_a_power_cut_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, before: bytes | None
) -> None:
    write, read = USERS[user]
    first = tmp_path / "first"
    first.mkdir()
    if before is not None:
        write(first, before)
    cuts = powercut.record(monkeypatch, first, (files,), lambda: write(first, NEW))
    found = set()
    for number, state in enumerate(cuts.states):
        at = tmp_path / f"cut-{number}"
        at.mkdir()
        state.write(at)
        found.add(read(at))
        write(at, NEW)  # what was left does not stand in the way
        assert read(at) == NEW
        assert not [path for path in at.rglob("*") if path.name.endswith(".new")], state
    assert found == {before, NEW}
    for number, state in enumerate(cuts.last):  # whoever was told that it is written, may rely on it
        at = tmp_path / f"last-{number}"
        at.mkdir()
        state.write(at)
        assert read(at) == NEW, state
