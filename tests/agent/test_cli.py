"""The command line itself: verbs, help, typing errors, pipes."""

from __future__ import annotations

import subprocess
import sys

import pytest

import agent
from agent import cli
from agent.cli import main
from agent.commands import COMMANDS


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    for words, begin in ((["help"], "usage: edgemesh COMMAND"), (["help", "check"], "usage: edgemesh check")):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert (caught.value.code, capsys.readouterr().out.startswith(begin)) == (0, True)


def test_no_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"\n  {name:<13}{command.summary}\n" in out


@pytest.mark.parametrize(
    ("word", "said"),
    [("stauts", "did you mean status?"), ("xyz", "commands: run, check, status"), ("clean", "did you mean cleanup?")],
)
def test_an_unknown_command_suggests(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--config"], "argument --config: expected one argument"),
        (["status", "-o", "xml"], "invalid choice"),
        (["explain", "a", "b", "--port", "0"], "'0' is no number from 1 to 65535"),
        (["explain", "a", "b", "--port", "x"], "'x' is no number from 1 to 65535"),
        (["explain", "a", "b", "--header", "x"], "'x' is not NAME:VALUE"),
        (["version", "more"], "edgemesh version: error: unrecognized arguments: more"),
        (
            ["status", "--sockt", "x"],
            "edgemesh status: error: unrecognized arguments: --sockt x; did you mean --socket?",
        ),
        (
            ["status", "--sock", "x"],
            "did you mean --socket?",
        ),  # no short forms: they would change their meaning with every new option
        (["run", "--config", "x", "--auth"], "unrecognized arguments: --auth"),
        (["ca", "tokn"], "did you mean token?"),
        (["ca", "rotate", "retir"], "did you mean retire?"),
        (["--verson"], "did you mean --version?"),
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
    out = capsys.readouterr().out
    assert out.startswith(f"usage: edgemesh {name}")
    assert "exit codes: 0 " in out


def test_explain_needs_both_or_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "a"]) == 2
    assert "or --request ID" in capsys.readouterr().err


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.commands.version.run", interrupt)
    assert main(["version"]) == 130


def test_what_needs_proc_says_so_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exists = cli.os.path.exists
    monkeypatch.setattr(cli.os.path, "exists", lambda path: path != "/proc/self" and exists(path))
    for words in (
        ["run", "--config", "/nowhere"],
        ["demo"],
        ["cleanup"],
        ["setup"],
        ["remove"],
        ["wait", "--unit", "x"],
    ):
        assert main(words) == 1
        assert "there is no /proc here" in capsys.readouterr().err
    assert main(["version"]) == 0


@pytest.mark.slow
def test_closed_standard_output() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m agent version >&-"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_reader_that_has_seen_enough() -> None:
    code = (
        "import sys\nfrom agent import cli\nfrom agent.commands import version\n"
        "def flood(_):\n    while True:\n        print('x' * 1000)\n"
        "version.run = flood\n"
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
def test_a_table_whose_reader_has_seen_enough_is_no_failure() -> None:
    """rich itself would end the program with 1."""
    code = (
        "import sys\nfrom agent import cli\nfrom agent.commands import terminal, version\n"
        "def flood(_):\n    console = terminal.console()\n    while True:\n        console.print('x' * 1000)\n"
        "version.run = flood\n"
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
@pytest.mark.parametrize("words", [["version"], ["check", "/dev/null"], ["check", "/dev/null", "-o", "json"]])
def test_a_full_disk_is_told_without_a_traceback(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "agent", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "edgemesh: what this tells cannot be written to standard output: No space left on device\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", ["agent", "agent.cli"])
def test_runs_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgemesh {agent.__version__}\n"
