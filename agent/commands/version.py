"""version: the version of edgemesh."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import agent
from agent.commands import OK, options


def arguments(parser: ArgumentParser) -> None:
    options.output(parser)


def run(arguments: Namespace) -> int:
    """Print the version. Return 0."""
    if arguments.output == "json":
        from agent.commands.terminal import print_json

        print_json({"version": agent.__version__, "epoch": agent.__epoch__})
    else:
        print(f"edgemesh {agent.__version__}")
    return OK
