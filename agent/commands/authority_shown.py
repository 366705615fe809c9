"""What `edgemesh ca` shows of an authority: a document for programs, lines for people."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from agent.commands import tables
from agent.identity import rotation
from agent.identity.ca import Issuer
from agent.identity.csr import facts, fingerprint
from agent.identity.holdings import Holdings
from agent.identity.ledger import SITE

_DAY = 86400.0


_STANDS = {
    "idle": "none under way",
    "added": "1 of 3: nodes learn the new root, the old one still signs",
    "issuing": "2 of 3: the new root signs and nodes renew, the old one is still believed",
}


def rotation_stands(holdings: Holdings) -> list[str]:
    """Where the rotation of the root stands, and what comes next."""
    standing = holdings.standing
    found = [f"rotation of the root: {_STANDS[standing.step]}"]
    for issuer, role in _roles(holdings):
        found.append(f"  root {issuer.fingerprint[:16]}, until {date(issuer.not_after)}: {role}")
    waiting = rotation.blocking(holdings)
    if standing.step == "idle":
        found.append("next: edgemesh ca rotate add makes a new root; nothing changes for calls")
        if standing.retired:
            found.append("back: edgemesh ca rotate undo believes the old root again")
        return found
    step = "issue" if standing.step == "added" else "retire"
    if waiting:
        found.append(f"not yet ready for the next step, edgemesh ca rotate {step}; it waits for:")
        for who in waiting:
            found.append(f"  {who}")
    else:
        found.append(f"next: edgemesh ca rotate {step}")
    if standing.step == "issuing":
        for entry in holdings.ledger.newest(holdings.clock()):
            if entry.spiffe == SITE:
                found.append(
                    f"site {entry.node} takes the same steps with its own authority: it must sign under the new root before the old one goes"
                )
    found.append("back: edgemesh ca rotate undo")
    return found


def _roles(holdings: Holdings) -> list[tuple[Issuer, str]]:
    found = [(holdings.issuer, "signs")]
    if holdings.other is not None:
        found.append((holdings.other, "new, does not sign yet" if holdings.standing.step == "added" else "old, still believed"))
    return found


def authority(holdings: Holdings) -> dict[str, Any]:
    """`edgemesh ca show -o json`. The folder is held."""
    now = time.time()
    standing, issuer = holdings.standing, holdings.issuer
    roles = _roles(holdings)
    roots = {fingerprint(held.root): (facts(held.root).not_after, role) for held, role in reversed(roles)}
    newest = holdings.ledger.newest(now)
    nodes = []
    for name, node in sorted(holdings.ledger.nodes.items()):
        ends = [entry.not_after for entry in newest if entry.node == name and entry.spiffe != SITE]
        knows = set(holdings.fingerprints()) <= set(node.roots)
        about = {
            "node": name,
            "since": node.since,
            "certificates": len(ends),
            "last_ends": max(ends, default=0.0),
            "knows_all_roots": knows,
        }
        nodes.append(about)
    return {
        "trust_domain": standing.trust_domain,
        "folder": str(holdings.folder.path),
        "roots": [{"fingerprint": root, "until": until, "role": role} for root, (until, role) in reversed(roots.items())],
        "site": issuer.subject if len(issuer.certificates) > 1 else "",
        "until": issuer.not_after,
        "rotation": {"step": standing.step, "since": standing.since},
        "tokens": [{"node": node, "until": until} for node, until in holdings.tokens.outstanding(now)],
        "sites": [{"node": entry.node, "until": entry.not_after} for entry in newest if entry.spiffe == SITE],
        "nodes": nodes,
        "warnings": _warnings(holdings, now),
    }


def _warnings(holdings: Holdings, now: float) -> list[str]:
    found = []
    left = holdings.issuer.not_after - now
    if left < 90 * _DAY:
        how = "edgemesh ca load" if len(holdings.issuer.certificates) > 1 else "edgemesh ca rotate add"
        found.append(f"the issuing certificate ends on {date(holdings.issuer.not_after)}, and all that it signed with it: {how}")
    if holdings.ledger.gap:
        found.append(f"the ledger was damaged at {date(holdings.ledger.gap, clock=True)}; what was issued before may be missing here")
    return found


def lines(document: dict[str, Any]) -> Iterable[Any]:
    """`edgemesh ca show`."""
    yield f"authority of {document['trust_domain']}, in {document['folder']}"
    yield f"rotation of the root: {_STANDS[document['rotation']['step']]}"
    if document["site"]:
        yield f"signs as {document['site']}, until {date(document['until'])}"
    yield ""
    roots = tables.Rows("root", "until", "role")
    for root in document["roots"]:
        roots.add(root["fingerprint"], date(root["until"]), root["role"])
    yield roots
    yield ""
    nodes = tables.Rows("node", "enrolled", "certificates", "the last ends", "knows all roots", empty="no node is enrolled")
    for node in document["nodes"]:
        ends = date(node["last_ends"], clock=True) if node["certificates"] else ""
        nodes.add(node["node"], date(node["since"]), str(node["certificates"]), ends, "yes" if node["knows_all_roots"] else "no")
    yield nodes
    if document["sites"] or document["tokens"] or document["warnings"]:
        yield ""
    for site in document["sites"]:
        yield f"site authority of {site['node']}, until {date(site['until'])}"
    for token in document["tokens"]:
        yield f"token outstanding for {token['node']}, until {date(token['until'], clock=True)}"
    for warning in document["warnings"]:
        yield f"warning: {warning}"


def date(at: float, clock: bool = False) -> str:
    """In UTC, with the time of day when `clock`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC" if clock else "%Y-%m-%d")


def span(given: float) -> str:
    """A time that was given in one unit, in that unit."""
    for unit, name in ((_DAY, "d"), (3600, "h"), (60, "min")):
        if given >= unit and not given % unit:
            return f"{given / unit:.0f} {name}"
    return f"{given:.0f} s"
