"""join: enrol this node with a mesh's authority, by a token that a person made there for it."""

from __future__ import annotations

import getpass
import re
import socket
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import trio

from agent.commands import NO, OK, UNREACHABLE, USAGE, options, terminal
from agent.config.schema import NodeConfig
from agent.config.settings import environment
from agent.identity.node import client
from agent.identity.node.client import Address, WrongRoots
from agent.identity.node.clock import Clock
from agent.identity.node.store import IdentityStore, IdentityStoreError, Joined, KeyPair
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle
from agent.system import private_memory

_TOKEN = 4096  # bytes of a token file; a token has 108


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--authority", metavar="HOST:PORT", required=True, help="the authority's door")
    node = "this node's name (default: EDGEMESH_NODE, the host name)"
    parser.add_argument("--node", metavar="NAME", type=options.node_name, help=node)
    options.state(parser)
    file = "what edgemesh ca token printed (default: standard input)"
    parser.add_argument("--token-file", metavar="FILE", default="", help=file)
    parser.add_argument("--again", action="store_true", help="although this node has joined already")


def run(arguments: Namespace) -> int:
    """Return 1 when the authority refuses, or something here prevents the join."""
    private_memory.keep_memory_private()
    try:
        address = client.read_address(arguments.authority)
    except ValueError as error:
        terminal.complain(
            str(error), "the authority's door is at port 15012 of its node, unless NodeConfig says otherwise"
        )
        return USAGE
    node = arguments.node or environment().node or socket.gethostname()
    vault = IdentityStore(Path(arguments.state or NodeConfig().state_dir).resolve())
    try:
        vault.open()
        joined, _, pairs = vault.load()
        if joined is not None and not arguments.again:
            terminal.complain(
                f"this node has joined already, as {joined.node}, with the authority at {joined.authority}",
                "edgemesh join --again with a new token replaces that",
            )
            return NO
        token = _token(arguments.token_file)
        if not re.fullmatch(r"[A-Za-z0-9_-]+\.[0-9a-f]{64}", token.strip()):
            whence = arguments.token_file or "standard input"
            what = (
                f"there is no token in {whence}: it is empty"
                if not token.strip()
                else f"what is in {whence} is no token"
            )
            terminal.complain(what, f"edgemesh ca token --node {node}, on the authority's node, prints one")
            return NO
    except IdentityStoreError as error:
        terminal.complain(str(error), error.hint)
        return NO
    except (OSError, UnicodeDecodeError) as error:
        terminal.complain(f"the token cannot be read: {error}")
        return NO
    return _join(vault, address, node, token, pairs)


def _join(vault: IdentityStore, address: Address, node: str, token: str, before: list[KeyPair]) -> int:
    clock = Clock(NodeConfig().identity.tolerance)
    try:
        pair, bundle = trio.run(client.join, address, node, token, clock)
    except AuthorityRefused as refusal:
        terminal.complain(f"the authority at {address} refused: {refusal.error}", refusal.hint)
        return NO
    except WrongRoots as error:
        terminal.complain(
            str(error), "the token was not sent; is the address right, and does the token come from that authority?"
        )
        return NO
    except AuthorityUnreachable as error:
        doubts = [f"{problem.message}: {problem.hint}" for problem in clock.problems()]
        terminal.complain(
            str(error),
            "\n  ".join(doubts) or "does it run there (edgemesh run --authority), and does the network let us through?",
        )
        return UNREACHABLE
    if not _keep(vault, Joined(str(address), node), pair, bundle, before):
        return NO
    for problem in (*vault.problems, *clock.problems()):
        terminal.complain(problem.message, problem.hint)
    print(f"{node} has joined the mesh {bundle.trust_domain}; its certificate and roots are in {vault.folder.path}")
    print("next: start edgemesh, or restart it when it runs: it takes them up at its start")
    return OK


def _keep(vault: IdentityStore, joined: Joined, pair: KeyPair, bundle: Bundle, before: list[KeyPair]) -> bool:
    """Keep the roots first and the fact that we joined last.

    A crash in between leaves a node that has to join, and reports so.
    """
    vault.keep_bundle(bundle)
    for old in before:
        if not old.credentials.spiffe.startswith(f"spiffe://{bundle.trust_domain}/"):
            vault.drop(old.credentials.spiffe)
    vault.keep(pair)
    vault.keep_joined(joined)
    on_disk, roots, pairs = IdentityStore(vault.folder.path.parent).load()
    if on_disk == joined and roots is not None and roots.roots == bundle.roots and pair in pairs:
        return True
    for problem in vault.problems:
        terminal.complain(problem.message, problem.hint)
    terminal.complain(
        "this node is enrolled, but what it was given is lost",
        "make room on the disk, then edgemesh join --again, with a new token",
    )
    return False


def _token(path: str) -> str:
    """Read the token from a file. Raise OSError, UnicodeDecodeError.

    Never from the command line, which every user of this node can read.
    """
    if path:
        with open(path, encoding="ascii") as file:
            return file.read(_TOKEN)
    if sys.stdin.isatty():
        return getpass.getpass("token: ")
    return sys.stdin.read(_TOKEN)
