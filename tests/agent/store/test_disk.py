"""State: what was written is there after a restart, whole, and nothing that goes wrong stops anybody."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from agent.sources import Mark, manifest
from agent.store import disk
from agent.store.disk import ADDRESSES, LAST_GOOD, State
from policy.resources import RawObject


def raws(text: str) -> tuple[RawObject, ...]:
    return manifest.read(text.encode(), "/m/x.yaml").objects or ()


def test_keeps_objects_and_addresses(tmp_path: Path) -> None:
    kept = State(tmp_path / "state")
    assert kept.load() == ([], {})
    kept.save(raws("kind: A\n---\nkind: B\nspec: {n: 1}\n"), {"a/b": ("240.240.0.1",)})
    assert kept.problems == ()
    objects, addresses = State(tmp_path / "state").load()
    assert [(raw.data, str(raw.where), raw.line("$.spec.n")) for raw in objects] == [
        ({"kind": "A"}, "/m/x.yaml:1", 1),
        ({"kind": "B", "spec": {"n": 1}}, "/m/x.yaml:3", 3),
    ]
    assert addresses == {"a/b": ("240.240.0.1",)}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / LAST_GOOD).stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path / "state")) == [ADDRESSES, LAST_GOOD]


def test_writes_only_what_changed_also_after_a_restart(tmp_path: Path) -> None:
    State(tmp_path).save(raws("kind: A\n"), {})
    before = {name: (tmp_path / name).stat().st_ino for name in (LAST_GOOD, ADDRESSES)}
    again = State(tmp_path)
    again.load()
    again.save(raws("kind: A\n"), {"a/b": ("240.240.0.1",)})
    assert (tmp_path / LAST_GOOD).stat().st_ino == before[LAST_GOOD]
    assert (tmp_path / ADDRESSES).stat().st_ino != before[ADDRESSES]


def test_the_mark_of_a_cluster_is_saved_with_its_objects(tmp_path: Path) -> None:
    kept = State(tmp_path)
    kept.save(raws("kind: A\n"), {}, Mark("one", {"/api/v1/pods": "7"}))
    again = State(tmp_path)
    again.load()
    assert again.mark == Mark("one", {"/api/v1/pods": "7"})

    written = (tmp_path / LAST_GOOD).stat().st_ino
    again.save(raws("kind: A\n"), {}, Mark("one", {"/api/v1/pods": "8"}))
    assert (tmp_path / LAST_GOOD).stat().st_ino == written, "flash wears out: nothing but the version is new"
    again.save(raws("kind: B\n"), {}, Mark("one", {"/api/v1/pods": "9"}))
    assert State(tmp_path).load()[0][0].data == {"kind": "B"}
    third = State(tmp_path)
    third.load()
    assert third.mark == Mark("one", {"/api/v1/pods": "9"})
    third.save(raws("kind: B\n"), {}, Mark("two"))  # at once: what follows is another cluster's
    fourth = State(tmp_path)
    fourth.load()
    assert fourth.mark == Mark("two")


def test_a_box_without_a_cluster_has_no_mark(tmp_path: Path) -> None:
    kept = State(tmp_path)
    kept.save(raws("kind: A\n"), {})
    assert b"mark" not in (tmp_path / LAST_GOOD).read_bytes()
    kept.load()
    assert kept.mark == Mark()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b'{"version": 1}', b'{"version": 1, "objects": [[1, 2, 3]]}', b"[" * 100_000]
)
def test_nonsense_is_left_out_and_written_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LAST_GOOD).write_bytes(content)
    kept = State(tmp_path)
    assert kept.load() == ([], {})
    (problem,) = kept.problems
    assert (problem.severity, problem.where.file) == ("warning", str(tmp_path / LAST_GOOD))
    assert "is left out" in problem.message
    kept.save(raws("kind: A\n"), {})
    assert kept.problems == ()
    assert len(State(tmp_path).load()[0]) == 1


def test_a_letter_that_the_disk_changed_is_not_believed(tmp_path: Path) -> None:
    State(tmp_path).save(raws("kind: A\nspec: {serviceAccount: buyer}\n"), {})
    path = tmp_path / LAST_GOOD
    path.write_bytes(path.read_bytes().replace(b"buyer", b"buyes"))
    kept = State(tmp_path)
    assert kept.load() == ([], {})
    assert "it is damaged" in kept.problems[0].message


def test_what_an_earlier_release_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / LAST_GOOD).write_text('{"version":1,"objects":[["/m/x.yaml",1,{"kind":"A"}]]}')
    (tmp_path / ADDRESSES).write_text('{"version":1,"addresses":{"a/b":["240.240.0.1"]}}')
    kept = State(tmp_path)
    objects, addresses = kept.load()
    assert ([raw.data for raw in objects], addresses, kept.problems) == ([{"kind": "A"}], {"a/b": ("240.240.0.1",)}, ())


def test_a_directory_that_cannot_be_written_is_a_problem_until_it_can(tmp_path: Path) -> None:
    blocked = tmp_path / "state"
    blocked.write_text("a file where the directory should be")
    kept = State(blocked)
    kept.load()
    kept.save(raws("kind: A\n"), {})
    assert [problem.severity for problem in kept.problems] == ["warning", "warning"]
    assert "cannot be written" in kept.problems[0].message
    assert "runs on" in kept.problems[0].hint
    blocked.unlink()
    kept.save(raws("kind: A\n"), {})
    assert kept.problems == ()
    assert len(State(blocked).load()[0]) == 1


def test_a_full_disk_leaves_the_old_version_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = State(tmp_path)
    kept.save(raws("kind: A\n"), {})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    kept.save(raws("kind: B\n"), {})
    assert "No space left on device" in kept.problems[0].message
    assert [raw.data for raw in State(tmp_path).load()[0]] == [{"kind": "A"}]
    assert sorted(os.listdir(tmp_path)) == [ADDRESSES, LAST_GOOD]


def test_a_link_that_somebody_laid_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".{LAST_GOOD}.new").symlink_to(victim)
    kept = State(tmp_path)
    kept.save(raws("kind: A\n"), {})
    assert not kept.problems
    assert victim.read_text() == "precious"
    assert not (tmp_path / LAST_GOOD).is_symlink()


def test_too_much_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = State(tmp_path)
    kept.save(raws("kind: A\n"), {})
    monkeypatch.setattr(disk, "MAX_BYTES", 40)
    kept.save(raws(f"kind: {'B' * 100}\n"), {})
    assert "would be larger" in kept.problems[0].message
    assert repr(kept) == f"<State {tmp_path}, failing>"
    assert (tmp_path / LAST_GOOD).read_text().count("B") == 0


def test_places_outlive_a_restart_and_a_disk_that_is_full_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = State(tmp_path)
    assert kept.places() == {}
    assert kept.save_places({"netns /run/netns/a": "n/a"}) == ()
    assert State(tmp_path).places() == {"netns /run/netns/a": "n/a"}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (problem,) = kept.save_places({})
    assert "No space left" in problem.message
    assert State(tmp_path).places() == {"netns /run/netns/a": "n/a"}


def test_that_places_are_lost_is_told_as_long_as_the_daemon_runs(tmp_path: Path) -> None:
    (tmp_path / disk.PLACES).write_text("{")
    kept = State(tmp_path)
    assert kept.places() == {}
    kept.load()
    kept.save((), {})
    assert kept.save_places({"netns /run/netns/a": "n/a"}) == ()
    (told,) = kept.problems
    assert told.where.file.endswith(disk.PLACES)
    assert "name all of them" in told.hint
    assert State(tmp_path).problems == ()


def test_what_namespaces_had_at_first_is_good_for_one_boot(tmp_path: Path) -> None:
    kept = State(tmp_path)
    assert kept.save_met("boot-1", {7: frozenset(["10.0.0.7", "fd00::7"])}) == ()
    assert State(tmp_path).met("boot-1") == {7: ("10.0.0.7", "fd00::7")}
    assert State(tmp_path).met("boot-2") == {}
    assert State(tmp_path).met("") == {}


def test_one_that_does_not_lead_writes_nothing_and_claims_what_another_wrote(tmp_path: Path) -> None:
    state = State(tmp_path, mine=False)
    state.load()
    state.save(raws("kind: A\n"), {})
    assert state.save_places({"netns /run/netns/a": "n/a"}) == ()
    assert os.listdir(tmp_path) == []
    state.claim()
    state.save(raws("kind: A\n"), {})
    (tmp_path / LAST_GOOD).write_text("of another daemon")
    state.cede()
    state.rest()
    state.save(raws("kind: B\n"), {})
    assert (tmp_path / LAST_GOOD).read_text() == "of another daemon"
    state.claim()
    state.save(raws("kind: A\n"), {})
    assert [raw.data for raw in State(tmp_path).load()[0]] == [{"kind": "A"}], "though it wrote that once"


def test_what_is_being_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one writes the same temporary file: without that, one of both could not be written."""
    state, other = State(tmp_path), State(tmp_path)
    begun, on, real = threading.Event(), threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        begun.set()
        assert on.wait(10)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    saving = threading.Thread(target=state.save, args=(raws("kind: A\n"), {}))
    saving.start()
    assert begun.wait(10)
    state.cede()
    threading.Timer(0.1, on.set).start()
    state.rest()
    assert on.is_set()
    other.save(raws("kind: B\n"), {})
    saving.join()
    assert (state.problems, other.problems) == ((), ())
    assert [raw.data for raw in State(tmp_path).load()[0]] == [{"kind": "B"}]
