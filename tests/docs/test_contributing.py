"""Each "how to add" of docs/contributing is carried out on a copy of the tree: its files are written, its lines put in, its commands typed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

from tests.readme.place import held
from tests.readme.script import TREE, Command, read

PAGES = sorted((TREE / "docs/contributing").glob("add-a-*.md"))


class Piece(NamedTuple):
    """What a page has its reader write: a whole file, or lines of one beside a line that is there."""

    file: str
    text: str
    side: str = ""  # "before", "after", "instead of"
    line: str = ""


def pieces(text: str) -> Iterator[Piece]:
    """Fences with a title, and the comment before each that says where its lines go."""
    where = None
    for token in MarkdownIt().parse(text):
        if token.type == "html_block":
            where = re.match(r"<!-- (before|after|instead of): (.+?) -->", token.content)
        elif token.type == "fence" and (title := re.search('title="([^"]+)"', token.info)):
            yield Piece(title[1], token.content, *((where[1], where[2]) if where else ()))
            where = None


def put(tree: Path, piece: Piece) -> None:
    path = tree / piece.file
    if not piece.line:
        assert not path.exists(), f"{piece.file} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(piece.text)
        return
    lines = path.read_text().splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if piece.line in line]
    assert len(found) == 1, f"{piece.file} has {len(found)} lines with {piece.line!r}"
    begin = found[0] + (piece.side == "after")
    lines[begin : begin + (piece.side == "instead of")] = [piece.text]
    path.write_text("".join(lines))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy whose .venv/bin/edgemesh and .venv/bin/python run the copy."""
    for name in ("agent", "nodeproxy", "policy", "tests", "build", "docs", "examples"):
        shutil.copytree(TREE / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "fuzz"))
    shutil.copy(TREE / "pyproject.toml", tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name, words in (
        ("python", '"$@"'),
        ("edgemesh", '-m agent "$@"'),
        ("ruff", '-m ruff "$@"'),
        ("mypy", '-m mypy "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\nexec {sys.executable} {words}\n")
        (programs / name).chmod(0o755)
    return tmp_path


def environment(tree: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "EDGEMESH_", "PYTEST"))}
    return {**kept, "PYTHONPATH": str(tree)}


def type_in(command: Command, tree: Path) -> None:
    """Run a page's command in the copy, and hold it to what the page says that it prints."""
    done = subprocess.run(
        ["bash", "-c", command.words],
        cwd=tree,
        env=environment(tree),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    held(command, done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_adds_does_what_it_says(page: Path, tree: Path) -> None:
    text = page.read_text("utf-8")
    written = list(pieces(text))
    assert written
    for piece in written:
        put(tree, piece)
    commands = [step for step in read(text) if isinstance(step, Command)]
    assert commands
    for command in commands:
        type_in(command, tree)
    changed = sorted({piece.file for piece in written if piece.file.endswith(".py")})
    subprocess.run(
        [sys.executable, "-m", "ruff", "check", "-q", "--fix", "--select", "I", *changed], cwd=tree, check=False
    )  # sorts imports
    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *changed], cwd=tree, capture_output=True, text=True, check=False
    )
    assert ruff.returncode == 0, ruff.stdout
    mypy = [sys.executable, "-m", "mypy", "--cache-dir", str(TREE / ".mypy_cache"), "--follow-imports=silent"]
    typed = subprocess.run(
        [*mypy, *(file for file in changed if not file.startswith("tests/"))],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert typed.returncode == 0, typed.stdout


def test_the_first_hour_breaks_something_and_sees_it(tree: Path) -> None:
    """What is typed in a clone, in a copy; git and make are there, and have done what is asked of them."""
    clone, demo, dev, *steps = [
        step for step in read((TREE / "docs/contributing/index.md").read_text("utf-8")) if isinstance(step, Command)
    ]
    assert (clone.words.split()[:2], demo.words, dev.words) == (["git", "clone"], "make demo", "make .venv/dev")
    for step in steps:
        if step.words.startswith("git checkout "):
            name = step.words.split()[-1]
            assert (tree / name).read_text() != (TREE / name).read_text(), "nothing was broken"
            shutil.copy(TREE / name, tree / name)
            continue
        type_in(step, tree)
