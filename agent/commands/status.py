"""status: the node, its workloads, what passes unseen, and problems."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from agent.commands import NO, OK, asking, tables, views
from agent.commands.asking import View


def arguments(parser: ArgumentParser) -> None:
    asking.arguments(parser, cluster=True)


@asking.saying
def run(arguments: Namespace) -> int:
    """Return 1 when there is a problem of severity error, or when policy is not enforced."""
    return views.tell(arguments, View("/status", tables.status, "status", code))


def code(document: dict[str, Any]) -> int:
    """Return the exit code of one node's document."""
    errors = any(item["severity"] == "error" for item in document["problems"])
    return NO if errors or not document["enforcing"] else OK
