"""The output of `edgemesh ca` about an authority: a document for programs, lines for people."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from agent.commands import tables
from agent.identity.authority import rotation
from agent.identity.authority.journal import SITE
from agent.identity.authority.rotation import Report
from agent.identity.authority.state import AuthorityState
from agent.identity.csr import facts

_DAY = 86400.0


_STANDS = {
    "idle": "none under way",
    "added": "1 of 3: nodes learn the new root, the old one still signs",
    "issuing": "2 of 3: the new root signs and nodes renew, the old one is still believed",
}


def rotation_stands(report: Report) -> list[str]:
    """Return the state of the root's rotation, and what comes next, for people."""
    found = [f"rotation of the root: {_STANDS[report.step]}"]
    for root in report.roots:
        found.append(f"  root {root.fingerprint[:16]}, until {date(root.until)}: {root.role}")
    if report.step == "idle":
        found.append("next: edgemesh ca rotate add makes a new root; nothing changes for calls")
        if report.retired:
            found.append("back: edgemesh ca rotate undo believes the old root again")
        return found
    step = "issue" if report.step == "added" else "retire"
    if report.waits_for:
        found.append(f"not yet ready for the next step, edgemesh ca rotate {step}; it waits for:")
        for who in report.waits_for:
            found.append(f"  {who}")
        if report.more:
            found.append(f"  and {report.more} more")
    elif report.not_before:
        found.append(
            f"not yet ready for the next step, edgemesh ca rotate {step}: what was issued before the last one and is not"
            f" known here has ended on {date(report.not_before, clock=True)}"
        )
    else:
        found.append(f"next: edgemesh ca rotate {step}")
    if report.step == "issuing":
        for site in report.sites:
            found.append(
                f"site {site} takes the same steps with its own authority: it must sign under the new root before the old one goes"
            )
    found.append("back: edgemesh ca rotate undo")
    return found


def rotation_document(report: Report) -> dict[str, Any]:
    """Return the document of `edgemesh ca rotate -o json` about an authority in a cluster."""
    return {
        "trust_domain": report.trust_domain,
        "roots": [{"fingerprint": root.fingerprint, "until": root.until, "role": root.role} for root in report.roots],
        "rotation": {"step": report.step, "since": report.since},
        "sites": list(report.sites),
        "blocking": list(report.waits_for),
        "blocking_more": report.more,
        "not_before": report.not_before,
    }


def authority(holdings: AuthorityState) -> dict[str, Any]:
    """Return the document of `edgemesh ca show -o json`. The caller holds the folder's lock."""
    now = time.time()
    standing, issuer = holdings.standing, holdings.issuer
    held = {one.fingerprint: one for one in (holdings.other, issuer) if one is not None}
    roots = {
        root.fingerprint: (facts(held[root.fingerprint].root).not_after, root.role)
        for root in reversed(rotation.report(holdings).roots)
    }
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
        "roots": [
            {"fingerprint": root, "until": until, "role": role} for root, (until, role) in reversed(roots.items())
        ],
        "site": issuer.subject if len(issuer.certificates) > 1 else "",
        "until": issuer.not_after,
        "rotation": {"step": standing.step, "since": standing.since},
        "tokens": [{"node": node, "until": until} for node, until in holdings.tokens.outstanding(now)],
        "sites": [{"node": entry.node, "until": entry.not_after} for entry in newest if entry.spiffe == SITE],
        "nodes": nodes,
        "warnings": _warnings(holdings, now),
    }


def _warnings(holdings: AuthorityState, now: float) -> list[str]:
    found = []
    left = holdings.issuer.not_after - now
    if left < 90 * _DAY:
        how = "edgemesh ca load" if len(holdings.issuer.certificates) > 1 else "edgemesh ca rotate add"
        found.append(
            f"the issuing certificate ends on {date(holdings.issuer.not_after)}, and all that it signed with it: {how}"
        )
    if holdings.ledger.gap:
        found.append(
            f"the ledger was damaged at {date(holdings.ledger.gap, clock=True)}; what was issued before may be missing here"
        )
    return found


def lines(document: dict[str, Any]) -> Iterable[Any]:
    """Yield the lines of `edgemesh ca show`."""
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
    nodes = tables.Rows(
        "node", "enrolled", "certificates", "the last ends", "knows all roots", empty="no node is enrolled"
    )
    for node in document["nodes"]:
        ends = date(node["last_ends"], clock=True) if node["certificates"] else ""
        nodes.add(
            node["node"],
            date(node["since"]),
            str(node["certificates"]),
            ends,
            "yes" if node["knows_all_roots"] else "no",
        )
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
    """Return a date in UTC, with the time of day when `clock`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC" if clock else "%Y-%m-%d")


def span(given: float) -> str:
    """Return a duration that was given in one unit, in that unit."""
    for unit, name in ((_DAY, "d"), (3600, "h"), (60, "min")):
        if given >= unit and not given % unit:
            return f"{given / unit:.0f} {name}"
    return f"{given:.0f} s"
