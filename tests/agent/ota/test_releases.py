"""What is installed: whatever fails and whenever, `current` leads to one whole release, and the next update goes on from there."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.ota import releases as module
from agent.ota.bundle import Manifest
from agent.ota.keys import Keys, TrustedKeys
from agent.ota.releases import PROGRAM, AlteredError, ReleaseError, Releases
from agent.system import files
from tests.agent.ota.made import file, manifest, public
from tests.agent.system import powercut

OLDER, OLD, NEW, NEXT = (f"#!/bin/sh\n# {word}\n".encode() * 9 for word in ("older", "old", "new", "next"))


def of(program: bytes, epoch: int = 1) -> Manifest:
    return manifest(f"{epoch}.0", epoch, {"x86_64": program})


def stage(releases: Releases, program: bytes, epoch: int = 1) -> str:
    return releases.stage(io.BytesIO(program), file("x86_64", program), of(program, epoch))


def install(releases: Releases, program: bytes, epoch: int = 1) -> str:
    name = stage(releases, program, epoch)
    releases.switch(name)
    return name


def entries(releases: Releases) -> set[str]:
    return {path.name for path in releases.folder.iterdir()}


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "state")


# what it does


def test_nothing_is_installed_at_first(releases: Releases) -> None:
    assert (releases.current(), releases.previous(), releases.history()) == ("", "", [])
    assert releases.manifest("1.0-abc") is None
    with pytest.raises(ReleaseError, match="there is no release"):
        releases.command("1.0-abc")


def test_staged_and_switched(releases: Releases) -> None:
    name = stage(releases, OLD)
    assert releases.current() == ""
    releases.switch(name)
    assert releases.current() == name
    assert releases.previous() == ""
    assert releases.program.read_bytes() == OLD
    assert releases.program.stat().st_mode & 0o777 == 0o755
    assert releases.command(name) == [str(releases.folder / name / PROGRAM)]
    assert releases.manifest(name) == of(OLD)
    second = install(releases, NEW, 2)
    assert (releases.current(), releases.previous()) == (second, name)
    releases.switch(second)
    assert releases.previous() == name, "switching to what is installed forgets nothing"


def test_restored(releases: Releases) -> None:
    first, second = install(releases, OLD), install(releases, NEW, 2)
    releases.restore(first, "")
    assert (releases.current(), releases.previous()) == (first, "")
    releases.restore("", second)
    assert (releases.current(), releases.previous()) == ("", second)


def test_pruned(releases: Releases) -> None:
    names = [install(releases, program, epoch) for epoch, program in enumerate((OLDER, OLD, NEW), 1)]
    stage(releases, NEXT, 4)
    releases.record("update", "3.0", "took over")
    (releases.folder / ".x.new").mkdir()
    (releases.folder / ".y.new").symlink_to("nowhere")
    releases.prune()
    assert entries(releases) == {names[1], names[2], "current", "previous", "history"}


def test_what_cannot_be_read_is_not_pruned(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for a moment must not cost the installed release."""
    install(releases, OLD)

    def broken(path: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", broken)
        with pytest.raises(ReleaseError, match="Input/output error"):
            releases.prune()
    assert releases.program.read_bytes() == OLD


def test_bytes_that_are_not_the_signed_ones_are_not_staged(releases: Releases) -> None:
    good = file("x86_64", OLD)
    altered = b"x" + OLD[1:]
    for data, what in (
        (OLD[:-1], "1 bytes of the file"),
        (b"", "bytes of the file"),
        (altered, "not the one that was signed"),
    ):
        with pytest.raises(AlteredError, match=what):
            releases.stage(io.BytesIO(data), good, of(OLD))
    assert stage(releases, NEW, 2) in entries(releases)
    assert not [name for name in entries(releases) if name.startswith((".", "1.0"))]


def test_only_the_file_is_read_of_a_bundle(releases: Releases) -> None:
    name = releases.stage(io.BytesIO(OLD + NEW), file("x86_64", OLD), of(OLD))
    assert (releases.folder / name / PROGRAM).read_bytes() == OLD


def test_a_full_disk_is_told_before_anything_is_written(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(ReleaseError, match=r"1 MiB are free, and edgemesh 1\.0 needs 8"):
        stage(releases, OLD)
    assert entries(releases) == set()


@pytest.mark.parametrize("damage", ["bytes", "length", "mode", "manifest", "no manifest", "no program"])
def test_a_damaged_release_is_told_and_mended(releases: Releases, damage: str) -> None:
    name = install(releases, OLD)
    program, written = releases.folder / name / PROGRAM, releases.folder / name / "manifest.json"
    match damage:
        case "bytes":
            program.write_bytes(b"x" * len(OLD))
        case "length":
            program.write_bytes(OLD + b"\0")
        case "mode":
            program.chmod(0o644)
        case "manifest":
            written.write_bytes(b"{")
        case "no manifest":
            written.unlink()
        case "no program":
            program.unlink()
    if damage != "mode":
        with pytest.raises(ReleaseError, match="damaged"):
            releases.command(name)
    assert stage(releases, OLD) == name
    assert releases.current() == name
    assert releases.command(name)
    assert program.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc", ".x.new", "a/b"])
def test_names_that_are_none(releases: Releases, name: str) -> None:
    install(releases, OLD)
    with pytest.raises(ReleaseError):
        releases.command(name)


def test_a_file_that_is_there_is_adopted(releases: Releases, tmp_path: Path) -> None:
    (tmp_path / "edgemesh").write_bytes(OLD)
    name = releases.adopt(tmp_path / "edgemesh", of(b"something else"))
    assert releases.command(name)
    with pytest.raises(ReleaseError, match="No such file"):
        releases.adopt(tmp_path / "gone", of(OLD))


def test_one_at_a_time(releases: Releases) -> None:
    with releases.alone():
        with pytest.raises(ReleaseError, match="another update is under way"), releases.alone():
            pass
        with pytest.raises(BlockingIOError), Releases(releases.folder / "other").alone():
            raise BlockingIOError  # of what is done meanwhile is not taken for it
    with releases.alone():
        pass


def test_history_is_bounded_and_passes_over_what_makes_no_sense(
    releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_HISTORY", 3)
    for number in range(5):
        releases.record("update", f"{number}.0", "took\nover")
    assert [line["version"] for line in releases.history()] == ["2.0", "3.0", "4.0"]
    (releases.folder / "history").write_bytes(b'{"what": "\xff"}\n[]\nnonsense\n')
    assert len(releases.history()) == 1
    releases.record("update", "6.0", "took over")
    assert releases.history()[-1]["version"] == "6.0"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ReleaseError), Releases(tmp_path / "state").alone():
        pass


# power cuts


def whole(state: Path) -> str:
    """What the installed release is: one of the programs, in full, as the service manager starts it; "" for none."""
    releases = Releases(state)
    name = releases.current()
    if not name:
        return ""
    assert releases.program.stat().st_mode & 0o111
    assert releases.command(name)
    found = releases.program.read_bytes()
    return {OLDER: "older", OLD: "old", NEW: "new", NEXT: "next"}[found]


def goes_on(state: Path) -> None:
    """The next update succeeds, and nothing is left of what was begun."""
    releases = Releases(state)
    before = releases.current()
    with releases.alone():
        install(releases, NEXT, 9)
        releases.record("update", "9.0", "took over")
        releases.prune()
    assert whole(state) == "next"
    assert releases.previous() == before
    kept = {releases.current(), before, "current", "previous", "history"}
    assert entries(releases) == (kept if before else {releases.current(), "current", "history"})


Step = Callable[[Path], object]


def every_cut(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prepare: Step, code: Step, check: Step, lasts: Step | None = None
) -> int:
    """`check` the state directory after each power cut that `code` may meet. Answers how many there were.

    `lasts`: what is checked after a cut that comes when `code` has returned. It may have told somebody that it is done.
    """
    monkeypatch.setattr(module, "_BLOCK", 64)  # so that a program takes several writes
    first = tmp_path / "first" / "state"
    first.mkdir(parents=True)
    prepare(first)
    cuts = powercut.record(monkeypatch, first, (module, files), lambda: code(first))
    checks = [*((state, check) for state in cuts.states), *((state, lasts) for state in cuts.last if lasts is not None)]
    for number, (state, look) in enumerate(checks):
        at = tmp_path / str(number) / "state"
        at.mkdir(parents=True)
        state.write(at)
        try:
            look(at)
        except BaseException as error:
            error.add_note(f"power cut after {state.after}: {state.entries}")
            raise
        shutil.rmtree(at.parent)
    return len(cuts.states)


def two(state: Path) -> None:
    releases = Releases(state)
    install(releases, OLDER, 1)
    install(releases, OLD, 2)


def update(state: Path) -> None:
    """All that an update does to files, by whoever does it."""
    releases, trust = Releases(state), TrustedKeys(state)
    with releases.alone():
        name = stage(releases, NEW, 3)
        releases.switch(name)
        releases.record("update", "3.0", "took over")
        trust.came_to(of(NEW, 3))
        releases.prune()


def test_the_first_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = set()

    def check(state: Path) -> None:
        found.add(whole(state))
        goes_on(state)

    assert every_cut(monkeypatch, tmp_path, lambda _: None, update, check) > 20
    assert found == {"", "new"}


def test_an_update(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = set()

    def check(state: Path) -> None:
        releases = Releases(state)
        found.add(whole(state))
        before = releases.previous()
        assert before == releases.current() or releases.command(before), "what can be gone back to is whole too"
        if whole(state) == "new":
            assert (releases.folder / before / PROGRAM).read_bytes() == OLD
        goes_on(state)

    assert every_cut(monkeypatch, tmp_path, two, update, check) > 20
    assert found == {"old", "new"}


def test_one_that_is_taken_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def failed(state: Path) -> None:
        releases = Releases(state)
        before = releases.current(), releases.previous()
        releases.switch(stage(releases, NEW, 3))
        releases.restore(*before)
        releases.record("update", "3.0", "failed")

    def check(state: Path) -> None:
        assert whole(state) in ("old", "new")
        goes_on(state)

    every_cut(monkeypatch, tmp_path, two, failed, check)


def test_going_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def back(state: Path) -> None:
        releases = Releases(state)
        releases.switch(releases.previous())
        releases.record("rollback", "1.0", "took over")

    def check(state: Path) -> None:
        assert whole(state) in ("old", "older")
        goes_on(state)

    every_cut(monkeypatch, tmp_path, two, back, check)


@pytest.mark.parametrize("part", [PROGRAM, "manifest.json"])
def test_mending_the_installed_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str) -> None:
    """A damaged file of it, which may do its work still, is there until the good one is."""
    damaged = b"#!/bin/sh\n# damaged\n"

    def prepare(state: Path) -> None:
        two(state)
        (Releases(state).folder / "current" / part).write_bytes(damaged)

    def mend(state: Path) -> None:
        stage(Releases(state), OLD, 2)

    def check(state: Path) -> None:
        assert Releases(state).program.read_bytes() in (damaged, OLD)
        assert Releases(state).program.stat().st_mode & 0o111
        mend(state)
        assert whole(state) == "old"
        goes_on(state)

    every_cut(monkeypatch, tmp_path, prepare, mend, check)


def test_a_release_that_was_half_removed_is_taken_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def prepare(state: Path) -> None:
        two(state)
        install(Releases(state), NEW, 3)

    def check(state: Path) -> None:
        assert whole(state) == "new"
        install(Releases(state), OLDER, 1)
        assert whole(state) == "older"
        goes_on(state)

    assert every_cut(monkeypatch, tmp_path, prepare, lambda state: Releases(state).prune(), check) > 3


def test_keys_and_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = Keys(0, (public(1),)), Keys(1, (public(2), public(3)))
    found = set()

    def prepare(state: Path) -> None:
        TrustedKeys(state).write(first)
        TrustedKeys(state).came_to(of(OLD, 2))

    def come(state: Path) -> None:
        TrustedKeys(state).came_to(manifest(epoch=3, key_serial=1, keys=tuple(key.hex() for key in second.keys)))

    def check(state: Path) -> None:
        trust = TrustedKeys(state)
        assert trust.keys() in (first, second)
        assert trust.epoch() in (2, 3)
        found.add((trust.epoch(), trust.keys().serial))
        come(state)
        assert (trust.epoch(), trust.keys()) == (3, second)

    every_cut(monkeypatch, tmp_path, prepare, come, check)
    assert {(2, 0), (3, 1)} <= found


def test_the_first_keys_of_a_box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where the state directory is new: once it is said that they are written, they are."""
    keys = Keys(0, (public(1),))
    last = []

    def check(state: Path) -> None:
        last.append(TrustedKeys(state / "new").keys())
        assert last[-1] in (Keys(), keys)

    every_cut(monkeypatch, tmp_path, lambda _: None, lambda state: TrustedKeys(state / "new").write(keys), check)
    assert last[-1] == keys


def staged(state: Path) -> None:
    stage(Releases(state), NEW, 3)


def switched(state: Path) -> None:
    Releases(state).switch(stage(Releases(state), NEW, 3))


def came(state: Path) -> None:
    TrustedKeys(state).came_to(manifest(epoch=3, key_serial=1, keys=(public(2).hex(),)))


def went_back(state: Path) -> None:
    releases = Releases(state)
    releases.restore(releases.previous(), releases.current())


def recorded(state: Path) -> None:
    Releases(state).record("update", "3.0", "took over")


NEW_NAME, OLD_NAME, OLDER_NAME = (
    f"{epoch}.0-{file('x86_64', program).sha256[:12]}" for epoch, program in ((3, NEW), (2, OLD), (1, OLDER))
)
DONE: dict[
    Step, Callable[[Path], object]
] = {  # what was done, and what is to be there then, whatever happens to the power
    staged: lambda state: Releases(state).command(NEW_NAME),
    switched: lambda state: (Releases(state).current(), Releases(state).previous()) == (NEW_NAME, OLD_NAME),
    came: lambda state: (TrustedKeys(state).epoch(), TrustedKeys(state).keys()) == (3, Keys(1, (public(2),))),
    went_back: lambda state: (Releases(state).current(), Releases(state).previous()) == (OLDER_NAME, OLD_NAME),
    recorded: lambda state: Releases(state).history()[-1]["version"] == "3.0",
}


@pytest.mark.parametrize("code", DONE, ids=lambda code: code.__name__)
def test_what_was_done_lasts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: Step) -> None:
    """Whole is not enough: an epoch that falls back to the one before lets an old bundle in, and a release that was said to be there is gone."""

    def lasts(state: Path) -> None:
        assert DONE[code](state)

    every_cut(monkeypatch, tmp_path, two, code, lambda _: None, lasts)


@pytest.mark.parametrize("wrong", ["a link that is removed first", "no fsync"])
def test_the_cuts_find_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str) -> None:
    """Without fsync a rename may last and its file not; and what is removed before the new has its name is gone in between."""

    def code(state: Path) -> None:
        if wrong == "no fsync":
            with monkeypatch.context() as patch:  # undone here, within the recorder's own, or that would be what stays
                patch.setattr(os, "fsync", lambda _: None)
                update(state)
        else:
            (Releases(state).folder / "current").unlink()
            (Releases(state).folder / "current").symlink_to(Releases(state).previous())

    def check(state: Path) -> None:
        assert whole(state)

    with pytest.raises((AssertionError, ReleaseError)):
        every_cut(monkeypatch, tmp_path, two, code, check)
