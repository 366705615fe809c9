"""ca: make an authority, enrol nodes with tokens, change its root. All of it works on the authority's folder, beside a running daemon."""

from __future__ import annotations

import re
import secrets
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path

from agent.commands import NO, OK, USAGE, terminal
from agent.commands import authority_shown as shown
from agent.config import NodeConfig
from agent.identity import ca as certificates
from agent.identity import rotation
from agent.identity.authority import is_node_name, is_trust_domain
from agent.identity.ca import Issuer
from agent.identity.csr import Unusable
from agent.identity.folder import Folder, FolderError
from agent.identity.holdings import FOLDER, Holdings
from agent.identity.rotation import NotNow
from agent.identity.tokens import TooMany

TRUST_DOMAIN = "cluster.local"  # as MeshConfig has it when it says nothing
_FIRST_DAY = 1735689600.0  # 2025-01-01: a clock before that has not been set
_DAY = 86400.0


def ca(arguments: Namespace) -> int:
    """1 when it was refused, or could not be done."""
    if arguments.verb is None:
        terminal.complain(f"which of {', '.join(VERBS)}?", "edgemesh ca --help says what they do")
        return USAGE
    try:
        return VERBS[arguments.verb](arguments)
    except (FolderError, NotNow) as error:
        terminal.complain(str(error), error.hint)
    except (Unusable, TooMany) as error:
        terminal.complain(str(error))
    return NO


def init(arguments: Namespace) -> int:
    """A new authority with a root of its own."""
    trust_domain = arguments.trust_domain or TRUST_DOMAIN
    if wrong := _wrong(trust_domain):
        terminal.complain(wrong)
        return USAGE
    holdings = _holdings(arguments)
    root = certificates.make_root(trust_domain, _now(), _serial())
    holdings.create(root, trust_domain)
    _say(f"authority of {trust_domain} made in {holdings.folder.path}")
    _say(f"root {root.fingerprint}, until {shown.date(root.not_after)}")
    _say("next: keep a copy of that directory in a safe place, and enrol a node: edgemesh ca token --node NAME")
    return OK


def show(arguments: Namespace) -> int:
    """Roots, issuer, dates, enrolled nodes."""
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
    """The token on standard output, for a pipe; what to do with it on standard error."""
    holdings = _holdings(arguments)
    with holdings.held():
        secret = holdings.tokens.make(arguments.node, arguments.ttl, _now())
        root = holdings.issuer.fingerprint
    print(f"{secret}.{root}", flush=True)
    sys.stderr.write(
        f"\nThis is shown once. It enrols {arguments.node}, once, within {shown.span(arguments.ttl)}. On {arguments.node}:\n"
        f"    edgemesh join --node {arguments.node} --authority HOST:PORT\n"
        "which reads the token from standard input; HOST:PORT is where this authority's daemon listens.\n"
    )
    return OK


def intermediate(arguments: Namespace) -> int:
    """A site's own authority, as two files."""
    out = Folder(_made(Path(arguments.out)))
    holdings = _holdings(arguments)
    if any(out.stamp(name) for name in ("site.crt", "site.key")):
        terminal.complain(f"{out.path} holds a site's authority already", "give another --out, or remove it")
        return NO
    with holdings.held():
        made, signer = rotation.site(holdings, arguments.node, arguments.days)
    out.replace("site.key", made.key)
    out.replace("site.crt", "".join(made.certificates).encode())
    _say(
        f"{out.path}/site.crt and site.key: an authority for {arguments.node} under root {signer.fingerprint[:16]}, until {shown.date(made.not_after)}"
    )
    _say(f"next: bring both to {arguments.node} by a safe way, and there: edgemesh ca load site.crt site.key; then remove the copies")
    return OK


def load(arguments: Namespace) -> int:
    """An authority that was made elsewhere: a site's, or one of an outside CA."""
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
        _say(
            f"authority of {trust_domain} made in {holdings.folder.path}: it signs as {issuer.subject}, until {shown.date(issuer.not_after)}"
        )
        _say("everything that its root signs, or lets others sign, for this trust domain is believed")
        return OK
    if arguments.trust_domain not in ("", trust_domain):
        terminal.complain(f"the authority here is of {trust_domain}, not of {arguments.trust_domain}")
        return NO
    issuer = _loaded(arguments, trust_domain)
    with holdings.held():
        rotation.add(holdings, issuer)
        _say(*shown.rotation_stands(holdings))
    return OK


def rotate(arguments: Namespace) -> int:
    """Without a step: where it stands and what comes next."""
    steps: dict[str, Callable[[Holdings], None]] = {
        "add": rotation.add,
        "issue": lambda holdings: rotation.issue(holdings, arguments.force),
        "retire": lambda holdings: rotation.retire(holdings, arguments.force),
        "undo": lambda holdings: rotation.undo(holdings, arguments.force),
        "status": lambda holdings: None,
    }
    holdings = _holdings(arguments)
    with holdings.held():
        steps[arguments.step](holdings)
        _say(*shown.rotation_stands(holdings))
    return OK


VERBS: dict[str, Callable[[Namespace], int]] = {
    "init": init,
    "show": show,
    "token": token,
    "intermediate": intermediate,
    "load": load,
    "rotate": rotate,
}


def node_name(word: str) -> str:
    """An argument that names a node."""
    if not is_node_name(word):
        raise ArgumentTypeError(f"{word!r} is no name of a node: lower-case letters, digits, '.' and '-', at most 253")
    return word


def seconds(word: str) -> float:
    """An argument like 90s, 30m, 1h or 2d."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", word)
    if match is None:
        raise ArgumentTypeError(f"{word!r} is no time such as 30m, 1h or 2d")
    found = int(match[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": _DAY}[match[2]]
    if not 10 <= found <= 30 * _DAY:
        raise ArgumentTypeError("a token lives from 10s to 30d")
    return found


# parts


def _holdings(arguments: Namespace) -> Holdings:
    return Holdings(Path(arguments.state or NodeConfig().state_dir).absolute() / FOLDER, time.time)


def _now() -> float:
    """Raises Unusable where a clock that was never set would date what is made."""
    now = time.time()
    if now < _FIRST_DAY:
        raise Unusable(f"this machine's clock says {shown.date(now, clock=True)}; set it first, or nobody will believe what is made now")
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
        raise Unusable(f"{arguments.certificates} with {arguments.key} cannot sign for {trust_domain}: {error}") from error


def _made(path: Path) -> Path:
    """A folder of ours when there is none; one that is there stays as it is, the files in it are ours alone anyway."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{path} cannot be made: {error.strerror}") from error
    return path


def _say(*lines: str) -> None:
    for line in lines:
        print(line)
