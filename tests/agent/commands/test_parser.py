"""COMMANDS and the files of commands: each has the other, and what a command line imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from agent.cli import main
from agent.commands import COMMANDS, parser


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_file_of_its_name(name: str) -> None:
    code = parser.code(name)
    assert callable(code.arguments)
    assert callable(code.run)


def test_every_file_with_arguments_and_run_is_a_command() -> None:
    found = set()
    for path in Path(agent.__file__).parent.glob("commands/*.py"):
        names = {one.name for one in ast.parse(path.read_text()).body if isinstance(one, ast.FunctionDef)}
        if "run" in names:
            found.add(path.stem)
    assert found == set(COMMANDS)


@pytest.mark.slow
def test_a_command_imports_only_what_is_its_own() -> None:
    """No other command's file, nor what only another one needs."""
    code = "import sys\nfrom agent import cli\ncli.main(['version'])\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[1].split())
    assert {name for name in loaded if name.startswith("agent")} == {
        "agent",
        "agent.cli",
        "agent.commands",
        "agent.commands.options",
        "agent.commands.parser",
        "agent.commands.version",
    }
    assert not loaded & {
        "msgspec",
        "rich",
        "trio",
        "ssl",
        "cryptography",
        "yaml",
        "prometheus_client",
        "nodeproxy",
        "socket",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_not_taken_by_a_part_of_their_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is short for one today may be short for another tomorrow."""
    typed, _ = parser.one(name)
    for option in [option for action in typed._actions for option in action.option_strings if option.startswith("--")]:
        with pytest.raises(SystemExit) as caught:
            main([name, option[:-1]])
        assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main([name, "--hel"])
    assert (caught.value.code, "usage: edgemesh" in capsys.readouterr().err) == (2, True)
