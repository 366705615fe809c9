"""check: read manifests as the daemon would, and report everything that is wrong with them."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from agent.admin import status
from agent.commands import NO, OK, WARNED, options, tables, terminal
from agent.sources.manifest import MAX_BYTES
from agent.store.store import look


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "places", metavar="DIR|FILE|-", nargs="+", help="manifests: directories, files, or standard input (-)"
    )
    parser.add_argument(
        "--strict", action="store_true", help=f"exit {WARNED} when something is a warning and nothing an error"
    )
    node = "check it as the node of this name would read it (default: the host name)"
    parser.add_argument("--node", metavar="NAME", help=node)
    options.output(parser)


def run(arguments: Namespace) -> int:
    """Return 1 when there is an error; with --strict, 2 when there is a warning."""
    places = [Path(word) for word in arguments.places if word != "-"]
    text = sys.stdin.buffer.read(MAX_BYTES + 1) if "-" in arguments.places else None
    published = look(places, arguments.node or "", text)
    found = status.problems(published.problems)
    if arguments.output == "json":
        terminal.print_json(found)
    else:
        console = terminal.console()
        *lines, summary = tables.problems(found)
        for line in lines:
            console.print(line)
        console.print(f"{published.objects} object{'' if published.objects == 1 else 's'}, {summary}")
    severities = {item["severity"] for item in found}
    if "error" in severities:
        return NO
    return WARNED if arguments.strict and "warning" in severities else OK
