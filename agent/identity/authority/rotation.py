"""How an authority changes its root without a failed call: add, issue, retire, each with a way back.

    idle -> added      every node that fetches the bundle trusts the new root; the old one still signs
    added -> issuing   the new root signs, and nodes renew early; the old one is still trusted
    issuing -> idle    the old root is no longer trusted

A step refuses while it would cut off a node, as far as the journal knows. These functions run inside
`AuthorityState.held`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from agent.identity.authority import ca
from agent.identity.authority.ca import Issuer
from agent.identity.authority.journal import SITE, Signed
from agent.identity.authority.state import ISSUERS, RETIRED, AuthorityState, RotationState, Step, name_of
from agent.identity.csr import facts

_SHOWN = 10  # names in one message
# Seconds that certificates which the ledger does not know may live: the default of identity.lifetime. Where the ledger
# has seen longer ones, as long as those.
_LIFETIME = 14 * 86400.0


class NotNow(Exception):  # noqa: N818 - it is an answer
    """The rotation is not at this step, or the step would cut off a node (`blocked`: --force takes it all the same)."""

    def __init__(self, message: str, hint: str = "", blocked: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.blocked = blocked


class RootReport(Struct, frozen=True):
    fingerprint: str
    until: float  # seconds since the epoch
    role: str  # in words


class Report(Struct, frozen=True):
    """Where the rotation of a root stands, for people."""

    trust_domain: str
    step: Step
    since: float
    roots: tuple[RootReport, ...]
    waits_for: tuple[str, ...] = ()  # who keeps the next step from being taken
    more: int = 0  # how many others do
    not_before: float = 0.0  # until then somebody whom the ledger does not know may keep it too
    retired: bool = False  # a root that was retired can be trusted again
    sites: tuple[str, ...] = ()  # nodes with an authority of their own


def report(holdings: AuthorityState, most: int = 1000) -> Report:
    """Return where it stands. `most`: names in `waits_for`."""
    standing, waits = holdings.standing, blocking(holdings)
    roots = [RootReport(holdings.issuer.fingerprint, holdings.issuer.not_after, "signs")]
    if holdings.other is not None:
        role = "new, does not sign yet" if standing.step == "added" else "old, still believed"
        roots.append(RootReport(holdings.other.fingerprint, holdings.other.not_after, role))
    sites = sorted(entry.node for entry in holdings.ledger.newest(holdings.clock()) if entry.spiffe == SITE)
    return Report(
        standing.trust_domain,
        standing.step,
        standing.since,
        tuple(roots),
        tuple(waits[:most]),
        max(0, len(waits) - most),
        0.0 if standing.step == "idle" else _unknown_until(holdings),
        bool(standing.retired),
        tuple(sites),
    )


def add(holdings: AuthorityState, issuer: Issuer | None = None) -> None:
    """Let nodes learn a new root: `issuer`'s, or a fresh one. Raise NotNow, FolderError."""
    standing = holdings.standing
    if standing.step != "idle":
        raise NotNow(f"a rotation is under way, at step {standing.step!r}", _next(standing))
    if issuer is None:
        issuer = ca.make_root(standing.trust_domain, holdings.clock(), ca.serial(secrets.token_bytes(16)))
    name = name_of(issuer)
    if name == standing.issuer:
        raise NotNow("this is the issuer already")
    holdings.keep(issuer)
    _stand(holdings, step="added", other=name, retired="")
    if standing.retired and standing.retired != name:
        holdings.forget(standing.retired)


def issue(holdings: AuthorityState, force: bool = False) -> None:
    """Let the new root sign. Raise NotNow, FolderError."""
    standing = holdings.standing
    if standing.step != "added":
        raise NotNow(f"there is no root to go over to: the rotation stands at {standing.step!r}", _next(standing))
    assert holdings.other is not None
    behind = [] if force else _without(holdings, holdings.other.fingerprint)
    _refuse(
        behind,
        "these would not believe what the new root signs, since they have not fetched the bundle with it",
        holdings,
        force,
    )
    _stand(holdings, step="issuing", issuer=standing.other, other=standing.issuer)


def retire(holdings: AuthorityState, force: bool = False) -> None:
    """Stop trusting the old root. Raise NotNow, FolderError."""
    standing = holdings.standing
    if standing.step != "issuing":
        raise NotNow(f"there is no old root to retire: the rotation stands at {standing.step!r}", _next(standing))
    assert holdings.other is not None
    under = [] if force else _under(holdings, holdings.other.fingerprint)
    _refuse(under, "these certificates still lead to the old root", holdings, force)
    _stand(holdings, step="idle", other="", retired=standing.other)
    holdings.put(standing.other, RETIRED)


