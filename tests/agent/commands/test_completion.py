"""completion: each shell reads its script, and offers what the parser would take."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from agent import cli
from agent.commands import COMMANDS
from agent.commands.completion import SHELLS, script
from agent.commands.parser import whole


def made(shell: str) -> str:
    return script(shell, whole()[0], {name: command.summary for name, command in COMMANDS.items()})


def bash(*words: str) -> list[str]:
    """What Tab offers behind these words; the last one is half typed."""
    asked = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _edgemesh; printf "%s\\n" "${COMPREPLY[@]}"'
    command = ["bash", "-c", f"{made('bash')}\n{asked}", "bash", "edgemesh", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_bash_offers_commands_subcommands_options_and_values(tmp_path):
    assert set(COMMANDS) < set(bash(""))
    assert bash("st") == ["status"]
    assert bash("ca", "to") == ["token"]
    assert {"--node", "--ttl"} <= set(bash("ca", "token", "--"))
    assert bash("run", "--access-log", "") == ["off", "denied", "failed", "all"]
    assert bash("status", "-o", "j") == ["json"]
    assert "retire" in bash("ca", "rotate", "")
    assert bash("completion", "z") == ["zsh"]
    (tmp_path / "manifests").mkdir()
    (tmp_path / "file").touch()
    assert bash("run", "--config", f"{tmp_path}/") == [f"{tmp_path}/manifests"]
    assert bash("join", "--token-file", f"{tmp_path}/f") == [f"{tmp_path}/file"]
    assert bash("run", "--node", "") == []


def test_what_is_hidden_is_not_offered():
    assert "--app" not in bash("demo", "--")
    assert "--app" not in made("zsh") + made("fish")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_script(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    path = tmp_path / "script"
    path.write_text(made(shell))
    assert subprocess.run([shell, "-n", path], capture_output=True, text=True, check=True).stderr == ""


def test_fish_offers_subcommands_and_values():
    if shutil.which("fish") is None:
        pytest.skip("needs fish")
    asked = f"{made('fish')}\ncomplete -C 'edgemesh ca '; complete -C 'edgemesh run --access-log '"
    offered = subprocess.run(["fish", "-c", asked], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"init", "token", "rotate", "off", "all"} <= {line.split("\t")[0] for line in offered}


def test_the_command_prints_it(capsys):
    assert cli.main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == made("bash")
