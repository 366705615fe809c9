"""What commands that ask the daemon share: their options, the request, the output, and error messages."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from msgspec import Struct

from agent.admin import client
from agent.commands import NO, OK, UNREACHABLE, options, terminal
from agent.config.schema import SOCKET
from agent.config.settings import environment

Run = Callable[[Namespace], int]


class View(Struct):
    """One page of a daemon, and how it is shown.

    `one`: tables of one daemon's document. `all`: of the answers of several nodes, the name of a function of
    agent/commands/nodes_shown.py. `code`: the exit code of a document.
    """

    path: str
    one: Callable[[Any], Iterable[Any]]
    all: str
    code: Callable[[Any], int] = lambda _: OK
    query: Sequence[tuple[str, str]] = ()


def arguments(parser: ArgumentParser, cluster: bool = False, node: bool = True) -> None:
    """Declare the options for the daemon's socket and the output format.

    `cluster`: those too that ask the nodes of a cluster; `node`: with --node NAME.
    """
    options.socket(parser)
    options.output(parser)
    if cluster:
        options.nodes(parser, node)


def saying(run: Run) -> Run:
    """Return `run` with failures reported on standard error and as an exit code.

    3 when no daemon responded, 1 when it refused.
    """

    @wraps(run)
    def said(arguments: Namespace) -> int:
        try:
            return run(arguments)
        except client.Unreachable as error:
            terminal.complain(str(error), _elsewhere(arguments, error))
            return UNREACHABLE
        except client.Answered as answered:
            terminal.complain(answered.error, answered.hint)
            return NO

    return said


def socket(arguments: Namespace) -> str:
    """Return the daemon's socket: --socket, else EDGEMESH_SOCKET, else the default."""
    return arguments.socket or environment().socket or SOCKET


def get(arguments: Namespace, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
    """Return the daemon's document at a path. Raise client.Unreachable, client.Answered."""
    return client.get(socket(arguments), path, query)


def show(arguments: Namespace, document: Any, table: Callable[[Any], Iterable[Any]]) -> None:
    """Print the document for programs (-o json), or the tables made of it for people."""
    if arguments.output == "json":
        terminal.print_json(document)
        return
    console = terminal.console()
    for renderable in table(document):
        console.print(renderable)


def _elsewhere(arguments: Namespace, error: client.Unreachable) -> str:
    """Return whom else one could ask: the cluster, where no daemon runs on this machine and access to one is found."""
    if not isinstance(error, client.NotRunning) or not hasattr(arguments, "all_nodes"):
        return ""
    from agent.commands import cluster

    return "or ask the nodes of the cluster: --all-nodes, --node NAME" if cluster.is_accessible() else ""
