"""The command line: COMMANDS is the table of verbs; `main` finds one, runs it, and answers its exit code.

Exit codes: 0 all is well; 1 the answer is no, or something is wrong; 2 the command line makes no sense; 3 no daemon answered.
Each verb's code is imported when it runs, so that the daemon carries nothing that only people need.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence

from msgspec import Struct

import agent
from agent.commands import NO, OK, UNREACHABLE, USAGE


class Command(Struct, frozen=True):
    """One verb. `run` gets the parsed arguments and answers the exit code."""

    summary: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own). Raises SystemExit for --help and for lines that make no sense."""
    words = sys.argv[1:] if words is None else words
    parser = _parser()
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        known = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        print(f"edgemesh: there is no command {words[0]!r}; {known}", file=sys.stderr)
        return USAGE
    arguments = parser.parse_args(words)
    if arguments.command is None:
        parser.print_help()
        return USAGE
    try:
        code = COMMANDS[arguments.command].run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # `edgemesh routes | head`: who read has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> ArgumentParser:
    listed = "\n".join(f"  {name:<13}{command.summary}" for name, command in COMMANDS.items())
    codes = f"exit codes: {OK} all is well, {NO} the answer is no or something is wrong,\n  {USAGE} usage, {UNREACHABLE} no daemon answered"
    parser = ArgumentParser(
        prog="edgemesh",
        usage="edgemesh COMMAND ...",
        description="A service mesh for edge boxes: one daemon per node, no sidecars.",
        epilog=f"commands (edgemesh COMMAND --help says more):\n{listed}\n\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="command", prog="edgemesh", help=argparse.SUPPRESS)
    for name, command in COMMANDS.items():
        # Without `help`, since argparse would list them a second time, and with the summaries of long names on lines of their own.
        command.arguments(verbs.add_parser(name, description=f"{command.summary[:1].upper()}{command.summary[1:]}."))
    return parser


# arguments


def _nothing(_: ArgumentParser) -> None:
    """A verb without arguments."""


def _run_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--config", metavar="DIR", required=True, help="directory of manifests (*.yaml, *.yml, *.json), watched")
    parser.add_argument("--node", metavar="NAME", help="this node's name (default: EDGEMESH_NODE, NodeConfig, the host name)")
    parser.add_argument("--state-dir", metavar="DIR", help="what outlives a restart (default: NodeConfig, /var/lib/edgemesh)")
    parser.add_argument("--socket", metavar="PATH", help="admin socket (default: EDGEMESH_SOCKET, NodeConfig, /run/edgemesh/edgemesh.sock)")
    parser.add_argument("--metrics-address", metavar="HOST:PORT", help="where Prometheus may ask (default: NodeConfig, 127.0.0.1:15020)")
    parser.add_argument("--authority", action="store_true", help="sign certificates for the mesh's nodes (edgemesh ca init comes first)")
    parser.add_argument("--access-log", choices=("off", "denied", "all"), help="lines on standard output (default: NodeConfig, denied)")


def _check_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="directory of manifests")
    parser.add_argument("--node", metavar="NAME", help="check it as the node of this name would read it (default: the host name)")
    _output(parser)


def _reader_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: EDGEMESH_SOCKET, /run/edgemesh/edgemesh.sock)")
    _output(parser)


def _explain_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", nargs="?", default="", help="the caller, a workload: NAMESPACE/NAME or NAME.NAMESPACE")
    parser.add_argument(
        "dst", metavar="DST", nargs="?", default="", help="what is called: a service or a workload (service:NAME, workload:NAME say which)"
    )
    parser.add_argument("--port", type=_port, default=0, help="the port that is called (default: the only one)")
    parser.add_argument("--method", default="", help="of an HTTP request (default: GET, when a path or a header is given)")
    parser.add_argument("--path", default="", help="of an HTTP request")
    parser.add_argument("--header", type=_header, action="append", default=[], metavar="NAME:VALUE", help="of an HTTP request; repeatable")
    parser.add_argument("--udp", action="store_true", help="ask about datagrams")
    parser.add_argument(
        "--request", metavar="ID", default="", help="instead of SRC DST: what became of the refusal with this x-edgemesh-request"
    )
    parser.add_argument("--config", metavar="DIR", help="ask these manifests instead of the daemon")
    parser.add_argument("--node", metavar="NAME", help="with --config: read them as the node of this name would")
    _reader_arguments(parser)


