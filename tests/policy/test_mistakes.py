"""Everyday mistakes in manifests (mistakes/NN-name.yaml), each with all that edgemesh check says about it (NN-name.txt)."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.sources import manifest
from agent.store.store import look
from policy.decode import identify

FOLDER = Path(__file__).parent / "mistakes"
MISTAKES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "base.yaml")


def told(directory: Path, text: str) -> list[str]:
    """What is said where this file lies beside what is right; of that, what it has itself is taken away."""
    objects = manifest.read(text.encode(), "mistake.yaml").objects or ()
    mine = {identify(raw) for raw in objects}
    documents = (FOLDER / "base.yaml").read_text().split("---\n")
    kept = [
        one
        for one in documents
        if not mine & {identify(raw) for raw in manifest.read(one.encode(), "base.yaml").objects or ()}
    ]
    (directory / "base.yaml").write_text("---\n".join(kept))
    (directory / "mistake.yaml").write_text(text)
    published = look([directory], "shop-1")
    return [str(problem).replace(f"{directory}/", "") for problem in published.problems]


def test_there_are_sixty() -> None:
    assert len(MISTAKES) >= 60


def test_nothing_is_wrong_with_what_they_are_put_beside(tmp_path: Path) -> None:
    assert told(tmp_path, "") == []


@pytest.mark.parametrize("path", MISTAKES, ids=lambda path: path.stem)
def test_what_is_said(path: Path, tmp_path: Path) -> None:
    found = told(tmp_path, path.read_text())
    assert found == path.with_suffix(".txt").read_text().splitlines()
    assert found, "a mistake is not passed over"
    for line in found:
        place, severity, rest = line.split(": ", 2)
        assert place.startswith(("mistake.yaml:", "base.yaml:")), "it says where"
        assert severity in ("error", "warning", "notice")
        assert rest
