"""State: what was written is there after a restart, whole, and nothing that goes wrong stops anybody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import state
from agent.sources import manifest
from agent.state import ADDRESSES, LAST_GOOD, State
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


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"version": 1}', b'{"version": 1, "objects": [[1, 2, 3]]}', b"[" * 100_000])
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
    (tmp_path / LAST_GOOD).with_suffix(".new").symlink_to(victim)
    kept = State(tmp_path)
    kept.save(raws("kind: A\n"), {})
    assert not kept.problems
    assert victim.read_text() == "precious"
    assert not (tmp_path / LAST_GOOD).is_symlink()


def test_too_much_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = State(tmp_path)
    kept.save(raws("kind: A\n"), {})
    monkeypatch.setattr(state, "MAX_BYTES", 40)
    kept.save(raws(f"kind: {'B' * 100}\n"), {})
    assert "would be larger" in kept.problems[0].message
    assert repr(kept) == f"<State {tmp_path}, failing>"
    assert (tmp_path / LAST_GOOD).read_text().count("B") == 0
