"""join: enrol this node with a mesh's authority, by a token that somebody made there for it."""

from __future__ import annotations

import getpass
import socket
import sys
from argparse import Namespace
from pathlib import Path

import trio

from agent.commands import NO, OK, UNREACHABLE, USAGE, terminal
from agent.config import NodeConfig, environment
from agent.identity import client
from agent.identity.client import Address, WrongRoots
from agent.identity.clock import Clock
from agent.identity.protocol import AuthorityRefused, AuthorityUnreachable, Bundle
from agent.identity.vault import Joined, Pair, Vault, VaultError

_TOKEN = 4096  # bytes of a token file; a token has 108


def join(arguments: Namespace) -> int:
    """1 when the authority, or something that we found here, says no."""
    try:
        address = client.read_address(arguments.authority)
    except ValueError as error:
        terminal.complain(str(error), "the authority's door is at port 15012 of its node, unless NodeConfig says otherwise")
        return USAGE
    node = arguments.node or environment().node or socket.gethostname()
    vault = Vault(Path(arguments.state or NodeConfig().state_dir).resolve())
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
    except VaultError as error:
        terminal.complain(str(error), error.hint)
        return NO
    except (OSError, UnicodeDecodeError) as error:
        terminal.complain(f"the token cannot be read: {error}")
        return NO
    return _join(vault, address, node, token, pairs)


def _join(vault: Vault, address: Address, node: str, token: str, before: list[Pair]) -> int:
    clock = Clock(NodeConfig().identity.tolerance)
    try:
        pair, bundle = trio.run(client.join, address, node, token, clock)
    except AuthorityRefused as refusal:
        terminal.complain(f"the authority at {address} refused: {refusal.error}", refusal.hint)
        return NO
    except WrongRoots as error:
        terminal.complain(str(error), "the token was not sent; is the address right, and does the token come from that authority?")
        return NO
    except AuthorityUnreachable as error:
        doubts = [f"{problem.message}: {problem.hint}" for problem in clock.problems()]
        terminal.complain(
            str(error), "\n  ".join(doubts) or "does it run there (edgemesh run --authority), and does the network let us through?"
        )
        return UNREACHABLE
    if not _keep(vault, Joined(str(address), node), pair, bundle, before):
        return NO
    for problem in (*vault.problems, *clock.problems()):
        terminal.complain(problem.message, problem.hint)
    print(f"{node} has joined the mesh {bundle.trust_domain}; its certificate and roots are in {vault.folder.path}")
    print("next: start edgemesh, or restart it when it runs: it takes them up at its start")
    return OK


def _keep(vault: Vault, joined: Joined, pair: Pair, bundle: Bundle, before: list[Pair]) -> bool:
    """The roots first and the word that we joined last: a stop between them leaves a node that has to join, and says so."""
    vault.keep_bundle(bundle)
    for old in before:
        if not old.credentials.spiffe.startswith(f"spiffe://{bundle.trust_domain}/"):
            vault.drop(old.credentials.spiffe)
    vault.keep(pair)
    vault.keep_joined(joined)
    on_disk, roots, pairs = Vault(vault.folder.path.parent).load()
    if on_disk == joined and roots is not None and roots.roots == bundle.roots and pair in pairs:
        return True
    for problem in vault.problems:
        terminal.complain(problem.message, problem.hint)
    terminal.complain(
        "this node is enrolled, but what it was given is lost", "make room on the disk, then edgemesh join --again, with a new token"
    )
    return False


def _token(path: str) -> str:
    """Never from the command line, which everybody on this node can read. Raises OSError, UnicodeDecodeError."""
    if path:
        with open(path, encoding="ascii") as file:
            return file.read(_TOKEN)
    if sys.stdin.isatty():
        return getpass.getpass("token: ")
    return sys.stdin.read(_TOKEN)
