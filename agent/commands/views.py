"""One page of the daemon, or of every daemon of a cluster: what --all-nodes and --node NAME decide."""

from __future__ import annotations

from argparse import Namespace

from agent.commands import USAGE, asking, terminal
from agent.commands.asking import View


def tell(arguments: Namespace, view: View) -> int:
    """Print what this node's daemon answers, or what the nodes of a cluster do (--all-nodes, --node). Return the code.

    A cluster is asked only when the options say so: the same words mean the same daemon wherever they are typed. Raise
    client.Unreachable, client.Answered.
    """
    if arguments.all_nodes and arguments.node:
        terminal.complain("--all-nodes and --node name different nodes", "give one of them")
        return USAGE
    if arguments.all_nodes or (arguments.node and not getattr(arguments, "config", None)):
        from agent.commands import nodes

        return nodes.tell(arguments, view)
    document = asking.get(arguments, view.path, view.query)
    asking.show(arguments, document, view.one)
    return view.code(document)
