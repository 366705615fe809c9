"""routes: services, with their addresses, ports, endpoints, splits and grants."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent.commands import asking, tables, views
from agent.commands.asking import View


def arguments(parser: ArgumentParser) -> None:
    asking.arguments(parser, cluster=True)


@asking.saying
def run(arguments: Namespace) -> int:
    """Print the routes. Return 0."""
    return views.tell(arguments, View("/routes", tables.routes, "routes"))
