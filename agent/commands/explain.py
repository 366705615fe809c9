"""explain: may SRC call DST, and by which rule; or which side refused a request.

It asks the daemon, or reads manifests (--config).
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from functools import partial
from pathlib import Path
from typing import Any

from agent.admin import client
from agent.commands import NO, OK, USAGE, asking, options, tables, terminal, views
from agent.commands.asking import View


def arguments(parser: ArgumentParser) -> None:
    source = "the caller, a workload: NAMESPACE/NAME or NAME.NAMESPACE"
    parser.add_argument("src", metavar="SRC", nargs="?", default="", help=source)
    destination = (
        "what is called: a service or a workload (service:NAME, workload:NAME say which), a URL, or ADDRESS:PORT"
    )
    parser.add_argument("dst", metavar="DST", nargs="?", default="", help=destination)
    parser.add_argument("--port", type=options.port, default=0, help="the port that is called (default: the only one)")
    method = "of an HTTP request (default: GET, when a path or a header is given)"
    parser.add_argument("--method", default="", help=method)
    parser.add_argument("--path", default="", help="of an HTTP request")
    header = "of an HTTP request; repeatable"
    parser.add_argument("--header", type=_header, action="append", default=[], metavar="NAME:VALUE", help=header)
    parser.add_argument("--udp", action="store_true", help="ask about datagrams")
    outside = (
        "in the place of SRC: a caller outside the mesh, and the Gateway by whose listener of this node it comes in"
    )
    outside += "; without one it calls the server itself, in plain text"
    parser.add_argument("--from-outside", metavar="ADDRESS%GATEWAY", default="", help=outside.replace("%", "%%"))
    request = "instead of SRC DST: what became of the refusal with this x-edgemesh-request"
    parser.add_argument("--request", metavar="ID", default="", help=request)
    parser.add_argument("--config", metavar="DIR", help="ask these manifests instead of the daemon")
    node = "with --config: read them as the node of this name would; else: ask this node of the cluster"
    parser.add_argument("--node", metavar="NAME", default="", help=node)
    asking.arguments(parser, cluster=True, node=False)


@asking.saying
def run(arguments: Namespace) -> int:
    """Return 1 when it is denied."""
    if arguments.request:
        shown = partial(tables.refusals, nodes=f"--node {arguments.node}" if arguments.node else "")
        refusals = View("/refusals", shown, "refusals", lambda _: NO, [("id", arguments.request)])
        return views.tell(arguments, refusals)
    source, destination = arguments.src, arguments.dst
    if arguments.from_outside and not destination:
        source, destination = "", source
    if not destination or bool(source) == bool(arguments.from_outside):
        terminal.complain(
            "explain needs SRC and DST, --from-outside ADDRESS and DST, or --request ID",
            "the id is in the answer's x-edgemesh-request, and in the access log",
        )
        return USAGE
    from agent.admin.explain import Question, Unclear, query
    from agent.admin.explain_entering import answer

    question = Question(
        source=source,
        destination=destination,
        port=arguments.port,
        method=arguments.method.upper(),
        path=arguments.path,
        headers=tuple(arguments.header),
        udp=arguments.udp,
        outside=arguments.from_outside,
    )
    if arguments.config:
        from agent.store.store import look

        published = look([Path(arguments.config)], arguments.node or "")
        if errors := [problem for problem in published.problems if problem.severity == "error"]:
            more = f"edgemesh check {arguments.config} tells {'all of them' if len(errors) > 1 else 'more'}"
            terminal.complain(f"what follows leaves out what is in error: {errors[0]}", more)
        try:
            document = answer(published.snapshot, question)
        except Unclear as unclear:
            raise client.Answered(404, str(unclear), unclear.hint) from unclear
    else:
        return views.tell(arguments, View("/explain", tables.explain, "explain", code, query(question)))
    asking.show(arguments, document, tables.explain)
    return code(document)


def code(document: dict[str, Any]) -> int:
    """Return the exit code of one node's document."""
    return OK if document["allowed"] else NO


def _header(word: str) -> tuple[str, str]:
    name, colon, value = word.partition(":")
    if not colon or not name.strip():
        raise ArgumentTypeError(f"{word!r} is not NAME:VALUE")
    return name.strip(), value.strip()
