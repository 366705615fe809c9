"""connections: the open connections."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent.commands import asking, tables, views
from agent.commands.asking import View


def arguments(parser: ArgumentParser) -> None:
    asking.arguments(parser, cluster=True)


@asking.saying
def run(arguments: Namespace) -> int:
    """Print the connections. Return 0."""
    return views.tell(arguments, View("/connections", tables.connections, "connections"))
