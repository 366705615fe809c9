"""status, routes, connections, explain: ask the daemon, or for explain a directory, and show the answer."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from agent.admin import client
from agent.commands import NO, OK, UNREACHABLE, USAGE, tables, terminal
from agent.config import SOCKET, environment

Verb = Callable[[Namespace], int]


def _saying(verb: Verb) -> Verb:
    """A verb whose failures are words on standard error and an exit code."""

    @wraps(verb)
    def saying(arguments: Namespace) -> int:
        try:
            return verb(arguments)
        except client.Unreachable as error:
            terminal.complain(str(error))
            return UNREACHABLE
        except client.Answered as answered:
            terminal.complain(answered.error, answered.hint)
            return NO

    return saying


@_saying
def status(arguments: Namespace) -> int:
    """1 when there is a problem of severity error, or when policy is not enforced."""
    document = _get(arguments, "/status")
    _show(arguments, document, tables.status)
    errors = any(item["severity"] == "error" for item in document["problems"])
    return NO if errors or not document["enforcing"] else OK


@_saying
def routes(arguments: Namespace) -> int:
    _show(arguments, _get(arguments, "/routes"), tables.routes)
    return OK


@_saying
def connections(arguments: Namespace) -> int:
    _show(arguments, _get(arguments, "/connections"), tables.connections)
    return OK


@_saying
def explain(arguments: Namespace) -> int:
    """1 when it is denied."""
    if arguments.request:
        _show(arguments, _get(arguments, "/refusals", [("id", arguments.request)]), tables.refusals)
        return NO
    if not arguments.src or not arguments.dst:
        terminal.complain(
            "explain needs SRC and DST, or --request ID", "the id is in the answer's x-edgemesh-request, and in the access log"
        )
        return USAGE
    from agent.explain import Question, Unclear, answer, query

    question = Question(
        source=arguments.src,
        destination=arguments.dst,
        port=arguments.port,
        method=arguments.method.upper(),
        path=arguments.path,
        headers=tuple(arguments.header),
        udp=arguments.udp,
    )
    if arguments.config:
        from agent.store import look

        try:
            document = answer(look(Path(arguments.config), arguments.node or "").snapshot, question)
        except Unclear as unclear:
            raise client.Answered(404, str(unclear), unclear.hint) from unclear
    else:
        document = _get(arguments, "/explain", query(question))
    _show(arguments, document, tables.explain)
    return OK if document["allowed"] else NO


def _get(arguments: Namespace, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
    return client.get(arguments.socket or environment().socket or SOCKET, path, query)


def _show(arguments: Namespace, document: Any, table: Callable[[Any], Iterable[Any]]) -> None:
    if arguments.output == "json":
        terminal.print_json(document)
        return
    console = terminal.console()
    for renderable in table(document):
        console.print(renderable)