def _demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--step", type=int, metavar="N", help="end after step N (1 to 9)")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="on how many nodes: 1 (default), or 2 that are joined by a link")
    parser.add_argument("--hold", action="store_true", help="go to the step and stay there until Ctrl-C, to try things")
    parser.add_argument("--app", nargs="+", metavar="WORD", help=argparse.SUPPRESS)  # the demo runs its applications with it


def _ca_arguments(parser: ArgumentParser) -> None:
    def verb(name: str, summary: str) -> ArgumentParser:
        made = verbs.add_parser(name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.")
        made.add_argument(
            "--state", "--state-dir", metavar="DIR", default="", help="the daemon's state directory (default: /var/lib/edgemesh)"
        )
        return made

    def trust_domain(parser: ArgumentParser) -> None:
        parser.add_argument("--trust-domain", metavar="TD", default="", help="the mesh's, as in MeshConfig (default: cluster.local)")

    parser.usage = "edgemesh ca VERB ..."
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", prog="edgemesh ca")
    trust_domain(verb("init", "make an authority, with a root of its own"))
    _output(verb("show", "show the roots, until when they are good, and the nodes that are enrolled"))
    token = verb("token", "make a token that enrols one node, once")
    token.add_argument("--node", metavar="NAME", type=_node, required=True, help="the node that may enrol with it")
    token.add_argument("--ttl", metavar="TIME", type=_ttl, default="1h", help="how long it is good: 30m, 1h, 2d (default: 1h)")
    site = verb("intermediate", "make an authority for a site that cannot always reach this one")
    site.add_argument("--node", metavar="NAME", type=_node, required=True, help="the node that it will run on")
    site.add_argument("--out", metavar="DIR", required=True, help="where its two files are put")
    site.add_argument("--days", metavar="N", type=_days, default=365, help="how long it is good (default: 365)")
    load = verb("load", "sign with an authority that was made elsewhere: a site's, or an outside CA's")
    load.add_argument("certificates", metavar="CERT", help="PEM: its certificate first, the root last")
    load.add_argument("key", metavar="KEY", help="PEM: its key, not encrypted")
    trust_domain(load)
    rotate = verb("rotate", "change the root in three steps, add, issue and retire; without a step: say where it stands")
    rotate.add_argument("step", nargs="?", default="status", choices=("add", "issue", "retire", "undo", "status"))
    rotate.add_argument("--force", action="store_true", help="take the step even if it cuts somebody off")


def _join_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--authority", metavar="HOST:PORT", required=True, help="the authority's door")
    parser.add_argument("--node", metavar="NAME", type=_node, help="this node's name (default: EDGEMESH_NODE, the host name)")
    parser.add_argument(
        "--state", "--state-dir", metavar="DIR", default="", help="the daemon's state directory (default: /var/lib/edgemesh)"
    )
    parser.add_argument("--token-file", metavar="FILE", default="", help="what edgemesh ca token printed (default: standard input)")
    parser.add_argument("--again", action="store_true", help="although this node has joined already")


def _update_arguments(parser: ArgumentParser) -> None:
    parser.usage = "edgemesh update BUNDLE | URL | status | history | rollback | trust KEY..."
    parser.add_argument("words", metavar="BUNDLE", nargs="+", help="a signed bundle, a file or a URL; or one of the words above")
    parser.add_argument("--downgrade", metavar="VERSION", default="", help="take this version although it is older than what ran here")
    parser.add_argument("--rate", metavar="BYTES", type=_rate, default=0, help="fetch no faster: 20k, 1M a second (default: as it comes)")
    parser.add_argument(
        "--state", "--state-dir", metavar="DIR", default="", help="the daemon's state directory (default: /var/lib/edgemesh)"
    )
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: EDGEMESH_SOCKET, /run/edgemesh/edgemesh.sock)")


def _setup_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--node", metavar="NAME", type=_node, help="this node's name (default: the host name)")
    parser.add_argument("--authority", action="store_true", help="this node signs the certificates of the site: make its first authority")
    parser.add_argument(
        "--trust-domain", metavar="TD", default="", help="with --authority: the mesh's, as in MeshConfig (default: cluster.local)"
    )
    parser.add_argument("--trust", metavar="KEY", nargs="+", default=[], help="public keys (PEM) whose update bundles are taken")
    parser.add_argument("--no-start", dest="start", action="store_false", help="lay the files, and start nothing")


def _remove_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--purge", action="store_true", help="the manifests in /etc/edgemesh too")
    parser.add_argument("--yes", action="store_true", help="although the site's authority is here")


def _wait_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--unit", metavar="NAME", required=True, help="the systemd unit that this is run from")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=60.0, help="give up after (default: 60)")
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: EDGEMESH_SOCKET, /run/edgemesh/edgemesh.sock)")


