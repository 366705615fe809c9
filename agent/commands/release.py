"""release: a person releases what stays in force though no manifest says it any more.

See policy/lasting.py and agent/kernel/remembered.py.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from agent.admin import client
from agent.commands import OK, asking, options


def arguments(parser: ArgumentParser) -> None:
    name = "a workload, NAMESPACE/NAME; or KIND/NAME, KIND/NAMESPACE/NAME; edgemesh status says which"
    parser.add_argument("name", metavar="NAME", help=name)
    options.socket(parser)


@asking.saying
def run(arguments: Namespace) -> int:
    """Return 1 when nothing is kept under that name."""
    answer = client.post(asking.socket(arguments), "/release", [("name", arguments.name)])
    for name in answer["released"]:
        print(f"released {name}")
    return OK
