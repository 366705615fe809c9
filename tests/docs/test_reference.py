"""What is made from the code is current, whole, and good to read where it is read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.commands import COMMANDS
from nodeproxy.errors import FLAGS

TREE = Path(__file__).parents[2]
REFERENCE = TREE / "docs/reference"


def test_every_page_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, TREE / "build/reference", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_page_that_was_edited_is_found(tmp_path: Path) -> None:
    for folder in ("agent", "nodeproxy", "policy", "build", "examples"):
        (tmp_path / folder).symlink_to(TREE / folder)
    (tmp_path / "build").unlink()
    (tmp_path / "build").mkdir()
    (tmp_path / "build/pages").symlink_to(TREE / "build/pages")
    (tmp_path / "build/reference").write_bytes((TREE / "build/reference").read_bytes())
    subprocess.run([sys.executable, tmp_path / "build/reference"], check=True)
    page = tmp_path / "docs/reference/flags.md"
    page.write_text(page.read_text() + "more\n")
    (tmp_path / "docs/reference/left.md").write_text("of a kind that is gone\n")
    done = subprocess.run(
        [sys.executable, tmp_path / "build/reference", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == [
        "docs/reference/left.md",
        "docs/reference/flags.md",
    ]


def test_every_flag_command_and_option_has_its_place() -> None:
    flags, commands, manual = (
        (TREE / "docs" / name).read_text() for name in ("reference/flags.md", "reference/commands.md", "edgemesh.1")
    )
    for flag in FLAGS:
        assert f"\n## {flag}\n" in flags
    for name in COMMANDS:
        assert f"\n## {name}\n" in commands
        assert re.search(rf"^\.SS {name}$", manual, re.MULTILINE)
    assert "\n### ca token\n" in commands


def test_the_man_page_is_one() -> None:
    if not Path("/usr/bin/man").exists():
        pytest.skip("needs man")
    done = subprocess.run(
        ["man", "--warnings", TREE / "docs/edgemesh.1"],
        capture_output=True,
        text=True,
        check=False,
        env={"MANWIDTH": "80", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "edgemesh ca token --node NAME" in done.stdout