def _output(parser: ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="what to print (default: table)")


def _port(word: str) -> int:
    if not word.isascii() or not word.isdigit() or not 0 < int(word) < 65536:
        raise argparse.ArgumentTypeError(f"{word!r} is no number from 1 to 65535")
    return int(word)


def _rate(word: str) -> int:
    number, unit = (word[:-1], word[-1]) if word[-1:] in ("k", "M") else (word, "")
    if not number.isascii() or not number.isdigit() or not int(number):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of bytes a second: 50000, 20k, 1M")
    return int(number) * {"": 1, "k": 1024, "M": 1 << 20}[unit]


def _header(word: str) -> tuple[str, str]:
    name, colon, value = word.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{word!r} is not NAME:VALUE")
    return name.strip(), value.strip()


def _node(word: str) -> str:
    from agent.commands.ca import node_name

    return node_name(word)


def _ttl(word: str) -> float:
    from agent.commands.ca import seconds

    return seconds(word)


def _days(word: str) -> int:
    if not word.isascii() or not word.isdigit() or not 0 < int(word) <= 3650:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of days from 1 to 3650")
    return int(word)


# verbs


def _run(arguments: Namespace) -> int:
    from agent.commands.daemon import run

    return run(arguments)


def _check(arguments: Namespace) -> int:
    from agent.commands.check import check

    return check(arguments)


def _status(arguments: Namespace) -> int:
    from agent.commands.readers import status

    return status(arguments)


def _routes(arguments: Namespace) -> int:
    from agent.commands.readers import routes

    return routes(arguments)


def _explain(arguments: Namespace) -> int:
    from agent.commands.readers import explain

    return explain(arguments)


def _connections(arguments: Namespace) -> int:
    from agent.commands.readers import connections

    return connections(arguments)


def _ca(arguments: Namespace) -> int:
    from agent.commands.ca import ca

    return ca(arguments)


def _cleanup(arguments: Namespace) -> int:
    from agent.commands.daemon import cleanup

    return cleanup(arguments)


def _demo(arguments: Namespace) -> int:
    from agent.commands.daemon import demo

    return demo(arguments)


def _join(arguments: Namespace) -> int:
    from agent.commands.join import join

    return join(arguments)


def _certs(arguments: Namespace) -> int:
    from agent.commands.certs import certs

    return certs(arguments)


def _update(arguments: Namespace) -> int:
    from agent.commands.update import update

    return update(arguments)


def _setup(arguments: Namespace) -> int:
    from agent.commands.setup import setup

    return setup(arguments)


def _remove(arguments: Namespace) -> int:
    from agent.commands.setup import remove

    return remove(arguments)


def _wait(arguments: Namespace) -> int:
    from agent.commands.wait import wait

    return wait(arguments)


def _version(_: Namespace) -> int:
    print(f"edgemesh {agent.__version__}")
    return OK


COMMANDS: dict[str, Command] = {
    "run": Command("capture this node's workloads and apply policy to them, until stopped", _run_arguments, _run),
    "check": Command("say everything that is wrong with a directory of manifests", _check_arguments, _check),
    "status": Command("show the node, its workloads, what passes unseen, and problems", _reader_arguments, _status),
    "routes": Command("show services: addresses, ports, endpoints, splits, who may call", _reader_arguments, _routes),
    "explain": Command("say whether SRC may call DST and which rule says so, or who refused a request", _explain_arguments, _explain),
    "connections": Command("show what is open just now", _reader_arguments, _connections),
    "ca": Command("run the mesh's authority: make it, enrol nodes with tokens, change its root", _ca_arguments, _ca),
    "certs": Command("show this node's certificates, the roots that it believes, and who is revoked", _reader_arguments, _certs),
    "join": Command("enrol this node with the mesh's authority, by a token", _join_arguments, _join),
    "update": Command("take up another edgemesh from a signed bundle, go back, or say what was", _update_arguments, _update),
    "setup": Command("install this file as a systemd service of this box, or bring what is installed up to it", _setup_arguments, _setup),
    "remove": Command("take edgemesh off this box: service, rules, files", _remove_arguments, _remove),
    "wait": Command("wait until a systemd unit is captured; for its ExecStartPre=", _wait_arguments, _wait),
    "cleanup": Command("remove every rule and route that edgemesh left on this node", _nothing, _cleanup),
    "demo": Command("show the bookstore mesh in network namespaces of its own, step by step", _demo_arguments, _demo),
    "version": Command("say which edgemesh this is", _nothing, _version),
}

if __name__ == "__main__":
    sys.exit(main())
