"""check: read a directory as the daemon would, and say everything that is wrong with it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from agent import status
from agent.commands import NO, OK, tables, terminal
from agent.store import look


def check(arguments: Namespace) -> int:
    """1 when something is an error."""
    published = look(Path(arguments.directory), arguments.node or "")
    found = [status.problem(item) for item in published.problems]
    if arguments.output == "json":
        terminal.print_json(found)
    else:
        console = terminal.console()
        *lines, summary = tables.problems(found)
        for line in lines:
            console.print(line)
        console.print(f"{published.objects} object{'' if published.objects == 1 else 's'}, {summary}")
    return NO if any(item["severity"] == "error" for item in found) else OK
