"""ca: make an authority, enrol nodes with tokens, change its root.

All of it works on the authority's folder, beside a running daemon. In a cluster there is no folder, and the root alone
is changed from outside: the server that holds the lease takes the steps (ca_cluster.py).
"""

from __future__ import annotations

import re
import secrets
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.commands import NO, OK, USAGE, cluster, options, terminal
from agent.commands import authority_shown as shown
from agent.config.schema import NodeConfig
from agent.identity.authority import ca as certificates
from agent.identity.authority import rotation
from agent.identity.authority.authority import is_trust_domain
from agent.identity.authority.ca import Issuer
from agent.identity.authority.rotation import NotNow
from agent.identity.authority.state import FOLDER, AuthorityState
from agent.identity.authority.tokens import TooMany
from agent.identity.csr import Unusable
from agent.identity.folder import Folder, FolderError
from agent.system import private_memory

TRUST_DOMAIN = "cluster.local"  # the default of MeshConfig
_FIRST_DAY = 1735689600.0  # 2025-01-01: an earlier clock has not been set
_DAY = 86400.0


def arguments(parser: ArgumentParser) -> None:
    def verb(name: str, summary: str) -> ArgumentParser:
        made = verbs(name, summary)
        options.state(made)
        options.output(made)
        return made

    def trust_domain(parser: ArgumentParser) -> None:
        said = "the mesh's, as in MeshConfig (default: cluster.local)"
        parser.add_argument("--trust-domain", metavar="TD", default="", help=said)

    verbs = options.verbs(parser, "ca")
    trust_domain(verb("init", "make an authority, with a root of its own"))
    verb("show", "show the roots, until when they are good, and the nodes that are enrolled")
    token = verb("token", "make a token that enrols one node, once")
    token.add_argument(
        "--node", metavar="NAME", type=options.node_name, required=True, help="the node that may enrol with it"
    )
    token.add_argument(
        "--ttl", metavar="TIME", type=seconds, default="1h", help="how long it is good: 30m, 1h, 2d (default: 1h)"
    )
    site = verb("intermediate", "make an authority for a site that cannot always reach this one")
    site.add_argument(
        "--node", metavar="NAME", type=options.node_name, required=True, help="the node that it will run on"
    )
    site.add_argument("--out", metavar="DIR", required=True, help="where its two files are put")
    site.add_argument("--days", metavar="N", type=_days, default=365, help="how long it is good (default: 365)")
    load = verb("load", "sign with an authority that was made elsewhere: a site's, or an outside CA's")
    load.add_argument("certificates", metavar="CERT", help="PEM: its certificate first, the root last")
    load.add_argument("key", metavar="KEY", help="PEM: its key, not encrypted")
    trust_domain(load)
    rotate = verb(
        "rotate", "change the root in three steps, add, issue and retire; without a step: say where it stands"
    )
    rotate.add_argument("step", nargs="?", default="status", choices=("add", "issue", "retire", "undo", "status"))
    rotate.add_argument("--force", action="store_true", help="take the step even if it cuts somebody off")
    options.cluster(rotate)


def run(arguments: Namespace) -> int:
    """Return 1 when it was refused, or could not be done."""
    private_memory.keep_memory_private()
    if arguments.verb is None:
        terminal.complain(f"which of {', '.join(VERBS)}?", "edgemesh ca --help says what they do")
        return USAGE
    try:
        return VERBS[arguments.verb](arguments)
    except (FolderError, NotNow) as error:
        terminal.complain(str(error), error.hint)
        if isinstance(error, FolderError) and not arguments.state and cluster.is_accessible():
            sys.stderr.write("  in a cluster its servers hold it: edgemesh ca rotate shows the root and changes it\n")
    except (Unusable, TooMany) as error:
        terminal.complain(str(error))
    return NO