def undo(holdings: AuthorityState, force: bool = False) -> None:
    """Undo the last step. Raise NotNow, FolderError."""
    standing = holdings.standing
    if standing.step == "issuing":
        _stand(holdings, step="added", issuer=standing.other, other=standing.issuer)
    elif standing.step == "added":
        assert holdings.other is not None
        under = [] if force else _under(holdings, holdings.other.fingerprint)
        _refuse(under, "these certificates lead to the new root, from before the last undo", holdings, force)
        _stand(holdings, step="idle", other="", retired="")
        holdings.forget(standing.other)
    elif standing.retired:
        _stand(holdings, step="issuing", other=standing.retired, retired="")
        holdings.put(standing.retired, ISSUERS)
    else:
        raise NotNow("there is no step to take back", "a retired root comes back only until the next one is added")


def site(holdings: AuthorityState, node: str, days: float) -> tuple[Issuer, Issuer]:
    """Make an authority for a site that cannot always reach this one. Raise Unusable, FolderError.

    Return the site's issuer and the one that signed it. While a new root is added, the new root signs: so the site
    knows that root before a peer shows it a certificate under it.
    """
    now = holdings.clock()
    signer = holdings.other if holdings.standing.step == "added" and holdings.other is not None else holdings.issuer
    made = ca.make_intermediate(
        signer, holdings.standing.trust_domain, node, now, ca.serial(secrets.token_bytes(16)), days
    )
    said = facts(made.certificates[0])
    holdings.ledger.record(now, Signed(said.serial, SITE, node, said.not_after, signer.fingerprint, now))
    return made, signer


def blocking(holdings: AuthorityState) -> list[str]:
    """Return, for people, the nodes that keep the next step from being taken."""
    standing = holdings.standing
    if standing.step == "idle" or holdings.other is None:
        return []
    find = _without if standing.step == "added" else _under
    return find(holdings, holdings.other.fingerprint)


def _stand(
    holdings: AuthorityState, step: str, issuer: str | None = None, other: str | None = None, retired: str | None = None
) -> None:
    changes = {"step": step, "issuer": issuer, "other": other, "retired": retired, "since": holdings.clock()}
    given = {name: value for name, value in changes.items() if value is not None}
    holdings.write(msgspec.structs.replace(holdings.standing, **given))


def _without(holdings: AuthorityState, root: str) -> list[str]:
    """Return the nodes that hold a certificate and may not know this root."""
    if len(holdings.roots()) == 1:
        return []  # another issuer under the same root, which every node knows
    found = set()
    for entry in holdings.ledger.newest(holdings.clock()):
        enrolled = holdings.ledger.nodes.get(entry.node)
        if entry.spiffe == SITE:
            if entry.root != root:
                found.add(
                    f"site {entry.node}: edgemesh ca intermediate --node {entry.node} makes its new one, to be loaded there"
                )
        elif entry.node and (enrolled is None or root not in enrolled.roots):
            found.add(f"node {entry.node}")
    return sorted(found)


def _under(holdings: AuthorityState, root: str) -> list[str]:
    """Return the nodes and identities whose newest certificate leads to this root."""
    if len(holdings.roots()) == 1:
        return []
    return sorted(_told(entry) for entry in holdings.ledger.newest(holdings.clock()) if entry.root == root)


def _told(entry: Signed) -> str:
    return (
        f"site {entry.node}"
        if entry.spiffe == SITE
        else f"{entry.spiffe} on node {entry.node}"
        if entry.node
        else entry.spiffe
    )


def _refuse(who: Sequence[str], why: str, holdings: AuthorityState, force: bool) -> None:
    if who:
        more = f"\n  and {len(who) - _SHOWN} more" if len(who) > _SHOWN else ""
        names = "\n  ".join(who[:_SHOWN])
        raise NotNow(f"{why}:\n  {names}{more}", "wait until they have, or go on without them: --force", blocked=True)
    if not force and (until := _unknown_until(holdings)):
        before = min(holdings.ledger.gap, holdings.standing.since)
        message = (
            f"the ledger does not know all that was issued before {_date(before)} (it was damaged, or another server of the"
            " cluster kept it), so somebody may be cut off"
        )
        raise NotNow(message, f"wait until the last of it has ended, {_date(until)}, or go on: --force", blocked=True)


def _unknown_until(holdings: AuthorityState) -> float:
    """Return when the last certificate has ended that the ledger may not know and that counts; 0.0: it has.

    What is missing was issued before the last step, or after it, and then it fits the next one.
    """
    before = min(holdings.ledger.gap, holdings.standing.since)
    if not before:
        return 0.0
    lives = (
        entry.not_after - entry.at
        for entries in holdings.ledger.signed.values()
        for entry in entries
        if entry.at and entry.spiffe != SITE
    )
    until = before + max(_LIFETIME, *lives, 0.0)
    return until if until > holdings.clock() else 0.0


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _next(standing: RotationState) -> str:
    return {
        "idle": "edgemesh ca rotate add begins one",
        "added": "next: edgemesh ca rotate issue; back: edgemesh ca rotate undo",
        "issuing": "next: edgemesh ca rotate retire; back: edgemesh ca rotate undo",
    }[standing.step]
