"""The command line itself: verbs, help, typing errors, pipes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import agent
from agent import cli
from agent.cli import COMMANDS, Command, main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"edgemesh {agent.__version__}\n"


def test_the_version_is_the_project_s() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(agent.__file__).parent.parent / "pyproject.toml").read_text())
    assert project["project"]["version"] == agent.__version__


def test_no_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"\n  {name:<13}{command.summary}\n" in out


@pytest.mark.parametrize(
    ("word", "said"), [("stauts", "did you mean status?"), ("xyz", "commands: run, check, status"), ("clean", "did you mean cleanup?")]
)
def test_an_unknown_command_suggests(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "--config"),
        (["status", "-o", "xml"], "invalid choice"),
        (["explain", "a", "b", "--port", "0"], "'0' is no number from 1 to 65535"),
        (["explain", "a", "b", "--port", "x"], "'x' is no number from 1 to 65535"),
        (["explain", "a", "b", "--header", "x"], "'x' is not NAME:VALUE"),
        (["version", "more"], "unrecognized arguments: more"),
    ],
)
def test_lines_that_make_no_sense(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: edgemesh {name}")


def test_explain_needs_both_or_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "a"]) == 2
    assert "SRC and DST, or --request ID" in capsys.readouterr().err


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "version", Command("", cli._nothing, interrupt))
    assert main(["version"]) == 130


@pytest.mark.slow
def test_a_reader_that_has_seen_enough() -> None:
    code = (
        "import sys\nfrom agent import cli\n"
        "def flood(_):\n    while True:\n        print('x' * 1000)\n"
        "cli.COMMANDS['version'] = cli.Command('', cli._nothing, flood)\n"
        "sys.exit(cli.main(['version']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(20)) == (b"", 0)
    process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["agent", "agent.cli"])
def test_runs_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgemesh {agent.__version__}\n"
