"""How an authority changes its root without a failed call: add, issue, retire, each with a way back.

    idle -> added      the new root is believed by every node that fetches the bundle; the old one still signs
    added -> issuing   the new one signs, and nodes renew early; the old one is still believed
    issuing -> idle    the old one is believed no more

A step refuses while it would cut somebody off, as far as the ledger knows. These functions run inside `Holdings.held`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from agent.identity import ca
from agent.identity.ca import Issuer
from agent.identity.csr import facts
from agent.identity.holdings import ISSUERS, RETIRED, Holdings, Standing, name_of
from agent.identity.ledger import SITE, Signed

_SHOWN = 10  # names in one message
_GAP = 7 * 86400.0  # seconds that certificates may live which a damaged ledger does not name


class NotNow(Exception):  # noqa: N818 - it is an answer
    """This step does not follow from where the rotation stands, or would cut somebody off (`blocked`: --force goes on all the same)."""

    def __init__(self, message: str, hint: str = "", blocked: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.blocked = blocked


def add(holdings: Holdings, issuer: Issuer | None = None) -> None:
    """Let nodes learn a new root: `issuer`'s, or one that is made here. Raises NotNow, FolderError."""
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


def issue(holdings: Holdings, force: bool = False) -> None:
    """Let the new root sign. Raises NotNow, FolderError."""
    standing = holdings.standing
    if standing.step != "added":
        raise NotNow(f"there is no root to go over to: the rotation stands at {standing.step!r}", _next(standing))
    assert holdings.other is not None
    behind = [] if force else _without(holdings, holdings.other.fingerprint)
    _refuse(behind, "these would not believe what the new root signs, since they have not fetched the bundle with it", holdings, force)
    _stand(holdings, step="issuing", issuer=standing.other, other=standing.issuer)


def retire(holdings: Holdings, force: bool = False) -> None:
    """Believe the old root no more. Raises NotNow, FolderError."""
    standing = holdings.standing
    if standing.step != "issuing":
        raise NotNow(f"there is no old root to retire: the rotation stands at {standing.step!r}", _next(standing))
    assert holdings.other is not None
    under = [] if force else _under(holdings, holdings.other.fingerprint)
    _refuse(under, "these certificates still lead to the old root", holdings, force)
    _stand(holdings, step="idle", other="", retired=standing.other)
    holdings.put(standing.other, RETIRED)


def undo(holdings: Holdings, force: bool = False) -> None:
    """Take the last step back. Raises NotNow, FolderError."""
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


def site(holdings: Holdings, node: str, days: float) -> tuple[Issuer, Issuer]:
    """An authority for a site that cannot always reach this one, and who signed it. Raises Unusable, FolderError.

    While a new root is added it is the new one that signs: the site learns it by that, before anybody shows it a certificate of it.
    """
    now = holdings.clock()
    signer = holdings.other if holdings.standing.step == "added" and holdings.other is not None else holdings.issuer
    made = ca.make_intermediate(signer, holdings.standing.trust_domain, node, now, ca.serial(secrets.token_bytes(16)), days)
    said = facts(made.certificates[0])
    holdings.ledger.record(now, Signed(said.serial, SITE, node, said.not_after, signer.fingerprint, now))
    return made, signer


def blocking(holdings: Holdings) -> list[str]:
    """Who keeps the next step from being taken, for people."""
    standing = holdings.standing
    if standing.step == "idle" or holdings.other is None:
        return []
    find = _without if standing.step == "added" else _under
    return find(holdings, holdings.other.fingerprint)


def _stand(holdings: Holdings, step: str, issuer: str | None = None, other: str | None = None, retired: str | None = None) -> None:
    changes = {"step": step, "issuer": issuer, "other": other, "retired": retired, "since": holdings.clock()}
    given = {name: value for name, value in changes.items() if value is not None}
    holdings.write(msgspec.structs.replace(holdings.standing, **given))


def _without(holdings: Holdings, root: str) -> list[str]:
    """Who holds a certificate and may not know this root."""
    if len(holdings.roots()) == 1:
        return []  # another issuer under the same root: everybody knows it
    found = set()
    for entry in holdings.ledger.newest(holdings.clock()):
        enrolled = holdings.ledger.nodes.get(entry.node)
        if entry.spiffe == SITE:
            if entry.root != root:
                found.add(f"site {entry.node}: edgemesh ca intermediate --node {entry.node} makes its new one, to be loaded there")
        elif entry.node and (enrolled is None or root not in enrolled.roots):
            found.add(f"node {entry.node}")
    return sorted(found)


def _under(holdings: Holdings, root: str) -> list[str]:
    """Whose newest certificate leads to this root."""
    if len(holdings.roots()) == 1:
        return []
    return sorted(_told(entry) for entry in holdings.ledger.newest(holdings.clock()) if entry.root == root)


def _told(entry: Signed) -> str:
    return f"site {entry.node}" if entry.spiffe == SITE else f"{entry.spiffe} on node {entry.node}" if entry.node else entry.spiffe


def _refuse(who: Sequence[str], why: str, holdings: Holdings, force: bool) -> None:
    if who:
        more = f"\n  and {len(who) - _SHOWN} more" if len(who) > _SHOWN else ""
        names = "\n  ".join(who[:_SHOWN])
        raise NotNow(f"{why}:\n  {names}{more}", "wait until they have, or go on without them: --force", blocked=True)
    gap = holdings.ledger.gap
    if not force and gap and gap + _GAP > holdings.clock():
        message = "the ledger was damaged, so somebody who is not in it may be cut off"
        raise NotNow(message, "wait until what was issued before has ended (7 days), or go on: --force", blocked=True)


def _next(standing: Standing) -> str:
    return {
        "idle": "edgemesh ca rotate add begins one",
        "added": "next: edgemesh ca rotate issue; back: edgemesh ca rotate undo",
        "issuing": "next: edgemesh ca rotate retire; back: edgemesh ca rotate undo",
    }[standing.step]
