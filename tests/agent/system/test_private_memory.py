"""No core dump of who holds keys: in a process of its own, since it cannot be taken back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHOW = """
import ctypes, resource
def show(*_, **__):
    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))  # PR_GET_DUMPABLE
    return 0
"""
PRIVATE = "0 (0, 0)"


def said(code: str, *words: str) -> str:
    command = [sys.executable, "-c", SHOW + code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT).stdout.strip()


def test_this_is_how_a_process_begins() -> None:
    assert said("show()").startswith("1 ")


def test_nothing_is_dumped_of_it() -> None:
    assert said("from agent.system.private_memory import keep_memory_private\nkeep_memory_private()\nshow()") == PRIVATE


def test_the_daemon_keeps_its_memory_private_before_it_reads_anything(tmp_path: Path) -> None:
    code = "from pathlib import Path\nfrom agent.daemon import start as app\napp.Settings = show\ntry: app.run(Path(), {})\nexcept AttributeError: pass"
    assert said(code) == PRIVATE


@pytest.mark.parametrize(("verb", "words"), [("ca", ["show"]), ("join", ["--authority", "127.0.0.1:1"])])
def test_so_do_the_commands_that_handle_keys(tmp_path: Path, verb: str, words: list[str]) -> None:
    code = f"""
import sys
from agent import cli
from agent.commands import {verb}
{verb}.terminal.complain = show
cli.main([{verb!r}, *sys.argv[1:]])
"""
    assert said(code, *words, "--state-dir", str(tmp_path / "none")).splitlines()[0] == PRIVATE
