"""Options that several commands have, and types of their values.

A type raises ArgumentTypeError, which argparse reports.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable

_LONGEST = 1_000_000  # seconds that are waited for: eleven days


def verbs(parser: ArgumentParser, command: str, shown: str = "VERB") -> Callable[[str, str], ArgumentParser]:
    """Return what adds a verb to a command: its name and what it does in, its parser out. `shown`: it in the usage."""
    parser.usage = f"edgemesh {command} {shown} ..."
    made = parser.add_subparsers(dest="verb", metavar="VERB", prog=f"edgemesh {command}")

    def verb(name: str, summary: str) -> ArgumentParser:
        return made.add_parser(name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.")

    return verb


def call(parser: ArgumentParser) -> None:
    """Declare the options for a call to a pod: --port, --method, --path."""
    said = "of the called pod (default: each that it declares)"
    parser.add_argument("--port", type=port, default=0, help=said)
    parser.add_argument("--method", default="", help="of an HTTP request (default: GET, when a path is given)")
    parser.add_argument("--path", default="", help="of an HTTP request")


def output(parser: ArgumentParser) -> None:
    """Declare -o table|json."""
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="what to print (default: table)"
    )


def socket(parser: ArgumentParser) -> None:
    """Declare --socket PATH: where the daemon listens."""
    said = "the daemon's socket (default: EDGEMESH_SOCKET, /run/edgemesh/edgemesh.sock)"
    parser.add_argument("--socket", metavar="PATH", help=said)


def access(parser: ArgumentParser) -> None:
    """Declare the options for access to a cluster."""
    said = "access to the cluster (default: KUBECONFIG, ~/.kube/config, this pod's account, k3s's own on a server)"
    parser.add_argument("--kubeconfig", metavar="FILE", default="", help=said)
    parser.add_argument("--context", metavar="NAME", default="", help="of the kubeconfig (default: its current one)")


def cluster(parser: ArgumentParser) -> None:
    """Declare the options for the mesh of a cluster."""
    access(parser)
    said = "where edgemesh runs in the cluster (default: EDGEMESH_NAMESPACE, edgemesh-system)"
    parser.add_argument("--mesh-namespace", metavar="NS", default="", help=said)


def nodes(parser: ArgumentParser, node: bool = True) -> None:
    """Declare the options for asking the nodes of a cluster instead of this one. `node`: --node NAME too."""
    said = "ask every node of the cluster, through its API server"
    parser.add_argument("--all-nodes", action="store_true", help=said)
    if node:
        said = "ask this node of the cluster, through its API server"
        parser.add_argument("--node", metavar="NAME", default="", help=said)
    cluster(parser)


def state(parser: ArgumentParser) -> None:
    """Declare --state DIR, or --state-dir DIR as in `edgemesh run`; "" when it was not given."""
    said = "the daemon's state directory (default: /var/lib/edgemesh)"
    parser.add_argument("--state", "--state-dir", metavar="DIR", default="", help=said)


def node_name(word: str) -> str:
    """Return the name of a node: a type."""
    from agent.identity.authority.authority import is_node_name

    if not is_node_name(word):
        raise ArgumentTypeError(f"{word!r} is no name of a node: lower-case letters, digits, '.' and '-', at most 253")
    return word


def seconds(word: str) -> float:
    """Return a time to wait: a type."""
    try:
        found = float(word)
    except ValueError:
        found = -1.0
    if not 0 <= found < _LONGEST:  # nor is it nan
        raise ArgumentTypeError(f"{word!r} is no number of seconds from 0 to {_LONGEST:,}")
    return found


def port(word: str) -> int:
    """Return the number of a port: a type."""
    return number(word, 65535, "number")


def number(word: str, most: int, what: str) -> int:
    """Return a whole number from 1 to `most`: a type."""
    if not word.isascii() or not word.isdigit() or not 0 < int(word) <= most:
        raise ArgumentTypeError(f"{word!r} is no {what} from 1 to {most}")
    return int(word)
