"""COMMANDS -> argparse. The parser of one command imports that command's file alone; `whole` imports all of them."""

from __future__ import annotations

import argparse
import importlib
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol, cast

import agent
from agent.commands import COMMANDS, NO, OK, UNREACHABLE, USAGE
from policy.near import did_you_mean


class Code(Protocol):
    """A command's file."""

    def arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""

    def run(self, arguments: Namespace) -> int:
        """Run the command. Return the exit code."""


class Parser(ArgumentParser):
    """Accepts only whole names of options, and suggests corrections of typing errors.

    What abbreviates one option today may abbreviate another tomorrow.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **given})

    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        wrong = (
            message.removeprefix("unrecognized arguments: ").split()[0] if message.startswith("unrecognized") else ""
        )
        hint = did_you_mean(wrong.partition("=")[0], options) if wrong.startswith("--") else ""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            hint = did_you_mean(choice[1], re.findall("'(.*?)'", choice[2]))
        super().error(f"{message}; {hint}" if hint else f"{message}; {self.prog} --help says more")


def code(name: str) -> Code:
    """Import the file of a command."""
    return cast(Code, importlib.import_module(f"agent.commands.{name}"))


def one(name: str) -> tuple[ArgumentParser, Code]:
    """Return the parser of one command, and its file."""
    found = code(name)
    parser = Parser(prog=f"edgemesh {name}", **_described(name))
    found.arguments(parser)
    return parser, found


def top() -> ArgumentParser:
    """Return the parser of a line without a command: --help, --version, and the list of commands."""
    listed = "\n".join(f"  {name:<13}{command.summary}" for name, command in COMMANDS.items())
    codes = (
        f"exit codes: {OK} all is well, {NO} the answer is no or something is wrong,\n"
        f"  {USAGE} usage (check --strict: warnings), {UNREACHABLE} no daemon answered; "
        "edgemesh COMMAND --help says which\n  a command has"
    )
    parser = Parser(
        prog="edgemesh",
        usage="edgemesh COMMAND ...",
        description="A service mesh for edge boxes: one daemon per node, no sidecars.",
        epilog=f"commands (edgemesh COMMAND --help says more):\n{listed}\n\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"edgemesh {agent.__version__}"
    parser.add_argument("--version", action="version", version=version, help="say which edgemesh this is and exit")
    return parser


def whole() -> tuple[ArgumentParser, Mapping[str, ArgumentParser]]:
    """Return the parser of the whole command line, and that of each command, for completion and the pages of docs."""
    parser = top()
    commands = parser.add_subparsers(dest="command", prog="edgemesh", help=argparse.SUPPRESS)
    for name in COMMANDS:
        # Without `help`, since argparse would list them a second time, with the summaries of long names on separate
        # lines.
        code(name).arguments(commands.add_parser(name, **_described(name)))
    return parser, commands.choices


def _described(name: str) -> dict[str, Any]:
    summary, codes, _ = COMMANDS[name]
    return {"description": f"{summary[:1].upper()}{summary[1:]}.", "epilog": f"exit codes: {codes}"}
