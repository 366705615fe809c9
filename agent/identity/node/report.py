"""A node's certificates for people: problems for `edgemesh status`, and the document of `edgemesh certs`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agent.identity.node.certificate import ManagedCertificate
from agent.identity.node.lifecycle import State
from agent.identity.node.manager import CertificateManager
from agent.identity.node.roots import fingerprint
from policy.model import Problem, Severity, Where

Document = dict[str, Any]

_LEFT = 1 / 3  # of its life: a problem from then on, with two thirds of the renewal time left to act
ENDS_SOON = 90 * 86400.0  # seconds: time for nodes that are seldom on to fetch the next one
_SILENT = 600.0  # seconds without the authority that are no problem yet
_SHOWN = 5  # identities in one message


def problems(keeper: CertificateManager) -> list[Problem]:
    """Return the problems, sorted."""
    found = [*keeper.vault.problems, *keeper.clock.problems()]
    if keeper.misnamed:
        message = (
            f"this node joined the mesh as {keeper.misnamed} and runs as {keeper.name}, so its certificate is not used"
        )
        found.append(
            _problem(
                "error",
                message,
                f"run it as {keeper.misnamed}, or enrol it anew: edgemesh join --again --node {keeper.name}",
            )
        )
    if keeper.roots.foreign:
        message = f"what the authority sends is not used: {keeper.roots.foreign}"
        found.append(
            _problem(
                "error",
                message,
                "is that the authority of this mesh? edgemesh join --again enrols this node with another one",
            )
        )
    silent = silence(keeper)
    if silent and silent[0] >= _SILENT:
        message = f"the authority has been out of reach for {span(silent[0])}: {silent[1]}"
        found.append(
            _problem(
                "warning", message, "certificates that are here stay good until they end: edgemesh certs says when"
            )
        )
    return sorted([*found, *_certificates(keeper)])


def of_authority(ends: float, now: float) -> list[Problem]:
    """Report an authority that ends soon: no certificate outlives its issuer. `ends`: seconds since the epoch."""
    left = ends - now
    if left > ENDS_SOON:
        return []
    what = f"ends in {span(left)}" if left > 0 else "has ended, and no certificate is issued"
    hint = "edgemesh ca rotate add begins to replace a root of ours; edgemesh ca load takes an intermediate that was made elsewhere"
    return [_problem("warning" if left > 0 else "error", f"the authority's own certificate {what}", hint)]


def _certificates(keeper: CertificateManager) -> Iterable[Problem]:
    """Yield one problem for all certificates in the same state."""
    alike: dict[tuple[Severity, str, str], list[str]] = {}
    now = keeper.clock.now()
    for holding in _wanted(keeper):
        standing = holding.standing
        left = standing.not_after - now
        if standing.state is State.EXPIRED:
            key: tuple[Severity, str, str] = ("error", "has expired", standing.error)
        elif not standing.not_after and standing.failures:
            key = ("error", "is not there", standing.error)
        elif standing.not_after and left < (standing.not_after - standing.not_before) * _LEFT:
            key = ("warning", f"ends in {span(left)} and is not renewed", standing.error)
        else:
            continue
        alike.setdefault(key, []).append(name(keeper, holding))
    for (severity, what, error), names in alike.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        message = f"the certificate of {', '.join(names[:_SHOWN])}{more} {what}" + (f": {error}" if error else "")
        hint = next(
            (h.standing.hint for h in _wanted(keeper) if h.standing.error == error and h.standing.hint),
            "edgemesh certs says more",
        )
        yield _problem(severity, message, hint)


def document(keeper: CertificateManager | None) -> Document:
    """Return what the node holds. Times in seconds; dates in seconds since the epoch."""
    if keeper is None:
        return {"node": "", "trust_domain": "", "certificates": [], "roots": [], "authority": None, "clock": None}
    bundle, silent = keeper.roots.bundle, silence(keeper)
    roots = [fingerprint(root) for root in bundle.roots] if bundle else []
    return {
        "node": keeper.name,
        "trust_domain": bundle.trust_domain if bundle else "",
        "certificates": [_certificate(keeper, holding) for holding in _sorted(keeper.holdings.values())],
        "roots": [{"fingerprint": root, "issuing": bundle is not None and root == bundle.issuer} for root in roots],
        "authority": {"silent_seconds": silent[0] if silent else 0.0, "error": silent[1] if silent else ""},
        "clock": {"ahead_seconds": keeper.clock.ahead, "now": keeper.clock.now(), "wrong": keeper.clock.wrong},
    }


def _certificate(keeper: CertificateManager, holding: ManagedCertificate) -> Document:
    standing, held, now = holding.standing, holding.credentials, keeper.clock.now()
    return {
        "identity": name(keeper, holding),
        "spiffe": keeper.spiffe(holding.identity),
        "state": standing.state.value,
        "serial": held.serial if held else "",
        "not_before": standing.not_before,
        "not_after": standing.not_after,
        "expires_in_seconds": round(standing.not_after - now, 1) if held else None,
        "asked_in_seconds": round(max(0.0, standing.due - now), 1) if holding.unwanted is None else None,
        "root": holding.root,
        "wanted": holding.unwanted is None,
        "awaits": keeper.awaited(keeper.spiffe(holding.identity)) if holding.asking else "",
        "error": standing.error,
        "hint": standing.hint,
    }


def silence(keeper: CertificateManager) -> tuple[float, str] | None:
    """Return for how many seconds the authority has not been reached, and why."""
    return (keeper.clock.steady() - keeper.silence[0], keeper.silence[1]) if keeper.silence else None


def name(keeper: CertificateManager, holding: ManagedCertificate) -> str:
    """Return the name of a certificate for people."""
    return str(holding.identity) if holding.identity else f"node {keeper.name}"


def span(seconds: float) -> str:
    """Return a time in its largest unit, so that messages do not change each second."""
    for unit, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit:.0f} {word}"
    return f"{max(0.0, seconds):.0f} s"


def _wanted(keeper: CertificateManager) -> Sequence[ManagedCertificate]:
    return [holding for holding in _sorted(keeper.holdings.values()) if holding.unwanted is None]


def _sorted(holdings: Iterable[ManagedCertificate]) -> list[ManagedCertificate]:
    return sorted(holdings, key=lambda h: (h.identity is not None, str(h.identity)))


def _problem(severity: Severity, message: str, hint: str) -> Problem:
    return Problem(severity, Where(), "identity", message, hint)