def init(arguments: Namespace) -> int:
    """Make an authority with a root of its own."""
    trust_domain = arguments.trust_domain or TRUST_DOMAIN
    if wrong := _wrong(trust_domain):
        terminal.complain(wrong)
        return USAGE
    holdings = _holdings(arguments)
    root = certificates.make_root(trust_domain, _now(), _serial())
    holdings.create(root, trust_domain)
    with holdings.held():
        _tell(
            arguments,
            shown.authority(holdings),
            f"authority of {trust_domain} made in {holdings.folder.path}",
            f"root {root.fingerprint}, until {shown.date(root.not_after)}",
            "next: keep a copy of that directory in a safe place, and enrol a node: edgemesh ca token --node NAME",
        )
    return OK


def show(arguments: Namespace) -> int:
    """Show roots, issuer, dates, enrolled nodes."""
    holdings = _holdings(arguments)
    with holdings.held():
        document = shown.authority(holdings)
    if arguments.output == "json":
        terminal.print_json(document)
    else:
        console = terminal.console()
        for renderable in shown.lines(document):
            console.print(renderable)
    return OK


def token(arguments: Namespace) -> int:
    """Print a token on standard output, for a pipe, and its use on standard error."""
    holdings = _holdings(arguments)
    with holdings.held():
        secret = holdings.tokens.make(arguments.node, arguments.ttl, _now())
        root = holdings.issuer.fingerprint
    if arguments.output == "json":
        terminal.print_json({"token": f"{secret}.{root}", "node": arguments.node, "good_seconds": arguments.ttl})
        return OK
    print(f"{secret}.{root}", flush=True)
    sys.stderr.write(
        f"\nThis is shown once. It enrols {arguments.node}, once, within {shown.span(arguments.ttl)}. On {arguments.node}:\n"
        f"    edgemesh join --node {arguments.node} --authority HOST:PORT\n"
        "which reads the token from standard input; HOST:PORT is where this authority's daemon listens.\n"
    )
    return OK


def intermediate(arguments: Namespace) -> int:
    """Make a site's own authority, as two files."""
    out = Folder(_made(Path(arguments.out)))
    holdings = _holdings(arguments)
    if any(out.stamp(name) for name in ("site.crt", "site.key")):
        terminal.complain(f"{out.path} holds a site's authority already", "give another --out, or remove it")
        return NO
    with holdings.held():
        made, signer = rotation.site(holdings, arguments.node, arguments.days)
    out.replace("site.key", made.key)
    out.replace("site.crt", "".join(made.certificates).encode())
    _tell(
        arguments,
        {
            "node": arguments.node,
            "certificates": f"{out.path}/site.crt",
            "key": f"{out.path}/site.key",
            "root": signer.fingerprint,
            "until": made.not_after,
        },
        f"{out.path}/site.crt and site.key: an authority for {arguments.node} under root {signer.fingerprint[:16]}, until {shown.date(made.not_after)}",
        f"next: bring both to {arguments.node} by a safe way, and there: edgemesh ca load site.crt site.key; then remove the copies",
    )
    return OK


def load(arguments: Namespace) -> int:
    """Load an authority that was made elsewhere: a site's, or one of an outside CA."""
    holdings = _holdings(arguments)
    try:
        with holdings.held():
            trust_domain = holdings.standing.trust_domain
    except FolderError:
        if holdings.folder.stamp("rotation.json"):
            raise
        trust_domain = arguments.trust_domain or TRUST_DOMAIN
        if wrong := _wrong(trust_domain):
            terminal.complain(wrong)
            return USAGE
        issuer = _loaded(arguments, trust_domain)
        holdings.create(issuer, trust_domain)
        with holdings.held():
            _tell(
                arguments,
                shown.authority(holdings),
                f"authority of {trust_domain} made in {holdings.folder.path}: it signs as {issuer.subject}, until {shown.date(issuer.not_after)}",
                "everything that its root signs, or lets others sign, for this trust domain is believed",
            )
        return OK
    if arguments.trust_domain not in ("", trust_domain):
        terminal.complain(f"the authority here is of {trust_domain}, not of {arguments.trust_domain}")
        return NO
    issuer = _loaded(arguments, trust_domain)
    with holdings.held():
        rotation.add(holdings, issuer)
        _tell(arguments, shown.authority(holdings), *shown.rotation_stands(rotation.report(holdings)))
    return OK


