"""demo: the bookstore mesh, or a chapter about traffic policies, in network namespaces of its own."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--step", type=int, metavar="N", help="end after step N (1 to 9), or after scene N of a chapter"
    )
    nodes = "on how many nodes: 1 (default), or 2 that are joined by a link"
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help=nodes)
    chapter = "show what traffic policies do instead: `list` tells the names"
    parser.add_argument("--chapter", metavar="NAME", help=chapter)
    parser.add_argument("--hold", action="store_true", help="go to the step and stay there until Ctrl-C, to try things")
    parser.add_argument("--app", nargs="+", metavar="WORD", help=SUPPRESS)  # the demo starts its applications with it


def run(arguments: Namespace) -> int:
    """Return 1 when an expectation failed, 2 when the demo cannot run here."""
    from agent.demo import walk

    return walk.main(arguments.step, arguments.hold, arguments.app, arguments.nodes, arguments.chapter)