def rotate(arguments: Namespace) -> int:
    """Take a step of the rotation; without one, show its state and what comes next."""
    if _is_in_a_cluster(arguments):
        from agent.commands import ca_cluster

        return ca_cluster.ROTATE(arguments)
    steps: dict[str, Callable[[AuthorityState], None]] = {
        "add": rotation.add,
        "issue": lambda holdings: rotation.issue(holdings, arguments.force),
        "retire": lambda holdings: rotation.retire(holdings, arguments.force),
        "undo": lambda holdings: rotation.undo(holdings, arguments.force),
        "status": lambda holdings: None,
    }
    holdings = _holdings(arguments)
    with holdings.held():
        steps[arguments.step](holdings)
        document = {**shown.authority(holdings), "blocking": rotation.blocking(holdings)}
        _tell(arguments, document, *shown.rotation_stands(rotation.report(holdings)))
    return OK


def _is_in_a_cluster(arguments: Namespace) -> bool:
    """Return whether the authority of a cluster is meant: it is named, or there is one and no authority here."""
    if arguments.kubeconfig or arguments.context or arguments.mesh_namespace:
        return True
    return not arguments.state and not _holdings(arguments).folder.exists() and cluster.is_accessible()


VERBS: dict[str, Callable[[Namespace], int]] = {
    "init": init,
    "show": show,
    "token": token,
    "intermediate": intermediate,
    "load": load,
    "rotate": rotate,
}


def seconds(word: str) -> float:
    """Return the seconds of an argument like 90s, 30m, 1h or 2d."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", word)
    if match is None:
        raise ArgumentTypeError(f"{word!r} is no time such as 30m, 1h or 2d")
    found = int(match[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": _DAY}[match[2]]
    if not 10 <= found <= 30 * _DAY:
        raise ArgumentTypeError("a token lives from 10s to 30d")
    return found


def _days(word: str) -> int:
    return options.number(word, 3650, "number of days")


# parts


def _holdings(arguments: Namespace) -> AuthorityState:
    return AuthorityState(Path(arguments.state or NodeConfig().state_dir).absolute() / FOLDER, time.time)


def _now() -> float:
    """Return the time. Raise Unusable when the clock was never set: it would date what is made."""
    now = time.time()
    if now < _FIRST_DAY:
        raise Unusable(
            f"this machine's clock says {shown.date(now, clock=True)}; set it first, or nobody will believe what is made now"
        )
    return now


def _serial() -> int:
    return certificates.serial(secrets.token_bytes(16))


def _wrong(trust_domain: str) -> str:
    if is_trust_domain(trust_domain):
        return ""
    return f"{trust_domain!r} is no trust domain: lower-case letters, digits, '.', '_' and '-'"


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise Unusable(f"{name} cannot be read: {error.strerror}") from error


def _loaded(arguments: Namespace, trust_domain: str) -> Issuer:
    found = _read(arguments.certificates), _read(arguments.key)
    try:
        return certificates.load(*found, trust_domain, _now())
    except Unusable as error:
        raise Unusable(
            f"{arguments.certificates} with {arguments.key} cannot sign for {trust_domain}: {error}"
        ) from error


def _made(path: Path) -> Path:
    """Return the folder, made for its owner alone if there is none.

    An existing one stays as it is: the files in it are for their owner alone anyway.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{path} cannot be made: {error.strerror}") from error
    return path


def _tell(arguments: Namespace, document: dict[str, Any], *lines: str) -> None:
    """Print the document for programs, or the lines for people."""
    if arguments.output == "json":
        terminal.print_json(document)
        return
    for line in lines:
        print(line)
